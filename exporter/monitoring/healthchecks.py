"""A dead man's switch: pings an address such as healthchecks.io's while all is well.

If the pings stop, the service raises the alarm. It is a third party, so nothing that it receives
comes from the configuration, from the exchange or from an error's text: an account is named by its
place in the configuration, a failure by its outcome.
"""

import logging
import queue
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType

import requests
from urllib3.util import Timeout

from exporter import __version__
from exporter.errors import ConfigurationError, Exit
from exporter.hooks import AccountsChanged, DaemonReady, Event, PollFinished
from exporter.http.adapter import DeadlineAdapter
from exporter.http.tls import certificate_authorities
from exporter.monitoring.health import Health, outcome_of

_log = logging.getLogger(__name__)

_SECONDS = 4.0  # how long one ping may take, name lookup included
_RESPONSE_LIMIT = 16 * 1024  # bytes
_BODY_LIMIT = 500  # bytes
_PERIOD = 60.0  # seconds: the service limits how often it may be pinged

_MEANINGS: Mapping[int, str] = MappingProxyType(
    {
        Exit.FAILURE: "failure",
        Exit.INVALID_RESPONSE: "invalid response",
        Exit.UNAVAILABLE: "exchange unreachable or failing",
        Exit.DATABASE: "database or disk failed",
        Exit.TEMPORARY: "temporary failure",
        Exit.UNAUTHORIZED: "credentials refused",
        Exit.CONFIGURATION: "error in the configuration, a key or the schema",
    }
)

_Ping = tuple[str, str | None]


class Healthcheck:
    """Ping one address from a thread of its own, so that no poll waits for it.

    Args:
        url: a secret; whoever knows it can say that all is well.
        proxy: the URL of an HTTP proxy; None for none.
    """

    def __init__(self, url: str, proxy: str | None = None) -> None:
        self._url = url
        self._proxies = {} if proxy is None else {"https": proxy, "http": proxy}
        self._run_id = uuid.uuid4()
        self._pings: queue.SimpleQueue[_Ping | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="healthcheck", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Send a ping that the run begins."""
        self._thread.start()
        self._pings.put(("/start", None))

    def succeed(self) -> None:
        """Send a ping that all is well."""
        self._pings.put(("", None))

    def fail(self, code: int, detail: str = "") -> None:
        """Send a ping that something failed.

        Args:
            code: the exit code, whose meaning is in the body.
            detail: further words for the body, which must be this module's own.
        """
        meaning = _MEANINGS.get(code, f"exit code {code}")
        self._pings.put((f"/{int(code)}", f"{meaning}: {detail}" if detail else meaning))

    def note(self, text: str) -> None:
        """Send a line that is neither success nor failure."""
        self._pings.put(("/log", text))

    def close(self) -> None:
        """Wait a few seconds until all pings have been sent."""
        self._pings.put(None)
        self._thread.join(2 * _SECONDS)

    def _send_all(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = self._proxies
            # If the certificate authorities cannot be used, polls say so, and pings simply fail.
            with suppress(ConfigurationError):
                session.verify = certificate_authorities() or session.verify
            for scheme in ("https://", "http://"):
                session.mount(scheme, DeadlineAdapter(_RESPONSE_LIMIT))
            session.headers["User-Agent"] = f"kalshi-exporter/{__version__}"
            while (ping := self._pings.get()) is not None:
                self._send(session, *ping)

    def _send(self, session: requests.Session, suffix: str, text: str | None) -> None:
        try:
            with session.request(
                "GET" if text is None else "POST",
                f"{self._url}{suffix}",
                params={"rid": str(self._run_id)},
                data=None if text is None else text.encode()[:_BODY_LIMIT],
                timeout=Timeout(total=_SECONDS),  # type: ignore[arg-type]  # the adapter takes it
                allow_redirects=False,
                stream=True,
            ) as response:
                accepted = response.ok and not response.is_redirect
                fault: object = None if accepted else response.status_code
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no poll's failure
            # The error's text would repeat the URL, which is a secret.
            fault = type(error).__name__
        if fault is None:
            self._failing = False
        elif not self._failing:
            self._failing = True
            _log.warning(
                "the healthcheck could not be pinged; polls go on",
                extra={"event": "healthcheck_failed", "error": fault},
            )


class RunHealth:
    """Collect the results of the polls of one `run-once`."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}

    def receive(self, event: Event) -> None:
        """Note the result of a poll that did not end with exit code 0."""
        if isinstance(event, PollFinished) and event.exit_code != Exit.OK:
            self._outcomes[event.account] = outcome_of(event)

    def ping(self, healthcheck: Healthcheck, codes: Mapping[str, Exit]) -> None:
        """Send a ping with the result of the run.

        Args:
            healthcheck: to ping.
            codes: of each account, in the order of the configuration.
        """
        failed = {account: code for account, code in codes.items() if code != Exit.OK}
        if not failed:
            healthcheck.succeed()
        elif not self._outcomes:
            # Two runs overlap: the other one sends pings for its own polls.
            healthcheck.note("another exporter is polling")
        else:
            places = _by_place(codes, self._outcomes)
            healthcheck.fail(max(failed.values()), "; ".join(places))


class DaemonHealth:
    """Ping once per interval of the slowest account whether the data of all accounts is fresh.

    Args:
        healthcheck: to ping.
        health: knows how fresh the data is.
    """

    def __init__(self, healthcheck: Healthcheck, health: Health) -> None:
        self._healthcheck = healthcheck
        self._health = health
        self._period = _PERIOD
        self._accounts: tuple[str, ...] = ()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def receive(self, event: Event) -> None:
        """Begin to ping once the daemon is ready, as often as the slowest account is polled."""
        match event:
            case AccountsChanged():
                self._accounts = tuple(event.intervals)
                self._period = max(_PERIOD, *event.intervals.values())
            case DaemonReady():
                self.start()

    def start(self) -> None:
        """Begin to ping, unless it pings already."""
        if self._thread is None:
            self._healthcheck.start()
            self._thread = threading.Thread(target=self._ping_on, name="health", daemon=True)
            self._thread.start()

    def close(self, code: int = Exit.OK) -> None:
        """Stop pinging; if the daemon failed, first send a ping with its exit code.

        A requested end is no failure. If the daemon stays down, the service misses the pings.
        """
        self._ended.set()
        if self._thread is not None:
            if code != Exit.OK:
                self._healthcheck.fail(code)
            self._healthcheck.close()

    def _ping_on(self) -> None:
        # The first ping is sent as soon as all is well, later ones at the interval of polls.
        for _ in range(int(self._period)):
            if self._ended.wait(1.0) or not self._health.stale():
                break
        while not self._ended.is_set():
            self._ping()
            self._ended.wait(self._period)

    def _ping(self) -> None:
        stale = self._health.stale_outcomes()
        if not stale:
            self._healthcheck.succeed()
        else:
            places = _by_place(self._accounts, stale)
            self._healthcheck.fail(Exit.FAILURE, "; ".join(places))


def _by_place(accounts: Iterable[str], what: Mapping[str, str]) -> Iterator[str]:
    """Return accounts by their place in the configuration, because their names are private."""
    for place, account in enumerate(accounts):
        if account in what:
            yield f"accounts[{place}] {what[account]}"
