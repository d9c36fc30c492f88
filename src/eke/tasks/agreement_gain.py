"""Which images harmonizing helps: those whose explanations agreed before, or those whose did not.

The paper found the latter "challenging" (section 6) and plots the gain in agreement against the agreement before, one
point per image (supplementary material). Here the held-out images are cut into quarters by their agreement before.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.errors import CheckpointError
from eke.files import write_atomic
from eke.methods.harmonize import HarmonizeConfig, agreement_by_image, explained_layer
from eke.metrics.statistics import Floats, bootstrap, per_image_mean
from eke.tasks.attention_maps import as_input
from eke.tasks.held_out_attention import held_out
from eke.tasks.measure import plain
from eke.tasks.options import FitOptions, method_options
from eke.tasks.prepare import Material

N_QUARTERS = 4
N_PER_QUARTER = 4
"""Fewer images are not cut into quarters."""


class Agreements(NamedTuple):
    """How far both explanations of each held-out image agree, before and after; saved per run."""

    before: Floats
    """(N,) in [-1, 1]; NaN where a map was flat."""
    after: Floats
    """(N,) likewise, of the same images."""

    def save(self, path: Path) -> None:
        """Write an .npz atomically; it holds arrays only, no code."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, before=self.before, after=self.after)

        write_atomic(path, write)

    @classmethod
    def load(cls, path: Path) -> "Agreements":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["before"], file["after"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"The agreements {path} cannot be read: {error}. Harmonize the run again.") from None

    def known(self) -> "Agreements":
        """Return those of the images of which no map is flat."""
        both = np.isfinite(self.before) & np.isfinite(self.after)
        return Agreements(self.before[both], self.after[both])


def gain_by_quarter(agreements: Agreements) -> dict[str, Any] | None:
    """Return, as plain values, the gain in agreement of all images and of each quarter by agreement before.

    Beware of regression to the mean: what is low by chance is higher next time, so that the lowest quarter gains, and
    the highest loses, also where nothing was learned.

    Args:
        agreements: of N images.

    Returns:
        n and n_flat (left out); gain, with its bootstrap interval over images; gained_rate; and `quarters`, from the
        lowest agreement to the highest: n, low and high (of the agreement before), means before and after, gain. None
        where a quarter would have fewer than 4 images.
    """
    known = agreements.known()
    if len(known.before) < N_QUARTERS * N_PER_QUARTER:
        return None
    gain = known.after - known.before
    order = np.argsort(known.before, kind="stable")
    return {
        "n": len(gain),
        "n_flat": len(agreements.before) - len(gain),
        "gain": _mean(gain),
        "gained_rate": float((gain > 0).mean()),
        "quarters": [
            {
                "n": len(rows),
                "low": float(known.before[rows].min()),
                "high": float(known.before[rows].max()),
                "before": float(known.before[rows].mean()),
                "after": float(known.after[rows].mean()),
                "gain": _mean(gain[rows]),
            }
            for rows in np.array_split(order, N_QUARTERS)
        ],
    }


def measure_gain(options: FitOptions, folder: RunFolder, material: Material) -> dict[str, Any] | None:
    """Measure both explanations of held-out images before and after, and save what came of each image.

    Args:
        options: of the run.
        folder: of the finished run.
        material: its images; validation images are looked at or, where there are none, test images.

    Returns:
        `part` and what `gain_by_quarter` says; None where the run harmonized no trained run, or of too few images.
    """
    parts = material.evaluated()
    if options.method["name"] != "harmonize" or options.init is None or options.init != options.baseline or not parts:
        return None
    images = as_input(held_out(material, parts[0]).pixels.to(material.pools.device))
    config = method_options(options)
    assert isinstance(config, HarmonizeConfig)
    models = Path(options.init) / "model", folder.model
    agreements = Agreements(*(_agreements(model, images, config, material.pools.device) for model in models))
    agreements.save(folder.agreements)
    found = gain_by_quarter(agreements)
    return found and {"part": parts[0], **found}


def _agreements(model: Path, images: Tensor, config: HarmonizeConfig, device: torch.device) -> Floats:
    network, card = load_classifier(model, device)
    similarity, flat = agreement_by_image(network, images, config, explained_layer(network, config, card.size))
    return np.where(flat.numpy(), np.nan, similarity.double().numpy())


def _mean(values: Floats) -> dict[str, float | None]:
    return plain(bootstrap(per_image_mean(values, (-2.0, 2.0))))
