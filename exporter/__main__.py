"""`python -m exporter` is `kalshi-exporter`."""

from exporter.cli import main

if __name__ == "__main__":
    main()
