"""Does Grad-CAM consistency make networks look where the objects are? Overlap with boxes, with and without its loss.

The Grad-CAM consistency paper (Lee and Cho, section V-A) takes Grad-CAM for a weakly supervised segmentation, and its
loss for an auxiliary task by which classification generalizes; it has no boxes. Here photographs have: networks trained
with that loss (gamma = 1) and without (gamma = 0), with and without the pseudo-label loss, equal in all else, are
laid beside the boxes of test images. Over all runs, overlap is correlated with mAP: do networks that look at objects
decide better? See `eke.tables.harmonizing_bench` for images and start, `eke.tasks.localize` for the overlap.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from eke.config import merge
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import F1, MAP, MIDDLE, HarmonizingBench, make_bench
from eke.tables.rows import above
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_relations import Relation
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

COLUMNS = {"Overlap, all pairs": "overlap_labeled", "Overlap, true positives": "overlap", "mAP": MAP, "Macro-F1": F1}
LENGTHS: Mapping[Scale, tuple[int, int]] = {"smoke": (20, 48), "cpu": (50, 80), "paper": (4_000, 320)}
"""Steps, and unlabeled images: about two for each labeled one."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    series = {
        "L_S + L_P": _trained(bench, scale, beta=1, gamma=0),
        "L_S + L_P + L_G": _trained(bench, scale, beta=1, gamma=1),
        "L_S": _trained(bench, scale, beta=0, gamma=0),
        "L_S + L_G": _trained(bench, scale, beta=0, gamma=1),
    }
    rows = [
        Row(name, {column: replace(each, figure=figure) for column, figure in COLUMNS.items()})
        for name, each in series.items()
    ]
    ignorant = {
        name: replace(series["L_S"], figure=f"overlap_{who}")
        for name, who in (("A box in the center", "center"), ("Random maps", "random"))
    }
    rows += [
        Row(name, {"Overlap, all pairs": each}, note="of the size of the boxes") for name, each in ignorant.items()
    ]
    batch, (steps, n_unlabeled) = bench.fitting["batch"]["labeled"], LENGTHS[scale]
    return Table(
        name="gradcam-boxes",
        title="Grad-CAM consistency, section V-A: overlap with boxes",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(
                f"{bench.data.name}, {MIDDLE} per class",
                f"{bench.text} Here: {n_unlabeled:,} unlabeled images; {steps:,} steps of {batch} labeled and as "
                "many unlabeled ones in two views each, at the rate of the supervised stage; nothing is harmonized.",
                tuple(COLUMNS),
                rows,
            )
        ],
        claims=_claims(series, ignorant["A box in the center"]),
        relations=[
            Relation(
                "overlap_labeled", MAP, "Overlap and mAP", [cell for each in series.values() for cell in each.cells]
            )
        ],
    )


def _trained(bench: HarmonizingBench, scale: Scale, *, beta: float, gamma: float) -> Series:
    ending = "-noflip" if scale == "smoke" else ""
    steps, n_unlabeled = LENGTHS[scale]
    flags = {
        "data": {"n_unlabeled": n_unlabeled, "unlabeled_with_labeled": False},
        "method": {"beta": beta, "gamma": gamma},
        "views": {
            "weak": f"flip{ending}",
            "original": f"flip{ending}",
            "augmented": f"crop-rotate-jitter{ending}",
        },
    }
    work = Train("gradcam_consistency", merge(bench.stage(MIDDLE, steps, bench.fitting), flags))
    return Series([Cell(work, bench.data, seed, bench.start) for seed in bench.seeds])


def _claims(series: Mapping[str, Series], center: Series) -> list[Claim]:
    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, series["L_S"])

    def lifts(column: str) -> list[Difference]:
        figure = COLUMNS[column]
        return [
            above(
                f"{column}: {base} + L_G − {base}",
                replace(series[f"{base} + L_G"], figure=figure),
                replace(series[base], figure=figure),
            )
            for base in ("L_S + L_P", "L_S")
        ]

    overlaps = [replace(series[name], figure="overlap_labeled") for name in ("L_S + L_P + L_G", "L_S + L_G")]
    return [
        claim("The Grad-CAM loss is a weakly supervised segmentation", "section V-A", *lifts("Overlap, all pairs")),
        claim("The Grad-CAM loss improves classification", "abstract", *lifts("mAP")),
        claim(
            "With it, maps know more of the image than a box in its center",
            "not in the paper",
            *(Difference(f"{name} − center", [each], [center])
              for name, each in zip(("L_S + L_P + L_G", "L_S + L_G"), overlaps, strict=True)),
        ),
    ]  # fmt: skip
