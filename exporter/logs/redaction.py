"""Redact secrets: replace them with `***` in every log line and message."""

from urllib.parse import quote

# Replacing a shorter secret would shred the lines and show where it stood.
_SHORTEST_SECRET = 4


class _Secrets:
    """The texts that no line may hold, indexed, because thousands of accounts have thousands."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, ...]] = {}  # by their first characters, longest first

    def add(self, secret: str) -> None:
        if len(secret) < _SHORTEST_SECRET:
            return
        # Libraries repeat a secret as it is, as a URL has it, or as Python spells it.
        encoded = quote(secret.encode("utf-8", "surrogateescape"), safe="")
        for form in {secret, encoded, repr(secret)[1:-1]}:
            head = form[:_SHORTEST_SECRET]
            known = {form, *self._forms.get(head, ())}
            # The longest comes first, so that no part of a secret around another one remains.
            self._forms[head] = tuple(sorted(known, key=len, reverse=True))

    def redact(self, text: str) -> str:
        shown: list[str] = []
        done = at = 0
        while self._forms and at <= len(text) - _SHORTEST_SECRET:
            for form in self._forms.get(text[at : at + _SHORTEST_SECRET], ()):
                if text.startswith(form, at):
                    shown += (text[done:at], "***")
                    done = at = at + len(form)
                    break
            else:
                at += 1
        return "".join((*shown, text[done:])) if shown else text


_secrets = _Secrets()


def protect(secret: str) -> None:
    """Replace this text, as it is or encoded, with `***` in every later line.

    This is a last line of defence: secrets should not be logged in the first place. Secrets of
    fewer than four characters are not replaced.
    """
    _secrets.add(secret)


def redact(text: str) -> str:
    """Return the text with `***` in place of each secret, for messages outside the log."""
    return _secrets.redact(text)
