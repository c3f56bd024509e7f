"""Test how long the stream waits before it reconnects."""

from statistics import mean

from exporter.recording.backoff import HELD_SECONDS, Backoff


def test_waits_grow_from_under_a_second_to_five_minutes_with_full_jitter() -> None:
    drawn = [[backoff.next_wait() for _ in range(20)] for backoff in map(_made, range(200))]
    for attempt in range(20):
        ceiling = min(2.0**attempt, 300.0)
        waits = [waits[attempt] for waits in drawn]
        assert max(waits) <= ceiling
        assert 0.3 * ceiling < mean(waits) < 0.7 * ceiling


def test_only_a_connection_that_held_resets_the_backoff() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.next_wait()
    backoff.connected(HELD_SECONDS - 1)
    assert max(backoff.next_wait() for _ in range(50)) > 10
    backoff.connected(HELD_SECONDS)
    assert backoff.next_wait() <= 1.0


def test_a_requested_wait_is_honored_up_to_five_minutes() -> None:
    assert Backoff().next_wait(at_least=7.0) >= 7.0
    assert Backoff().next_wait(at_least=86_400.0) == 300.0


def _made(_: int) -> Backoff:
    return Backoff()
