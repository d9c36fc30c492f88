"""Progress with rates and time left, on standard error, so that standard output stays for results."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], object]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`with progress("decoding", n) as advance: ... advance(1)`."""

LINE_EVERY_SECONDS = 20.0
"""Where standard error is not a terminal (a log file), a bar becomes a line so often."""


@contextmanager
def silent(label: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda n: None


@contextmanager
def bars(label: str, total: int) -> Iterator[Advance]:
    """Show a bar with count, rate, time spent and time left; off a terminal, a line now and then."""
    with (_bar if sys.stderr.isatty() else _lines)(label, total) as advance:
        yield advance


@contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=total, rate="")

        def advance(n: int) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, advance=n, rate=f"{speed:,.1f}/s" if speed else "")

        yield advance


@contextmanager
def _lines(label: str, total: int) -> Iterator[Advance]:
    started = shown = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, shown
        done += n
        if time.monotonic() - shown >= LINE_EVERY_SECONDS:
            shown = time.monotonic()
            rate = done / (shown - started)
            left = (total - done) / rate if rate else float("inf")
            print(f"{label}: {done:,} of {total:,}, {rate:,.1f}/s, {left:,.0f} s left", file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - started
    if seconds >= 2:
        print(f"{label}: {done:,} of {total:,} in {seconds:,.0f} s", file=sys.stderr, flush=True)
