"""Run the cells of a table: each once, in an order that their needs allow, by as many processes as are started.

A cell's folder is named by its identity. A finished cell has a cell.json and is skipped; an unfinished one goes on; a
cell that another process holds is left to it. Nothing is decided by what ran before, so a grid may be killed at any
moment and started again.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eke.engine.journal import RunFolder
from eke.engine.processes import choose_device
from eke.errors import DataError, EkeError, InterruptedRunError
from eke.files import held, write_json
from eke.progress import Progress, silent
from eke.tasks.budget import RESERVE_RATE, calibrate
from eke.tasks.grid_cells import Cell, Place, Train, answers_file, run_folder
from eke.tasks.prepare import prepare

WAIT_SECONDS = 1.0
"""Between two looks at cells that other processes hold."""


class Done(NamedTuple):
    """What became of a cell."""

    figures: dict[str, float]
    seconds: float | None
    """Wall time; None where a kill came between, so that nobody knows."""
    failure: str | None = None
    """Why there are no figures."""


class Grid:
    """Cells and the folder that they are kept in; equal cells are one.

    Args:
        cells: what a table needs, directly; the cells that these need are added.
        folder: `cells` in it has one folder for each.
    """

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self.home = folder / "cells"
        self.cells: dict[str, Cell] = {}
        for cell in cells:
            self._add(cell)

    def _add(self, cell: Cell) -> None:
        for need in cell.needs:  # first: the order of `cells` is one in which they can run
            self._add(need)
        self.cells.setdefault(cell.identity, cell)

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.home / f"{cell.work.kind}-{cell.identity}"

    def done(self, cell: Cell) -> Done | None:
        """Return what a finished cell found, None where it is not finished."""
        stored = self._read(cell, "cell.json")
        return None if stored is None else Done(stored["figures"], stored["seconds"])

    def run(self, progress: Progress = silent) -> dict[str, Done]:
        """Run what is not finished; return what became of each cell, by identity.

        An error of eke's own, or too little memory on the device, ends its cell and those that need it, not the grid.
        """
        started = time.time()
        found: dict[str, Done] = {}
        with progress("cells of the table", len(self.cells)) as advance:
            while left := [cell for identity, cell in self.cells.items() if identity not in found]:
                settled = len(found)
                for cell in left:
                    outcome = self._settle(cell, found, started, progress)
                    if outcome is not None:
                        found[cell.identity] = outcome
                        advance(1)
                if len(found) == settled:
                    time.sleep(WAIT_SECONDS)
        return found

    def _settle(self, cell: Cell, found: dict[str, Done], started: float, progress: Progress) -> Done | None:
        """Finish a cell, or find it finished or failed; None: another process is at it, or at one that it needs."""
        done = self.done(cell) or self._failed_since(cell, started)
        if done is not None:
            return done
        for need in cell.needs:
            if need.identity not in found:
                return None
            if found[need.identity].failure is not None:
                return Done({}, None, f"needs {need.words}, which failed")
        with held(self.folder(cell) / "lock") as mine:
            if not mine:
                return None
            return self.done(cell) or self._failed_since(cell, started) or self._run(cell, progress)

    def _run(self, cell: Cell, progress: Progress) -> Done:
        folder = self.folder(cell)
        begun = folder / "begun"
        fresh = not begun.exists()
        begun.touch()
        unfinished = RunFolder(run_folder(folder))
        if unfinished.path.exists() and not unfinished.exists():  # killed before the run was one that can resume
            shutil.rmtree(unfinished.path)
        clock = time.perf_counter()
        try:
            figures = cell.work.run(self._place(cell), progress)
        except InterruptedRunError:
            raise
        except (EkeError, torch.OutOfMemoryError) as error:
            write_json(folder / "failure.json", {"message": str(error), "at": time.time(), "words": cell.words})
            return Done({}, None, str(error))
        seconds = time.perf_counter() - clock if fresh else None
        stored = {"words": cell.words, "seed": cell.seed, "figures": figures, "seconds": seconds}
        write_json(folder / "cell.json", stored)
        return Done(figures, seconds)

    def _place(self, cell: Cell) -> Place:
        answers = [answers_file(self.folder(request)) for request in cell.requests]
        labels = [str(file.absolute()) for file in (*cell.first_labels, *answers)]
        start = None if cell.start is None else run_folder(self.folder(cell.start)).absolute()
        return Place(self.folder(cell), cell.data, cell.seed, tuple(labels), start)

    def _failed_since(self, cell: Cell, started: float) -> Done | None:
        """Return a failure that another process met since this one was started; older ones are tried again."""
        stored = self._read(cell, "failure.json")
        return Done({}, None, stored["message"]) if stored and stored["at"] >= started else None

    def _read(self, cell: Cell, name: str) -> Any:
        file = self.folder(cell) / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}). Delete it, and the cell is looked at again.") from None


class Planned(NamedTuple):
    """Cells that do the same and take equally long."""

    words: str
    n: int
    n_done: int
    seconds: float | None
    """Of one cell; None where it is not known yet."""


def make_plan(grid: Grid, progress: Progress | None = silent) -> list[Planned]:
    """Say what is to be done and how long it will take.

    Seconds come from finished cells; where there are none, a few training steps are timed on a throwaway copy.

    Args:
        grid: the cells.
        progress: shows the timing; None: nothing is timed, and no image is opened.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in grid.cells.values():
        groups.setdefault(cell.words, []).append(cell)
    timed: dict[str, float | None] = {}
    missing = []
    for words, cells in groups.items():
        done = [done for cell in cells if (done := grid.done(cell)) is not None]
        known = [each.seconds for each in done if each.seconds is not None]
        timed[words] = sum(known) / len(known) if known else None
        if not known and len(done) < len(cells) and isinstance(cells[0].work, Train):
            missing.append(cells[0])
    if progress is not None:
        with progress("timing a few steps", len(missing)) as advance:
            for cell in missing:
                timed[cell.words] = _seconds(cell)
                advance(1)
    return [
        Planned(words, len(cells), sum(grid.done(cell) is not None for cell in cells), timed[words])
        for words, cells in groups.items()
    ]


def _seconds(cell: Cell) -> float | None:
    """Time a few steps of a training cell and return how long all of them will take; None where it cannot train."""
    assert isinstance(cell.work, Train)
    labels = tuple(str(file.absolute()) for file in cell.first_labels)
    options = cell.work.options(cell.data, cell.seed, labels)
    assert options.steps is not None
    hour = options.model_copy(update={"steps": None, "budget": "1h"})
    try:
        material = prepare(hour, choose_device(options.compute.device), silent)
        fitting = calibrate(hour, material, time.perf_counter(), silent)
    except EkeError:  # the cell itself will say why
        return None
    return options.steps * 3600 * (1 - RESERVE_RATE) / fitting


def plan_in_words(plan: Sequence[Planned]) -> str:
    """Lay a plan out as text, with the total."""
    width = max(len(each.words) for each in plan)
    lines = [f"{'cells':<{width}}  to do   done   seconds each"]
    for each in plan:
        seconds = "not known yet" if each.seconds is None else f"{each.seconds:,.1f}"
        lines.append(f"{each.words:<{width}}  {each.n - each.n_done:>5}  {each.n_done:>5}   {seconds}")
    left = sum((each.n - each.n_done) * (each.seconds or 0) for each in plan)
    unknown = sum(each.n - each.n_done for each in plan if each.seconds is None)
    rest = f", and {unknown} cells whose time is not known yet" if unknown else ""
    to_do, n_done = sum(each.n - each.n_done for each in plan), sum(each.n_done for each in plan)
    return "\n".join([*lines, f"{to_do} cells to do, {n_done} done: about {in_words(left)} by one process{rest}"])


def in_words(seconds: float) -> str:
    """Print a duration: 95 -> "95 s", 1500 -> "25 min", 20000 -> "5.6 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
