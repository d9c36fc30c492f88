"""From options to everything a run trains and is measured on: images, split, pixels, classes."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eke.data.cache import PixelCache, Pixels, build_cache
from eke.data.decoding import survey
from eke.data.images import ImageSet, require_alike, with_classes
from eke.data.sources import open_images, with_unlabeled, with_validation
from eke.data.splits import DataOptions, Split, make_pool, make_split
from eke.engine.model_files import ModelCard, read_card
from eke.engine.predict import Predictions, predict_probs
from eke.errors import ConfigError, DataError
from eke.models.network import Network
from eke.progress import Progress, silent
from eke.tasks.assemble import Pools
from eke.tasks.options import RunOptions, learns_classes

STATISTICS_SAMPLE = 5000
"""Training images, or frames of clips, from which mean and standard deviation of the pixels are taken."""


@dataclass(frozen=True)
class Part:
    """Labeled images that are predicted and measured: validation or test."""

    images: ImageSet
    pixels: Pixels
    rows: list[int]
    affine: Tensor
    """(n, 2, 3): pixel-edge coordinates of each image as its file holds it to those of its pixels here."""


@dataclass(frozen=True)
class Material:
    """What a run is trained on and measured on. Rows are positions in `images` and `pools.pixels`."""

    images: ImageSet
    split: Split
    pools: Pools
    validation: list[int]
    affine: Tensor
    """Of `images`, as of `Part`."""
    test: Part | None
    truth: Tensor
    """(n_unlabeled,), of several labels (n_unlabeled, K), int64: the source's own classes of the pool, -1 where
    unknown. For diagnostics only."""
    problems: list[dict[str, str]]

    @property
    def budget(self) -> dict[str, int]:
        """Labels spent: training + validation = total."""
        train, validation = len(self.pools.labeled), len(self.validation)
        return {"train": train, "validation": validation, "total": train + validation}

    def evaluated(self) -> list[str]:
        """Return the names of the parts that figures are given for."""
        return ["validation"] * bool(self.validation) + ["test"] * bool(self.test)

    def part(self, name: str) -> Part:
        """Return validation or test."""
        if name == "test" and self.test:
            return self.test
        return Part(self.images, self.pools.pixels, self.validation, self.affine)

    def predict(
        self, network: Network, name: str, thresholds: Sequence[float] = (), progress: Progress = silent
    ) -> Predictions:
        """Predict validation or test; `thresholds` (K,) are those of images with several labels, by default 0.5."""
        part = self.part(name)
        with progress(f"predicting {name}", len(part.rows)) as advance:
            probs = predict_probs(network, part.pixels.read, part.rows, self.pools.device, advance)
        ids = np.array([part.images.ids[row] for row in part.rows])
        return Predictions(ids, part.images.labels[part.rows], probs.numpy(), np.array(thresholds))


def prepare(options: RunOptions, device: torch.device, progress: Progress) -> Material:
    """Open, split and decode the images of a run. Pretraining needs no label, but is watched by those there are.

    Raises:
        DataError: the images or labels cannot be used; the message says what to do.
    """

    def opened(source: str, labels: tuple[str, ...] = ()) -> ImageSet:
        return open_images(
            source,
            labels=[Path(file) for file in labels],
            download=options.data.download,
            group_level=options.data.group_level,
            clip=options.clip,
            progress=progress,
        )

    images = opened(options.source, options.labels)
    if options.data.val_source:
        images = with_validation(images, _like(images, opened(options.data.val_source)))
    pool: frozenset[str] | None = None
    if options.data.unlabeled_source:
        others = opened(options.data.unlabeled_source)
        images, pool = with_unlabeled(images, others), frozenset(others.ids)
    tests = opened(options.test) if options.test else None
    if tests is not None:
        require_alike(images, tests)
    if tests is not None and (images.classes or learns_classes(options)):
        tests = _like(images, tests)
    split = divide(images, tests, options, pool)  # refuses before anything is decoded

    size, channels = working_form(images, options.data)
    cache = open_cache(images, size, channels, options.data.fit, progress)
    pixels, bad = cache.resident(device), {problem.row for problem in cache.problems}
    if bad:
        images, split = split_readable(images, cache, tests, options, pool)

    def readable(ids: tuple[str, ...]) -> list[int]:
        return [int(row) for row in images.positions(ids) if int(row) not in bad]

    labeled, unlabeled, validation = readable(split.labeled), readable(split.unlabeled), readable(split.validation)
    mean, std = pixel_statistics(pixels, labeled + unlabeled)
    if options.init:
        start = read_card(Path(options.init) / "model")
        mean, std = start.mean, start.std
    card = ModelCard(
        model=options.model,
        classes=images.classes if learns_classes(options) else (),
        several=images.several and learns_classes(options),
        channels=channels,
        size=size,
        fit=options.data.fit,
        mean=mean,
        std=std,
        clip=options.clip if images.frames else None,
    )
    test: Part | None = None
    problems = [vars(problem) for problem in images.problems] + cache_problems(cache)
    if tests is not None and split.test:
        test, test_problems = _test_part(tests, split, card, device, progress)
        problems += test_problems
    elif split.test:
        test = Part(images, pixels, readable(split.test), cache.affine)
    return Material(
        images=images,
        split=split,
        pools=Pools(card, pixels, labeled, images.labels[labeled].tolist(), unlabeled, device),
        validation=validation,
        affine=cache.affine,
        test=test,
        truth=torch.as_tensor(images.labels[unlabeled], dtype=torch.int64).to(device),
        problems=problems,
    )


def _like(images: ImageSet, others: ImageSet) -> ImageSet:
    return with_classes(others, images.classes, several=images.several)


def divide(images: ImageSet, tests: ImageSet | None, options: RunOptions, pool: Collection[str] | None = None) -> Split:
    """Split for a run; where it learns no classes, labels that make no split are left out, and a note says why."""
    try:
        return make_split(images, tests, options.data, options.seed, pool)
    except DataError as error:
        if learns_classes(options):
            raise
        why = f"No label is used to watch the training. {error}"
        return make_pool(images, tests, options.data, options.seed, why, pool)


def split_readable(
    images: ImageSet,
    cache: PixelCache,
    tests: ImageSet | None,
    options: RunOptions,
    pool: Collection[str] | None = None,
) -> tuple[ImageSet, Split]:
    """Split again without the labels of images that cannot be decoded: they are not spent, others take their place.

    Raises:
        DataError: too few labels are left; the message names an image that was lost.
        ConfigError: validation would be empty now.
    """
    labels = images.labels.copy()
    labels[[problem.row for problem in cache.problems]] = -1
    lost = [problem for problem in cache.problems if images.labeled[problem.row]]
    images = replace(images, labels=labels)
    try:
        return images, divide(images, tests, options, pool)
    except (DataError, ConfigError) as error:
        detail = f"{lost[0].path}, {lost[0].reason}" if lost else "none of them labeled"
        raise type(error)(f"{error} ({len(cache.problems)} images cannot be decoded: {detail} ...)") from None


def working_form(images: ImageSet, options: DataOptions) -> tuple[tuple[int, int], int]:
    """Return the working size (H, W) and the channels: as the options say, else as the images suggest."""
    size, channels = options.working_size(), options.channels
    if size is not None and channels is not None:
        return size, channels
    seen = survey(images)
    return size or seen.size, channels or seen.channels


def _test_part(
    tests: ImageSet, split: Split, card: ModelCard, device: torch.device, progress: Progress
) -> tuple[Part, list[dict[str, str]]]:
    """Decode test images that have a source of their own."""
    cache = open_cache(tests, card.size, card.channels, card.fit, progress)
    bad = {problem.row for problem in cache.problems}
    rows = [int(row) for row in tests.positions(split.test) if int(row) not in bad]
    part = Part(tests, cache.resident(device), rows, cache.affine)
    return part, [vars(p) for p in tests.problems] + cache_problems(cache)


def open_cache(images: ImageSet, size: tuple[int, int], channels: int, fit: str, progress: Progress) -> PixelCache:
    """Build or open the pixel cache of an image set, in EKE_CACHE or the user's cache folder."""
    base = Path(os.environ.get("EKE_CACHE") or Path.home() / ".cache" / "eke")
    return build_cache(images, size, channels=channels, fit=fit, folder=base / "pixels", progress=progress)


def cache_problems(cache: PixelCache) -> list[dict[str, str]]:
    """Return the images that could not be decoded, as plain values."""
    kept = ("path", "kind", "detail", "remedy")
    return [{name: getattr(problem, name) for name in kept} for problem in cache.problems]


def pixel_statistics(pixels: Pixels, rows: list[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, in [0, 1], of an even sample of training rows.

    Raises:
        DataError: every pixel has the same value.
    """
    frames = pixels.shape[1] if len(pixels.shape) == 4 else 1
    sample = rows[:: max(1, len(rows) * frames // STATISTICS_SAMPLE)]
    values = pixels.read(sample).cpu().double().div_(255)
    axes = (0, *range(2, values.ndim))
    mean, std = values.mean(axes), values.std(axes)
    if float(std.max()) == 0:
        raise DataError("All training images are one flat color, so there is nothing to learn from.")
    return tuple(mean.tolist()), tuple(std.clamp_min(1e-3).tolist())


def open_pixels(
    source: Any, card: ModelCard, progress: Progress = silent
) -> tuple[ImageSet, PixelCache, list[int], list[dict[str, str]]]:
    """Open any source as a trained model wants its images, or its clips.

    Returns:
        Images, pixels, the rows that could be decoded, and what was set aside.

    Raises:
        DataError: the source cannot be used, or holds images where the model reads clips.
    """
    images = open_images(source, clip=card.clip, progress=progress)
    if images.frames != card.frames:
        raise DataError(
            f"{images.source} holds images, and this run reads clips of {card.frames} frames: videos, or folders of "
            "frames below class folders or below `unlabeled` (unlabeled/walk/frame_000.jpg)."
        )
    cache = open_cache(images, card.size, card.channels, card.fit, progress)
    bad = {problem.row for problem in cache.problems}
    rows = [row for row in range(len(images)) if row not in bad]
    return images, cache, rows, [vars(p) for p in images.problems] + cache_problems(cache)
