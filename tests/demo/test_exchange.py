"""The local exchange accepts valid requests, and refuses all others, as the real one does."""

import base64
import gzip
import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from kalshi_python_sync import KalshiClient
from kalshi_python_sync.configuration import Configuration

from exporter.demo.answers import Answer
from exporter.demo.exchange import Exchange

if TYPE_CHECKING:
    from tests.conftest import KeyPair

PATH = "/trade-api/v2/portfolio/order_groups"
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def sign(
    key_pair: "KeyPair",
    *,
    method: str = "GET",
    path: str = PATH,
    seconds: float = 0.0,
    scheme: padding.AsymmetricPadding = PSS,
    key: rsa.RSAPrivateKey | None = None,
) -> dict[str, str]:
    """Return the three headers, signed as the API's documentation says, without our own code."""
    timestamp = str(int((time.time() + seconds) * 1000))
    message = (timestamp + method + path).encode()
    signature = (key or key_pair.private_key).sign(message, scheme, hashes.SHA256())
    return {
        "KALSHI-ACCESS-KEY": key_pair.key_id,
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
    }


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


class Client:
    """A client that signs each request afresh."""

    def __init__(self, session: requests.Session, exchange: Exchange, key_pair: "KeyPair") -> None:
        self.session = session
        self.exchange = exchange
        self.key_pair = key_pair

    def get(self, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
        """Send a request with these headers, or with valid ones if None."""
        return self.session.get(
            self.exchange.base_url + "/portfolio/order_groups",
            headers=sign(self.key_pair) if headers is None else headers,
            timeout=options.pop("timeout", 10),
            allow_redirects=False,
            **options,
        )


@pytest.fixture
def client(session: requests.Session, exchange: Exchange, key_pair: "KeyPair") -> Client:
    return Client(session, exchange, key_pair)


def test_the_official_sdk_is_served(exchange: Exchange, key_pair: "KeyPair") -> None:
    exchange.groups(key_pair.key_id).create("a", is_auto_cancel_enabled=False)
    configuration = Configuration(host=exchange.base_url)
    configuration.api_key_id = key_pair.key_id
    configuration.private_key_pem = key_pair.private_key_file.read_text(encoding="ascii")
    client = KalshiClient(configuration)  # type: ignore[no-untyped-call]  # the SDK has few types
    try:
        for _ in range(2):
            answer = client.get_order_groups()
            assert [(group.id, group.is_auto_cancel_enabled) for group in answer.order_groups] == [
                ("a", False)
            ]
    finally:
        client.rest_client.pool_manager.clear()


def test_a_signature_covers_the_path_without_the_query(client: Client) -> None:
    assert client.get(params={"subaccount": "3"}).status_code == 200


def test_a_clock_error_of_ten_seconds_is_accepted(client: Client, key_pair: "KeyPair") -> None:
    assert client.get(sign(key_pair, seconds=10)).status_code == 200
    assert client.get(sign(key_pair, seconds=-10)).status_code == 200


def error_body(code: str, details: str | None = None) -> dict[str, Any]:
    """Return the body of an error response."""
    error = {"code": code, "message": code.replace("_", " ")}
    return {"error": error | ({"details": details} if details else {})}


FORGED = error_body("authentication_error", "INCORRECT_API_KEY_SIGNATURE")


@pytest.mark.parametrize("seconds", [-30, 30])
def test_an_old_or_future_timestamp_is_refused(
    client: Client, key_pair: "KeyPair", seconds: float
) -> None:
    answer = client.get(sign(key_pair, seconds=seconds))
    assert answer.status_code == 401
    assert answer.json() == error_body("header_timestamp_expired")


def test_the_exchange_judges_by_its_own_clock(
    client: Client, exchange: Exchange, key_pair: "KeyPair"
) -> None:
    exchange.clock_offset = 3600.0
    assert client.get().json() == error_body("header_timestamp_expired")
    answer = client.get(sign(key_pair, seconds=3600))
    assert answer.status_code == 200
    assert answer.headers["Date"] == time.strftime(
        "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(exchange.now())
    )


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("KALSHI-ACCESS-KEY", "token_authentication_failure"),
        ("KALSHI-ACCESS-TIMESTAMP", "header_timestamp_invalid"),
        ("KALSHI-ACCESS-SIGNATURE", "signature_is_missing_from_headers"),
    ],
)
def test_each_header_is_needed(
    client: Client, key_pair: "KeyPair", missing: str, code: str
) -> None:
    headers = sign(key_pair)
    del headers[missing]
    answer = client.get(headers)
    assert answer.status_code == 401
    assert answer.json() == error_body(code)


@pytest.mark.parametrize(
    "mistake",
    [
        {"path": "/portfolio/order_groups"},
        {"path": PATH + "?subaccount=0"},
        {"method": "POST"},
        {"scheme": padding.PKCS1v15()},
        {"scheme": padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)},
        {"scheme": padding.PSS(padding.MGF1(hashes.SHA1()), padding.PSS.DIGEST_LENGTH)},
        {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
    ],
    ids=["path", "query", "method", "PKCS1v15", "salt", "mask", "key"],
)
def test_a_wrong_signature_is_refused(
    client: Client, key_pair: "KeyPair", mistake: dict[str, Any]
) -> None:
    answer = client.get(sign(key_pair, **mistake))
    assert answer.status_code == 401
    assert answer.json() == FORGED


def test_a_signature_that_is_not_base64_is_refused(client: Client, key_pair: "KeyPair") -> None:
    headers = sign(key_pair) | {"KALSHI-ACCESS-SIGNATURE": "not base64"}
    assert client.get(headers).json() == FORGED


def test_a_changed_timestamp_breaks_the_signature(client: Client, key_pair: "KeyPair") -> None:
    headers = sign(key_pair)
    headers["KALSHI-ACCESS-TIMESTAMP"] = str(int(headers["KALSHI-ACCESS-TIMESTAMP"]) + 1)
    assert client.get(headers).json() == FORGED


def test_an_unknown_key_is_not_found(client: Client, key_pair: "KeyPair") -> None:
    answer = client.get(sign(key_pair) | {"KALSHI-ACCESS-KEY": "another"})
    assert answer.status_code == 401
    assert answer.json() == error_body("authentication_error", "NOT_FOUND")


def test_a_signature_is_accepted_only_once(client: Client, key_pair: "KeyPair") -> None:
    headers = sign(key_pair)
    assert client.get(headers).status_code == 200
    answer = client.get(headers)
    assert answer.status_code == 401
    assert answer.json() == error_body("authentication_error", "SIGNATURE_SEEN_BEFORE")


def test_ed25519_keys_sign_the_same_message(exchange: Exchange, client: Client) -> None:
    private_key = ed25519.Ed25519PrivateKey.generate()
    exchange.register("edward", private_key.public_key())
    timestamp = str(int(time.time() * 1000))
    headers = {
        "KALSHI-ACCESS-KEY": "edward",
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(
            private_key.sign(f"{timestamp}GET{PATH}".encode())
        ).decode(),
    }
    assert client.get(headers).status_code == 200
    other = ed25519.Ed25519PrivateKey.generate().sign(f"{timestamp}GET{PATH}".encode())
    headers["KALSHI-ACCESS-SIGNATURE"] = base64.b64encode(other).decode()
    assert client.get(headers).json() == FORGED


def test_another_path_is_not_found(client: Client, exchange: Exchange) -> None:
    answer = client.session.get(exchange.base_url + "/portfolio/orders", timeout=10)
    assert answer.status_code == 404


def test_groups_are_encoded_as_go_encodes_them(
    client: Client, exchange: Exchange, key_id: str
) -> None:
    groups = exchange.groups(key_id)
    assert client.get().content == b"{}\n"
    groups.create("a", contracts_limit="10.00")
    groups.create("b", is_auto_cancel_enabled=True, contracts_limit=None, label="<é>")
    assert client.get().content == (
        b'{"order_groups":[{"id":"a","is_auto_cancel_enabled":false,"contracts_limit_fp":"10.00",'
        b'"exchange_index":0},{"id":"b","is_auto_cancel_enabled":true,"exchange_index":0,'
        b'"label":"\\u003c\xc3\xa9\\u003e"}]}\n'
    )
    groups.change("a", contracts_limit_fp="5.00", exchange_index=None)
    groups.delete("b")
    assert client.get().json() == {"order_groups": groups.listing()}
    assert groups.listing() == [
        {"id": "a", "is_auto_cancel_enabled": False, "contracts_limit_fp": "5.00"}
    ]
    with pytest.raises(KeyError):
        groups.create("a")


def test_a_subaccount_can_be_requested_alone(
    client: Client, exchange: Exchange, key_id: str
) -> None:
    groups = exchange.groups(key_id)
    groups.create("a")
    groups.create("b", subaccount=2)
    groups.replace([{"id": "c"}, {"id": "d"}], subaccount=2)

    def ids(**query: str) -> list[str]:
        return [group["id"] for group in client.get(params=query).json().get("order_groups", [])]

    assert ids() == ["a", "c", "d"]
    assert ids(subaccount="0") == ["a"]
    assert ids(subaccount="2") == ["c", "d"]
    assert ids(subaccount="3") == []
    answer = client.get(params={"subaccount": "64"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_parameters"


def test_pages_follow_each_other_by_cursor(client: Client, exchange: Exchange, key_id: str) -> None:
    exchange.page_size = 2
    assert client.get().json() == {"order_groups": [], "cursor": ""}
    exchange.groups(key_id).replace([{"id": str(number)} for number in range(5)])
    pages: list[list[str]] = []
    cursor = ""
    while not pages or cursor:
        answer = client.get(params={"cursor": cursor}).json()
        pages.append([group["id"] for group in answer["order_groups"]])
        cursor = answer["cursor"]
    assert pages == [["0", "1"], ["2", "3"], ["4"]]
    assert client.get(params={"cursor": "bm9uc2Vuc2U="}).status_code == 400


def test_a_response_is_compressed_only_if_the_client_accepts_it(
    client: Client, exchange: Exchange, key_pair: "KeyPair"
) -> None:
    exchange.compress = True
    exchange.groups(key_pair.key_id).create("a")
    packed = client.get(sign(key_pair) | {"Accept-Encoding": "gzip"})
    plain = client.get(sign(key_pair) | {"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.json() == plain.json()


def test_a_hundred_thousand_groups_are_served_from_memory(
    client: Client, exchange: Exchange, key_id: str
) -> None:
    groups = exchange.groups(key_id)
    groups.replace(
        {"id": f"{number:036}", "is_auto_cancel_enabled": True} for number in range(100_000)
    )
    first = client.get().content
    assert groups.body() is groups.body()
    groups.change(f"{7:036}", is_auto_cancel_enabled=False)
    second = client.get().content
    assert len(json.loads(first)["order_groups"]) == 100_000
    assert len(second) == len(first) + 1


def test_scripted_answers_are_used_once_each_and_in_order(
    client: Client, exchange: Exchange, key_id: str
) -> None:
    exchange.groups(key_id).create("a")
    exchange.script(
        key_id,
        Answer.rate_limited(),
        Answer.rate_limited("7"),
        None,
        lambda request: Answer.json(request.query, status=500),
        Answer.proxy_error(),
        Answer.redirect("https://example.com/"),
    )
    assert client.get({}).status_code == 401
    assert exchange.scripted(key_id) == 6, "a refused request uses up no scripted answer"
    answers = [client.get(params={"x": "y"}) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [429, 429, 200, 500, 503, 302, 200]
    assert answers[0].json() == {"error": "too many requests"}
    assert [answer.headers.get("Retry-After") for answer in answers[:2]] == [None, "7"]
    assert answers[3].json() == {"x": "y"}
    assert answers[4].text.startswith("<html>")
    assert answers[5].headers["Location"] == "https://example.com/"
    assert exchange.scripted(key_id) == 0


def test_an_answer_may_end_early(client: Client, exchange: Exchange, key_id: str) -> None:
    exchange.script(key_id, Answer(ending="reset"), Answer(ending="closed"))
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        client.get()
    with pytest.raises(requests.ConnectionError, match="without response"):
        client.get()
    exchange.script(key_id, Answer(body=b"x" * 1000, ending="truncated"), Answer.hang(0.05))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="500 bytes read"):
        client.get()
    with pytest.raises(requests.ConnectionError, match="without response"):
        client.get()
    assert [request.status for request in exchange.requests] == [None, None, 200, None]


def test_an_answer_may_be_slow(client: Client, exchange: Exchange, key_id: str) -> None:
    exchange.script(
        key_id,
        Answer(body=b"0123456789", pace=0.02),
        Answer(head_pace=0.002),
        Answer(delay=0.2),
    )
    for _ in range(3):
        begun = time.monotonic()
        assert client.get().status_code == 200
        assert time.monotonic() - begun >= 0.18


def test_headers_may_be_added_replaced_and_left_out(
    client: Client, exchange: Exchange, key_id: str
) -> None:
    exchange.script(
        key_id,
        Answer(headers={"Date": "", "Content-Type": "text/plain", "X-Other": "1"}),
        Answer.gzipped(b"{}"),
    )
    answer = client.get()
    assert "Date" not in answer.headers
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["X-Other"] == "1"
    answer = client.get(stream=True)
    assert gzip.decompress(answer.raw.read()) == b"{}"


def test_requests_are_recorded(client: Client, exchange: Exchange, key_id: str) -> None:
    client.get(params={"subaccount": "1"})
    client.get({})
    exchange.wait_for_requests(2)
    first, second = exchange.requests
    assert (first.key_id, first.query, first.status) == (key_id, {"subaccount": "1"}, 200)
    assert first.headers["user-agent"].startswith("python-requests/")
    assert (second.key_id, second.status) == (None, 401)
    with pytest.raises(TimeoutError, match="2 requests"):
        exchange.wait_for_requests(3, seconds=0.01)


def test_a_connection_is_kept_until_the_exchange_drops_it(
    client: Client, exchange: Exchange
) -> None:
    def connections() -> int:
        return sum(thread.name == "connection" for thread in threading.enumerate())

    client.get()
    client.get()
    assert connections() == 1
    exchange.drop_connections()
    assert client.get().status_code == 200


def test_closing_the_exchange_ends_hanging_requests(
    session: requests.Session, key_pair: "KeyPair"
) -> None:
    failures = []
    with Exchange() as exchange:
        exchange.register(key_pair.key_id, key_pair.public_key)
        exchange.script(key_pair.key_id, Answer.hang(3600))

        def ask() -> None:
            with pytest.raises(requests.ConnectionError) as caught:
                Client(session, exchange, key_pair).get(timeout=60)
            failures.append(caught.value)

        hanging = threading.Thread(target=ask)
        hanging.start()
        exchange.wait_for_requests(1)
        begun = time.monotonic()
    hanging.join()
    assert len(failures) == 1
    assert time.monotonic() - begun < 2
    assert not {"exchange", "connection"} & {thread.name for thread in threading.enumerate()}
