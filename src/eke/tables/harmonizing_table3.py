"""Table 3 of the harmonizing paper: overlap of Grad-CAM with boxes, by images per class, of the networks of Table 2.

Grad-CAM is rescaled to [0, 1] and marks what is 0.5 or more; a box is the union of its class's boxes in the image
(section 4.4). The paper measures recognized pairs of image and class only (true positives), of which a better network
has more, and harder ones: all labeled pairs stand beside them. A box in the center, as large as the boxes are on
average, and random maps say what knows nothing of the image. Equal cells are those of `harmonizing-table2`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from eke.config import merge
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import MIDDLE, PAIRED_SEEDS, HarmonizingBench, make_bench
from eke.tables.harmonizing_table2 import Pair, pairs_of
from eke.tables.rows import above
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

SEEDS = PAIRED_SEEDS
FIGURES = {"All pairs": "overlap_labeled", "True positives": "overlap"}
"""Column -> figure of a cell."""
PAPER = {
    "plain": {2: 0.428, 4: 0.466, 8: 0.477, 12: 0.476, 16: 0.481, 135: 0.452},
    "augmented": {2: 0.446, 4: 0.5, 8: 0.485, 12: 0.49, 16: 0.479, 135: 0.449},
    "augmented + attention": {2: 0.464, 4: 0.502, 8: 0.495, 12: 0.493, 16: 0.484, 135: 0.451},
    "augmented, Inception-v3": {4: 0.445, 8: 0.441, 12: 0.445, 16: 0.439, 135: 0.433},
    "augmented, Inception-v3 + attention": {4: 0.446, 8: 0.442, 12: 0.449, 16: 0.446, 135: 0.433},
}
"""Row -> images per class -> IoU of true positives."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    pairs = pairs_of(bench)
    if scale == "paper":
        pairs |= _of_inception(bench)
    rows = [
        Row(
            f"{n} per class, {name}",
            {column: replace(series, figure=figure) for column, figure in FIGURES.items()},
            {"True positives": PAPER[name][n]} if n in PAPER.get(name, {}) else {},
        )
        for (n, how), pair in pairs.items()
        for name, series in ((how, pair.before), (f"{how} + attention", pair.after))
    ]
    ignorant = {
        name: replace(pairs[MIDDLE, "augmented"].before, figure=f"overlap_{who}")
        for name, who in (("A box in the center", "center"), ("Random maps", "random"))
    }
    rows += [Row(name, {"All pairs": series}, note="of the size of the boxes") for name, series in ignorant.items()]
    return Table(
        name="harmonizing-table3",
        title="Harmonizing attention, Table 3: overlap with boxes",
        scale=scale,
        seeds=seeds,
        sections=[Section(bench.data.name, f"{bench.text} Figures are IoU on test images.", tuple(FIGURES), rows)],
        claims=_claims(bench, pairs, ignorant["A box in the center"]),
    )


def _of_inception(bench: HarmonizingBench) -> dict[tuple[int, str], Pair]:
    """Return the same rows for Inception-v3 at 299 pixels, augmented."""
    model = {"name": "torchvision/inception_v3", "pretrained": True}
    other = replace(bench, flags=merge(bench.flags, {"model": model, "data": {"size": 299}}), plain_counts=())
    return {(n, f"{how}, Inception-v3"): pair for (n, how), pair in pairs_of(other).items()}


def _claims(bench: HarmonizingBench, pairs: Mapping[tuple[int, str], Pair], center: Series) -> list[Claim]:
    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, pairs[MIDDLE, "augmented"].before)

    def lifts(figure: str) -> list[Difference]:
        return [
            above(
                f"{n} per class, {how}: attention − none",
                replace(pair.after, figure=figure),
                replace(pair.before, figure=figure),
            )
            for (n, how), pair in pairs.items()
            if how != "plain"
        ]

    before, after = (
        [replace(side, figure="overlap_labeled") for side in sides]
        for sides in zip(*(pairs[n, "augmented"] for n in bench.counts), strict=True)
    )
    over = "mean over images per class, all pairs"
    return [
        claim("The overlap is always higher with attention consistency (true positives)", "section 4.4",
              *lifts("overlap")),
        claim("So it is on all pairs", "not in the paper", *lifts("overlap_labeled")),
        claim("Attention consistency improves the quality of attention maps", "abstract",
              Difference(f"attention − none, {over}", after, before, len(before))),
        claim("Maps know more of the image than a box in its center", "not in the paper",
              Difference(f"none − center, {over}", before, [center] * len(before), len(before)),
              Difference(f"attention − center, {over}", after, [center] * len(after), len(after))),
    ]  # fmt: skip
