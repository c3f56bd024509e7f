"""Feed random responses to the decoder for some minutes; stop at the first broken promise.

    .venv/bin/python soak/fuzz.py --minutes 30

It uses atheris (`pip install atheris`), which is guided by coverage, or else Hypothesis. Whatever
the bytes are, the decoder must return groups that keep its promises, or one bounded line that says
why the response is not valid. Groups that are encoded and decoded again must not change.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # optional
except ImportError:  # it has wheels for some platforms only
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["exporter.kalshi", "json"]):
        pass
else:
    pass

from exporter.errors import InvalidResponseError
from exporter.kalshi import decode, error_response
from exporter.model import OrderGroup

_LONGEST = 2_000  # characters of a reason
_GROUP = '"id":"a","is_auto_cancel_enabled":true'
_SEEDS = [
    text.encode()
    for text in (
        f'{{"order_groups":[{{{_GROUP},"contracts_limit_fp":"10.00"}}]}}',
        f'{{"order_groups":[{{{_GROUP},"contracts_limit":3,"x":["\\u00e9",1e400]}}]}}',
        f'{{"order_groups":[{{{_GROUP},"exchange_index":0}}],"cursor":"abc"}}',
        '{"order_groups":null}',
        '{"error":{"code":"a","message":"b","details":"c"}}',
    )
]


def check(data: bytes) -> None:
    """Check how these bytes are decoded as a response and as an error."""
    error = error_response.error_from_response(
        500, data, retry_after=None, clock_skew_ms=None, key_hint="abcd"
    )
    for text in (error.reason, error.code, error.message, error.details, error.service):
        assert text is None or (text.isprintable() and len(text) <= _LONGEST)
    try:
        page = decode.decode(data)
    except InvalidResponseError as invalid:
        reason = invalid.reason
    else:
        _check_groups(page.groups)
        return
    assert reason.isprintable(), "a reason has control characters"
    assert len(reason) <= _LONGEST, "a reason is too long"


def _check_groups(groups: Iterable[OrderGroup]) -> None:
    for group in groups:
        assert 1 <= len(group.id) <= 256
        assert isinstance(group.is_auto_cancel_enabled, bool)
        again: dict[str, object] = {
            "id": group.id,
            "is_auto_cancel_enabled": group.is_auto_cancel_enabled,
        }
        if group.contracts_limit is not None:
            again["contracts_limit_fp"] = group.contracts_limit
        if group.exchange_index is not None:
            again["exchange_index"] = group.exchange_index
        text = json.dumps(again)
        if group.extra is not None:
            text = f"{text[:-1]},{group.extra[1:]}"
        sent = f'{{"order_groups":[{text}]}}'.encode()
        assert decode.decode(sent).groups == [group], "a group changes when it is decoded again"


def _with_hypothesis(seconds: float) -> int:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    runs = 0
    scraps = st.lists(st.sampled_from([*_SEEDS, *b'{}[]",:\\\x00\xff']) | st.binary(max_size=8))
    responses = scraps.map(
        lambda parts: b"".join(part if isinstance(part, bytes) else bytes([part]) for part in parts)
    )

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(responses)
    def fuzz(data: bytes) -> None:
        nonlocal runs
        runs += 1
        check(data)

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fuzz()
    return runs


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    seconds = parser.parse_args().minutes * 60
    if atheris is None:
        runs = _with_hypothesis(seconds)
        sys.stdout.write(f"Hypothesis: {runs} responses in {seconds:.0f} s, no broken promise\n")
        return 0
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(_SEEDS):
            Path(corpus, str(number)).write_bytes(seed)
        # atheris prints the number of runs, and exits by itself, with 77 after a finding.
        flags = [f"-max_total_time={seconds:.0f}", "-max_len=4096", "-verbosity=1"]
        atheris.Setup([sys.argv[0], *flags, corpus], check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
