"""`eke ask`: which images to label next, as a label file to fill in."""

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from eke.acquire.contract import Candidates, Labeled
from eke.acquire.strategies import STRATEGIES
from eke.data.images import ImageSet
from eke.data.splits import load_split
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model
from eke.engine.predict import predict_probs
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError, did_you_mean
from eke.files import write_atomic
from eke.progress import Progress, silent
from eke.tasks.prepare import open_pixels

COLUMNS = ("rank", "id", "path", "score")
"""Before the empty column `label`, or `labels` where images may have several."""


def ask(
    run: Path, source: str, n: int, strategy: str, out: Path, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """Write the n images whose labels a strategy asks for, the most wanted first, with an empty label column.

    The pool is every image of the source that can be read and is not spoken for: not in the run's labeled,
    validation or test images, not dropped by its split, not a test or validation image of the source, and not
    labeled by the source. Where the source labels all of its images, as a benchmark does, its labels are
    ignored, and a note says so.

    Args:
        run: a finished run folder with a class head.
        source: the images to choose from, usually those of the run.
        n: images to ask for, at least 1. Where fewer are left, all of them are taken, and a note says so.
        strategy: one of STRATEGIES that needs no more than probabilities.
        out: CSV to write, with the columns rank, id, path, score and label (or labels).
        seed: of random scores, and of the order of equal scores.
        progress: shows decoding and predicting.

    Returns:
        out, n, the sizes of pool and source, notes, the images that were set aside, and the label files of the
        next fit: those of the run and this one.

    Raises:
        ConfigError: `n` or `strategy` is not possible, `out` exists, or the run has no class head.
        CheckpointError: the run is not finished or its files are damaged.
        DataError: the source cannot be read, or no image is left to ask for.
    """
    known = [name for name, each in STRATEGIES.items() if each.needs <= {"probs"}]
    if strategy not in known:
        raise ConfigError(f"Unknown strategy {strategy!r}. {did_you_mean(strategy, known)}")
    if n < 1:
        raise ConfigError(f"--n {n} asks for no image. Give 1 or more.")
    if out.exists():
        raise ConfigError(f"{out} exists and is never overwritten: it may hold labels. Name another file with --out.")
    folder, device = RunFolder(run), choose_device("auto")
    network, card = load_model(folder.model, device)
    if not card.classes:
        raise ConfigError(
            f"{run} was trained without labels and has no classes to be undecided about. Train a classifier from it "
            f"with `eke fit {source} --init {run}` and ask that run."
        )
    split = load_split(folder.split)
    images, pixels, readable, problems = open_pixels(source, card, progress)
    labels_ignored = bool(gives_label(images)[readable].all())
    spent = {*split.labeled, *split.validation, *split.test, *split.dropped}
    pool = pool_rows(images, readable, spent, labels_ignored=labels_ignored)
    if not pool:
        raise DataError(
            f"No image of {source} is left to ask for: all {len(readable):,} that can be read are labeled, or are "
            "spent by the run. Name a source with more images."
        )
    with progress("predicting", len(pool)) as advance:
        probs = predict_probs(network, pixels.resident(device).read, pool, device, advance)
    ids = [images.ids[row] for row in pool]
    candidates = Candidates(ids, probs, several=card.several)
    picks = STRATEGIES[strategy].select(candidates, Labeled(), n, seed)
    column = "labels" if card.several else "label"
    write_questions(out, images, [pool[pick.row] for pick in picks], [pick.score for pick in picks], column)

    notes = []
    if labels_ignored:
        notes.append(f"{source} labels every image already. Its labels are ignored, as if they were hidden.")
    if len(picks) < n:
        notes.append(f"{n:,} images were asked for, but only {len(picks):,} are left: all of them are listed.")
    return {
        "run": str(run),
        "source": source,
        "strategy": strategy,
        "seed": seed,
        "n": len(picks),
        "n_pool": len(pool),
        "n_images": len(readable),
        "labels_ignored": labels_ignored,
        "notes": notes,
        "problems": problems,
        "label_files": [*folder.read(folder.config)["labels"], str(out)],
        "out": str(out),
    }


def gives_label(images: ImageSet) -> np.ndarray:
    """Return (n,) bool: whose labels a fit would use; none of a row that the source calls unlabeled."""
    words = np.array(images.split or ("",) * len(images))
    return images.labeled & (words != "unlabeled")


def pool_rows(images: ImageSet, readable: list[int], spent: set[str], *, labels_ignored: bool) -> list[int]:
    """Return the rows whose label may be asked for.

    Args:
        images: of the source.
        readable: rows that could be decoded.
        spent: ids that the run trained, validated or tested on with labels, or dropped.
        labels_ignored: whether rows with a label count as unlabeled.
    """
    labeled = gives_label(images)
    return [
        row
        for row in readable
        if images.ids[row] not in spent
        and (images.split is None or images.split[row] not in {"val", "test"})
        and (labels_ignored or not labeled[row])
    ]


def write_questions(out: Path, images: ImageSet, rows: list[int], scores: list[float], column: str) -> None:
    """Write the CSV atomically; `--labels` reads it once its label column is filled in, wholly or partly."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, column])
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
                table.writerow([rank, images.ids[row], images.paths[row], f"{score:.6f}", ""])

    write_atomic(out, write)


def render(result: dict[str, Any]) -> str:
    """Say what was chosen from what, and what to do with the file."""
    lines = [
        f"{result['n']:,} of {result['n_pool']:,} images whose labels are not spent ({result['n_images']:,} in "
        f"{result['source']}): {STRATEGIES[result['strategy']].sentence}.",
        *(f"Note: {note}" for note in result["notes"]),
    ]
    if result["problems"]:
        lines.append(f"Set aside: {len(result['problems'])} images or rows (--json names them).")
    files = [word for file in result["label_files"] for word in ("--labels", file)]
    command = shlex.join(["eke", "fit", result["source"], *files])
    return "\n".join([*lines, "", f"Fill in the last column of {result['out']}, then: {command}"])
