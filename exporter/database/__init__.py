"""Connections to SQLite and Postgres; knows no table."""
