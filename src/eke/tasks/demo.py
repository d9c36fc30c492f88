"""`eke demo`: the whole of eke on real data in about a minute, on any machine."""

from pathlib import Path
from typing import Any

from eke.progress import Progress, silent
from eke.tasks.fit import fit
from eke.tasks.options import FitOptions, resolve


def demo_options(seed: int) -> FitOptions:
    """FixMatch on scikit-learn's handwritten digits (1,797 images of 8x8), 4 labels per class, all for training.

    A digit's mirror image is another sign, so no view flips. Nothing is chosen on validation here, so every label
    trains; a third of the images is held out as the test set.
    """
    return resolve(
        "fixmatch",
        {
            "source": "digits",
            "steps": 300,
            "seed": seed,
            "views": {"weak": "weak-noflip", "strong": "randaugment/google-noflip"},
            "data": {"labels_per_class": 4, "val_rate": 0.0, "holdout_rate": 1 / 3},
            "model": {"name": "small"},
            "batch": {"labeled": 16, "mu": 4},
        },
    )


def run_demo(out: Path, seed: int = 0, progress: Progress = silent) -> dict[str, Any] | None:
    """Train supervised and FixMatch on the same 40 labels and report both; a finished demo is reported again."""
    return fit(demo_options(seed), out / f"seed-{seed}", resume=(out / f"seed-{seed}").exists(), progress=progress)
