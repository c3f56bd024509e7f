"""A session that signs GET requests, retries them inside a deadline, and bounds the responses."""

import os
import ssl
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import requests

from exporter import __version__
from exporter.errors import (
    ApiError,
    InvalidResponseError,
    UnreachableError,
)
from exporter.http.adapter import StaleConnectionError, TimeLeft
from exporter.http.body import clock_skew_ms, read_body, retry_after
from exporter.http.plain_session import PlainSession
from exporter.http.proxy import PROXY_VARIABLES
from exporter.http.sockets import TooManyBytesError
from exporter.http.tls import certificate_authorities
from exporter.kalshi.auth import SECRET_HEADERS, auth_headers
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.error_response import error_from_response
from exporter.kalshi.exchanges import ExchangeName
from exporter.kalshi.keys import SigningKey
from exporter.kalshi.retry import log_retry, wait_before_retry
from exporter.text import sanitize

_ERROR_BODY = 64 * 1024  # bytes
_CAUSE = 200  # characters of what a library says about a failure

# A wait that ends at the deadline by one clock may end a little before it by another.
_CLOCK_TOLERANCE = 0.02  # seconds


class SignedSession:
    """Signed GET requests to one exchange with one key, over one kept connection.

    Only one thread at a time may use it. It is a context manager that closes the connection.

    Args:
        account: its name, for the log.
        exchange: which of the two exchanges at that address to ask.
        base_url: with the path's prefix and without a slash at the end, such as
            "https://external-api.kalshi.com/trade-api/v2".
        key_id: sent with each request; only its last four characters are ever shown.
        key: signs each request.
        max_attempts: of one page.
        max_response_size: bytes of one body after decompression.
        proxy: the URL of an HTTP proxy that tunnels to the exchange; None for none. It may hold a
            password.
        stop: once set, the session waits for no further attempt.

    Raises:
        ConfigurationError: SSL_CERT_FILE or REQUESTS_CA_BUNDLE names a file that does not exist.
    """

    def __init__(
        self,
        *,
        account: str,
        base_url: str,
        key_id: str,
        key: SigningKey,
        max_attempts: int,
        max_response_size: int,
        exchange: ExchangeName = "predictions",
        proxy: str | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._account = account
        self.exchange: ExchangeName = exchange
        self._base_url = base_url.rstrip("/")
        self._key_id = key_id
        self._key = key
        self._max_attempts = max_attempts
        self.max_response_size = max_response_size
        self._stop = stop or threading.Event()
        self._session = PlainSession(max_response_size)
        self._session.verify = certificate_authorities() or True
        self._proxies = {} if proxy is None else {"https": proxy, "http": proxy}
        self._session.headers = requests.structures.CaseInsensitiveDict(
            {
                "User-Agent": f"kalshi-exporter/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            }
        )
        # Preparing a request is the most expensive step of a small poll.
        self._prepared = lru_cache(maxsize=1)(self._prepare)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def get(
        self, path: str, parameters: Mapping[str, str], budget: RequestBudget, size_limit: int
    ) -> bytes:
        """Return the body of a 200, after as many attempts as are allowed and fit the deadline.

        Args:
            path: after the base URL, with a slash in front.
            parameters: of the query.
            budget: sets the deadline, and counts the attempts.
            size_limit: bytes of the body after decompression.

        Raises:
            ApiError: the last attempt's failure, for the caller to log; those before it are logged.
        """
        for attempt in range(1, self._max_attempts + 1):
            try:
                return self._attempt(path, parameters, budget, size_limit)
            except ApiError as error:
                failure = error
            if attempt == self._max_attempts or self._stop.is_set():
                break
            wait = wait_before_retry(failure, attempt)
            if wait is None or wait >= budget.remaining():
                break
            log_retry(failure, attempt, wait, account=self._account)
            if self._stop.wait(wait):
                break
        raise failure

    def _attempt(
        self, path: str, parameters: Mapping[str, str], budget: RequestBudget, size_limit: int
    ) -> bytes:
        budget.check()
        budget.attempts += 1
        budget.http_status = None
        try:
            try:
                body = self._exchange(path, parameters, budget, size_limit)
            except StaleConnectionError:
                # A load balancer closed the idle connection, so the exchange has not seen the
                # request. The attempt continues on a new connection, with a new signature.
                body = self._exchange(path, parameters, budget, size_limit)
        except ApiError as error:
            error.http_status = budget.http_status
            raise
        except Exception as error:
            # Four libraries each have their own errors for a hostile or broken response, and all of
            # them mean the same.
            raise self._transport_failure(error, budget) from error
        # If the process was suspended in the meantime, the response may be old.
        budget.check()
        return body

    def _exchange(
        self, path: str, parameters: Mapping[str, str], budget: RequestBudget, size_limit: int
    ) -> bytes:
        request = self._signed(path, parameters)
        began = time.time()
        response = self._session.send(
            request,
            stream=True,
            proxies=self._proxies,
            timeout=TimeLeft(budget.remaining),
        )
        with response:
            budget.http_status = response.status_code
            skew = clock_skew_ms(response.headers, began, time.time())
            budget.clock_skew_ms = budget.clock_skew_ms if skew is None else skew
            if response.status_code != requests.codes.ok:
                raise self._error(response, budget)
            return read_body(response, size_limit, budget.check)

    def _signed(self, path: str, parameters: Mapping[str, str]) -> requests.PreparedRequest:
        # One object serves all requests, because only one is in flight at a time.
        request = self._prepared(path, tuple(parameters.items()))
        # The exchange verifies the path as sent, which requests may spell differently.
        sent_path = urlsplit(str(request.url)).path
        request.headers.update(auth_headers(self._key_id, self._key, sent_path))
        return request

    def _prepare(
        self, path: str, parameters: tuple[tuple[str, str], ...]
    ) -> requests.PreparedRequest:
        request = self._session.prepare_request(
            requests.Request("GET", self._base_url + path, params=dict(parameters))
        )
        # urllib3 goes through the headers three times, and requests' dictionary is slow.
        request.headers = dict(request.headers)  # type: ignore[assignment]  # any mapping does
        return request

    def _error(self, response: requests.Response, budget: RequestBudget) -> ApiError:
        try:
            body = read_body(response, _ERROR_BODY, budget.check)
        except Exception:  # noqa: BLE001  # without a body, the status says enough
            body = b""
        # The response may repeat our secrets.
        for name in SECRET_HEADERS:
            body = body.replace(response.request.headers[name].encode(), b"***")
        return error_from_response(
            response.status_code,
            body,
            retry_after=retry_after(response.headers),
            clock_skew_ms=budget.clock_skew_ms,
            key_hint=f"…{self._key_id[-4:]}",
        )

    def _transport_failure(self, error: Exception, budget: RequestBudget) -> ApiError:
        if isinstance(error, TooManyBytesError):
            if budget.http_status == requests.codes.ok:
                return InvalidResponseError(
                    "the response is larger than max_response_size allows", http_status=200
                )
            return UnreachableError("the exchange sends an endless header")
        if budget.remaining() <= _CLOCK_TOLERANCE:
            return budget.timed_out()
        root = _root(error)
        cause = sanitize(getattr(root, "strerror", None) or str(root) or repr(root), _CAUSE)
        hint = ""
        if isinstance(root, ssl.SSLError):
            hint = (
                f"; certificates are judged by {self._session.verify}"
                if isinstance(self._session.verify, str)
                else "; name a company's own certificate authority in SSL_CERT_FILE"
            )
        return UnreachableError(
            f"no complete response from {urlsplit(self._base_url).netloc}{self._route()}: "
            f"{type(root).__name__}: {cause}{hint}",
            http_status=budget.http_status,
        )

    def _route(self) -> str:
        """Return a phrase on the proxy in use, or on the environment's proxy, which is not used."""
        if proxy := self._proxies.get("https"):
            return f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]}"
        for name in PROXY_VARIABLES:
            if os.environ.get(name):
                return f" ({name} in the environment is not read: set [http] proxy)"
        return ""


def _root(error: BaseException) -> BaseException:
    """Return the innermost cause, whose text is the shortest and most exact."""
    for _ in range(10):
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None:
            break
        error = below
    return error
