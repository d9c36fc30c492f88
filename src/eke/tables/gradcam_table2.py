"""Table II of the Grad-CAM consistency paper (Lee and Cho): what each loss does, by itself and with the others.

Rows: supervised training on plain and on augmented labeled images (the paper's baseline), with the pseudo-label loss
(the paper's ablation, in three forms), with the Grad-CAM loss alone (the ablation that its introduction names) and
with all three losses, at an early and at the deepest layer. Every row puts equally many images through the network.

What is smaller than in the paper, and what is left out:
1. The paper trains ResNet-50 from ImageNet weights on 5,000 labels of CIFAR-10 and reports validation images; here a
   small network from random weights, fewer labels, and test images, read once. Nothing is chosen.
2. One ratio of unlabeled to labeled images instead of three; two layers instead of four.
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

EARLY, DEEP = "block2", "block4"
"""Layers of the network `small`, whose four blocks stand for the paper's layers 1 to 4."""
SIZE = 32
"""B, and unlabeled images per step: the same number of both, as in algorithm 1."""
PAPER = {"augmented": 0.8961, "pseudo": 0.8964, "early": 0.8959, "deep": 0.9010}
"""Tables I and II at the ratio 1.0, validation: baseline, ablation, layer 2 and layer 4."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: the paper's scale, which is not written down yet.
        DataError: images are missing.
    """
    if scale == "paper":
        raise ConfigError("This table has no paper scale yet. Try --scale cpu.")
    plan, images = (
        (PoolPlan("digits", 900, 300, labels_per_class=4), 4_000)
        if scale == "smoke"
        else (PoolPlan("cifar10", 10_000, 2_000, labels_per_class=100), 24_000)
    )
    found = build_data(plan, out / "data", data, seeds, progress)
    text = (
        f"{plan.name}: {plan.labels_per_class} labels per class, a pool of {plan.n_pool:,} images, {plan.n_test:,} "
        f"test images. Network small (0.17 M parameters), FixMatch's optimizer, B = {SIZE} and as many unlabeled "
        f"images (L_S alone: B = {3 * SIZE}), {images:,} images through the network in every row, all views counted; "
        "alpha = beta = gamma = 1. "
        "Augmented: a crop, a flip, a quarter turn and a color jitter. Nothing is chosen on validation: there is none."
    )
    works = _works(images, "-noflip" if scale == "smoke" else "")  # a digit's mirror image is another sign
    series = {name: Series([Cell(work, found, seed) for seed in seeds]) for name, work in works.items()}
    listed = [
        Row(words, {"Acc.": series[name]}, {"Acc.": PAPER[name]} if name in PAPER else {}, note)
        for name, (words, note) in WORDS.items()
    ]
    return Table(
        name="gradcam-table2",
        title="Grad-CAM consistency, Table II: what each loss does",
        scale=scale,
        seeds=seeds,
        sections=[Section(f"{plan.name}, equal budget", text, ("Acc.",), listed)],
        claims=_claims(series),
    )


WORDS: Mapping[str, tuple[str, str]] = {
    "plain": ("L_S", "labeled images with a flip"),
    "augmented": ("L_S, augmented", "the paper's baseline: labeled images augmented"),
    "pseudo": ("L_S + L_P", "the paper's ablation: soft cross entropy"),
    "pseudo_hard": ("L_S + L_P, hard", "cross entropy with the likeliest class"),
    "pseudo_l2": ("L_S + L_P, L2", "squared error"),
    "maps_early": (f"L_S + L_G, {EARLY}", "no pseudo-labels"),
    "maps_deep": (f"L_S + L_G, {DEEP}", "no pseudo-labels"),
    "early": (f"L_S + L_P + L_G, {EARLY}", "paper: layer 2"),
    "deep": (f"L_S + L_P + L_G, {DEEP}", "paper: layer 4"),
}


def _works(images: int, ending: str) -> dict[str, Train]:
    """Return the training of each row; presets of views have the `ending`."""
    plain, augmented = f"flip{ending}", f"crop-rotate-jitter{ending}"
    shared = {"data": {"val_rate": 0.0}, "model": {"name": "small"}, "optim": FIT_OPTIM}
    alone = {**shared, "batch": {"labeled": 3 * SIZE, "mu": 1}}

    def consistent(**own: Any) -> Train:
        views = {"weak": plain, "original": plain, "augmented": augmented}
        flags = {**shared, "batch": {"labeled": SIZE, "mu": 1}, "views": views, "method": own}
        return Train("gradcam_consistency", flags, images)

    return {
        "plain": Train("supervised", {**alone, "views": {"weak": plain}}, images),
        "augmented": Train("supervised", {**alone, "views": {"weak": augmented}}, images),
        "pseudo": consistent(gamma=0.0),
        "pseudo_hard": consistent(gamma=0.0, pseudo_label="hard"),
        "pseudo_l2": consistent(gamma=0.0, pseudo_label="l2"),
        "maps_early": consistent(beta=0.0, layer=[EARLY]),
        "maps_deep": consistent(beta=0.0, layer=[DEEP]),
        "early": consistent(layer=[EARLY]),
        "deep": consistent(layer=[DEEP]),
    }


def _claims(series: Mapping[str, Series]) -> list[Claim]:
    def over(higher: str, *lower: str) -> list[Difference]:
        names = {name: words for name, (words, _) in WORDS.items()}
        return [above(f"{names[higher]} − {names[each]}", series[higher], series[each]) for each in lower]

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, series["plain"])

    return [
        claim(
            "All three losses improve on the baseline",
            "Table I",
            *over("deep", "augmented"),
            *over("early", "augmented"),
        ),
        claim("The pseudo-label loss is worse than supervision alone", "section IV-C", *over("augmented", "pseudo")),
        claim(
            "The Grad-CAM loss improves on the ablation", "Table II", *over("deep", "pseudo"), *over("early", "pseudo")
        ),
        claim(
            "The Grad-CAM loss is useful without pseudo-labels",
            "introduction",
            *over("maps_deep", "plain"),
            *over("maps_early", "plain"),
        ),
        claim("Later layers improve more", "section IV-B", *over("deep", "early")),
    ]
