"""Where polls and events wait while the database is away."""
