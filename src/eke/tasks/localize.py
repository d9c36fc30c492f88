"""Does a network look where the objects are? Its Grad-CAM beside the boxes of a source, and beside what knows nothing.

A pair is an image and one of its classes that has a box in it. Its map explains that class, recognized or not, at one
layer. The paper measures recognized pairs only (true positives); since a better network has more of them, and harder
ones, all labeled pairs and those that are missed stand beside them.

Source: Harmonizing Attention, section 4.4; `eke.explain.boxes` says how a map is laid beside boxes. Maps are signed, as
in its eq. 3: without a ReLU, which would move the middle of their scale.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.errors import CheckpointError
from eke.explain.boxes import box_mask, center_figures, figures, threshold_sweep
from eke.explain.places import random_maps
from eke.files import write_atomic
from eke.metrics.localization import best_threshold, common_pairs, pair_mean_parts, pair_means
from eke.metrics.statistics import bootstrap, compare_images
from eke.models.network import Network
from eke.progress import Progress, silent
from eke.tasks.attention_maps import BLOCK, attention_maps, deepest_layer
from eke.tasks.measure import plain
from eke.tasks.prepare import Material, Part

MAP, CENTER, RANDOM = "map", "center", "random"
"""Who marks a place: the network's map, a box in the center as large as the mean of all boxes' areas, random maps."""
FIGURES = ("overlap", "pointing", "energy")
TOLERANCE_RATE = 15 / 224
"""Of the shorter side: how far beside an object the hottest place still counts as a hit."""


class Located(NamedTuple):
    """What was measured of P pairs; saved per run, so that runs can be compared pair by pair."""

    ids: NDArray[Any]
    """(N,) ids of all measured images, text."""
    pairs: NDArray[np.int64]
    """(P, 2) position in `ids` and class, sorted."""
    predicted: NDArray[np.bool_]
    """(P,) whether the class was recognized."""
    figures: NDArray[np.float64]
    """(3, 3, P): map, center and random by overlap, pointing and energy; in [0, 1]."""
    sweep: NDArray[np.float64]
    """(P, 101) overlap of the map at the thresholds 0, 0.01, ... 1."""

    def save(self, path: Path) -> None:
        """Write an .npz atomically; it holds arrays only, no code."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **self._asdict())

        write_atomic(path, write)

    @classmethod
    def load(cls, path: Path) -> "Located":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in cls._fields})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"The file {path} cannot be read: {error}.") from None

    def where(self, chosen: NDArray[np.bool_]) -> "Located":
        """Return some of the pairs, (P,) bool; the images stay."""
        return self._replace(
            pairs=self.pairs[chosen],
            predicted=self.predicted[chosen],
            figures=self.figures[:, :, chosen],
            sweep=self.sweep[chosen],
        )


def locate(
    network: Network,
    part: Part,
    predictions: Predictions,
    classes: Sequence[str],
    layer: str,
    progress: Progress = silent,
) -> Located | None:
    """Lay the maps of a network beside the boxes of images.

    Args:
        network: in evaluation mode, with a class head.
        part: labeled images.
        predictions: of the part's images, in their order.
        classes: names in the order of the logits.
        layer: whose Grad-CAM is taken.
        progress: shows the pairs.

    Returns:
        None where no image has a box inside what the network sees of it.
    """
    pairs, masks = _pairs(part, classes)
    if not pairs:
        return None
    index, recognized = np.array(pairs), predictions.predicted
    if not predictions.several:
        recognized = recognized[:, None] == np.arange(len(classes))
    size = (masks[0].shape[0], masks[0].shape[1])
    tolerance = TOLERANCE_RATE * min(size)
    area_rate = float(torch.stack([mask.double().mean() for mask in masks]).mean())
    found, sweeps = [], []
    with progress("laying maps beside boxes", len(pairs)) as advance:
        for start in range(0, len(pairs), BLOCK):
            rows, wanted = zip(*pairs[start : start + BLOCK], strict=True)
            images = part.pixels.read([part.rows[row] for row in rows]).to(network.mean.device)
            explained = torch.tensor(wanted, dtype=torch.int64, device=images.device)
            (maps,) = attention_maps(network, images, explained, ("gradcam",), (layer,)).values()
            boxes = torch.stack(masks[start : start + BLOCK])
            chance = random_maps(len(maps), (maps.shape[1], maps.shape[2]), seed=start)
            each = (
                figures(maps, boxes, tolerance=tolerance),
                center_figures(boxes, area_rate, tolerance),
                figures(chance, boxes, tolerance=tolerance),
            )
            found.append(torch.stack([torch.stack(list(one)) for one in each]).numpy())
            sweeps.append(threshold_sweep(maps, boxes).numpy())
            advance(len(rows))
    return Located(
        ids=predictions.ids,
        pairs=index,
        predicted=recognized[index[:, 0], index[:, 1]],
        figures=np.concatenate(found, 2),
        sweep=np.concatenate(sweeps),
    )


def _pairs(part: Part, classes: Sequence[str]) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Return the pairs, sorted, and the mask (H, W) bool of each: the union of the boxes of the class."""
    if part.images.boxes is None:
        return [], []
    size = (part.pixels.shape[-2], part.pixels.shape[-1])
    pairs, masks = [], []
    for position, row in enumerate(part.rows):
        names = part.images.label_names(row)
        for label, name in enumerate(classes):
            seen = boxes_seen(part, row, name, size)
            if name in names and len(seen):
                pairs.append((position, label))
                masks.append(box_mask(seen, size))
    return pairs, masks


def boxes_seen(part: Part, row: int, name: str, size: tuple[int, int]) -> Tensor:
    """Return the boxes (M, 4) of a class in pixels of the cached image (H, W), without those that its crop cut off."""
    boxes = [box for box in part.images.boxes[row] if box.name == name] if part.images.boxes else []
    affine = part.affine[row]
    corners = torch.tensor([[[box.left, box.top], [box.right, box.bottom]] for box in boxes], dtype=torch.float64)
    moved = corners.reshape(-1, 2, 2) @ affine[:, :2].double().T + affine[:, 2].double()
    limits = torch.tensor([size[1], size[0]], dtype=torch.float64)
    low, high = moved[:, 0].clamp(min=0).minimum(limits), moved[:, 1].clamp(min=0).minimum(limits)
    return torch.cat([low, high], 1)[(low < high).all(1)]


def measure_boxes(
    network: Network,
    material: Material,
    predictions: Mapping[str, Predictions],
    layer: str | None,
    folder: RunFolder,
    progress: Progress,
) -> dict[str, Any]:
    """Lay maps beside the boxes of validation and test, save what was found, and return it in short.

    Args:
        network: in evaluation mode, with a class head.
        material: of the run.
        predictions: of each evaluated part.
        layer: whose Grad-CAM is taken; None: the deepest that has a map.
        folder: of the run.
        progress: shows the pairs.

    Returns:
        Part -> what `summarize` says; empty where no image has a box.
    """
    if all(material.part(name).images.boxes is None for name in predictions):
        return {}
    card = material.pools.card
    layer = layer or deepest_layer(network, card.size)
    found: dict[str, Any] = {}
    threshold = None
    for name in sorted(predictions, reverse=True):  # validation first: it chooses the threshold for test
        located = locate(network, material.part(name), predictions[name], card.classes, layer, progress)
        if located is None:
            continue
        located.save(folder.boxes(name))
        found[name] = summarize(located, layer, threshold)
        threshold = best_threshold(located.sweep).threshold
    return found


def summarize(located: Located, layer: str, threshold: float | None = None) -> dict[str, Any]:
    """Return plain values: means with intervals over images, of recognized, missed and all labeled pairs.

    Args:
        located: of one part.
        layer: whose maps they are.
        threshold: chosen on other images: the overlap at it stands beside that at 0.5.
    """
    groups = {
        "true_positives": located.predicted,
        "missed": ~located.predicted,
        "labeled": np.ones_like(located.predicted),
    }
    found = {name: _means(located.where(chosen), threshold) for name, chosen in groups.items()}
    return {"map": f"gradcam@{layer}", "relu": False, **found}


def _means(located: Located, threshold: float | None) -> dict[str, Any]:
    means: dict[str, Any] = {"n_pairs": len(located.pairs), "n_images": len(np.unique(located.pairs[:, 0]))}
    if not len(located.pairs):
        return means
    n = len(located.ids)
    for who, rows in zip((MAP, CENTER, RANDOM), located.figures, strict=True):
        means[who] = {
            figure: plain(bootstrap(pair_mean_parts(values, located.pairs, n)))
            for figure, values in zip(FIGURES, rows, strict=True)
        }
        means[who]["overlap_over_classes"] = pair_means(rows[0], located.pairs).over_classes
    if threshold is not None:
        values = located.sweep[:, round(threshold * (located.sweep.shape[1] - 1))]
        overlap = plain(bootstrap(pair_mean_parts(values, located.pairs, n)))
        means["at_threshold"] = {"threshold": threshold, "overlap": overlap}
    return means


def difference_of_boxes(a: Located, b: Located) -> dict[str, Any]:
    """Return the map's overlap of a - b on the same images: on each one's true positives, on common ones, on all.

    Returns:
        Per ground value, interval, p and n_pairs of each; a ground without pairs is left out. Nothing where the two
        were measured on different images.
    """
    if a.ids.tolist() != b.ids.tolist():
        return {}
    common = common_pairs(a.pairs[a.predicted], b.pairs[b.predicted])
    grounds = {
        "true_positives": (a.predicted, b.predicted),
        "common_true_positives": (_among(a.pairs, common), _among(b.pairs, common)),
        "labeled": (np.ones_like(a.predicted), np.ones_like(b.predicted)),
    }
    found = {}
    for name, chosen in grounds.items():
        sides = [each.where(mine) for each, mine in zip((a, b), chosen, strict=True)]
        if not all(len(side.pairs) for side in sides):
            continue
        parts = [pair_mean_parts(side.figures[0, 0], side.pairs, len(side.ids)) for side in sides]
        paired = compare_images(*parts)
        found[name] = {**plain(paired.interval), "p": paired.p, "n_pairs": [len(side.pairs) for side in sides]}
    return found


def box_lines(results: Mapping[str, Any], part: str) -> list[str]:
    """Lay out as text how well maps lie, beside the baseline's, a box in the center and random maps."""
    boxes = results.get("boxes", {}).get(part)
    if not boxes:
        return []
    baseline = results.get("baseline") or {}
    others = baseline.get("boxes", {}).get(part)
    rows = [(f"{results['method']}, {boxes['map']}", boxes, MAP)]
    if others:
        rows.append((f"{baseline['method']} (baseline)", others, MAP))
    rows += [("box in the center", boxes, CENTER), ("random maps", boxes, RANDOM)]
    width = max(len(name) for name, _, _ in rows) + 2
    n = boxes["labeled"]["n_pairs"]
    heads = f"{'true positives':<26}{'all labeled':<24}"
    lines = ["", f"{f'overlap with boxes, {part} ({n:,} pairs)':<{width + 2}}", f"  {'':<{width}}{heads}"]
    for name, found, who in rows:
        cells = [_overlap_cell(found[group], who) for group in ("true_positives", "labeled")]
        lines.append(f"  {name:<{width}}{cells[0]:<26}{cells[1]}")
    difference = results.get("boxes_difference", {}).get(part, {})
    if difference:
        grounds = ("common_true_positives", "labeled")
        cells = [_percent(difference[ground], "+") if ground in difference else "-" for ground in grounds]
        lines.append(f"  {'difference, common pairs':<{width}}{cells[0]:<26}{cells[1]}")
    return lines


def _overlap_cell(group: Mapping[str, Any], who: str) -> str:
    return _percent(group[who]["overlap"]) if who in group else "-"


def _percent(interval: Mapping[str, Any], sign: str = "") -> str:
    if interval["low"] is None:
        return f"{100 * interval['value']:{sign}.1f} %"
    value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}] %"


def _among(pairs: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    known = {tuple(pair) for pair in wanted.tolist()}
    return np.array([tuple(pair) in known for pair in pairs.tolist()], dtype=bool)
