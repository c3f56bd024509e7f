"""The history as one HTML page to look at."""
