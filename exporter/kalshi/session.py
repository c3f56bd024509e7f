"""The signed session: attempts, deadlines, limits and refusals, between `keys` and `order_groups`.

It spends an `budget`, sends over `transport`, reads with `answers` and lets `refusals` say what
went wrong.
"""

import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import requests
from urllib3.util import Timeout

from exporter import __version__
from exporter.errors import (
    ApiError,
    ConfigurationError,
    InvalidResponseError,
    UnreachableError,
)
from exporter.http.adapter import DeadlineAdapter, TooManyBytesError
from exporter.http.body import clock_skew_ms, read_body, retry_after
from exporter.kalshi.budget import RequestBudget
from exporter.kalshi.error_response import error_from_response
from exporter.kalshi.keys import SigningKey
from exporter.text import sanitize

_FIRST_WAIT = 0.5  # seconds
_LONGEST_WAIT = 8.0  # seconds
_ERROR_BODY = 64 * 1024  # bytes
_CAUSE = 200  # characters of what a library says about a failure

# A wait that ends with the deadline may end a little before it by another clock.
_CLOCK_TOLERANCE = 0.02  # seconds

_log = logging.getLogger("exporter.kalshi")


class SignedSession:
    """Signed GET requests to one exchange with one key, over one kept connection.

    Not for several threads at a time. A context manager; `close` ends the connection.

    Args:
        account: its name, for the log.
        base_url: with the path's prefix and without a slash at the end, such as
            "https://external-api.kalshi.com/trade-api/v2".
        key_id: sent with each request; only its last four characters are ever shown.
        key: signs each request.
        max_attempts: of one page.
        max_response_size: bytes of one body after decompression.
        stop: once set, no more waiting: the failure at hand is final.

    Raises:
        ConfigurationError: SSL_CERT_FILE or REQUESTS_CA_BUNDLE names nothing that exists.
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
        stop: threading.Event | None = None,
    ) -> None:
        self._account = account
        self._base_url = base_url.rstrip("/")
        self._key_id = key_id
        self._key = key
        self._max_attempts = max_attempts
        self.max_response_size = max_response_size
        self._stop = stop or threading.Event()
        self._session = _PlainSession()
        self._session.verify = _certificates()
        self._session.headers = requests.structures.CaseInsensitiveDict(
            {
                "User-Agent": f"kalshi-exporter/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            }
        )
        # Preparing the same request takes requests longer than anything else in a small poll.
        self._prepared = lru_cache(maxsize=1)(self._prepare)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, DeadlineAdapter(max_response_size))

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
        """Ends the connection."""
        self._session.close()

    def get(
        self, path: str, parameters: Mapping[str, str], budget: RequestBudget, size_limit: int
    ) -> bytes:
        """The body of a 200, after as many attempts as are allowed and fit into the deadline.

        Args:
            path: after the base URL, with a slash in front.
            parameters: of the query.
            budget: whose deadline holds, and which is told of each attempt.
            size_limit: bytes of the body after decompression.

        Raises:
            ApiError: the last attempt's failure, which the caller logs. Each before it has been
                logged.
        """
        for attempt in range(1, self._max_attempts + 1):
            try:
                return self._attempt(path, parameters, budget, size_limit)
            except ApiError as error:
                failure = error
            wait = self._wait_after(failure, attempt, budget)
            if wait is None or self._stop.is_set():
                break
            self._log_retry(failure, attempt, wait)
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
            body = self._exchange(path, parameters, budget, size_limit)
        except ApiError as error:
            error.http_status = budget.http_status
            raise
        except Exception as error:
            # Four libraries raise what they like for a hostile or broken answer, and all of it
            # means the same.
            raise self._transport_failure(error, budget) from error
        # A process that was stopped meanwhile may hold an answer from long ago.
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
            allow_redirects=False,
            proxies={},  # none; requests would look for some each time
            # Not below a millisecond, because urllib3 refuses a timeout of nothing.
            timeout=Timeout(total=max(budget.remaining(), 0.001)),  # type: ignore[arg-type] # requests takes urllib3's, which its stubs do not know
        )
        with closing(response):
            budget.http_status = response.status_code
            skew = clock_skew_ms(response.headers, began, time.time())
            budget.clock_skew_ms = budget.clock_skew_ms if skew is None else skew
            if response.status_code != requests.codes.ok:
                raise self._refusal(response, budget)
            return read_body(response, size_limit, budget.check)

    def _signed(self, path: str, parameters: Mapping[str, str]) -> requests.PreparedRequest:
        # The same object each time: only one request is under way.
        request = self._prepared(path, tuple(parameters.items()))
        # Signed is the path that goes out, however requests spelt it.
        sent_path = urlsplit(str(request.url)).path
        timestamp = str(int(time.time() * 1000))
        request.headers["KALSHI-ACCESS-KEY"] = self._key_id
        request.headers["KALSHI-ACCESS-TIMESTAMP"] = timestamp
        request.headers["KALSHI-ACCESS-SIGNATURE"] = self._key.sign(
            f"{timestamp}GET{sent_path}".encode()
        )
        return request

    def _prepare(
        self, path: str, parameters: tuple[tuple[str, str], ...]
    ) -> requests.PreparedRequest:
        return self._session.prepare_request(
            requests.Request("GET", self._base_url + path, params=dict(parameters))
        )

    def _refusal(self, response: requests.Response, budget: RequestBudget) -> ApiError:
        try:
            body = read_body(response, _ERROR_BODY, budget.check)
        except Exception:  # noqa: BLE001 - the status says enough when the body cannot be had
            body = b""
        # What the exchange repeats of our secrets stays here too.
        for name in ("KALSHI-ACCESS-KEY", "KALSHI-ACCESS-SIGNATURE"):
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
                    "the answer is larger than max_response_size allows", http_status=200
                )
            return UnreachableError("the exchange sends a header without end")
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
            f"no complete answer from {urlsplit(self._base_url).netloc}: "
            f"{type(root).__name__}: {cause}{hint}",
            http_status=budget.http_status,
        )

    def _wait_after(self, failure: ApiError, attempt: int, budget: RequestBudget) -> float | None:
        """Seconds until the next attempt; None if there is to be none."""
        if not failure.retryable or attempt == self._max_attempts:
            return None
        ceiling = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
        # Full jitter, so that exporters that failed together do not come back together.
        wait = max(random.uniform(0, ceiling), failure.retry_after or 0.0)  # noqa: S311 - no secret
        return wait if wait < budget.remaining() else None

    def _log_retry(self, failure: ApiError, attempt: int, wait: float) -> None:
        _log.warning(
            "%s",
            failure.summary,
            extra={
                "event": "attempt_failed",
                "account": self._account,
                "outcome": failure.outcome,
                "http_status": failure.http_status,
                "code": failure.code,
                "error": failure.message,
                "details": failure.details,
                "service": failure.service,
                "attempt": attempt,
                "next": f"retry in {wait:.1f} s",
            },
        )


class _PlainSession(requests.Session):
    """A session without what requests adds for browsers: redirects, cookies, .netrc, proxies."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - requests names it
        # Even without following it, requests prepares the next request, for which it reads and
        # inflates the whole body of the redirect, without a limit.
        return None


def _certificates() -> str | bool:
    """The certificate authorities to trust: a file or directory, or True for certifi's.

    requests would read these variables only together with .netrc and the proxies' variables.
    """
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if path := os.environ.get(name):
            if not Path(path).exists():
                raise ConfigurationError(f"{name} names {path}, which does not exist")
            return path
    return True


def _root(error: BaseException) -> BaseException:
    """The error at the bottom, which says what happened in the fewest words."""
    for _ in range(10):
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None:
            break
        error = below
    return error
