"""Table 1 of the harmonizing paper: clips, with and without SimCLR and attention, by F1 of each class.

Rows: so many labeled clips of each class; trained as they are or from SimCLR on all training clips; alone, or then
harmonized on the labeled clips. Of each stage the weights of the best validation accuracy count (paper: mean F1).

What is smaller than in the paper: its clips show events in hospital rooms, read by a 3-D ResNet-18 from Kinetics. At
the scale `cpu` they show traffic signs, of which every frame says the class and motion nothing, read frame by frame by
the ResNet-18 of `eke.tables.harmonizing_bench`; a mirrored sign is another, so nothing is mirrored. Half as many labels
as train validate besides, from other recordings. Intervals are over seeds, where the paper's are over test clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eke.config import merge, parse
from eke.data.options import ClipOptions
from eke.data.sources import open_images
from eke.errors import ConfigError, DataError
from eke.progress import Progress
from eke.tables.benches import PRETRAIN_OPTIM, Scale
from eke.tables.harmonizing_bench import F1, MODEL, START_SIZE, HarmonizingBench, cifar_start, in_place
from eke.tables.harmonizing_table2 import Pair
from eke.tables.rows import above
from eke.tables.squares import moving_squares
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import TableData, user_data
from eke.tasks.grid_table import Claim, Difference, Row, Section, Table

PAPER = {
    (16, "baseline"): 0.155, (16, "baseline + attention"): 0.174, (16, "SimCLR"): 0.231,
    (16, "SimCLR + attention"): 0.297, (32, "baseline"): 0.265, (32, "baseline + attention"): 0.275,
    (32, "SimCLR"): 0.293, (32, "SimCLR + attention"): 0.314,
}  # fmt: skip
"""Clips per class and row -> mean F1; the paper's classes are others."""
VAL_RATE = 1 / 3


@dataclass(frozen=True)
class _Clips:
    """The experiment: a bench whose counts are labels per class, and what SimCLR is given."""

    bench: HarmonizingBench
    training: Mapping[int, int]
    """Labels per class -> those of them that train."""
    pretraining: Mapping[str, Any]


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of clips was named.
        DataError: clips are missing.
    """
    clips = _make_clips(scale, seeds, data, out)
    bench = clips.bench
    classes = () if scale == "paper" else _classes(bench)
    pretrained = Cell(Train("simclr", clips.pretraining), bench.data, seed=0, start=bench.start)
    pairs = {}
    for labels, n in clips.training.items():
        for how, start in (("baseline", None), ("SimCLR", pretrained)):
            before = bench.supervised(labels, start=start)
            pairs[n, how] = Pair(before, bench.harmonized(labels, before))
    figures = {"Mean F1": F1, "Accuracy": "accuracy", **{f"F1 {name}": f"f1/{name}" for name in classes}}
    rows = []
    for (n, how), pair in pairs.items():
        for name, series in ((how, pair.before), (f"{how} + attention", pair.after)):
            columns = {column: replace(series, figure=figure) for column, figure in figures.items()}
            paper = {"Mean F1": PAPER[n, name]} if (n, name) in PAPER else {}
            rows.append(Row(f"{n} per class, {name}", columns, paper))
    return Table(
        name="harmonizing-table1",
        title="Harmonizing attention, Table 1: clips",
        scale=scale,
        seeds=seeds,
        sections=[Section(bench.data.name, bench.text, tuple(figures), rows)],
        claims=_claims(pairs),
    )


def _classes(bench: HarmonizingBench) -> tuple[str, ...]:
    return open_images(bench.data.source, clip=parse(ClipOptions, bench.flags["clip"])).classes


def _make_clips(scale: Scale, seeds: Sequence[int], data: Path | None, out: Path) -> _Clips:
    if scale == "smoke":
        found = in_place("moving squares", moving_squares(out / "data" / "moving-squares.zip", 12, 6))
        return _small(found, seeds, None, {"size": 16}, {"name": "small"}, {"seconds": 1.0}, (6, 12), (20, 4, 4), 6)
    if data is None:
        raise ConfigError("This table reads clips: name their folder by --data FOLDER.")
    if scale == "paper":
        return _paper(user_data(data), seeds)
    signs = data / "sign-clips.zip"
    if not signs.is_file():
        raise DataError(f"{data} has no {signs.name}, clips of traffic signs.")
    clip, start = {"seconds": 2.0, "stride": 4.0}, cifar_start(data)  # 8 of the 16 frames of each recording
    size, steps = {"size": START_SIZE}, (60, 40, 60)
    return _small(in_place("sign-clips", signs), seeds, start, size, {"name": MODEL}, clip, (12, 24), steps, 12)


def _small(
    found: TableData,
    seeds: Sequence[int],
    start: Cell | None,
    size: Mapping[str, int],
    model: Mapping[str, str],
    clip: Mapping[str, float],
    counts: tuple[int, ...],
    steps: tuple[int, int, int],
    batch: int,
) -> _Clips:
    fitting, harmonizing, pretraining = steps
    optim = {
        "name": "adamw",
        "lr": 3e-4 if start else 3e-3,
        "weight_decay": 1e-4,
        "schedule": "half-cosine",
        "warmup_steps": 0,
        "ema_decay": 0.0,
    }
    flags = {"data": {**size, "val_rate": VAL_RATE}, "model": model, "clip": clip}
    bench = HarmonizingBench(
        found,
        seeds,
        counts=counts,
        plain_counts=(),
        flags=flags,
        fitting={"batch": {"labeled": 8, "mu": 1}, "optim": optim},
        fitting_steps=dict.fromkeys(counts, fitting),
        harmonizing={"batch": {"labeled": 4, "mu": 1}, "steps": harmonizing},
        augmented="weak-noflip",
        text=f"{found.name}: {fitting} supervised steps of 8 clips, then {harmonizing} harmonizing ones of 4 at a rate "
        f"of 1e-5. SimCLR: {pretraining} steps of {batch} clips, once for all seeds. The best of four evaluations of "
        "each stage counts.",
        start=start,
    )
    views = _views("simclr/clips-noflip")
    own = {"optim": PRETRAIN_OPTIM, "batch": {"size": batch}, "views": views, "steps": pretraining}
    alone = merge(flags, {"data": {"val_rate": 0.0}})
    return _Clips(bench, {n: n - int(n * VAL_RATE) for n in counts}, {**alone, **own})


def _paper(found: TableData, seeds: Sequence[int]) -> _Clips:
    counts, batch = (16, 32), 12
    flags = {
        "data": {"size": 80, "val_rate": 0.0},
        "model": {"name": "torchvision/r3d_18", "pretrained": True},
    }
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
    stage = {"batch": {"labeled": batch, "mu": 1}, "optim": {**optim, "ema_decay": 0.0}}
    steps = {n: 100 * 5 * n // batch for n in counts}
    bench = HarmonizingBench(
        found,
        seeds,
        counts=counts,
        plain_counts=(),
        flags=flags,
        fitting=stage,
        fitting_steps=steps,
        harmonizing={**stage, "steps": steps[16] // 4},
        augmented="simclr/clips",
        text="3-D ResNet-18 from Kinetics at 80 pixels, clips of 4 seconds at 4 frames per second, batches of 12, Adam "
        "with a rate of 1e-3 in both stages; validation and test clips are the source's own.",
    )
    pretraining = {**flags, "batch": {"size": batch}, "steps": 2_000, "views": _views("simclr/clips")}
    return _Clips(bench, {n: n for n in counts}, pretraining)


def _views(preset: str) -> dict[str, str]:
    return dict.fromkeys(("view_1", "view_2"), preset)


def _claims(pairs: Mapping[tuple[int, str], Pair]) -> list[Claim]:
    counts = sorted({n for n, _ in pairs})

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, pairs[counts[-1], "baseline"].before)

    def lift(n: int, how: str) -> Difference:
        return above(f"{n} per class, {how}: attention − none", pairs[n, how].after, pairs[n, how].before)

    return [
        claim(
            "Attention consistency provides a lift of mean F1", "section 4.3", *(lift(n, "baseline") for n in counts)
        ),
        claim("With SimCLR, too", "section 4.3", *(lift(n, "SimCLR") for n in counts)),
        claim(
            "The lift increases when SimCLR is used for pretraining",
            "section 4.3",
            *(
                Difference(
                    f"{n} per class: lift with SimCLR − lift without",
                    [pairs[n, "SimCLR"].after, pairs[n, "baseline"].before],
                    [pairs[n, "SimCLR"].before, pairs[n, "baseline"].after],
                )
                for n in counts
            ),
        ),
        claim(
            "SimCLR improves on the baseline",
            "Table 1",
            *(
                above(f"{n} per class: SimCLR − baseline", pairs[n, "SimCLR"].before, pairs[n, "baseline"].before)
                for n in counts
            ),
        ),
    ]
