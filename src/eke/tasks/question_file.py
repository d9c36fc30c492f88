"""The CSV that asks for labels: ranked images with reasons, and an empty column to fill in."""

import csv
from collections.abc import Sequence
from pathlib import Path

from eke.acquire.contract import Pick
from eke.data.images import ImageSet
from eke.files import write_atomic

COLUMNS = ("rank", "id", "path", "score", "reason", "control", "round")
"""Before the empty column `label`, or `labels` where images may have several."""


def write_questions(
    out: Path, images: ImageSet, picks: Sequence[tuple[int, Pick]], controls: set[str], number: int, column: str
) -> None:
    """Write the CSV atomically; `--labels` reads it once its label column is filled in, wholly or partly.

    Args:
        out: the file.
        images: of the source.
        picks: rows of the source, the most wanted first.
        controls: ids of images that were drawn at random.
        number: of the round, from 1.
        column: that is filled in.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, column])
            for rank, (row, pick) in enumerate(picks, 1):
                control = int(images.ids[row] in controls)
                cells = [rank, images.ids[row], images.paths[row], f"{pick.score:.6f}", pick.reason, control, number]
                table.writerow([*cells, ""])

    write_atomic(out, write)


def is_question_file(file: Path) -> bool:
    """Tell whether a label file was written here: it has a column `control`."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return "control" in opened.readline().strip().split(",")
    except OSError:
        return False
