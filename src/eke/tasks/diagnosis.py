"""What `eke doctor` found, what of it deserves a look, and how it reads as text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eke.data.images import NO_CLASS, ImageSet, Problem

SMALL_SIDE = 16
"""Images whose shorter side is below this count as small, where most images are larger."""
IMBALANCE = 10.0
"""Ratio of the largest to the smallest class above which the diagnosis warns."""
SHOWN = 5
"""Examples of each finding in the text; JSON has all of them."""


@dataclass(frozen=True)
class Pixels:
    """What the images are like."""

    sizes: dict[str, int]
    """Images of each "widthxheight", the ten most frequent."""
    n_sizes: int
    smallest: str
    largest: str
    modes: dict[str, int]
    """Images of each mode: L, RGB, P, CMYK, I;16 ...; for arrays the dtype."""
    small: list[str]
    """Images with a side below SMALL_SIDE, where most images are larger."""
    animated: list[str]
    """Images of several frames: the first one is used."""
    n_rotated: int
    """Images that are turned upright as their EXIF data ask."""


@dataclass(frozen=True)
class Leaks:
    """Images that are there more than once, within and across training and test."""

    near: list[tuple[str, str]]
    """Near duplicates on one side."""
    near_conflicts: list[tuple[str, str, str, str]]
    """Near duplicates with different labels: path, label, path, label."""
    shared: list[str]
    """Training images that are test images byte by byte; they are dropped from training."""
    near_test: list[tuple[str, str]]
    """Training image, test image: near duplicates. Nothing drops them; they flatter the figures on test."""
    groups: list[str]
    """Groups that are in training and test."""


@dataclass(frozen=True)
class Doubt:
    """A label that a trained run does not believe."""

    path: str
    label: str
    predicted: str
    label_prob: float
    predicted_prob: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `dataclasses.asdict` makes plain values for JSON of it."""

    source: str
    test: str | None
    frames: int | None
    """T where they are clips; of which the middle frame is looked at. None for images."""
    n_images: dict[str, int]
    """Images of each part: train, val, test, as far as they exist; train includes the unlabeled ones."""
    counts: dict[str, dict[str, int]]
    """Labeled images of each class, for each part."""
    n_unlabeled: int
    """Training images without a label."""
    n_several: int
    """Images with more than one label."""
    n_boxes: int | None
    """Boxes around objects; None where the source draws none."""
    imbalance: float | None
    """Largest / smallest class of the labeled training images; None without labels."""
    n_groups: int | None
    pixels: Pixels
    problems: list[dict[str, str]]
    """Everything that was set aside, with its remedy."""
    leaks: Leaks
    doubts: list[Doubt]
    """Labels to look at, the most doubtful first; empty without a trained run."""
    warnings: list[str]
    """What to look at first."""


def label_warnings(images: ImageSet, counts: dict[str, dict[str, int]], imbalance: float | None) -> list[str]:
    """Warn of classes without, with one, or with uneven labels."""
    train = {name: n for name, n in counts.get("train", {}).items() if name in images.classes}
    if not any(train.values()):
        return ["No training image is labeled: give labels by class folders, or by --labels FILE."]
    warnings = []
    if len(train) == 1:
        warnings.append(f"There is one class only ({images.classes[0]!r}): nothing to tell apart.")
    without = [name for name, n in train.items() if n == 0]
    single = [name for name, n in train.items() if n == 1]
    if without:
        warnings.append(f"No label in {_some(without)}: eke fit will refuse. Label one image of each.")
    if single:
        warnings.append(f"One label only in {_some(single)}: it trains, so nothing of the class validates.")
    if imbalance is not None and imbalance > IMBALANCE:
        warnings.append(f"The largest class has {imbalance:.0f} times the labels of the smallest: watch macro-F1.")
    strange = [name for part in counts.values() for name in part if name not in {*images.classes, NO_CLASS}]
    if strange:
        warnings.append(f"The test images have classes that training lacks: {_some(sorted(set(strange)))}.")
    return warnings


def leak_warnings(leaks: Leaks) -> list[str]:
    """Warn of images that are there more than once."""
    near = [f"{a} ~ {b}" for a, b in leaks.near_test]
    conflicts = [f"{a} ({x}) ~ {b} ({y})" for a, x, b, y in leaks.near_conflicts]
    near_same = [f"{a} ~ {b}" for a, b in leaks.near]
    found = (
        (leaks.shared, "training image(s) are test images, byte by byte; they are dropped from training"),
        (leaks.groups, "group(s) are in training and test; their training images are dropped"),
        (near, "training image(s) look like a test image: figures on test flatter unless one is removed"),
        (conflicts, "pair(s) of look-alikes have different labels"),
        (near_same, "pair(s) of near duplicates"),
    )
    return [f"{len(examples)} {what}: {_some(examples)}." for examples, what in found if examples]


def problem_warnings(problems: Sequence[Problem]) -> list[str]:
    """Warn of images set aside: each kind once, with its first example."""
    kinds = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem for problem in reversed(problems)}
    return [
        f"{n} x {kind}, such as {first[kind].path}: {first[kind].detail}. {first[kind].remedy}."
        for kind, n in kinds.most_common()
        if kind not in {"ignored", "leak"}
    ]


def other_warnings(images: ImageSet, pixels: Pixels, doubts: Sequence[Doubt]) -> list[str]:
    """Warn of small and animated images, folders that may be groups, and doubtful labels."""
    warnings = []
    if pixels.small:
        warnings.append(f"{len(pixels.small)} image(s) have a side below {SMALL_SIDE} pixels: {_some(pixels.small)}.")
    if pixels.animated:
        warnings.append(
            f"{len(pixels.animated)} animated image(s), whose first frame counts: {_some(pixels.animated)}."
        )
    nested = [path for path in images.paths if _below_class(path, images.classes)]
    if nested and images.groups is None:
        warnings.append(
            f"{len(nested)} image(s) lie in folders below their class folder, such as {nested[0]}: if these "
            f"are patients, tracks or recordings, set data.group_level=true, so that no split tears them apart."
        )
    if doubts:
        examples = [f"{doubt.path} ({doubt.label}, predicted {doubt.predicted})" for doubt in doubts]
        warnings.append(f"{len(doubts)} label(s) look wrong to the trained run: {_some(examples)}.")
    return warnings


def _below_class(path: str, classes: Sequence[str]) -> bool:
    folders = path.split("/")[:-1]
    return len(folders) > 1 and folders[-1] not in classes and any(folder in classes for folder in folders[:-1])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def render(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as plain text."""
    parts = ", ".join(f"{n:,} {part}" for part, n in diagnosis.n_images.items())
    what = "images" if diagnosis.frames is None else f"clips of {diagnosis.frames} frames"
    unlabeled = f"; {diagnosis.n_unlabeled:,} train {what.split()[0]} have no label" if diagnosis.n_unlabeled else ""
    pixels = diagnosis.pixels
    sizes = ", ".join(f"{size} ({n:,})" for size, n in list(pixels.sizes.items())[:SHOWN])
    more = f" and {pixels.n_sizes - SHOWN} more sizes" if pixels.n_sizes > SHOWN else ""
    lines = [
        f"{diagnosis.source}: {parts} {what}{unlabeled}",
        *_table(diagnosis.counts),
        f"sizes   {sizes}{more}; smallest {pixels.smallest}, largest {pixels.largest}",
        "modes   " + ", ".join(f"{mode} ({n:,})" for mode, n in pixels.modes.items()),
    ]
    if diagnosis.n_several:
        lines.append(f"several {diagnosis.n_several:,} images have more than one label")
    if diagnosis.n_boxes is not None:
        lines.append(f"boxes   {diagnosis.n_boxes:,}")
    if pixels.n_rotated:
        lines.append(f"EXIF    {pixels.n_rotated:,} image(s) are turned upright")
    if diagnosis.n_groups is not None:
        lines.append(f"groups  {diagnosis.n_groups:,}")
    if diagnosis.imbalance is not None:
        lines.append(f"balance largest class / smallest class = {diagnosis.imbalance:.2g}")
    lines += ["", "Look at:", *(f"  - {warning}" for warning in diagnosis.warnings)]
    return "\n".join(lines if diagnosis.warnings else [*lines[:-1], "Nothing wrong was found."])


def _table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return lines of labeled images per class and part: the 20 largest classes, then the smallest."""
    parts = list(counts)
    names = sorted({name for part in counts.values() for name in part}, key=lambda name: -_total(counts, name))
    if not names:
        return ["no labels"]
    shown = names if len(names) <= 22 else [*names[:20], names[-1]]
    width = max(12, *(len(name) for name in shown))
    lines = ["labels".ljust(width) + "".join(part.rjust(10) for part in parts)]
    for name in shown:
        if name == names[-1] and len(shown) < len(names):
            lines.append(f"... {len(names) - len(shown)} more classes")
        lines.append(name.ljust(width) + "".join(f"{counts[part].get(name, 0):,}".rjust(10) for part in parts))
    return lines


def _total(counts: dict[str, dict[str, int]], name: str) -> int:
    return sum(part.get(name, 0) for part in counts.values())
