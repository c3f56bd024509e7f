"""The environment's proxy variables: the exporter never uses them, but says so."""

PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""Variables that other programs read; this one reads only `[http] proxy`."""
