"""Measure whole processes, as cron and people start them."""

from benchmarks.polls import ON_SQLITE, SUBJECTS
from benchmarks.results import EXPORTER, FLOOR, Line
from benchmarks.setting import Samples, Setting, timed_process
from exporter.__main__ import ALLOCATIONS

# This is the code that the installed command runs.
_COMMAND = ("-c", "import sys; from exporter.__main__ import main; sys.exit(main())")

_IMPORTS = (
    "import requests, msgspec, click, sqlalchemy;"
    " from cryptography.hazmat.primitives.asymmetric import rsa"
)
_SAME_COLLECTOR = f"import gc; gc.set_threshold({ALLOCATIONS}); {_IMPORTS}; gc.freeze()"


def help_text(setting: Setting) -> list[Line]:
    """Measure `--help`."""
    samples = Samples()
    for _ in range(7 if setting.quick else 25):
        for name, arguments in (
            (EXPORTER, (*_COMMAND, "--help")),
            (FLOOR, ("-c", "import click")),
        ):
            wall, cpu = timed_process(*arguments)
            samples.add(name, wall=wall, cpu=cpu)
    return [
        Line(
            case="process: `--help` (floor: `import click`)",
            unit="ms",
            values=samples.medians("wall"),
            cpu=samples.medians("cpu"),
            at_most=1.12,
        )
    ]


def run_once(setting: Setting) -> list[Line]:
    """Measure `run-once` with 25 unchanged groups, beside its imports and the peers' processes."""
    from benchmarks.subjects.exporter_poller import write_configuration

    setting.fill(25)
    samples = Samples()
    commands: dict[str, tuple[str, ...]] = {}
    for name in ON_SQLITE:
        place = setting.place()
        if name == EXPORTER:
            path = str(write_configuration(place))
            commands[name] = (*_COMMAND, "--config", path, "run-once")
        else:
            commands[name] = (
                *("-m", "benchmarks.worker"),
                *(SUBJECTS[name], place.to_json(), "--once"),
            )
    one_shot_floor = commands.pop(FLOOR)
    commands["one-shot floor"] = one_shot_floor
    commands[FLOOR] = ("-c", _IMPORTS)
    commands["same collector"] = ("-c", _SAME_COLLECTOR)
    for number in range(6 if setting.quick else 22):
        for name, arguments in commands.items():
            if name == "dlt" and number % 3:
                continue
            wall, cpu = timed_process(*arguments)
            if number > 0:  # the first run creates the schema
                samples.add(name, wall=wall, cpu=cpu)
    values = samples.medians("wall")
    whole, tuned = values.pop("one-shot floor"), values.pop("same collector")
    used = samples.medians("cpu")
    return [
        Line(
            case="process: `run-once`, 25 groups (floor: the imports alone)",
            unit="ms",
            values=values,
            cpu=used,
            at_most=1.12,
            ahead={"dlt": 4.5},
        ),
        Line(
            case="the same (floor: the imports alone, with the exporter's garbage collector)",
            unit="ms",
            values={EXPORTER: values[EXPORTER], FLOOR: tuned},
            cpu={EXPORTER: used[EXPORTER], FLOOR: used["same collector"]},
        ),
        Line(
            case="the same (floor: its own whole process)",
            unit="ms",
            values={EXPORTER: values[EXPORTER], FLOOR: whole},
            cpu={EXPORTER: used[EXPORTER], FLOOR: used["one-shot floor"]},
        ),
    ]
