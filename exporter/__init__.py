"""kalshi-exporter: record what an account's order groups were doing, at any moment.

The data goes through these rooms, in this order:

    config      a TOML file becomes frozen values
    wiring      the values become a Recorder
    run_once    polls each account once: cron
    daemon      polls on a grid, listens to events, reloads on SIGHUP: systemd
    recording   the spine: claim, request, write or spool; events to history
    kalshi      signed requests and the event channel: responses become observations and events
    http        HTTP with a total deadline and bounded bodies
    history     the tables, and all that writes them: differences become rows
    database    connections to SQLite and Postgres
    spool       polls and events that wait for the database
    reading     what analysts ask: status, exports
    report      the history as one page to look at

Around them:

    monitoring  metrics, health, systemd, a dead man's switch
    logs        log lines: formats, redaction, deduplication
    doctor      `check`: everything that a poll needs
    demo        a local exchange, and the daemon running against it
    cli         the commands

All of them use `model`, `errors`, `causes` and `hooks`. docs/architecture.md has a picture.
"""

__version__ = "0.2.0"
