"""`eke doctor`: what is in a data set and what is wrong with it, before anything is trained."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eke.config import Options
from eke.data.checks import Checked, check_images
from eke.data.duplicates import near_duplicates
from eke.data.images import ImageSet, require_alike
from eke.data.options import ClipOptions
from eke.data.sources import FOUR_SECONDS, open_images
from eke.engine.predict import Predictions
from eke.progress import Progress, silent
from eke.tasks.diagnosis import (
    SMALL_SIDE,
    Diagnosis,
    Doubt,
    Leaks,
    Pixels,
    label_warnings,
    leak_warnings,
    other_warnings,
    problem_warnings,
)

PARTS = ("train", "val", "test")


class DoctorOptions(Options):
    """What `--set` changes."""

    clip: ClipOptions = FOUR_SECONDS


class _Entry(NamedTuple):
    """One image of either source."""

    id: str
    path: str
    word: str
    """Its label, or its labels in one text."""
    names: tuple[str, ...]
    """Each of its labels; one empty text where it has none."""
    part: str
    group: str


def diagnose(
    source: str,
    test: str | None = None,
    *,
    labels: Sequence[Path] = (),
    group_level: bool = False,
    clip: ClipOptions = FOUR_SECONDS,
    predictions: Predictions | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Look at every image of a source, and of a test source, and say what is there and what is wrong.

    Args:
        source: what `open_images` takes.
        test: a separate test source, compared with the first.
        labels: label files laid over the source.
        group_level: whether the folder below the class folder names the group.
        clip: how recordings are cut.
        predictions: what a trained run says of images of `source`, its classes being those of `source`.
        progress: shows hashing and decoding.

    Raises:
        DataError: a source cannot be opened at all.
    """
    images = open_images(source, labels=labels, group_level=group_level, clip=clip, progress=progress)
    sets = [images] + ([open_images(test, group_level=group_level, clip=clip, progress=progress)] if test else [])
    for image_set in sets[1:]:
        require_alike(images, image_set)
    checks = [check_images(image_set, progress) for image_set in sets]
    entries = [entry for place, image_set in enumerate(sets) for entry in _entries(image_set, is_test=place > 0)]
    leaks = _leaks(entries, sets, checks)
    counts = _counts(entries, images.classes)
    pixels = _pixels(entries, checks)
    problems = [problem for image_set in sets for problem in image_set.problems]
    problems += [problem for checked in checks for problem in checked.problems]
    doubts = _doubts(images, predictions) if predictions is not None else []
    present = [n for name, n in counts.get("train", {}).items() if n and name in images.classes]
    imbalance = max(present) / min(present) if present else None
    return Diagnosis(
        source=source,
        test=test,
        frames=images.frames,
        n_images={part: n for part in PARTS if (n := sum(entry.part == part for entry in entries))},
        counts=counts,
        n_unlabeled=sum(entry.part == "train" and not entry.word for entry in entries),
        n_several=sum(len(entry.names) > 1 for entry in entries),
        n_boxes=sum(map(len, images.boxes)) if images.boxes is not None else None,
        imbalance=imbalance,
        n_groups=len(set(images.groups)) if images.groups else None,
        pixels=pixels,
        problems=[vars(problem) for problem in problems],
        leaks=leaks,
        doubts=doubts,
        warnings=[
            *label_warnings(images, counts, imbalance),
            *leak_warnings(leaks),
            *problem_warnings(problems),
            *other_warnings(images, pixels, doubts),
        ],
    )


def _entries(image_set: ImageSet, *, is_test: bool) -> list[_Entry]:
    parts = ("test",) * len(image_set) if is_test else image_set.split or ("",) * len(image_set)
    words = ["" if part == "unlabeled" else image_set.label_words(row) or "" for row, part in enumerate(parts)]
    names = [(image_set.label_names(row) or (word,)) if word else ("",) for row, word in enumerate(words)]
    groups = image_set.groups or ("",) * len(image_set)
    rows = zip(image_set.ids, image_set.paths, words, names, parts, groups, strict=True)
    return [
        _Entry(identity, path, word, each, part if part in {"val", "test"} else "train", group)
        for identity, path, word, each, part, group in rows
    ]


def _counts(entries: Sequence[_Entry], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    found = Counter((entry.part, name) for entry in entries for name in entry.names)
    parts = [part for part in PARTS if any(entry.part == part for entry in entries)]
    names = [*classes, *sorted({name for entry in entries for name in entry.names} - {*classes, ""})]
    return {part: {name: found[part, name] for name in names} for part in parts}


def _pixels(entries: Sequence[_Entry], checks: Sequence[Checked]) -> Pixels:
    headers = [header for checked in checks for header in checked.headers]
    readable = [(entry.path, header) for entry, header in zip(entries, headers, strict=True) if header]
    sizes = Counter((header.width, header.height) for _, header in readable)
    areas = sorted(sizes, key=lambda size: size[0] * size[1])
    sides = [min(header.width, header.height) for _, header in readable]
    larger = bool(sides) and float(np.median(sides)) >= SMALL_SIDE
    small = [path for (path, _), side in zip(readable, sides, strict=True) if side < SMALL_SIDE]
    return Pixels(
        sizes={_by(size): n for size, n in sizes.most_common(10)},
        n_sizes=len(sizes),
        smallest=_by(areas[0]) if areas else "",
        largest=_by(areas[-1]) if areas else "",
        modes=dict(Counter(header.mode for _, header in readable).most_common()),
        small=small if larger else [],
        animated=[path for path, header in readable if header.frames > 1],
        n_rotated=sum(header.rotated for _, header in readable),
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _leaks(entries: Sequence[_Entry], sets: Sequence[ImageSet], checks: Sequence[Checked]) -> Leaks:
    headers = [header for checked in checks for header in checked.headers]
    readable = [row for row, header in enumerate(headers) if header]
    thumbnails = np.concatenate([checked.thumbnails for checked in checks])[readable]
    pairs = [(entries[readable[a]], entries[readable[b]]) for a, b in near_duplicates(thumbnails).tolist()]
    pairs = [(a, b) for a, b in pairs if a.id != b.id]
    if sets[0].frames is not None:  # clips of one recording look alike, of course
        pairs = [(a, b) for a, b in pairs if a.group != b.group]
    across = [(b, a) if a.part == "test" else (a, b) for a, b in pairs if (a.part == "test") != (b.part == "test")]
    groups = [{entry.group for entry in entries if (entry.part == "test") == test} for test in (False, True)]
    theirs = {name for image_set in sets[1:] for name in image_set.ids}
    shared = [path for name, path in zip(sets[0].ids, sets[0].paths, strict=True) if name in theirs]
    folded = [problem.path for problem in sets[0].problems if problem.kind == "leak"]
    return Leaks(
        near=[(a.path, b.path) for a, b in pairs if (a.part == "test") == (b.part == "test")],
        near_conflicts=[(a.path, a.word, b.path, b.word) for a, b in pairs if a.word and b.word and a.word != b.word],
        shared=shared + folded,
        near_test=[(a.path, b.path) for a, b in across],
        groups=sorted((groups[0] & groups[1]) - {""}),
    )


def _doubts(images: ImageSet, predictions: Predictions) -> list[Doubt]:
    """Find labels that a run doubts, by confident learning (Northcutt, Jiang, Chuang 2021).

    A class counts as predicted if its probability reaches the mean that images with that label get.
    An image whose most probable such class is not its label is doubtful; the widest margin comes first. Nothing is
    said of images with several labels.
    """
    place = {name: row for row, name in enumerate(images.ids)}
    known = [(at, place[name]) for at, name in enumerate(predictions.ids.tolist()) if name in place]
    known = [(at, row) for at, row in known if images.labeled[row]]
    if not known or images.several:
        return []
    probs = predictions.probs[[at for at, _ in known]].astype(np.float64)
    rows = np.array([row for _, row in known])
    labels = images.labels[rows]
    n = np.bincount(labels, minlength=probs.shape[1])
    own = probs[np.arange(len(labels)), labels]
    threshold = np.bincount(labels, weights=own, minlength=probs.shape[1]) / np.maximum(n, 1)
    confident = np.where((probs >= threshold) & (n > 0), probs, -1)
    predicted = confident.argmax(axis=1)
    best = confident.max(axis=1)
    doubtful = np.flatnonzero(best > own)
    doubtful = doubtful[np.argsort(-(best - own)[doubtful], kind="stable")]
    return [
        Doubt(
            path=images.paths[rows[at]],
            label=images.classes[labels[at]],
            predicted=images.classes[predicted[at]],
            label_prob=round(float(own[at]), 4),
            predicted_prob=round(float(best[at]), 4),
        )
        for at in doubtful.tolist()
    ]
