"""`eke reproduce TABLE`: run a table's cells, judge the sentences of its paper, and write one page."""

import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args

from eke.errors import ConfigError, did_you_mean
from eke.progress import Progress, silent
from eke.tables import TABLES
from eke.tables.benches import SEEDS, Scale
from eke.tasks.grid import Grid, make_plan, plan_in_words
from eke.tasks.grid_table import Table, report_of, write_table


def reproduce(
    name: str,
    scale: str,
    data: Path | None,
    out: Path,
    seeds: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run what is not finished of a table, and write OUT/NAME-SCALE.html, .md and .json.

    The plan, with measured seconds, is printed on standard error before the first cell. Killed, it goes on with the
    same command; started twice, both share the work.

    Args:
        name: one of TABLES.
        scale: smoke (digits, about a minute), cpu (MNIST, one core) or paper (the user's images, an accelerator).
        data: folder of NAME-train.parquet and NAME-test.parquet; at the paper's scale, of train and test. None: what
            is needed is downloaded, or comes with scikit-learn.
        out: folder of the cells and the page; tables that share cells should share it.
        seeds: paired seeds; None: as the table or its scale says.
        progress: shows cells, training and timing.

    Returns:
        What the JSON file holds, the Markdown text, and the paths.

    Raises:
        ConfigError: no such table or scale, or fewer than one seed.
        DataError: images are missing.
        InterruptedRunError: Ctrl-C; what was done is kept.
    """
    table = load_table(name, scale, data, out, seeds, progress)
    grid = Grid(table.cells(), out)
    print(plan_in_words(make_plan(grid, progress)), file=sys.stderr, flush=True)
    found = grid.run(progress)
    report = report_of(table, grid, found, command(name, scale, data, out, len(table.seeds)))
    return write_table(report, out, f"{name}-{scale}")


def plan(name: str, scale: str, data: Path | None, out: Path, seeds: int | None = None) -> str:
    """Say what `reproduce` would do, without training or timing anything: cells, steps and images of each."""
    table = load_table(name, scale, data, out, seeds, silent)
    return plan_in_words(make_plan(Grid(table.cells(), out), None))


def load_table(
    name: str, scale: str, data: Path | None, out: Path, seeds: int | None = None, progress: Progress = silent
) -> Table:
    """Make a table: its data are built, its cells are listed, nothing is trained."""
    if name not in TABLES:
        raise ConfigError(f"Unknown table {name!r}. {did_you_mean(name, TABLES)}")
    if scale not in get_args(Scale):
        raise ConfigError(f"Unknown scale {scale!r}. {did_you_mean(scale, get_args(Scale))}")
    known = cast(Scale, scale)
    module = import_module(TABLES[name])
    n_seeds = getattr(module, "SEEDS", SEEDS)[known] if seeds is None else seeds
    if n_seeds < 1:
        raise ConfigError(f"--seeds {n_seeds}: give 1 or more; intervals need at least 2.")
    table: Table = module.make_table(known, tuple(range(n_seeds)), data, out, progress)
    return table


def command(name: str, scale: str, data: Path | None, out: Path, n_seeds: int) -> str:
    """Return the command that makes a table."""
    words = ["eke", "reproduce", name, "--scale", scale, *(["--data", str(data)] if data else [])]
    return shlex.join([*words, "--out", str(out), "--seeds", str(n_seeds)])


def render(result: dict[str, Any]) -> str:
    """Lay a reproduced table out as text: its Markdown, and where the files are."""
    return "\n".join([result["markdown"], *(f"{ending:<5} {path}" for ending, path in result["paths"].items())])
