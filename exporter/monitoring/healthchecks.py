"""A dead man's switch: tells an address such as healthchecks.io's that all is well, or what is not.

What is not told there for too long, raises the alarm there.
"""

import logging
import os
import queue
import threading
import uuid
from collections.abc import Mapping

import requests
from urllib3.util import Timeout

from exporter import __version__
from exporter.errors import Exit
from exporter.hooks import Listener, PollFinished
from exporter.http.adapter import DeadlineAdapter
from exporter.logs import redaction
from exporter.monitoring.health import Health

_log = logging.getLogger("exporter.healthchecks")

_SECONDS = 4.0  # that telling may take, name lookup and all
_ANSWER = 16 * 1024  # bytes
_REASON = 500  # characters
_OFTEN = 60.0  # seconds: the service limits how often it is told

_Ping = tuple[str, str | None]


class Healthcheck:
    """One address, told in a thread of its own: no poll ever waits for it.

    Args:
        url: a secret; whoever knows it can say that all is well.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._run_id = uuid.uuid4()
        self._pings: queue.SimpleQueue[_Ping | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="healthcheck", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Tell that it begins."""
        self._thread.start()
        self._pings.put(("/start", None))

    def succeed(self) -> None:
        """Tell that all is well."""
        self._pings.put(("", None))

    def fail(self, code: int, reason: str) -> None:
        """Tell that it is not: with an exit code, and why in one line."""
        self._pings.put((f"/{int(code)}", reason))

    def note(self, text: str) -> None:
        """Tell something that is neither."""
        self._pings.put(("/log", text))

    def close(self) -> None:
        """Wait a few seconds until all has been told."""
        self._pings.put(None)
        self._thread.join(2 * _SECONDS)

    def _send_all(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
                session.verify = os.environ.get(name) or session.verify
            for scheme in ("https://", "http://"):
                session.mount(scheme, DeadlineAdapter(_ANSWER))
            session.headers["User-Agent"] = f"kalshi-exporter/{__version__}"
            while (ping := self._pings.get()) is not None:
                self._send(session, *ping)

    def _send(self, session: requests.Session, suffix: str, text: str | None) -> None:
        try:
            with session.request(
                "GET" if text is None else "POST",
                f"{self._url}{suffix}",
                params={"rid": str(self._run_id)},
                data=None if text is None else _one_line(text).encode(),
                timeout=Timeout(total=_SECONDS),  # type: ignore[arg-type]  # the adapter takes it
                allow_redirects=False,
                stream=True,
            ) as answer:
                fault: object = None if answer.ok and not answer.is_redirect else answer.status_code
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no poll's failure
            # Its text would repeat the URL.
            fault = type(error).__name__
        if fault is None:
            self._failing = False
        elif not self._failing:
            self._failing = True
            _log.warning(
                "the healthcheck could not be told; polls go on",
                extra={"event": "healthcheck_failed", "error": fault},
            )


def _one_line(text: str) -> str:
    return " ".join(redaction.redact(text).split())[:_REASON]


class RunHealth(Listener):
    """What one `run-once` tells of: why it was not all well."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def polled(self, event: PollFinished) -> None:
        """Note why a poll was not all well."""
        if event.exit_code != Exit.OK:
            self._reasons[event.account] = event.reason or event.outcome

    def tell(self, healthcheck: Healthcheck, codes: Mapping[str, Exit]) -> None:
        """Tell how the run ended: the code of each account."""
        wrong = {account: code for account, code in codes.items() if code != Exit.OK}
        if not wrong:
            healthcheck.succeed()
        elif not self._reasons:
            # Runs overlapped: the other one tells what came of it.
            healthcheck.note(f"another exporter is polling {', '.join(wrong)}")
        else:
            reasons = (f"{account}: {reason}" for account, reason in self._reasons.items())
            healthcheck.fail(max(wrong.values()), "; ".join(reasons))


class DaemonHealth(Listener):
    """Tells once per interval of the slowest account whether the data of all accounts is fresh.

    Args:
        healthcheck: is told.
        health: knows.
    """

    def __init__(self, healthcheck: Healthcheck, health: Health) -> None:
        self._healthcheck = healthcheck
        self._health = health
        self._period = _OFTEN
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def accounts_changed(self, intervals: Mapping[str, float]) -> None:
        """Take the interval of the slowest account."""
        self._period = max(_OFTEN, *intervals.values())

    def ready(self) -> None:
        """Begin to tell."""
        if self._thread is None:
            self._healthcheck.start()
            self._thread = threading.Thread(target=self._tell_on, name="health", daemon=True)
            self._thread.start()

    def close(self, code: int = Exit.OK, reason: str = "") -> None:
        """Tell no more; at last, why, if the daemon failed.

        An end that was asked for is not told: what it means, the address knows when it lasts.
        """
        self._ended.set()
        if self._thread is not None:
            if code != Exit.OK:
                self._healthcheck.fail(code, reason)
            self._healthcheck.close()

    def _tell_on(self) -> None:
        # The first time as soon as all is well, later as often as there is news.
        for _ in range(int(self._period)):
            if self._ended.wait(1.0) or not self._health.stale():
                break
        while not self._ended.is_set():
            self._tell()
            self._ended.wait(self._period)

    def _tell(self) -> None:
        stale = self._health.stale()
        if not stale:
            self._healthcheck.succeed()
        else:
            reasons = "; ".join(f"{account}: {why}" for account, why in stale.items())
            self._healthcheck.fail(Exit.FAILURE, reasons)
