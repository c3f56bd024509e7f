"""Log lines: their set-up, formats, redaction and deduplication."""
