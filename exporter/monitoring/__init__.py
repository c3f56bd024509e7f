"""Who is told how recording goes: metrics, systemd, a dead man's switch."""
