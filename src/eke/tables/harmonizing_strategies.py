"""The three strategies of the harmonizing paper (section 5), and agreement by images per class (section 1).

finetune: supervised, then harmonized, as in Table 2; combined: both losses at once; alternated: each in its turn. All
at 4 images per class, from the same start, with the same number of images through the network, each counted once
however often it is explained. Supervised training alone with as many images stands beside them.

The paper's figures are those of section 5, "as reported earlier"; its rates are the same for all three strategies, as
those of combined and alternated are the supervised stage's here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from eke.config import merge
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import F1, MAP, PAIRED_SEEDS, HarmonizingBench, make_bench
from eke.tables.harmonizing_follow import Agree
from eke.tables.harmonizing_table2 import Pair, pairs_of
from eke.tables.rows import above
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

SEEDS = PAIRED_SEEDS
N = 4
"""Images per class."""
COLUMNS = {"Macro-F1": F1, "mAP": MAP, "Overlap": "overlap", "Overlap, all pairs": "overlap_labeled"}
PAPER = {
    "finetune": {"Macro-F1": 0.516, "Overlap": 0.502},
    "combined": {"Macro-F1": 0.489, "Overlap": 0.493},
    "alternated": {"Macro-F1": 0.506, "Overlap": 0.495},
}
"""Section 5; Overlap is of true positives."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    pairs = {n: pair for (n, how), pair in pairs_of(bench).items() if how == "augmented"}
    strategies = _strategies(bench, pairs[N])
    rows = [
        Row(name, {column: replace(series, figure=figure) for column, figure in COLUMNS.items()}, PAPER.get(name, {}))
        for name, series in strategies.items()
    ]
    agreements = {n: Pair(*(_agreement(series) for series in pair)) for n, pair in pairs.items()}
    looks = [
        Row(f"{n} per class", {"Not harmonized": pair.before, "Harmonized": pair.after})
        for n, pair in agreements.items()
    ]
    return Table(
        name="harmonizing-strategies",
        title="Harmonizing attention, section 5: strategies",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(
                f"{bench.data.name}, {N} per class",
                f"{bench.text} combined and alternated: {bench.fitting['batch']['labeled']} labeled and as many "
                "unlabeled images a step, or in turn, at the rate of the supervised stage; lambda_a = 1. The column of "
                "images counts both kinds at every step, read or not.",
                tuple(COLUMNS),
                rows,
            ),
            Section(
                "Agreement of both maps, by images per class",
                "Pearson's correlation of Grad-CAM before and after masking by guided backpropagation, mean over "
                "validation images, of the networks of Table 2.",
                ("Not harmonized", "Harmonized"),
                looks,
            ),
        ],
        claims=_claims(bench, strategies, agreements),
    )


def _strategies(bench: HarmonizingBench, pair: Pair) -> dict[str, Series]:
    """Return the rows, by name; all but the first have equally many images."""
    batch = bench.fitting["batch"]["labeled"]
    images = bench.fitting_steps[N] * batch + bench.harmonizing["steps"] * bench.harmonizing["batch"]["labeled"]

    def trained(method: str, steps: int, views: Mapping[str, str], **own: str) -> Series:
        flags = merge(bench.stage(N, steps, bench.fitting), {"views": views, "method": own})
        return Series([Cell(Train(method, flags), bench.data, seed, bench.start) for seed in bench.seeds], F1)

    plain, both = {"weak": bench.augmented}, {"weak": bench.augmented, "original": bench.augmented}
    return {
        "not harmonized": pair.before,
        "not harmonized, equal images": trained("supervised", images // batch, plain),
        "finetune": pair.after,
        "combined": trained("harmonize", images // (2 * batch), both, strategy="combined"),
        "alternated": trained("harmonize", images // batch, both, strategy="alternated"),
    }


def _agreement(series: Series) -> Series:
    cells = [Cell(Agree(), cell.data, cell.seed, start=cell) for cell in series.cells]
    return Series(cells, "agreement", rate=False)


def _claims(bench: HarmonizingBench, rows: Mapping[str, Series], agreements: Mapping[int, Pair]) -> list[Claim]:
    def over(better: str, worse: str, figure: str) -> Difference:
        sides = (replace(rows[name], figure=figure) for name in (better, worse))
        return above(f"{'overlap' if figure == 'overlap_labeled' else 'F1'}: {better} − {worse}", *sides)

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, rows["not harmonized"])

    few, many = min(bench.counts), max(bench.counts)
    figures = F1, "overlap_labeled"
    return [
        claim(
            "Fine-tuning is better than combined and alternated training",
            "section 5",
            *(over("finetune", other, figure) for other in ("combined", "alternated") for figure in figures),
        ),
        claim(
            "Alternated training is better than combined",
            "section 5",
            *(over("alternated", "combined", figure) for figure in figures),
        ),
        claim(
            "Fine-tuning is better than as much supervised training",
            "not in the paper",
            over("finetune", "not harmonized, equal images", F1),
        ),
        claim(
            "Maps of different methods disagree more where training images are fewer",
            "abstract",
            above(f"agreement: {many} − {few} per class", agreements[many].before, agreements[few].before),
        ),
        claim(
            "Harmonizing makes maps agree",
            "section 3.2",
            *(above(f"{n} per class: agreement after − before", pair.after, pair.before)
              for n, pair in agreements.items()),
        ),
    ]  # fmt: skip
