"""Checks of everything that a poll needs, for `kalshi-exporter check`."""
