"""What a page carries: JSON that may lie inside HTML, and JSON packed into little room."""

import base64
import json
import zlib

_ENDING = 16  # bytes that the end of a compressed stream and base64's last group may take


def as_json(value: object) -> str:
    r"""Write a value as JSON in ASCII, without any character that has a meaning in HTML.

    Neither `</script>` nor `<!--` can result from what the exchange sent, and no U+2028.
    """
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        # In JSON these occur inside strings only.
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Packed:
    """Lines of JSON, compressed while they are added, as base64: safe inside HTML.

    A page holds several times as much this way. The browser unpacks it with `DecompressionStream`.
    """

    def __init__(self) -> None:
        self._stream = zlib.compressobj(level=9)
        self._parts: list[bytes] = []
        self._bytes = 0

    @property
    def size(self) -> int:
        """Return how many characters `text` will have at most."""
        return _as_base64(self._bytes)

    def add(self, *values: object, room: float = float("inf")) -> bool:
        """Add one line for each value, if there is room for all of them.

        Args:
            values: what JSON can say.
            room: the characters that `size` must not exceed.

        Returns:
            Whether there was room; if not, nothing was added.
        """
        text = "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)
        stream = self._stream.copy()  # so that what finds no room can be taken back
        part = stream.compress(text.encode()) + stream.flush(zlib.Z_SYNC_FLUSH)
        if _as_base64(self._bytes + len(part)) > room:
            return False
        self._stream = stream
        self._parts.append(part)
        self._bytes += len(part)
        return True

    def text(self) -> str:
        """Return all lines, packed. Nothing can be added afterwards."""
        return base64.b64encode(b"".join([*self._parts, self._stream.flush()])).decode()


def _as_base64(count: int) -> int:
    return (count + _ENDING + 2) // 3 * 4
