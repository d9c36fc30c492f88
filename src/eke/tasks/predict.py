"""`eke predict`: a CSV of the class of each image."""

import csv
from pathlib import Path
from typing import Any

from eke.files import write_atomic
from eke.progress import Progress, silent
from eke.tasks.evaluate import predict_source


def predict(run: Path, source: str, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write id, path, class and probability of each image that can be read.

    Returns:
        path, n_images, and the images that were set aside.
    """
    predictions, images, card, problems = predict_source(run, source, progress)
    best = predictions.probs.argmax(1)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["id", "path", "class", "probability"])
            for row, (identity, path) in enumerate(zip(images.ids, images.paths, strict=True)):
                probability = predictions.probs[row, best[row]]
                table.writerow([identity, path, card.classes[best[row]], f"{probability:.6f}"])

    write_atomic(out, write)
    return {"path": str(out), "n_images": len(images), "problems": problems}
