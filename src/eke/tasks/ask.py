"""`eke ask`: which images to label next, as a label file to fill in, with the reasons and a sheet that shows them."""

import shlex
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from eke.config import fingerprint
from eke.data.images import ImageSet
from eke.data.label_events import Batch, Event
from eke.data.label_store import LabelStore
from eke.data.labels import apply_labels
from eke.data.splits import load_split
from eke.engine.journal import RunFolder, describe_environment
from eke.engine.model_files import WEIGHTS, load_model
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError
from eke.files import write_json
from eke.progress import Progress, silent
from eke.tasks.asked_strategy import choose_by_regime, read_strategy
from eke.tasks.candidates import Pool
from eke.tasks.choosing import Chosen, choose
from eke.tasks.ensemble import load_ensemble
from eke.tasks.prepare import open_pixels
from eke.tasks.question_file import is_question_file, write_questions
from eke.tasks.question_sheet import write_sheet_of_picks


def ask(
    run: Path,
    source: str,
    n: int,
    strategy: str,
    out: Path,
    seed: int = 0,
    progress: Progress = silent,
    *,
    control_rate: float = 0.1,
    n_passes: int = 32,
    sheet: bool = True,
    store: Path | None = None,
    truth: Path | None = None,
    ensemble: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write the n images whose labels a strategy asks for, the most wanted first, with an empty label column.

    The pool is every image of the source that can be read and is not spoken for: not in the run's labeled,
    validation or test images, not dropped by its split, not a test or validation image of the source, and not
    labeled by the source. Where the source labels all of its images, as a benchmark does, its labels are
    ignored, and a note says so.

    Args:
        run: a finished run folder. One that was trained without labels can be asked for the first ones, by a strategy
            that looks at embeddings alone.
        source: the images to choose from, usually those of the run.
        n: images to ask for, at least 1. Where fewer are left, all of them are taken, and a note says so.
        strategy: what `read_strategy` reads, or "auto".
        out: CSV to write, with the columns COLUMNS and label (or labels). Beside it, with other endings: the sheet that
            shows picks (.html), and what the choice can be repeated from (.json).
        seed: of draws, and of the order of equal scores.
        progress: shows decoding and predicting.
        control_rate: share of the images that is drawn at random from the whole pool, to measure by.
        n_passes: passes with dropout, and steps of the path of explanation-based attention.
        sheet: whether to write the sheet.
        store: a label store, begun where there is none: images with an answer in it, or a question that waits for one,
            are not asked for, and the questions are noted in it.
        truth: label file of the true classes of all images, which a simulation gives to strategies that end in
            "/oracle"; None: they are those of the source.
        ensemble: further runs that read images as `run` does and know its classes, such as those of other seeds. What
            they disagree on takes the place of passes with dropout; an image that one of them spent is not asked for.

    Returns:
        out, n, the sizes of pool and source, notes, the images that were set aside, and the label files of the
        next fit: those of the run and this one.

    Raises:
        ConfigError: a number or `strategy` is not possible, `out` exists, or the strategy needs a class head that the
            run lacks.
        CheckpointError: the run is not finished or its files are damaged.
        DataError: the source cannot be read, or no image is left to ask for.
    """
    if n < 1:
        raise ConfigError(f"--n {n} asks for no image. Give 1 or more.")
    if not 0 <= control_rate <= 1:
        raise ConfigError(f"--control {control_rate:g} is no share. Give a number from 0 to 1, such as 0.1.")
    asked = None if strategy == "auto" else read_strategy(strategy, ensemble=bool(ensemble))
    if out.exists():
        raise ConfigError(f"{out} exists and may hold labels. Name another file with --out.")
    folder, device = RunFolder(run), choose_device("auto")
    network, card = load_model(folder.model, device)
    if not card.classes and asked is not None and not asked.needs <= {"features"}:
        raise ConfigError(
            f"{asked.spelled} needs a classifier, and {run} was trained without labels. Ask for the first labels with "
            "typiclust, k_center, k_means or random, and train on them: "
            f"eke fit {source} --init {run} --labels {out}."
        )
    members = load_ensemble(run, card, ensemble, device)
    split = load_split(folder.split)
    images, cache, readable, problems = open_pixels(source, card, progress)
    if truth is not None:
        images = apply_labels(images, [truth])
    labels_ignored = bool(gives_label(images)[readable].all())
    spent = {
        name
        for each in (split, *(load_split(RunFolder(member).split) for member in ensemble))
        for name in (*each.labeled, *each.validation, *each.test, *each.dropped)
    }
    answers = LabelStore(store) if store is not None else None
    if answers is not None:
        spent |= answers.excluded() | answers.waiting()
    rows = pool_rows(images, readable, spent, labels_ignored=labels_ignored)
    if not rows:
        raise DataError(
            f"No image of {source} is left to ask for: all {len(readable):,} that can be read are labeled, or are "
            "spent by the run. Name a source with more images."
        )
    if asked is not None and asked.attention is not None and asked.attention.oracle and not images.labeled[rows].all():
        raise ConfigError(
            f"{asked.spelled} looks at the true class of every candidate, which {source} does not know. It is for "
            "simulations; leave out /oracle."
        )
    notes = []
    if asked is None:
        n_labels = len(split.labeled) + len(split.validation)
        asked, why = choose_by_regime(n_labels, len(card.classes), n, several=card.several)
        notes.append(why)
    pool = Pool(run, network, card, images, cache.resident(device), rows, progress, ensemble=members)
    chosen = choose(pool, asked, [*split.labeled, *split.validation], n, seed, control_rate, n_passes)
    row_of = {images.ids[row]: row for row in rows}
    picks = [(row_of[name], pick) for name, pick in chosen.picks]
    options = folder.read(folder.config)
    number = 1 + sum(is_question_file(Path(file)) for file in options["labels"])
    column = "labels" if card.several else "label"
    write_questions(out, images, picks, chosen.controls, number, column)

    if labels_ignored:
        notes.append(f"{source} labels every image already. Its labels are ignored, as if they were hidden.")
    if len(picks) < n:
        notes.append(f"{n:,} images were asked for, but only {len(picks):,} are left: all of them are listed.")
    if chosen.mistakes is not None and not chosen.mistakes.mistakes.ids:
        notes.append("The run has no validation image that it gets wrong, so that nothing can be resembled.")
    result = {
        "run": str(run),
        "source": source,
        "ensemble": [str(member) for member in ensemble],
        "strategy": asked.spelled,
        "sentence": asked.sentence,
        "seed": seed,
        "n": len(picks),
        "n_control": len(chosen.controls),
        "round": number,
        "n_pool": len(rows),
        "n_images": len(readable),
        "labels_ignored": labels_ignored,
        "notes": notes,
        "problems": problems,
        "label_files": [*options["labels"], str(out)],
        "out": str(out),
        "column": column,
        "discrepancy": chosen.discrepancies(),
        "init": None if card.classes else str(run),
    }
    if answers is not None:
        _note(answers, result, chosen)
    write_json(out.with_suffix(".json"), {**result, **_provenance(run, pool, chosen, n_passes, control_rate)})
    if sheet:
        result["sheet"] = str(write_sheet_of_picks(out.with_suffix(".html"), pool, asked, picks, chosen))
    return result


def _note(store: LabelStore, result: Mapping[str, Any], chosen: Chosen) -> None:
    """Keep the questions, each with its reason, as one batch."""
    run, number = result["run"], result["round"]
    asked = {
        "strategy": result["strategy"],
        "seed": result["seed"],
        "round": number,
        "ids": [name for name, _ in chosen.picks],
    }
    batch = Batch(fingerprint(asked), result["strategy"], result["seed"], number, run)
    questions = [
        Event(
            who="eke ask",
            image=name,
            action="ask",
            round=number,
            reason=pick.reason,
            score=pick.score,
            control=name in chosen.controls,
            model=run,
            batch=batch.id,
            key=f"{batch.id}/{name}",
        )
        for name, pick in chosen.picks
    ]
    store.append(questions, batch)


def _provenance(run: Path, pool: Pool, chosen: Chosen, n_passes: int, control_rate: float) -> dict[str, Any]:
    """Return what the choice is a function of, so that it can be repeated, and what was chosen."""
    ids = pool.candidates
    return {
        "weights": [
            blake2b((each / "model" / WEIGHTS).read_bytes(), digest_size=16).hexdigest()
            for each in (run, *(member for member, _ in pool.ensemble))
        ],
        "pool": blake2b("\n".join(sorted(ids)).encode(), digest_size=16).hexdigest(),
        "n_passes": n_passes,
        "control_rate": control_rate,
        "environment": describe_environment(pool.network.mean.device),
        "picks": [
            {"id": name, "score": pick.score, "reason": pick.reason, "control": name in chosen.controls}
            for name, pick in chosen.picks
        ],
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


def render(result: dict[str, Any]) -> str:
    """Say what was chosen from what, and what to do with the file."""
    lines = [
        f"{result['n']:,} of {result['n_pool']:,} images whose labels are not spent ({result['n_images']:,} in "
        f"{result['source']}): {result['sentence']}.",
    ]
    if result["n_control"]:
        lines.append(f"{result['n_control']:,} of them are drawn at random, as a control to measure by.")
    if result["discrepancy"]:
        picked, pool = result["discrepancy"]["picked"], result["discrepancy"]["pool"]
        lines.append(
            f"Discrepancy (MMD²) from the mistakes: {picked:.3g} of what was picked, {pool:.3g} of all images."
        )
    lines += [f"Note: {note}" for note in result["notes"]]
    if result["problems"]:
        lines.append(f"Set aside: {len(result['problems'])} images or rows (--json names them).")
    files = [word for file in result["label_files"] for word in ("--labels", file)]
    init = ["--init", result["init"]] if result["init"] else []
    command = shlex.join(["eke", "fit", result["source"], *init, *files])
    lines += ["", f"Fill in the column {result['column']} of {result['out']}, then: {command}"]
    return "\n".join([*lines, *([f"Why these: {result['sheet']}"] if "sheet" in result else [])])
