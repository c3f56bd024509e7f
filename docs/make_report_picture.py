# ruff: noqa: INP001 - a script beside its pictures, part of no package
"""Draw docs/images/report.png and report-account.png: a report of sample accounts in Chromium.

    python -m docs.make_report_picture

Run it in the repository's root, with Chromium and the package's development extra installed.
"""

import tempfile
from pathlib import Path

from exporter.report.page import report
from tests.support.browser import Browser
from tests.support.samples import UNTIL, Sample, write_samples

_IMAGES = Path(__file__).parent / "images"
_WIDTH = 1280

_REFUSED = ((9.5, 0, "unauthorized"),)
_MAINTENANCE = ((127.5, 125.6, "server_error"),)
_CUT = ((127.5, 125.5, "disconnected"),)
_NAMES = ("main", "hedge", "desk-01", "desk-02", "desk-03", "desk-04", "desk-05", "desk-06")


def main() -> None:
    """Write both pictures."""
    samples = [
        Sample(
            name=name,
            hours=168,
            interval=300,
            groups=(24, 60, 12, 31, 18, 9, 44, 27)[number],
            gaps=_MAINTENANCE,
            stream_gaps=None
            if name == "desk-02"
            else (*_CUT, (40 + number, 39.4, "overflow"))
            if name == "hedge"
            else _CUT,
            seed=number + 3,
        )
        for number, name in enumerate(_NAMES)
    ]
    samples.append(
        Sample(
            name="desk-07",
            hours=168,
            interval=300,
            gaps=(*_MAINTENANCE, *_REFUSED),
            stream_gaps=(*_CUT, *_REFUSED),
        )
    )
    # Chromium may still write to its profile while the directory is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        url = f"sqlite:///{directory}/order_groups.db"
        page = directory / "report.html"
        write_samples(url, samples)
        report(url, page, intervals={each.name: each.interval for each in samples}, now=UNTIL)
        browser = Browser(directory / "browser")
        try:
            for name, address, height in (
                ("report", "", 640),
                ("report-account", "#account=main&sort=triggers", 1_020),
            ):
                browser.open(page, address, width=_WIDTH)
                browser.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=_WIDTH,
                    height=height,
                    deviceScaleFactor=1,
                    mobile=False,
                )
                browser.run("new Promise((done) => setTimeout(done, 300))")
                browser.screenshot(_IMAGES / f"{name}.png")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
