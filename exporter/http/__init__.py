"""HTTP with a total deadline and bounded bodies; knows no exchange."""
