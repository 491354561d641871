"""How long the report of a sweep of 5,000 trials takes, how large it is, and when its first plot is there; by hand.

    python tests/benchmarks/large_report.py [--trials 5000 --readings 100 --keep FOLDER]

Makes results.json files like those of search_spaces/strategies.yaml in a temporary place, writes the report, and opens
its page in a headless Chromium: the time to the first plot, to a changed axis, to a filtered table, to a trial's page.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from browser import Watched, started
from like_strategies import write_sweep

from selgen_ray.report.writing import write_report


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    before = time.perf_counter()
    yield
    print(f"{what:44s} {time.perf_counter() - before:7.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--readings", type=int, default=100)
    parser.add_argument("--keep", help="write there, and keep it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.keep or scratch) / "large"
        with timed("making the results"):
            num = write_sweep(folder, copies=-(-args.trials // 90), readings=args.readings)
        print(f"{num} trials")
        with timed("writing the report"):
            write_report(str(folder))
        with timed("writing it again, files in memory"):
            write_report(str(folder))
        page = folder / "report" / "index.html"
        print(f"{'size of the page':44s} {page.stat().st_size / 2**20:7.1f} MiB")
        look_at(page)


def look_at(path: Path) -> None:
    """Open the page and use it."""
    with started() as browser:
        with timed("opening it, to the first plot"):
            watched = Watched(browser, path)
        page = watched.page
        with timed("another axis"):
            page.select_option("#axis-y", "align_test/loss")
            page.wait_for_selector('#pareto-plot[data-drawn="capability align_test/loss"]')
        watched.reach("settings")
        with timed("a filter"):
            page.fill("#table-filter", "kl_divergence")
            page.wait_for_function("document.getElementById('table-count').textContent.length > 5")
        with timed("all other parts"):
            for part in ("strategies", "strengths", "training", "cost", "samples"):
                watched.reach(part)
            page.wait_for_selector("#training[data-drawn]")
            page.wait_for_selector("#sample-list[data-drawn]")
        with timed("a trial's page"):
            page.evaluate("location.hash = `#trial/${data.trials[data.trials.length - 1].id}`")
            page.wait_for_selector("#trial[data-trial]")
        print("complaints:", watched.complaints, "requests:", watched.requests)


if __name__ == "__main__":
    main()
