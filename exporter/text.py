"""Make text from elsewhere harmless before it is shown or stored, and count things in words."""


def sanitize(text: str, limit: int) -> str:
    r"""Return one line of at most `limit` characters that is safe on terminals, in logs and tables.

    Control characters, line separators, bidirectional and other invisible marks and lone
    surrogates become visible escapes such as `\x1b`. Text that does not fit ends in an ellipsis.
    """
    # An escape is never shorter than its character, so text beyond the limit cannot fit.
    shown = visible(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def visible(text: str) -> str:
    """Return text on one line, in which every unprintable character is a visible escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as "1 poll" or "2 polls".

    Args:
        number: how many there are.
        one: the noun in the singular.
        many: the noun in the plural; `one` with an "s" if None.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
