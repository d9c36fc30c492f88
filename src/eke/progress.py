"""Progress bars with rates and time left, on standard error, so that standard output stays for results."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], object]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`with progress("decoding", n) as advance: ... advance(1)`."""


@contextmanager
def silent(label: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda n: None


@contextmanager
def bars(label: str, total: int) -> Iterator[Advance]:
    """Show a bar with count, rate, time spent and time left; off a terminal, one line when it is done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
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
