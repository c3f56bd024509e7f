"""The spine: polls and events become history, or wait in the spool for the database."""
