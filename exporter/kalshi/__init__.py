"""Everything that knows Kalshi's API, and nothing that knows a database.

In the order in which the modules are best read:

    order_groups        the endpoint: all its pages become an Observation
    session             signed requests and their attempts; retry: back-off
    budget              the deadline of one poll, and what it has spent
    error_response      what an error response means
    decode              a body becomes order groups, or is not valid
    stream_connection   one WebSocket: connect, subscribe, read
    stream_socket       the library's connection, watched
    handshake_errors    what a failed handshake means
    stream_protocol     one subscription: messages become events, acknowledgements, ends
    stream_messages     one message, decoded
    fields              single values of either, checked
    strict_json         JSON without leniency
    exchanges           predictions and margin: paths and hosts
    auth                the headers that requests and handshakes carry
    keys                private keys and their signatures; key_file and pem read them
"""
