"""Read the configuration: a TOML file becomes frozen values, or all its faults at once."""
