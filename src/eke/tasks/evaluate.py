"""`eke eval`: how good is a trained run on labeled images."""

from pathlib import Path
from typing import Any

import numpy as np

from eke.data.images import ImageSet, with_classes
from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_classifier
from eke.engine.predict import Predictions, predict_probs
from eke.engine.processes import choose_device
from eke.progress import Progress, silent
from eke.report.content import METRICS
from eke.tasks.measure import labeled_only, measure, metrics_of
from eke.tasks.prepare import open_pixels


def predict_source(
    run: Path, source: str, progress: Progress = silent, *, labeled: bool = False
) -> tuple[Predictions, ImageSet, ModelCard, list[dict[str, str]]]:
    """Predict every image of a source with a trained run.

    Args:
        run: a finished run folder.
        source: anything that `open_images` takes.
        progress: shows hashing, decoding and predicting.
        labeled: the source's labels matter: its classes must be the run's.

    Returns:
        Predictions in the order of the images left, those images, the model's card, and what was set aside.
    """
    device = choose_device("auto")
    network, card = load_classifier(RunFolder(run).model, device)
    images, pixels, rows, problems = open_pixels(source, card, progress)
    kept = images.select(rows)
    if labeled:
        kept = with_classes(kept, card.classes, several=card.several)
    with progress("predicting", len(rows)) as advance:
        probs = predict_probs(network, pixels.resident(device).read, rows, device, advance)
    labels = kept.labels if labeled else np.full(probs.shape if card.several else len(rows), -1, np.int64)
    predictions = Predictions(np.array(kept.ids), labels, probs.numpy(), np.array(card.thresholds))
    return predictions, kept, card, problems


def evaluate(run: Path, source: str, progress: Progress = silent) -> dict[str, Any]:
    """Return the figures of a run on labeled images.

    Raises:
        CheckpointError: the run is not finished or its files are damaged.
        DataError: no image is labeled, or a class is unknown to the run.
    """
    predictions, _, card, problems = predict_source(run, source, progress, labeled=True)
    known = labeled_only(predictions)
    unlabeled = len(predictions.labels) - len(known.labels)
    return {
        "run": str(run),
        "source": source,
        **measure(known, card.classes),
        "n_without_label": unlabeled,
        "problems": problems,
    }


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
        return "\n".join([*lines, *_left_out(figures, len(present))])
    lines += ["", f"  {'class':<{width}} {'images':>7}  {'recall':<20}precision"]
    for row in sorted(present, key=lambda row: row["recall"]["value"])[:25]:
        recall = row["recall"]
        interval = f"{100 * recall['value']:.1f} [{100 * recall['low']:.1f}, {100 * recall['high']:.1f}]"
        precision = "-" if row["precision"] is None else f"{100 * row['precision']:.1f}"
        lines.append(f"  {row['class']:<{width}} {row['n']:>7}  {interval:<20}{precision}")
    return "\n".join([*lines, *_left_out(figures, len(present))])


def _left_out(figures: dict[str, Any], n_classes: int) -> list[str]:
    lines = [f"  ... and {n_classes - 25} better classes (--json lists all)"] if n_classes > 25 else []
    if figures["problems"]:
        lines.append(f"  {len(figures['problems'])} images were set aside (--json names them)")
    return lines
