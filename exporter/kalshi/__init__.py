"""All that knows Kalshi's API, and nothing that knows a database."""
