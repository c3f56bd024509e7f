"""The order groups of the local exchange, and the bytes of its responses."""

import base64
import gzip
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from exporter.demo.answers import encode


class Groups:
    """The order groups that one key sees, in the order of their creation; safe between threads.

    Args:
        tell: called with the type of an event, the group's id and its limit, if it is part of the
            event; never from two threads at a time.
    """

    def __init__(self, tell: Callable[[str, str, str | None], None] = lambda *_: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._groups: dict[str, tuple[int, dict[str, Any]]] = {}
        # Each group's JSON is cached, so that a change among 100,000 groups encodes only one.
        self._encoded: dict[str, bytes] = {}
        self._bodies: dict[tuple[object, ...], bytes] = {}

    def create(
        self,
        group_id: str,
        *,
        is_auto_cancel_enabled: bool = False,
        contracts_limit: str | None = "10.00",
        subaccount: int = 0,
        **others: Any,
    ) -> None:
        """Add a group at the end of the list.

        Args:
            group_id: unique over all subaccounts.
            is_auto_cancel_enabled: as sent; false in a fresh group, as far as is known.
            subaccount: the group's subaccount, which the response does not name.
            contracts_limit: sent as `contracts_limit_fp`, two decimals; None leaves it out.
            others: further fields, sent as they are.

        Raises:
            KeyError: there is already a group with this id.
        """
        group = {"id": group_id, "is_auto_cancel_enabled": is_auto_cancel_enabled}
        if contracts_limit is not None:
            group["contracts_limit_fp"] = contracts_limit
        with self._lock:
            if group_id in self._groups:
                raise KeyError(group_id)
            self._put(subaccount, group | {"exchange_index": 0} | others)
            self._tell("created", group_id, contracts_limit)

    def change(self, group_id: str, **fields: Any) -> None:
        """Set fields of a group by their names in the response; None removes a field.

        Only a new limit sends an event.
        """
        with self._lock:
            self._change(group_id, **fields)
            if (limit := fields.get("contracts_limit_fp")) is not None:
                self._tell("limit_updated", group_id, limit)

    def trigger(self, group_id: str) -> None:
        """Cancel a group's orders and let it take no more until it is reset."""
        with self._lock:
            self._change(group_id, is_auto_cancel_enabled=True)
            self._tell("triggered", group_id, None)

    def reset(self, group_id: str) -> None:
        """Let a triggered group accept orders again."""
        with self._lock:
            self._change(group_id, is_auto_cancel_enabled=False)
            self._tell("reset", group_id, None)

    def delete(self, group_id: str) -> None:
        """Remove a group; KeyError if there is none."""
        with self._lock:
            del self._groups[group_id]
            del self._encoded[group_id]
            self._bodies.clear()
            self._tell("deleted", group_id, None)

    def replace(self, groups: Iterable[Mapping[str, Any]], *, subaccount: int = 0) -> None:
        """Replace all groups of a subaccount, each in the form of the response, without events."""
        with self._lock:
            for group_id in [own for own, (of, _) in self._groups.items() if of == subaccount]:
                del self._groups[group_id]
                del self._encoded[group_id]
            for group in groups:
                self._put(subaccount, dict(group))
            self._bodies.clear()

    def listing(self, subaccount: int | None = None) -> list[dict[str, Any]]:
        """Return the groups of one subaccount, or of all, each in the form of the response."""
        with self._lock:
            return [dict(group) for of, group in self._groups.values() if subaccount in {None, of}]

    def body(
        self,
        subaccount: int | None = None,
        *,
        without: str | None = None,
        start: int = 0,
        page_size: int | None = None,
        compressed: bool = False,
    ) -> bytes:
        """Return the bytes of a response, cached until a group changes.

        Args:
            subaccount: the subaccount; None for all of them.
            without: the id of a group to leave out.
            start: where in the list the page begins.
            page_size: groups on the page, which then has a cursor; None for the rest of the list.
            compressed: whether to compress the body with gzip.
        """
        view = (subaccount, without, start, page_size, compressed)
        with self._lock:
            if view not in self._bodies:
                selected = [
                    self._encoded[group_id]
                    for group_id, (of, _) in self._groups.items()
                    if subaccount in {None, of} and group_id != without
                ]
                body = _assemble(selected, start, page_size)
                # A service under load uses level 1.
                self._bodies[view] = gzip.compress(body, 1) if compressed else body
            return self._bodies[view]

    def _change(self, group_id: str, **fields: Any) -> None:
        subaccount, group = self._groups[group_id]
        changed = group | fields
        self._put(subaccount, {name: value for name, value in changed.items() if value is not None})

    def _put(self, subaccount: int, group: dict[str, Any]) -> None:
        self._groups[group["id"]] = (subaccount, group)
        self._encoded[group["id"]] = encode(group)
        self._bodies.clear()


def _assemble(groups: list[bytes], start: int, page_size: int | None) -> bytes:
    if page_size is None:
        # Go's encoder leaves out an empty list.
        return b'{"order_groups":[' + b",".join(groups) + b"]}\n" if groups else b"{}\n"
    end = start + page_size
    cursor = encode(_cursor_at(end) if end < len(groups) else "")
    page = b",".join(islice(groups, start, end))
    return b'{"order_groups":[' + page + b'],"cursor":' + cursor + b"}\n"


def _cursor_at(start: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{start}".encode()).decode()
