"""All that knows Kalshi's API, and nothing that knows a database.

In the order in which they are best read:

    order_groups  the endpoint: all pages of it become an Observation
    session       signed requests, attempts, waits
    budget        what one poll may spend
    transport     connections with a total deadline and a bound on bytes
    answers       bodies and headers, read within bounds
    refusals      what an error response means
    decoding      a body becomes order groups, or is not valid
    strict_json   JSON without leniency
    text          text from the exchange, made harmless
    keys          private keys, and signatures made with them
"""
