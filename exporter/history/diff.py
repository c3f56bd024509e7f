"""Compare an observation with the open snapshots: pure functions, the heart of the history.

`store` reads the open snapshots, and writes the changes that this module returns.
"""

from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter

import msgspec

from exporter.model import OrderGroup

_by_id = attrgetter("id")


class OpenSnapshots(msgspec.Struct, frozen=True, kw_only=True):
    """The open snapshots of an account.

    Attributes:
        groups: the last state seen of each, by id.
        missing: those of them that the latest polls did not see, and since when.
    """

    groups: Mapping[str, OrderGroup]
    missing: Mapping[str, datetime]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between the open snapshots and an observation, each sorted by id.

    Attributes:
        added: groups without an open snapshot.
        changed: groups seen in another state than their open snapshot's.
        returned: ids of groups that were missing and are there again as they were.
        missed: ids of groups missing for the first time, to be confirmed.
        removed: ids of groups missing often enough.
    """

    added: tuple[OrderGroup, ...]
    changed: tuple[OrderGroup, ...]
    returned: tuple[str, ...]
    missed: tuple[str, ...]
    removed: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many groups there are to write; so a value without changes is false."""
        steps = (self.added, self.changed, self.returned, self.missed, self.removed)
        return sum(map(len, steps))


def compare(
    known: OpenSnapshots,
    observed: Mapping[str, OrderGroup],
    *,
    confirmed_since: datetime | None,
) -> Changes:
    """Compare an observation with the open snapshots.

    Args:
        known: the open snapshots.
        observed: the complete set of groups that was seen, by id.
        confirmed_since: a group that has been missing since this instant or earlier, and is
            missing again, counts as removed. None if one miss is enough.
    """
    groups = known.groups
    if groups:
        # Only this comprehension goes over all groups; the rest is proportional to the changes.
        before = groups.get
        other = [group for group_id, group in observed.items() if before(group_id) != group]
        added = [group for group in other if group.id not in groups]
        changed = [group for group in other if group.id in groups]
    else:
        added, changed = list(observed.values()), []

    missed = []
    removed = []
    for group_id in groups.keys() - observed.keys():
        since = known.missing.get(group_id)
        if confirmed_since is None or (since is not None and since <= confirmed_since):
            removed.append(group_id)
        elif since is None:
            missed.append(group_id)

    changed_ids = {group.id for group in changed}
    returned = (known.missing.keys() & observed.keys()) - changed_ids
    return Changes(
        added=tuple(sorted(added, key=_by_id)),
        changed=tuple(sorted(changed, key=_by_id)),
        returned=tuple(sorted(returned)),
        missed=tuple(sorted(missed)),
        removed=tuple(sorted(removed)),
    )


def after(
    known: OpenSnapshots,
    observed: Mapping[str, OrderGroup],
    changes: Changes,
    *,
    observed_at: datetime,
) -> OpenSnapshots:
    """Return the open snapshots after changes have been written.

    Args:
        known: the open snapshots before.
        observed: the complete set of groups that was seen, by id.
        changes: as `compare` gave it.
        observed_at: the instant of the observation, from which missed groups are missing.
    """
    missing = {group_id: at for group_id, at in known.missing.items() if group_id not in observed}
    missing.update(dict.fromkeys(changes.missed, observed_at))
    for group_id in changes.removed:
        missing.pop(group_id, None)
    # A group stays open if it was seen, or if it is missing but not removed.
    groups = {**observed, **{each: known.groups[each] for each in missing}} if missing else observed
    return OpenSnapshots(groups=groups, missing=missing)
