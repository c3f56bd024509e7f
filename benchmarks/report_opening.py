"""Measure how long the largest reports take to write, and to open in Chromium.

Usage: python -m benchmarks.report_opening
"""

import sys
import tempfile
from pathlib import Path
from time import perf_counter

from exporter.report.page import report
from tests.support.browser import Browser
from tests.support.samples import UNTIL, Sample, write_samples

_PAGES = {
    "1,000 accounts": (
        [
            Sample(name=f"account-{number:04}", hours=168, interval=3_600, groups=8, seed=number)
            for number in range(1_000)
        ],
        "",
    ),
    "100,000 groups": ([Sample(hours=168, groups=100_000, events=0.3)], "#account=main"),
}


def main() -> None:
    """Print the size of each page, and the seconds to write it and to open it."""
    with tempfile.TemporaryDirectory() as temporary:
        browser = Browser(Path(temporary) / "browser")
        try:
            for number, (name, (samples, address)) in enumerate(_PAGES.items()):
                url = f"sqlite:///{temporary}/{number}.db"
                page = Path(temporary) / f"{number}.html"
                write_samples(url, samples)
                started = perf_counter()
                intervals = {each.name: each.interval for each in samples}
                report(url, page, intervals=intervals, now=UNTIL)
                written = perf_counter()
                browser.open(page, address)
                opened = perf_counter() - written
                sys.stdout.write(
                    f"{name}: {page.stat().st_size / 1e6:.2f} MB, written in"
                    f" {written - started:.1f} s, opened in {opened:.2f} s\n"
                )
        finally:
            browser.close()


if __name__ == "__main__":
    main()
