"""Table 2 of the harmonizing paper: classification by images per class, with and without augmentation and attention.

Rows: so many labeled images of each class, plain or augmented; supervised alone, or harmonized on the same images
afterwards. At 8 per class the same from a network that SimCLR trained further on all images without a label, for which
the paper has a row in its Table 1 only. See `eke.tables.harmonizing_bench` for the experiment.

The published table is not consistent with itself: F1 at 16 per class reads 89.0 and 87.2 beside neighbors of 64 and 77
and an mAP of 79.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from eke.progress import Progress
from eke.tables.benches import PRETRAIN_OPTIM, Scale
from eke.tables.harmonizing_bench import F1, MAP, MIDDLE, PAIRED_SEEDS, START_SIZE, HarmonizingBench, make_bench
from eke.tables.rows import above
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

SEEDS = PAIRED_SEEDS
PAPER = {
    "plain": {
        2: (0.239, 0.514), 4: (0.431, 0.65), 8: (0.574, 0.732), 12: (0.599, 0.769), 16: (0.647, 0.786),
        135: (0.769, 0.852),
    },
    "augmented": {
        2: (0.383, 0.574), 4: (0.469, 0.672), 8: (0.602, 0.744), 12: (0.641, 0.775), 16: (0.89, 0.794),
        135: (0.776, 0.857),
    },
    "augmented + attention": {
        2: (0.412, 0.581), 4: (0.516, 0.679), 8: (0.625, 0.749), 12: (0.648, 0.772), 16: (0.872, 0.793),
        135: (0.773, 0.857),
    },
}  # fmt: skip
"""Row -> images per class -> F1, mAP."""


class Pair(NamedTuple):
    """What harmonizing is judged by: a supervised network, and the same harmonized."""

    before: Series
    after: Series


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    pairs = pairs_of(bench)
    if scale != "paper":
        pairs[MIDDLE, "augmented, from SimCLR"] = _from_simclr(bench)
    rows = []
    for (n, how), pair in pairs.items():
        for name, series in ((how, pair.before), (f"{how} + attention", pair.after)):
            paper = dict(zip(("Macro-F1", "mAP"), PAPER.get(name, {}).get(n, ()), strict=False))
            rows.append(Row(f"{n} per class, {name}", {"Macro-F1": series, "mAP": replace(series, figure=MAP)}, paper))
    return Table(
        name="harmonizing-table2",
        title="Harmonizing attention, Table 2: classification by images per class",
        scale=scale,
        seeds=seeds,
        sections=[Section(bench.data.name, bench.text, ("Macro-F1", "mAP"), rows)],
        claims=_claims(bench, pairs),
    )


def pairs_of(bench: HarmonizingBench) -> dict[tuple[int, str], Pair]:
    """Return the paper's rows: (images per class, plain or augmented) -> before and after harmonizing."""
    pairs = {}
    for how, counts in (("plain", bench.plain_counts), ("augmented", bench.counts)):
        for n in counts:
            before = bench.supervised(n, augmented=how == "augmented")
            pairs[n, how] = Pair(before, bench.harmonized(n, before, augmented=how == "augmented"))
    return pairs


def _from_simclr(bench: HarmonizingBench) -> Pair:
    """Let SimCLR train the start further, once for all seeds, as the start itself is."""
    small = bench.start is None
    flags = {
        "data": {"size": 32 if small else START_SIZE, "val_rate": 0.0},
        "model": bench.flags["model"],
        "optim": PRETRAIN_OPTIM,
        "batch": {"size": 16 if small else 64},
        "views": dict.fromkeys(("view_1", "view_2"), "simclr/cifar-noflip") if small else {},
        "steps": 4 if small else 150,
    }
    pretrained = Cell(Train("simclr", flags), bench.data, seed=0, start=bench.start)
    before = bench.supervised(MIDDLE, start=pretrained)
    return Pair(before, bench.harmonized(MIDDLE, before))


def _claims(bench: HarmonizingBench, pairs: Mapping[tuple[int, str], Pair]) -> list[Claim]:
    baseline = pairs[MIDDLE, "augmented"].before
    paper = {n: pairs[n, "augmented"] for n in bench.counts}

    def lifts(figure: str, words: str) -> Difference:
        before, after = (
            [replace(side, figure=figure) for side in sides] for sides in zip(*paper.values(), strict=True)
        )
        return Difference(f"{words}: attention − none, mean over images per class", after, before, len(paper))

    def lift(n: int, how: str) -> Difference:
        pair = pairs[n, how]
        return above(f"{n} per class, {how}: attention − none", pair.after, pair.before)

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, baseline)

    few, many = min(bench.counts), max(bench.counts)
    more = Difference(
        f"lift at {few} − lift at {many} per class",
        [paper[few].after, paper[many].before],
        [paper[few].before, paper[many].after],
    )
    augmenting = (
        above(f"{n} per class: augmented − plain", pairs[n, "augmented"].before, pairs[n, "plain"].before)
        for n in bench.plain_counts
    )
    others = {how for _, how in pairs} - {"plain", "augmented"}
    return [
        claim(
            "Attention consistency provides a lift of mean F1",
            "section 4.3",
            *(lift(n, "augmented") for n in paper),
        ),
        claim(
            "Fine-tuning can improve classification performance when training data is scarce",
            "section 4.3",
            lifts(F1, "Macro-F1"),
            lifts(MAP, "mAP"),
        ),
        claim("The lift is larger with fewer training images", "Table 2", more),
        claim("Augmentation improves on none", "Table 2", *augmenting),
        claim(
            "Networks without augmentation are improved, too",
            "not in the paper",
            *(lift(n, "plain") for n in bench.plain_counts),
        ),
        *(claim("The lift does not depend on the start", "abstract", lift(MIDDLE, how)) for how in others),
    ]
