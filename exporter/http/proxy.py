"""The proxies that the environment names: they are not used, but their users are told so."""

PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""What other programs read; this one reads `[http] proxy` alone."""
