"""Further networks beside a run's, to see what they disagree on."""

from collections.abc import Sequence
from pathlib import Path

import torch

from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_classifier
from eke.errors import ConfigError
from eke.models.network import Network


def load_ensemble(
    run: Path, card: ModelCard, others: Sequence[Path], device: torch.device
) -> list[tuple[Path, Network]]:
    """Read further networks.

    Raises:
        ConfigError: one reads images otherwise than the run, or knows other classes; or a run is named twice.
        CheckpointError: one is not finished.
    """
    found = []
    for other in others:
        network, its = load_classifier(RunFolder(other).model, device)
        for name in ("classes", "size", "channels", "fit", "clip", "several"):
            if getattr(its, name) != getattr(card, name):
                raise ConfigError(
                    f"{other} has {name} {getattr(its, name)} and {run} {getattr(card, name)}: an ensemble looks at "
                    "the same images and decides between the same classes. Leave it out."
                )
        found.append((other, network))
    if len({each.resolve() for each in (run, *others)}) <= len(others):
        raise ConfigError("The same run is named twice: an ensemble is of different ones.")
    return found
