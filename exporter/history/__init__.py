"""The tables, and all that writes them; it knows no HTTP.

In the order in which the modules are best read:

    schema             the tables; types: how instants and decimals are held
    store              the one place that writes polls: each becomes rows in one transaction
    claim              who is polling an account; claimant: names processes, knows who is gone
    head               an account's row that polls compare and swap
    advance            the step of an observation: its poll, the head's next version, coverage
    diff               what an observation changes in what is known: pure
    snapshots          the states of groups: read whole, written as far as they changed
    rows               a poll's row, and what became of the poll
    gap_cause          why an account was not observed
    exchange           which exchange an account's history comes from

    stream_store       the one place that writes what connections hear
    events             one row per event of the stream, whoever heard it
    occurrences        numbers equal events of a connection
    undecided_events   events of groups that may be another subaccount's
    stream_coverage    when somebody listened, and why nobody did; stream_stretches: its rows

    migrate            brings a database to this version's schema; sqlite_files: its file
    prune              drops old polls
    dictionary         what each table, view and column means; comments: says it in the database
"""
