"""`eke predict`: a CSV of the class of each image."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eke.data.rows import spell_labels
from eke.engine.predict import Predictions
from eke.files import write_atomic
from eke.progress import Progress, silent
from eke.tasks.evaluate import predict_source


def predict(run: Path, source: str, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write id, path, class and probability of each image that can be read; of several labels, labels and all of them.

    Returns:
        path, n_images, and the images that were set aside.
    """
    predictions, images, card, problems = predict_source(run, source, progress)
    columns, cells = (_several if card.several else _one)(predictions, card.classes)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["id", "path", *columns])
            for identity, path, row in zip(images.ids, images.paths, cells, strict=True):
                table.writerow([identity, path, *row])

    write_atomic(out, write)
    return {"path": str(out), "n_images": len(images), "problems": problems}


def _one(predictions: Predictions, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    rows = zip(predictions.predicted, predictions.probs.max(1), strict=True)
    return ["class", "probability"], [[classes[label], f"{probability:.6f}"] for label, probability in rows]


def _several(predictions: Predictions, classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the classes that reach their thresholds, as `--labels` reads them, and the probability of each class."""
    rows = zip(predictions.predicted, predictions.probs, strict=True)
    return ["labels", *(f"probability of {name}" for name in classes)], [
        [spell_labels(itertools.compress(classes, chosen)), *(f"{p:.6f}" for p in probs)] for chosen, probs in rows
    ]
