"""`eke simulate`: active learning replayed on labeled images whose labels are hidden, strategy beside strategy.

Every strategy begins with the same random batch of a seed; then each asks, is answered from the truth, and a network is
trained from scratch on all labels so far. Validation images are a random, stratified sample with labels, beside the
budget and the same for all: choosing them by a strategy would bias them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

from eke.errors import ConfigError
from eke.progress import Progress, silent
from eke.tasks.bought import in_words
from eke.tasks.distortions import Distortion
from eke.tasks.grid import Done, Grid, make_plan, plan_in_words
from eke.tasks.grid_table import Claim, Section, Series, Table, report_of, write_table
from eke.tasks.replay import RANDOM, Replay, area
from eke.tasks.simulate_data import SimulationPlan, build_simulation, pool_size
from eke.tasks.simulate_options import SimulateOptions, command


def simulate(options: SimulateOptions, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Run what is not finished of a simulation, and write OUT/simulate.html, .md and .json.

    Killed, it goes on with the same command.

    Args:
        options: what is simulated.
        out: folder of the data, the cells and the page.
        progress: shows cells and training.

    Returns:
        What the JSON file holds, the Markdown text, and the paths.

    Raises:
        ConfigError: see `SimulateOptions.checked`, or the pool is too small.
        DataError: images or labels cannot be used.
        InterruptedRunError: Ctrl-C; what was done is kept.
    """
    table, replays = make_table(options, out, progress)
    grid = Grid(table.cells(), out)
    print(plan_in_words(make_plan(grid, progress)), file=sys.stderr, flush=True)
    found = grid.run(progress)
    bought = [line for replay in replays for line in labels_bought(replay, found)]
    report = report_of(replace(table, notes=bought), grid, found, command(options, out))
    return write_table(report, out, "simulate")


def plan(options: SimulateOptions, out: Path) -> str:
    """Say what `simulate` would do, without training or timing anything."""
    table, _ = make_table(options, out, silent)
    return plan_in_words(make_plan(Grid(table.cells(), out), None))


def make_table(options: SimulateOptions, out: Path, progress: Progress) -> tuple[Table, list[Replay]]:
    """List the cells: a section for each imbalance."""
    work = options.checked().train()
    n_passes, noise = options.n_passes, options.noise
    seeds = tuple(range(options.seeds))
    sections, claims, replays = [], [], []
    for ratio in options.imbalance:
        plan = SimulationPlan(
            options.source,
            options.test,
            options.batch,
            ratio,
            cast(Distortion, options.distortion),  # checked
            options.noise,
            options.n_val,
            size=work.flags.get("data", {}).get("size"),
        )
        data = build_simulation(plan, out / "data", seeds, progress)
        n = pool_size(data)
        needed = options.batch * (options.rounds + 1)
        if needed > n:
            raise ConfigError(
                f"{options.rounds} rounds of {options.batch:,} after a first batch are {needed:,} images, and the pool "
                f"at imbalance {ratio:g} has {n:,}. Take fewer or smaller rounds."
            )
        replay = Replay(
            data,
            seeds,
            options.names,
            options.rounds,
            options.batch,
            lambda n: work,
            n_passes,
            noise,
            options.start_work(n),
        )
        replays.append(replay)
        sections.append(Section(data.name, _text(options, n), replay.columns, replay.rows(n), x="labels"))
        claims += _claims(replay)
    return (
        Table(
            name="simulate",
            title=f"Active learning replayed on {Path(options.source).name}",
            scale=f"{options.rounds} rounds of {options.batch:,}",
            seeds=seeds,
            sections=sections,
            claims=claims,
            paper=False,
        ),
        replays,
    )


def _claims(replay: Replay) -> list[Claim]:
    """Say of each strategy that the area under its curve is larger than that of random labels."""
    random = replay.curve(RANDOM)
    return [
        Claim(
            f"{strategy} is better than random labels: {replay.data.name}",
            "mean height of the curve, by trapezoids",
            [area(f"{strategy} − random", replay.curve(strategy), random)],
            random[-1],
        )
        for strategy in replay.strategies
        if strategy != RANDOM
    ]


def _text(options: SimulateOptions, n: int) -> str:
    noise = f" {options.noise:.0%} of the answers are wrong." if options.noise else ""
    begin = "from scratch"
    if options.start:
        begin = f"from a network that {options.start} trained on the pool without labels, {options.start_steps:,} steps"
    return (
        f"A pool of {n:,} images whose labels are hidden: a random batch of {options.batch:,}, then {options.rounds} "
        f"requests of {options.batch:,}, each after training {options.method} {begin}. Test accuracy over the "
        "labels that train; validation labels come on top, are random, and are the same for all. Strategies of a seed "
        f"begin with the same batch and the same network.{noise} What a row took is its last training alone."
    )


def labels_bought(replay: Replay, found: Mapping[str, Done]) -> list[str]:
    """Say what the labels of each strategy bought; nothing of those with a failed cell."""
    labels = [float(column) for column in replay.columns]
    curves = {name: _means(replay.curve(name), found) for name in replay.strategies}
    random = curves[RANDOM]
    return [
        f"{replay.data.name}: {in_words(name, labels, curve, random)}"
        for name, curve in curves.items()
        if curve is not None and random is not None
    ]


def _means(curve: Sequence[Series], found: Mapping[str, Done]) -> list[float] | None:
    figures = [[found[cell.identity].figures.get(series.figure) for cell in series.cells] for series in curve]
    if any(each is None for point in figures for each in point):
        return None
    return [mean(each for each in point if each is not None) for point in figures]


def render(result: dict[str, Any]) -> str:
    """Lay a simulation out as text: its Markdown, and where the files are."""
    return "\n".join([result["markdown"], *(f"{ending:<5} {path}" for ending, path in result["paths"].items())])
