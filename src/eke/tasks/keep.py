"""Which weights of a run count: the last, or those of its best evaluation; and when no better one is waited for."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from eke.engine.journal import RunFolder
from eke.errors import ConfigError
from eke.files import write_atomic
from eke.models.network import Network
from eke.tasks.options import EvaluateOptions

FIGURES = {"labels": ("accuracy", "mean_average_precision"), "attention": ("attention_agreement",)}
"""What `evaluate.keep` compares -> its names in the journal, of which an evaluation has one; the higher, the better."""


DECISIONS = 0.95
"""Share of validation images that must be decided as at the start, for weights to count by `attention`: maps agree best
where a network no longer decides, and the accuracy on these images cannot fall by more than the rest."""


class Best(NamedTuple):
    """The best evaluation of a run so far."""

    step: int
    value: float
    n_since: int
    """Evaluations after it."""


def require_figure(options: EvaluateOptions, n_validation: int, compares_maps: bool) -> None:
    """Refuse a choice among evaluations that there will not be.

    Raises:
        ConfigError: there are no validation images, or the method compares no maps.
    """
    if options.keep != "last" and not n_validation:
        raise ConfigError(f"evaluate.keep={options.keep} needs validation images. Set evaluate.keep=last.")
    if options.keep == "attention" and not compares_maps:
        raise ConfigError(
            "evaluate.keep=attention needs a method that compares maps, such as gradcam_consistency or fixmatch with "
            "attention.weight=1. Set evaluate.keep=last."
        )


def best_of(lines: list[dict[str, Any]], keep: str) -> Best | None:
    """Find the first of the best evaluations in a journal, None where there is none yet.

    That of the start counts only where all later ones are worse.
    """
    evaluations = [line for line in lines if "evaluation" in line]
    if not evaluations:
        return None
    figure = next(name for name in FIGURES[keep] if name in evaluations[0])
    values = [-math.inf if line[figure] is None else line[figure] for line in evaluations]
    loyal = [keep != "attention" or line.get("decisions_kept", 1.0) >= DECISIONS for line in evaluations]
    candidates = [i for i, may_count in enumerate(loyal) if may_count]
    place = max(candidates, key=lambda i: (values[i], evaluations[i]["step"] > 0, -i))
    return Best(evaluations[place]["step"], values[place], len(values) - 1 - place)


def decisions_kept(folder: RunFolder, decided: NDArray[Any], step: int) -> float:
    """Return the share of validation images that are decided as at the start, whose decisions step 0 writes down.

    Args:
        folder: of the run.
        decided: (N,) classes, or (N, K) bool of several labels.
        step: after which.
    """
    if not step:

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, decided=decided)

        write_atomic(folder.start_decisions, write)
        return 1.0
    with np.load(folder.start_decisions, allow_pickle=False) as saved:
        same = saved["decided"] == decided
    return float(same.reshape(len(decided), -1).all(1).mean())


def keep_if_best(folder: RunFolder, options: EvaluateOptions, network: Network, step: int) -> bool:
    """Keep the weights if the evaluation after `step` is the best so far; tell whether to stop.

    It is called after each evaluation and before the checkpoint of its step, so that a run that goes on from a
    checkpoint finds the weights that it would have kept.
    """
    if options.keep == "last":
        return False
    best = best_of(folder.lines(), options.keep)
    if best is not None and best.step == step:
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        write_atomic(folder.kept, lambda path: path.write_bytes(save(state)))
    return best is not None and options.patience is not None and best.n_since >= options.patience


def take_kept(folder: RunFolder, options: EvaluateOptions, network: Network) -> Best | None:
    """Put the kept weights into the network, and say which evaluation they are from; None where the last count."""
    best = None if options.keep == "last" else best_of(folder.lines(), options.keep)
    if best is None:
        return None
    network.load_state_dict(load(folder.kept.read_bytes()))
    return best


def kept_notes(best: Best | None, options: EvaluateOptions) -> list[str]:
    """Say which weights count, where they are not the last."""
    if best is None:
        return []
    chosen = (
        "validation labels, so that its validation figure is too high"
        if options.keep == "labels"
        else "agreement of maps"
    )
    if not best.step:
        return [f"The weights that it started with count: all later ones are worse by {chosen}."]
    return [f"The weights of step {best.step:,} count: of all evaluations, the best by {chosen}."]
