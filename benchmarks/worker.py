"""Run one subject in its own process, controlled through standard input, and reply with figures.

Usage: python -m benchmarks.worker SUBJECT PLACE [--once], where PLACE is JSON. With `--once`, it
polls once and exits, like a job that cron starts.
"""

import gc
import json
import os
import sys
from importlib import import_module
from time import perf_counter, process_time

from benchmarks.place import Place
from exporter.__main__ import ALLOCATIONS


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    try:
        # On Linux, ru_maxrss would include the peak of the process that started this one.
        with open("/proc/self/status") as status:  # noqa: PTH123  # importing pathlib would slow the start-up
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    """Run one subject."""
    # The exporter's program uses this threshold; for a fair comparison, all subjects do.
    gc.set_threshold(ALLOCATIONS)
    name, place = sys.argv[1], Place.from_json(sys.argv[2])
    with import_module(f"benchmarks.subjects.{name}").subject(place) as subject:
        if "--once" in sys.argv:
            subject.poll()
            return
        # The output of libraries must not mix with the replies.
        answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        answers.write("{}\n")
        for order in sys.stdin:
            before = peak_memory()
            wall, cpu = perf_counter(), process_time()
            result = subject.poll() or {}
            answer = {
                "wall": perf_counter() - wall,
                "cpu": process_time() - cpu,
                "peak_before": before,
                "peak": peak_memory(),
            }
            if json.loads(order).get("counts"):
                answer |= {"statements": subject.statements, "rows": subject.rows}
            answers.write(json.dumps(answer | result) + "\n")


if __name__ == "__main__":
    main()
