"""The difference between the open snapshots and an observation, by example and by property."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.history.diff import Changes, OpenSnapshots, after, compare
from exporter.model import OrderGroup

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(seconds=60)
LONG_BEFORE = NOW - timedelta(seconds=120)

A = OrderGroup("a", is_auto_cancel_enabled=True)
B = OrderGroup("b", is_auto_cancel_enabled=True)
NOTHING = Changes(added=(), changed=(), returned=(), missed=(), removed=())


def observed(*groups: OrderGroup) -> dict[str, OrderGroup]:
    return {group.id: group for group in groups}


def known(*groups: OrderGroup, **missing: datetime) -> OpenSnapshots:
    """Return open snapshots of these groups, some of them missing since an instant."""
    return OpenSnapshots(groups=observed(*groups), missing=missing)


def with_fields(group: OrderGroup, **fields: object) -> OrderGroup:
    """Return a group with some fields changed."""
    return OrderGroup(**{name: getattr(group, name) for name in group.__struct_fields__} | fields)


def test_the_same_groups_are_no_difference() -> None:
    difference = compare(known(A, B), observed(B, A), confirmed_since=BEFORE)

    assert difference == NOTHING
    assert not difference


@pytest.mark.parametrize(
    "fields",
    [
        {"is_auto_cancel_enabled": False},
        {"contracts_limit": "10.00"},
        {"contracts_limit": "0.00"},
        {"exchange_index": 0},
        {"extra": "{}"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_field_counts(fields: Mapping[str, object]) -> None:
    changed = with_fields(A, **fields)

    assert compare(known(A), observed(changed), confirmed_since=BEFORE) == replace(
        NOTHING, changed=(changed,)
    )
    assert compare(known(changed), observed(A), confirmed_since=BEFORE) == replace(
        NOTHING, changed=(A,)
    )


def test_an_absent_group_is_missed_before_it_is_removed() -> None:
    assert compare(known(A, B), observed(B), confirmed_since=BEFORE) == replace(
        NOTHING, missed=("a",)
    )


def test_a_group_missing_since_the_confirming_instant_is_removed() -> None:
    assert compare(known(A, a=BEFORE), {}, confirmed_since=BEFORE) == replace(
        NOTHING, removed=("a",)
    )


def test_a_group_missing_since_later_waits_and_is_not_missed_again() -> None:
    assert not compare(known(A, a=BEFORE), {}, confirmed_since=LONG_BEFORE)


def test_one_miss_is_enough_if_none_need_confirm_it() -> None:
    assert compare(known(A, B, a=BEFORE), {}, confirmed_since=None) == replace(
        NOTHING, removed=("a", "b")
    )


def test_a_missing_group_may_return_unchanged() -> None:
    assert compare(known(A, a=BEFORE), observed(A), confirmed_since=BEFORE) == replace(
        NOTHING, returned=("a",)
    )


def test_a_missing_group_that_returns_changed_counts_as_changed_alone() -> None:
    changed = with_fields(A, contracts_limit="1.00")

    assert compare(known(A, a=BEFORE), observed(changed), confirmed_since=BEFORE) == replace(
        NOTHING, changed=(changed,)
    )


# Few ids and few states make it likely that the same group and state come up twice.
_groups = st.builds(
    OrderGroup,
    st.sampled_from("abcdef"),
    st.booleans(),
    st.sampled_from([None, "1.00", "2.00"]),
)
_observed = st.lists(_groups, unique_by=lambda group: group.id).map(lambda some: observed(*some))


@st.composite
def _known(draw: st.DrawFn) -> OpenSnapshots:
    groups = draw(_observed)
    ids = st.sampled_from(sorted(groups)) if groups else st.nothing()
    since = st.sampled_from([BEFORE, LONG_BEFORE])
    return OpenSnapshots(groups=groups, missing=draw(st.dictionaries(ids, since)))


_confirming = st.sampled_from([None, LONG_BEFORE, BEFORE])


@given(_known(), _observed, _confirming)
def test_applying_the_difference_gives_the_observation_and_unconfirmed_groups(
    before: OpenSnapshots, observation: dict[str, OrderGroup], confirmed_since: datetime | None
) -> None:
    difference = compare(before, observation, confirmed_since=confirmed_since)
    known = after(before, observation, difference, observed_at=NOW)

    waiting = {group_id: before.groups[group_id] for group_id in known.missing}
    assert known.groups == observation | waiting
    assert not waiting.keys() & observation.keys()
    for group_id, since in known.missing.items():
        assert since == before.missing.get(group_id, NOW)


@given(_known(), _observed)
def test_applying_a_difference_without_unconfirmed_groups_gives_the_observation(
    before: OpenSnapshots, observation: dict[str, OrderGroup]
) -> None:
    difference = compare(before, observation, confirmed_since=None)

    assert after(before, observation, difference, observed_at=NOW) == OpenSnapshots(
        groups=observation, missing={}
    )


@given(_known(), _observed, _confirming)
def test_the_same_observation_again_only_confirms_removals(
    before: OpenSnapshots, observation: dict[str, OrderGroup], confirmed_since: datetime | None
) -> None:
    difference = compare(before, observation, confirmed_since=confirmed_since)
    known = after(before, observation, difference, observed_at=NOW)

    assert compare(known, observation, confirmed_since=LONG_BEFORE) == replace(
        NOTHING,
        removed=tuple(sorted(i for i, since in known.missing.items() if since == LONG_BEFORE)),
    )


@given(_known(), _observed, _confirming)
def test_each_group_is_in_at_most_one_kind_of_change_and_each_kind_is_sorted(
    before: OpenSnapshots, observation: dict[str, OrderGroup], confirmed_since: datetime | None
) -> None:
    difference = compare(before, observation, confirmed_since=confirmed_since)
    kinds = [
        [group.id for group in difference.added],
        [group.id for group in difference.changed],
        list(difference.returned),
        list(difference.missed),
        list(difference.removed),
    ]

    everything = [group_id for kind in kinds for group_id in kind]
    assert len(everything) == len(set(everything))
    assert all(kind == sorted(kind) for kind in kinds)
    assert bool(difference) == bool(everything)


@given(_known(), _observed, _observed)
def test_applying_a_difference_does_not_modify_its_arguments(
    before: OpenSnapshots, observation: dict[str, OrderGroup], other: dict[str, OrderGroup]
) -> None:
    assume(observation != other)
    copy = OpenSnapshots(groups=dict(before.groups), missing=dict(before.missing))

    after(before, observation, compare(before, observation, confirmed_since=None), observed_at=NOW)
    after(before, other, compare(before, other, confirmed_since=BEFORE), observed_at=NOW)

    assert before == copy
