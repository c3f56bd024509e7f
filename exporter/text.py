"""Make text from elsewhere harmless before it is shown or stored."""


def sanitize(text: str, limit: int) -> str:
    r"""Return one line of at most `limit` characters that is safe on terminals, in logs and tables.

    Control characters, line separators, bidirectional and other invisible marks and lone
    surrogates become visible escapes such as `\x1b`; what does not fit gives way to an ellipsis.
    """
    # An escape is never shorter than its character, so text beyond the limit cannot fit.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
