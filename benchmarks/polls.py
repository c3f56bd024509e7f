"""Measure polls, steady ones and first ones, of long-lived processes that take turns."""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.results import EXPORTER, FLOOR, Line
from benchmarks.setting import Process, Samples, Setting

SUBJECTS = {
    EXPORTER: "exporter_poller",
    FLOOR: "floor",
    "dlt": "dlt_scd2",
    "naive": "naive",
    "sqlite-utils": "sqlite_utils_job",
}
ON_SQLITE = tuple(SUBJECTS)
ON_POSTGRES = (EXPORTER, FLOOR, "dlt", "naive")

_PACKAGES = "packages"
_AT_ONCE = "packages, all at once"

_MANY = 100_000
_FEWER = 20_000  # with --quick


def _in_turn(
    processes: dict[str, Process],
    rounds: int,
    *,
    before: Callable[[], None] = lambda: None,
    seldom: int = 1,
) -> Samples:
    """Let each subject poll once a round; dlt, which is slow, only every `seldom` rounds."""
    samples = Samples()
    names = list(processes)
    order = random.Random(rounds)  # each run takes the same order
    for number in range(rounds):
        before()
        # A subject finds in the processor's caches what the one before it has left there.
        order.shuffle(names)
        for name in names:
            if name == "dlt" and number % seldom:
                continue
            answer = processes[name].ask()
            samples.add(name, **{key: answer[key] for key in ("wall", "cpu", "peak")})
    return samples


def _subjects(on_postgres: bool) -> Sequence[str]:
    return ON_POSTGRES if on_postgres else ON_SQLITE


def _where(on_postgres: bool) -> str:
    return "Postgres" if on_postgres else "SQLite"


def small(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure polls of 25 groups in which nothing changes."""
    setting.fill(25)
    with ExitStack() as stack:
        processes = {}
        for name in _subjects(on_postgres):
            place = stack.enter_context(setting.temporary(setting.place(on_postgres=on_postgres)))
            processes[name] = stack.enter_context(setting.start(SUBJECTS[name], place))
        place = stack.enter_context(setting.temporary(setting.place(on_postgres=on_postgres)))
        processes[_PACKAGES] = stack.enter_context(setting.start("packages", place))
        _in_turn(processes, 2)  # the first poll, and one to warm up
        rounds = 60 if setting.quick else 300
        samples = _in_turn(processes, rounds, seldom=20)
    wall, cpu = samples.medians("wall"), samples.medians("cpu")
    return [
        Line(
            case=f"25 groups, nothing changed, {_where(on_postgres)}",
            unit="ms",
            values=_but_packages(wall),
            cpu=_but_packages(cpu),
            at_most=1.8 if on_postgres else 1.6,
            ahead={"dlt": 60},
        ),
        Line(
            case="the same by requests and SQLAlchemy alone, writing one row,"
            f" {_where(on_postgres)}",
            unit="ms",
            values=_packages_alone(wall),
            cpu=_packages_alone(cpu),
        ),
    ]


def _but_packages(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != _PACKAGES}


def _packages_alone(values: dict[str, float]) -> dict[str, float]:
    """Return the values with those of the packages alone in place of the exporter's."""
    beside = {name: values[name] for name in (FLOOR, "dlt") if name in values}
    return {EXPORTER: values[_PACKAGES], **beside}


def large(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure polls of 100,000 groups: first, unchanged, with 1.2 % changed; and peak memory."""
    where = _where(on_postgres)
    groups = _FEWER if setting.quick else _MANY
    setting.fill(groups)
    firsts = Samples()
    for _ in range(0 if setting.quick else 2):
        for name in _subjects(on_postgres):
            with (
                setting.temporary(setting.place(on_postgres=on_postgres)) as place,
                setting.start(SUBJECTS[name], place) as process,
            ):
                answer = process.ask()
                firsts.add(name, wall=answer["wall"], cpu=answer["cpu"])
    with ExitStack() as stack:
        processes = {}
        for name in _subjects(on_postgres):
            place = stack.enter_context(setting.temporary(setting.place(on_postgres=on_postgres)))
            processes[name] = stack.enter_context(setting.start(SUBJECTS[name], place))
            answer = processes[name].ask()
            firsts.add(name, wall=answer["wall"], cpu=answer["cpu"])
        fast = {name: processes[name] for name in (EXPORTER, FLOOR)}
        _in_turn(fast, 2)
        unchanged = _in_turn(fast, 5 if setting.quick else 25)
        slow = {name: each for name, each in processes.items() if name not in fast}
        others = _in_turn(slow, 1 if setting.quick else 3)

        def churn() -> None:
            setting.churn(changed=groups // 100, gone=groups // 1000, new=groups // 1000)

        changed = _in_turn(processes, 2 if setting.quick else 7, before=churn)
    return [
        Line(
            case=f"{groups:,} groups, nothing changed, {where}",
            unit="ms",
            values=unchanged.medians("wall") | others.medians("wall"),
            cpu=unchanged.medians("cpu"),
            at_most=2 if on_postgres else 1.5,
            ahead={"dlt": 150},
        ),
        Line(
            case=f"{groups:,} groups, 1 % changed, 0.1 % gone, 0.1 % new, {where}",
            unit="ms",
            values=changed.medians("wall"),
            cpu=changed.medians("cpu"),
            at_most=2 if on_postgres else 1.25,
            ahead={"dlt": 18},
        ),
        Line(
            case=f"the first poll of {groups:,} groups, {where}",
            unit="ms",
            values=firsts.medians("wall"),
            cpu=firsts.medians("cpu"),
            at_most=1.25,
            ahead={"dlt": 2.2},
        ),
        Line(
            case=f"peak memory of all these polls, {where}",
            unit="MB",
            values=changed.most("peak"),
            at_most=1.5,
            ahead={"dlt": 1},
        ),
    ]


def stored(setting: Setting) -> list[Line]:
    """Measure the database's bytes after 100 polls of 10,000 groups with 1 % churn."""
    groups, polls = (1_000, 20) if setting.quick else (10_000, 100)
    setting.fill(groups)
    with ExitStack() as stack:
        processes = {}
        files = {}
        for name in ON_SQLITE:
            place = stack.enter_context(setting.temporary(setting.place()))
            files[name] = place.sqlite_file
            processes[name] = stack.enter_context(setting.start(SUBJECTS[name], place))

        def churn() -> None:
            setting.churn(changed=groups // 100)

        _in_turn(processes, 1)
        _in_turn(processes, polls, before=churn)
        for process in processes.values():
            process.__exit__(None, None, None)
        sizes = {name: float(_bytes(file)) for name, file in files.items()}
    return [
        Line(
            case=f"database after {polls} polls of {groups:,} groups with 1 % churn",
            unit="MB",
            values=sizes,
            at_most=1.5,
            ahead={"dlt": 1, "naive": 10},
        )
    ]


def _bytes(database: Path) -> int:
    """Return the bytes of a SQLite database, which dlt spreads over several files."""
    return sum(
        file.stat().st_size
        for file in database.parent.glob(f"{database.stem}*")
        if not file.name.endswith("-shm")
    )


def daemon(setting: Setting, *, on_postgres: bool) -> list[Line]:
    """Measure how many accounts one core can poll in a second."""
    accounts = 100
    interval = 500  # ms
    key_ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(1, accounts + 1)]
    for key_id in key_ids:
        setting.fill(25, key_id)
    samples = Samples()
    seconds = 3 if setting.quick else 6
    subjects = {
        FLOOR: ("floor_daemon", ""),
        _PACKAGES: ("packages_daemon", " spread"),
        _AT_ONCE: ("packages_daemon", " at-once"),
        EXPORTER: ("exporter_daemon", ""),
    }
    for _ in range(1 if setting.quick else 3):
        for name, (subject, how) in subjects.items():
            place = setting.place(
                key_ids=key_ids, on_postgres=on_postgres, detail=f"{interval} {seconds}{how}"
            )
            with setting.temporary(place), setting.start(subject, place) as process:
                answer = process.ask()
            samples.add(
                name,
                rate=answer["polls"] / answer["cpu"],
                cpu=answer["cpu"] / answer["polls"],
                speed=answer["polls"] / answer["wall"],
            )
    rates, cpu = samples.medians("rate"), samples.medians("cpu")
    where = f"{_where(on_postgres)} (at {samples.medians('speed')[EXPORTER]:.0f} a second)"

    def beside(other: str, case: str, at_most: float | None = None) -> Line:
        return Line(
            case=case,
            unit="/s",
            values={EXPORTER: rates[EXPORTER], FLOOR: rates[other]},
            cpu={EXPORTER: cpu[EXPORTER], FLOOR: cpu[other]},
            at_most=at_most,
        )

    same = f"the same, {_where(on_postgres)}"
    return [
        beside(
            _AT_ONCE,
            f"daemon, {accounts} accounts of 25 groups: polls per second of one core's time,"
            f" {where} (floor: APScheduler, requests and SQLAlchemy alone, writing one row)",
            0.95 if on_postgres else 0.9,
        ),
        beside(_PACKAGES, f"{same} (floor: the same packages, at the exporter's instants)"),
        beside(FLOOR, f"{same} (floor: one thread polls in turn)"),
    ]
