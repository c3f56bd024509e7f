"""Report on the recording: metrics, systemd, a dead man's switch."""
