"""JSON that may lie inside a script element; `lanes` measures by it, `page` writes it."""

import json


def as_json(value: object) -> str:
    r"""Write a value as JSON in ASCII, without any character that means something to HTML.

    No `</script>` and no `<!--` can come of what the exchange sent, and no U+2028.
    """
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        # In JSON these stand inside strings alone.
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
