"""Looking at how far explanations agree: of a trained network, and all along a supervised training beside its loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation
from typing import Any

import torch
from torch import Tensor

from eke.config import fingerprint, parse
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.engine.processes import choose_device
from eke.explain.harmony import MATCHINGS, all_cells
from eke.losses.correlation import CORRELATIONS
from eke.methods.harmonize import HELD_OUT_BLOCK, HarmonizeConfig, agreement_by_image, explained_layer
from eke.models.network import Network
from eke.progress import Progress
from eke.tasks.assemble import assemble
from eke.tasks.attention_maps import as_input
from eke.tasks.grid_cells import Place, Train, run_folder
from eke.tasks.grid_data import TableData
from eke.tasks.held_out_attention import held_out
from eke.tasks.options import FitOptions
from eke.tasks.prepare import Material, prepare
from eke.tasks.train import due, finish, run_and_save

LOSSES = tuple(f"{matching}/{measure}" for matching in MATCHINGS for measure in CORRELATIONS)
"""The twelve consistency losses of table 4."""


@dataclass(frozen=True)
class Agree:
    """Measure the agreement of Grad-CAM and guided backpropagation on a run's validation images."""

    kind: str = "agree"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {}

    def words(self, data: TableData) -> str:
        return f"agreement of maps on {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        assert place.start is not None
        folder = RunFolder(place.start)
        options = parse(FitOptions, folder.read(folder.config))
        device = choose_device(options.compute.device)
        images = held_out(prepare(options, device, progress), "validation").pixels
        network, card = load_classifier(folder.model, device)
        config = HarmonizeConfig()
        layer = explained_layer(network, config, card.size)
        similarity, flat = agreement_by_image(network, as_input(images.to(device)), config, layer)
        return {"agreement": float(similarity.mean()), "flat_rate": float(flat.float().mean())}


@dataclass(frozen=True, eq=False)
class Follow:
    """Train with labels, look at validation now and then, and correlate its loss with the consistency losses."""

    train: Train
    looks: int
    kind: str = "follow"
    uses_labels: bool = True

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {**self.train.determines(data), "looks": self.looks}

    def words(self, data: TableData) -> str:
        return f"{self.train.words(data)}, looked at {self.looks} times"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        options = self.train.options(place.data, place.seed, place.labels, place.start)
        assert isinstance(options, FitOptions)
        assert options.steps is not None
        material = prepare(options, choose_device(options.compute.device), progress)
        assembly, folder = assemble(options, material.pools), RunFolder(run_folder(place.folder))
        network, identity = assembly.average.module, fingerprint(options.model_dump(mode="json"))
        every = max(1, options.steps // self.looks)
        for step, journal in run_and_save(
            assembly, options, material, folder, identity, resume=True, progress=progress
        ):
            if due(step, every, options.steps):
                journal.flush()
                journal.write_evaluation(step, "validation", look(network, material))
        finish(options, material, folder, assembly, options.steps, progress)
        return over_time([line for line in folder.lines() if "evaluation" in line])


def look(network: Network, material: Material) -> dict[str, float]:
    """Return the supervised loss of the validation images, and their twelve consistency losses, -h.

    Args:
        network: in evaluation mode, with a class head.
        material: of the run.
    """
    device = material.pools.device
    pixels = as_input(material.pools.pixels.read(material.validation).to(device))
    labels = torch.as_tensor(material.images.labels[material.validation]).to(device)
    layer = explained_layer(network, HarmonizeConfig(), material.pools.card.size)
    found: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    for part in pixels.split(HELD_OUT_BLOCK):
        for (matching, measure), similarity in all_cells(network, part, layer, CORRELATIONS).items():
            found[f"{matching}/{measure}"].append(-similarity)
    with torch.no_grad():
        logits = torch.cat([network(part).logits for part in pixels.split(HELD_OUT_BLOCK)])
        supervised = float(network.kind.cross_entropy(logits, labels))
    return {"supervised_loss": supervised, **{name: float(torch.cat(values).mean()) for name, values in found.items()}}


def over_time(looks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Correlate each consistency loss with the supervised loss (Pearson), over looks.

    Args:
        looks: what `look` found; None where a loss was not finite.

    Returns:
        By name in LOSSES; those that were constant, or not finite once, are missing. And the same of time, "time": how
        far the supervised loss is a trend.
    """
    target = [line["supervised_loss"] for line in looks]
    found = {}
    for name in LOSSES:
        values = [line[name] for line in looks]
        if None not in values and None not in target and (r := _pearson(values, target)) is not None:
            found[name] = r
    if None not in target and (trend := _pearson(range(len(target)), target)) is not None:
        found["time"] = trend
    return found


def _pearson(a: Sequence[float], b: Sequence[float]) -> float | None:
    try:
        r = correlation(a, b)
    except StatisticsError:  # fewer than two, or all equal
        return None
    return r if math.isfinite(r) else None
