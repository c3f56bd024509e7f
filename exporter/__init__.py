"""kalshi-exporter: records what an account's order groups were doing, at any moment.

The data goes through these modules, in this order:

    config      TOML file to frozen values
    kalshi      signed session, endpoint, decoding: an answer becomes an Observation
    poll        the spine: one poll of one account, start to finish
    history     difference, one transaction, spool, migrations: an Observation becomes rows
    reading     what people ask of those rows: status, exports
    operating   what operators need around it: logs, checks, metrics, systemd, a dead man's switch
    daemon      polls on an interval
    service     the daemon with all who are told of it; SIGHUP
    demo        a local exchange, and the daemon running against it
    cli         the commands

`model`, `errors` and `events` are the words that all of them use.
"""

__version__ = "0.1.0"
