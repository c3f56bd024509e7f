"""What operators need around the polls: logs and checks."""
