"""Fake pollers, for tests of when a poller may poll."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import Exit

if TYPE_CHECKING:
    from exporter.recording.recorder import Recorder


@dataclass(eq=False)
class Account:
    """A poller whose polls a test defines.

    Attributes:
        act: runs instead of a poll, and returns its exit code; None if there was no poll.
        calls: the arguments of each call of `poll_if_due`.
    """

    account: str
    act: Callable[[], Exit | None] = lambda: Exit.OK
    timing: Any = field(default_factory=lambda: SimpleNamespace(deadline=20.0, interval=60.0))
    calls: list[dict[str, Any]] = field(default_factory=list)

    def poll_if_due(self, **arguments: Any) -> Exit | None:
        """Do as the test says."""
        self.calls.append(arguments)
        return self.act()


@dataclass(eq=False)
class Accounts:
    """A recorder of such pollers that remembers whether it was closed."""

    pollers: tuple[Account, ...]
    closed: bool = False

    def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture
def recorder_of_accounts() -> "Callable[..., Recorder]":
    """Return a function that makes a recorder of some `Account`s."""
    return lambda *accounts: Accounts(accounts)  # type: ignore[return-value]  # it has all that the tests use
