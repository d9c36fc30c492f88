"""The part of a run's report that lays its maps beside boxes, and shows some: drawn at random, and changed the most."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.metrics.statistics import Interval, Paired
from eke.report.boxes import draw_boxes
from eke.report.content import BoxReport, BoxRow
from eke.report.page import Picture, Sheet
from eke.report.pictures import Image, picture_of
from eke.report.words import percent
from eke.tasks.attention_maps import as_input, attention_maps
from eke.tasks.localize import CENTER, FIGURES, MAP, RANDOM, Located, boxes_seen
from eke.tasks.prepare import Material, Part
from eke.tasks.side_by_side import heat

N_DRAWN, N_CHANGED = 3, 3
"""Pairs that are shown: drawn at random, and of the largest change in overlap."""

_GROUNDS = {
    "true_positives": "recognized by each",
    "common_true_positives": "recognized by both",
    "labeled": "all",
}


def box_report(
    results: Mapping[str, Any], runs: Sequence[tuple[str, Path]], material: Material, split: str
) -> BoxReport | None:
    """Lay out what was measured beside boxes, and some images with them.

    Args:
        results: the run's.
        runs: what each is called, and its folder; the run itself comes last, before it the run it is compared with.
        material: their images.
        split: the part that is reported.

    Returns:
        None where no image of the part has a box.
    """
    boxes = results.get("boxes", {}).get(split)
    if not boxes:
        return None
    before = (results.get("baseline") or {}).get("boxes", {}).get(split)
    shown, measured = (runs, [before, boxes]) if before else (runs[-1:], [boxes])
    rows = [_row(name, found, MAP) for (name, _), found in zip(shown, measured, strict=True)]
    differences = results.get("boxes_difference", {}).get(split, {})
    return BoxReport(
        map=boxes["map"],
        n_pairs=boxes["labeled"]["n_pairs"],
        n_recognized=boxes["true_positives"]["n_pairs"],
        missed=_interval(boxes["missed"], MAP, "overlap"),
        rows=[*rows, _row("box in the center", boxes, CENTER), _row("random maps", boxes, RANDOM)],
        differences=[
            (_GROUNDS[name], Paired(_ends(each), each["p"]), min(each["n_pairs"])) for name, each in differences.items()
        ],
        sheets=_sheets(shown, material, split, boxes["map"].partition("@")[2]),
    )


def _row(name: str, found: Mapping[str, Any], who: str) -> BoxRow:
    groups = [found["true_positives"], found["labeled"]]
    overlap, pointing, energy = (
        (_interval(groups[0], who, figure), _interval(groups[1], who, figure)) for figure in FIGURES
    )
    return BoxRow(name, "", overlap, pointing, energy)


def _interval(group: Mapping[str, Any], who: str, figure: str) -> Interval | None:
    return _ends(group[who][figure]) if who in group else None


def _ends(values: Mapping[str, Any]) -> Interval:
    return Interval(*(math.nan if values[end] is None else values[end] for end in ("value", "low", "high")))


def _sheets(runs: Sequence[tuple[str, Path]], material: Material, split: str, layer: str) -> list[Sheet]:
    """Show pairs: the image with the boxes of the class, and both maps of the class, one row per run."""
    found = [Located.load(RunFolder(path).boxes(split)) for _, path in runs]
    overlaps = np.stack([each.figures[0, 0] for each in found])
    order = torch.randperm(overlaps.shape[1], generator=torch.Generator().manual_seed(0)).numpy()
    chosen = [(int(i), "drawn at random") for i in order[:N_DRAWN]]
    if len(runs) > 1:
        others = np.sort(order[N_DRAWN:])
        change = np.abs(overlaps[-1] - overlaps[0])[others]
        largest = others[np.argsort(-change, kind="stable")[:N_CHANGED]]
        chosen += [(int(i), "among the largest changes") for i in largest]
    part = material.part(split)
    rows = [part.rows[found[0].pairs[i, 0]] for i, _ in chosen]
    labels = [int(found[0].pairs[i, 1]) for i, _ in chosen]
    places = [i for i, _ in chosen]
    pictures = [
        _pictures(path, part, rows, labels, layer, overlap[places])
        for (_, path), overlap in zip(runs, overlaps, strict=True)
    ]
    classes = material.pools.card.classes
    return [
        Sheet(
            f"{how}: {part.images.paths[row]}, labeled {part.images.label_words(row)}; maps of {classes[label]}",
            (),
            [(name, pictures[k][place]) for k, (name, _) in enumerate(runs)],
        )
        for place, ((_, how), row, label) in enumerate(zip(chosen, rows, labels, strict=True))
    ]


def _pictures(
    run: Path, part: Part, rows: Sequence[int], labels: Sequence[int], layer: str, overlaps: np.ndarray
) -> list[list[Picture]]:
    """Return for each pair the image, Grad-CAM and guided backpropagation of one run, the boxes drawn over each."""
    network, card = load_classifier(run / "model", torch.device("cpu"))
    pixels = part.pixels.read(list(rows)).cpu()
    targets = torch.tensor(labels)
    cam, guided = attention_maps(network, pixels, targets, ("gradcam", "guided"), (layer,)).values()
    with torch.no_grad():
        probs = network.kind.probabilities(network(as_input(pixels)).logits)
    shown = []
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        size = (pixels.shape[-2], pixels.shape[-1])
        boxes = [tuple(box) for box in boxes_seen(part, row, card.classes[label], size).tolist()]
        sure = f"{card.classes[label]}: {percent(float(probs[i, label]))}"

        def boxed(image: Image, boxes: list[Any] = boxes) -> Image:
            return draw_boxes(image, boxes, image.shape[0] // pixels.shape[-2])

        shown.append(
            [
                Picture(boxed(picture_of(pixels[i])), (sure,), f"{part.images.paths[row]} with its boxes"),
                Picture(boxed(heat(pixels[i], cam[i])), ("gradcam", f"overlap {percent(overlaps[i])}"), "Grad-CAM"),
                Picture(boxed(heat(pixels[i], guided[i])), ("guided",), "guided backpropagation"),
            ]
        )
    return shown
