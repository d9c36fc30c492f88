"""Table 4 of the harmonizing paper: does a consistency loss foretell the supervised loss? Correlated over a training.

One supervised network is trained per seed and looked at now and then on fixed validation images: the supervised loss,
and the twelve consistency losses of four ways to one resolution and three measures, of which none is trained. A figure
is Pearson's correlation of the two over the looks; the paper prints 100 times that, of one training of 100 epochs.

A correlation over a training is mostly a trend in time: any two quantities that fall from beginning to end are
correlated. The correlation of the supervised loss with time itself stands beside the twelve.
"""

from collections.abc import Mapping
from pathlib import Path

from eke.config import merge
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import MIDDLE, HarmonizingBench, make_bench
from eke.tables.harmonizing_follow import Follow
from eke.tables.rows import above
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

MEASURES = {"pearson": "Pearson", "cross_correlation": "Cross-correlation", "ssim": "SSIM"}
MATCHINGS = {
    "gradcam_upsampled": ("Grad-CAM upsampling", (0.654, 0.675, 0.603)),
    "guided_pooled": ("GB pooling", (0.655, 0.641, 0.688)),
    "guided_mask": ("GB as mask", (0.826, 0.267, 0.806)),
    "gradcam_mask": ("Grad-CAM as mask", (-0.519, -0.672, -0.758)),
}
"""Name of the option -> the paper's words, and its figures by measure."""
LENGTHS: Mapping[Scale, tuple[int, int, int]] = {
    "smoke": (MIDDLE, 12, 6),
    "cpu": (40, 96, 12),
    "paper": (135, 67_500, 100),
}
"""Images per class, steps, looks; the paper has 100 epochs."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    n, steps, looks = LENGTHS[scale]
    cells = [Cell(_followed(bench, n, steps, looks), bench.data, seed, bench.start) for seed in seeds]
    series = {
        (matching, measure): Series(cells, f"{matching}/{measure}", rate=False)
        for matching in MATCHINGS
        for measure in MEASURES
    }
    rows = [
        Row(
            words,
            {column: series[matching, measure] for measure, column in MEASURES.items()},
            dict(zip(MEASURES.values(), paper, strict=True)),
        )
        for matching, (words, paper) in MATCHINGS.items()
    ]
    rows.append(Row("Time itself", {"Pearson": Series(cells, "time", rate=False)}, note="how far the loss is a trend"))
    return Table(
        name="harmonizing-table4",
        title="Harmonizing attention, Table 4: consistency losses and the supervised loss",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(
                f"{bench.data.name}, {n} per class",
                f"{bench.text} Here: {steps:,} supervised steps, looked at {looks} times; nothing is harmonized, and "
                "the last weights count. Figures are correlations over the looks, from -1 to 1 (the paper prints 100 "
                "times that): mostly a trend in time.",
                tuple(MEASURES.values()),
                rows,
            )
        ],
        claims=_claims(series),
    )


def _followed(bench: HarmonizingBench, n: int, steps: int, looks: int) -> Follow:
    last = {"evaluate": {"keep": "last"}, "views": {"weak": bench.augmented}}
    return Follow(Train("supervised", merge(bench.stage(n, steps, bench.fitting), last)), looks)


def _claims(series: Mapping[tuple[str, str], Series]) -> list[Claim]:
    best = series["guided_mask", "pearson"]

    def claim(sentence: str, *differences: Difference, best_of: Mapping[str, Series] | None = None) -> Claim:
        return Claim(sentence, "section 5", differences, best, best_of=best_of or {})

    def row(matching: str) -> list[Series]:
        return [series[matching, measure] for measure in MEASURES]

    others = [each for each in series.values() if each is not best]
    return [
        claim(
            "The best combination is Pearson with guided backpropagation as a mask",
            Difference("it − mean of the eleven others", [best] * len(others), others, len(others)),
            *(
                above(f"it − {MATCHINGS[matching][0]}, Pearson", best, series[matching, "pearson"])
                for matching in ("gradcam_upsampled", "guided_pooled")
            ),
            best_of={f"{MATCHINGS[way][0]}, {MEASURES[measure]}": each for (way, measure), each in series.items()},
        ),
        claim(
            "The second best is SSIM with guided backpropagation as a mask",
            above("Pearson − SSIM", best, series["guided_mask", "ssim"]),
            *(
                above(f"it − {MATCHINGS[matching][0]}, SSIM", series["guided_mask", "ssim"], series[matching, "ssim"])
                for matching in ("gradcam_upsampled", "guided_pooled")
            ),
        ),
        claim(
            "Upsampling and pooling still give satisfying results, whatever the measure",
            *(
                Difference(f"{MATCHINGS[matching][0]}: mean over measures − 0", row(matching), [], len(MEASURES))
                for matching in ("gradcam_upsampled", "guided_pooled")
            ),
        ),
        claim(
            "Grad-CAM as a mask should be avoided",
            Difference("0 − its mean over measures", [], row("gradcam_mask"), len(MEASURES)),
        ),
    ]
