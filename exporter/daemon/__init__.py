"""The long-running process: when each account is polled, and what SIGHUP replaces."""
