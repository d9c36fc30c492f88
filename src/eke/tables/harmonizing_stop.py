"""When to stop harmonizing attention: by the labels of validation images, by agreement on them without labels, or late.

The paper (Harmonizing Attention: Attention Map Consistency For Unsupervised Fine-Tuning) monitors the labels of 500
validation images and says in section 6 that a stop without labels would have practical implications; here it is tried.
Each run starts from the same supervised network of its seed, harmonizes on the unlabeled pool, and differs in which
evaluation's weights count. What the choice costs (regret) is the difference to the choice by labels, on test images.

What is smaller than in the paper, and what is added:
1. The paper fine-tunes ResNet-50 from ImageNet weights on PASCAL VOC; here it is a small network from random weights.
2. Two rates: 1e-5, which is nearest to the scripts of the authors' code, and the paper's 1e-3 for all training.
3. `last`, without any choice, and the network before harmonizing stand beside the two stops.
4. The weights before the first step are a candidate of both stops; without labels only weights count that decide nearly
   all validation images as before (`eke.tasks.keep.DECISIONS`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eke.errors import ConfigError
from eke.progress import Progress
from eke.tables.benches import FIT_OPTIM, Scale
from eke.tables.rows import above
from eke.tasks.grid_cells import Cell, Train
from eke.tasks.grid_data import PoolPlan, build_data
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table
from eke.tasks.harmonize import STOPS

RATES = (1e-5, 1e-3)
SIZE = 16
"""Unlabeled images per step."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: the paper's scale: the paper has no such experiment.
        DataError: images are missing.
    """
    if scale == "paper":
        raise ConfigError("The paper has no such experiment, so this table has no paper scale. Try --scale cpu.")
    plan, first_steps, steps = (
        (PoolPlan("digits", 300, 300, labels_per_class=4, n_val=100), 30, 20)
        if scale == "smoke"
        else (PoolPlan("cifar10", 2_000, 2_000, labels_per_class=16, n_val=500), 300, 200)
    )
    found = build_data(plan, out / "data", data, seeds, progress)
    ending = "-noflip" if scale == "smoke" else ""  # a digit's mirror image is another sign
    shared = {"data": {"val_rate": 0.0}, "model": {"name": "small"}}
    begun = Train(
        "supervised",
        {
            **shared,
            "optim": FIT_OPTIM,
            "batch": {"labeled": 4 * SIZE, "mu": 1},
            "steps": first_steps,
            "views": {"weak": f"weak{ending}"},
            "evaluate": {"every_steps": first_steps},
        },
    )
    start = Series([Cell(begun, found, seed) for seed in seeds])
    series = {"not harmonized": start}
    for rate in RATES:
        for stop, keep in STOPS.items():
            flags: dict[str, Any] = {
                **shared,
                "optim": {"lr": rate},
                "batch": {"labeled": SIZE, "mu": 1},
                "steps": steps,
                "views": {"weak": f"flip{ending}", "original": f"flip{ending}"},
                "evaluate": {"every_steps": steps // 10, **keep},
            }
            cells = [Cell(Train("harmonize", flags), found, cell.seed, start=cell) for cell in start.cells]
            series[f"{stop}, rate {rate:g}"] = Series(cells)
    text = (
        f"{plan.name}: {plan.labels_per_class} labels per class, a pool of {plan.n_pool:,}, {plan.n_val:,} validation "
        f"and {plan.n_test:,} test images. Network small (0.17 M parameters): {first_steps} supervised steps of "
        f"{4 * SIZE} images, then {steps} harmonizing steps of {SIZE} unlabeled images, AdamW, looked at 10 times. "
        "agreement: no label is read, and only weights count that decide 95 % of the validation images as before; "
        "labels: best validation accuracy; both may keep the weights they begin with, and have a patience of 3; "
        "last: all steps. "
        "Figures are accuracies on test images, for which nothing is chosen."
    )
    return Table(
        name="harmonizing-stop",
        title="Harmonizing attention, section 6: when to stop",
        scale=scale,
        seeds=seeds,
        sections=[Section(plan.name, text, ("Acc.",), [Row(name, {"Acc.": each}) for name, each in series.items()])],
        claims=_claims(series),
    )


def _claims(series: Mapping[str, Series]) -> list[Claim]:
    start = series["not harmonized"]

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, start)

    return [
        claim(
            "Harmonizing improves classification, stopped by labels",
            "abstract",
            *(
                above(f"rate {rate:g}: labels − not harmonized", series[f"labels, rate {rate:g}"], start)
                for rate in RATES
            ),
        ),
        claim(
            "Harmonizing improves classification, stopped without labels",
            "section 6",
            *(
                above(f"rate {rate:g}: agreement − not harmonized", series[f"agreement, rate {rate:g}"], start)
                for rate in RATES
            ),
        ),
        claim(
            "A stop without labels is better than none",
            "section 6",
            *(
                above(
                    f"rate {rate:g}: agreement − last",
                    series[f"agreement, rate {rate:g}"],
                    series[f"last, rate {rate:g}"],
                )
                for rate in RATES
            ),
        ),
        claim(
            "Labels choose better (regret of the stop without labels)",
            "section 6",
            *(
                above(
                    f"rate {rate:g}: labels − agreement",
                    series[f"labels, rate {rate:g}"],
                    series[f"agreement, rate {rate:g}"],
                )
                for rate in RATES
            ),
        ),
    ]
