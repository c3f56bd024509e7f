"""What analysts ask of the history: queries, exports and status."""
