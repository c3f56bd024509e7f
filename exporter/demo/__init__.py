"""A local exchange, and the real daemon running against it: no Kalshi account needed."""
