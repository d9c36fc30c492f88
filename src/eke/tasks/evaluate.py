"""`eke eval`: how good is a trained run on labeled images."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eke.data.cache import ChosenPixels
from eke.data.images import ImageSet, with_classes
from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_classifier
from eke.engine.predict import Predictions, predict_probs
from eke.engine.processes import choose_device
from eke.models.network import Network
from eke.progress import Progress, silent
from eke.report.content import METRICS
from eke.tasks.attention_maps import deepest_layer
from eke.tasks.localize import box_lines, locate, summarize
from eke.tasks.measure import labeled_only, measure, metrics_of
from eke.tasks.prepare import Part, open_pixels


class Opened(NamedTuple):
    """A trained classifier, and a source as it reads it."""

    network: Network
    card: ModelCard
    part: Part
    """Its images are those that can be read; its rows are all of them."""
    problems: list[dict[str, str]]


def open_source(run: Path, source: str, progress: Progress = silent, *, labeled: bool = False) -> Opened:
    """Open a finished run and a source.

    Args:
        run: a finished run folder.
        source: anything that `open_images` takes.
        progress: shows hashing and decoding.
        labeled: the source's labels matter: its classes must be the run's.
    """
    device = choose_device("auto")
    network, card = load_classifier(RunFolder(run).model, device)
    images, cache, rows, problems = open_pixels(source, card, progress)
    kept = images.select(rows)
    if labeled:
        kept = with_classes(kept, card.classes, several=card.several)
    pixels = ChosenPixels(cache.resident(device), rows)
    return Opened(network, card, Part(kept, pixels, list(range(len(rows))), cache.affine[rows]), problems)


def predict_opened(opened: Opened, progress: Progress = silent, *, labeled: bool = False) -> Predictions:
    """Predict every image; where labels do not matter they are unknown."""
    network, card, part, _ = opened
    with progress("predicting", len(part.rows)) as advance:
        probs = predict_probs(network, part.pixels.read, part.rows, network.mean.device, advance)
    unknown = np.full(probs.shape if card.several else len(part.rows), -1, np.int64)
    labels = part.images.labels if labeled else unknown
    return Predictions(np.array(part.images.ids), labels, probs.numpy(), np.array(card.thresholds))


def predict_source(
    run: Path, source: str, progress: Progress = silent
) -> tuple[Predictions, ImageSet, ModelCard, list[dict[str, str]]]:
    """Predict every image of a source with a trained run; arguments as of `open_source`.

    Returns:
        Predictions in the order of the images left, those images, the model's card, and what was set aside.
    """
    opened = open_source(run, source, progress)
    return predict_opened(opened, progress), opened.part.images, opened.card, opened.problems


def evaluate(run: Path, source: str, progress: Progress = silent) -> dict[str, Any]:
    """Return the figures of a run on labeled images, and on boxes where the source has some.

    Raises:
        CheckpointError: the run is not finished or its files are damaged.
        DataError: no image is labeled, or a class is unknown to the run.
    """
    opened = open_source(run, source, progress, labeled=True)
    predictions = predict_opened(opened, progress, labeled=True)
    known = labeled_only(predictions)
    figures = {
        "run": str(run),
        "source": source,
        **measure(known, opened.card.classes),
        "n_without_label": len(predictions.labels) - len(known.labels),
        "problems": opened.problems,
    }
    if opened.part.images.boxes is not None:
        layer = deepest_layer(opened.network, opened.card.size)
        located = locate(opened.network, opened.part, predictions, opened.card.classes, layer, progress)
        figures["boxes"] = located and summarize(located, layer)
    return figures


def render(figures: dict[str, Any]) -> str:
    """Lay figures out as text: overall with intervals, then per class, worst first."""
    lines = [f"{figures['run']} on {figures['n']:,} labeled images of {figures['source']}"]
    for metric in metrics_of(figures):
        value, low, high = (100 * figures[metric][end] for end in ("value", "low", "high"))
        lines.append(f"  {METRICS[metric].words:<20}{value:5.1f} %   [{low:.1f}, {high:.1f}]")
    width = max(12, *(len(row["class"]) for row in figures["per_class"]))
    present = [row for row in figures["per_class"] if row["n"]]
    if "average_precision" in figures["per_class"][0]:
        lines += ["", f"  {'class':<{width}} {'images':>7}  {'average precision':<20}F1 (from a probability of)"]
        for row in sorted(present, key=lambda row: row["average_precision"])[:25]:
            precision, f1 = (f"{100 * row[name]:.1f}" for name in ("average_precision", "f1"))
            lines.append(f"  {row['class']:<{width}} {row['n']:>7}  {precision:<20}{f1} ({row['threshold']:.3f})")
        return "\n".join([*lines, *_left_out(figures, len(present)), *_boxes(figures)])
    lines += ["", f"  {'class':<{width}} {'images':>7}  {'recall':<20}precision"]
    for row in sorted(present, key=lambda row: row["recall"]["value"])[:25]:
        recall = row["recall"]
        interval = f"{100 * recall['value']:.1f} [{100 * recall['low']:.1f}, {100 * recall['high']:.1f}]"
        precision = "-" if row["precision"] is None else f"{100 * row['precision']:.1f}"
        lines.append(f"  {row['class']:<{width}} {row['n']:>7}  {interval:<20}{precision}")
    return "\n".join([*lines, *_left_out(figures, len(present))])


def _boxes(figures: dict[str, Any]) -> list[str]:
    boxes = figures.get("boxes")
    return box_lines({"method": "the run", "boxes": {"these images": boxes}}, "these images") if boxes else []


def _left_out(figures: dict[str, Any], n_classes: int) -> list[str]:
    lines = [f"  ... and {n_classes - 25} better classes (--json lists all)"] if n_classes > 25 else []
    if figures["problems"]:
        lines.append(f"  {len(figures['problems'])} images were set aside (--json names them)")
    return lines
