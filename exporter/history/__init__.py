"""All that knows the database, and nothing that knows HTTP.

In the order in which they are best read:

    store       the one place that writes: a poll becomes rows in one transaction
    head        an account's row that polls claim, compare and swap
    step        what each observation writes: its poll, the head's next version, coverage
    diff        what an observation changes in what is known
    snapshots   the states of groups: read whole, written as far as they changed
    gaps        why nobody looked, if that is known only later

    spool       polls that wait for a database that is away
    backlog     writes them once it is back
    silence     spares everybody the wait for a database that answers nothing

    database    connections to SQLite, transactions, errors in one line
    postgres    connections to Postgres, whose every wait is bounded
    journal     keeps SQLite's journal small

    schema      the tables
    dictionary  what each table, view and column means; `described` says it in the database
    migrate     brings a database to this version's schema
    prune       drops old polls
"""
