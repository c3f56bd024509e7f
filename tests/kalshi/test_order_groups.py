"""The endpoint's pages become one observation, with its digest and instant, over real sockets."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from exporter.clock import Clock
from exporter.errors import ApiError, DeadlineError, InvalidResponseError
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.order_groups import fetch_order_groups
from exporter.model import Observation, OrderGroup

if TYPE_CHECKING:
    from tests.support.servers import Answering, Connect, Exchange

Fetch = Callable[..., Observation]


def group(group_id: str, **fields: object) -> dict[str, object]:
    return {"id": group_id, "is_auto_cancel_enabled": True, **fields}


def test_each_exchange_has_its_own_path(
    exchange: "Exchange", connect: "Connect", answering: "Answering"
) -> None:
    exchange.answers = [answering({"order_groups": [group("a")]})]
    for name, path in (("predictions", "portfolio"), ("margin", "margin")):
        session = connect(exchange=name)
        observed = fetch_order_groups(
            session, RequestBudget(5), subaccount=None, known_digest=None, now=Clock().now
        )
        assert set(observed.groups or ()) == {"a"}
        assert exchange.requests[-1].path == f"/trade-api/v2/{path}/order_groups"


@pytest.fixture
def fetch(connect: "Connect") -> Fetch:
    """Return a function that fetches an account's groups."""
    session = connect(max_response_size=10_000)

    def fetch(budget: RequestBudget | None = None, **changes: Any) -> Observation:
        values: dict[str, Any] = {"subaccount": None, "known_digest": None, "now": Clock().now}
        return fetch_order_groups(session, budget or RequestBudget(5), **(values | changes))

    return fetch


def test_one_page_becomes_an_observation(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    sent = {"order_groups": [group("a", contracts_limit_fp="10.00", exchange_index=0), group("b")]}
    exchange.answers = [answering(sent)]
    budget = RequestBudget(5)
    before = datetime.now(UTC)
    observation = fetch(budget)
    assert before <= observation.observed_at <= datetime.now(UTC)
    assert observation.groups == {
        "a": OrderGroup("a", True, "10.00", 0),
        "b": OrderGroup("b", True),
    }
    assert (budget.attempts, budget.http_status) == (1, 200)
    assert exchange.requests[0].target == "/trade-api/v2/portfolio/order_groups"


def test_several_pages_become_one_observation(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    exchange.answers = [
        answering({"order_groups": [group("a")], "cursor": "one &"}),
        answering(status=503),
        answering({"order_groups": [group("b"), group("a")], "cursor": "two"}),
        answering({}),
    ]
    budget = RequestBudget(5)
    observation = fetch(budget, subaccount=0)
    assert observation.groups is not None
    assert list(observation.groups) == ["a", "b"]
    assert budget.attempts == 4
    assert [request.query for request in exchange.requests] == [
        {"subaccount": ["0"]},
        {"subaccount": ["0"], "cursor": ["one &"]},
        {"subaccount": ["0"], "cursor": ["one &"]},
        {"subaccount": ["0"], "cursor": ["two"]},
    ]


def test_a_response_with_the_known_digest_is_not_decoded(
    exchange: "Exchange", fetch: Fetch, answering: "Answering", monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.answers = [answering({"order_groups": [group("a")]})]
    digest = fetch().digest
    monkeypatch.setattr("exporter.kalshi.decode.decode", None)
    again = fetch(known_digest=digest)
    assert (again.groups, again.digest) == (None, digest)


def test_the_digest_covers_all_pages(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    pages = [
        answering({"order_groups": [group("a")], "cursor": "x"}),
        answering({"order_groups": [group("b")]}),
    ]
    exchange.answers = [*pages, *pages, pages[1]]
    digest = fetch().digest
    assert fetch(known_digest=digest).groups is None
    other = fetch(known_digest=digest)
    assert other.groups is not None
    assert other.digest != digest


def test_the_digest_depends_on_where_pages_end(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    digests = set()
    for spaces in ((1, 2), (2, 1)):
        exchange.requests.clear()
        exchange.answers = [
            answering(json.dumps({"order_groups": [], "cursor": "x"}).encode() + b" " * spaces[0]),
            answering(b" " * spaces[1] + b"{}"),
        ]
        digests.add(fetch().digest)
    assert len(digests) == 2


def test_the_same_group_twice_counts_once(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    same = [group("a", contracts_limit_fp="10"), group("a", contracts_limit_fp="10.000")]
    exchange.answers = [answering({"order_groups": same})]
    groups = fetch().groups
    assert groups is not None
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([{"order_groups": [group("a"), group("a", x=1)]}], 'the group "a" came twice'),
        (
            [{"order_groups": [group("a")], "cursor": "x"}, {"order_groups": [group("a", x=1)]}],
            'the group "a" came twice',
        ),
        ([{"order_groups": [], "cursor": "x"}], "repeats a cursor"),
        (
            [{"order_groups": [], "cursor": each} for each in ("x", "y", "x", "z")],
            "repeats a cursor",
        ),
        ([{"order_groups": [], "cursor": "x"}, {"cursor": ""}], "no order_groups"),
        ([{"order_groups": [], "cursor": "x" * 5000}], "cursor: expected at most"),
        ([{"order_groups": [group("x" * 9)] * 250}], "max_response_size"),
        (
            [{"order_groups": [group("x" * 9)] * 100, "cursor": each} for each in ("x", "y", "z")],
            "max_response_size",
        ),
        ([{"order_groups": [{"id": 7, "is_auto_cancel_enabled": True}]}], "got 7"),
        ([[]], "expected an object"),
    ],
)
def test_invalid_pages_are_refused(
    exchange: "Exchange",
    fetch: Fetch,
    answering: "Answering",
    pages: list[object],
    words: str,
) -> None:
    exchange.answers = [answering(page) for page in pages]
    budget = RequestBudget(5)
    with pytest.raises(InvalidResponseError, match=words) as caught:
        fetch(budget)
    assert caught.value.http_status == 200
    assert budget.attempts == len(exchange.requests) >= 1


def test_endless_pages_end_with_the_deadline(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    count = iter(range(10**9))

    def another(connection: Any) -> None:
        connection.sendall(answering({"order_groups": [], "cursor": str(next(count))}))
        time.sleep(0.05)

    exchange.answers = [another]
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        fetch(RequestBudget(0.4))
    assert time.monotonic() - began < 1


def test_a_pause_before_the_clock_is_read_cannot_date_an_old_response_to_now(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    def late() -> datetime:
        time.sleep(0.4)
        return datetime.now(UTC)

    exchange.answers = [answering({})]
    with pytest.raises(DeadlineError):
        fetch(RequestBudget(0.3), now=late)


def test_the_budget_records_failed_requests_too(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    exchange.answers = [answering(status=500, Date="Sun, 06 Nov 1994 08:49:37 GMT")]
    budget = RequestBudget(5)
    with pytest.raises(ApiError):
        fetch(budget)
    assert (budget.attempts, budget.http_status) == (4, 500)
    assert budget.clock_skew_ms is not None
    assert budget.clock_skew_ms > 10**11


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            {"error": {"code": "gone", "message": "retired", "details": "use v3"}},
            "gone",
            "responded 200 with an error: gone; retired; use v3",
        ),
        ({"code": "gone", "message": "retired"}, "gone", "gone; retired"),
        ({"msg": "busy"}, None, "busy"),
        ({"error": "too many requests"}, None, "too many requests"),
        ({"order_groups": None, "error": {"code": "gone"}}, "gone", "with an error: gone"),
        (b'{"error": {"code": "gone", "message": "\xff"}}', "gone", "with an error: gone"),
        (b"<!doctype html><title>Sign in</title>", None, "a web page, titled “Sign in”"),
        (b"  <html><body>wait</body></html>", None, "a web page, not"),
    ],
)
def test_an_error_with_status_200_is_reported_with_its_code(
    *,
    exchange: "Exchange",
    fetch: Fetch,
    answering: "Answering",
    body: object,
    code: str,
    words: str,
) -> None:
    exchange.answers = [answering(body)]
    with pytest.raises(InvalidResponseError) as caught:
        fetch()
    assert caught.value.code == code
    assert words in caught.value.reason
    assert caught.value.http_status == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"order_groups": [{"id": "\xff", "is_auto_cancel_enabled": true}]}',
        b'{"order_groups": [], "x": "\xff"}',
        b'{"\xff": []}',
        '{"order_groups": []}'.encode("utf-16"),
        '{"order_groups": []}'.encode("utf-32-be"),
        b'\xef\xbb\xbf{"order_groups": []}',
        b'{"order_groups": [], "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"order_groups": [], "x": ' + b"1" * 5_000 + b"}, ",
        bytes(range(256)),
    ],
)
def test_unreadable_bytes_with_status_200_are_invalid(
    exchange: "Exchange", fetch: Fetch, answering: "Answering", body: bytes
) -> None:
    exchange.answers = [answering(body)]
    with pytest.raises(InvalidResponseError) as caught:
        fetch()
    assert caught.value.http_status == 200


def test_groups_beside_a_null_error_are_read(
    exchange: "Exchange", fetch: Fetch, answering: "Answering"
) -> None:
    exchange.answers = [answering({"order_groups": [group("a")], "error": None})]
    assert list(fetch().groups or ()) == ["a"]
