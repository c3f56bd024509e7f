"""Makes text from the exchange harmless before `refusals` and `session` show or keep it."""


def sanitize(text: str, limit: int) -> str:
    r"""One line of at most `limit` characters that no terminal, log or database can trip over.

    Control characters, line separators, bidirectional and other invisible marks and lone
    surrogates become visible escapes such as `\x1b`; what does not fit gives way to an ellipsis.
    """
    # No escape is shorter than what it stands for, so what lies beyond the limit need not be seen.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
