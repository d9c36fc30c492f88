"""The batches of a run as a pure function of (seed, step): nothing to save, the same on N processes.

Indices and the parameters of all views are drawn on the CPU for the GLOBAL batch; each process takes its
contiguous slice. Each draw has a generator of its own, named after the view, so that a method with one view
more sees the same other views.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from eke import collectives
from eke.augment.draws import join, send, take
from eke.augment.geometry import View
from eke.augment.presets import PRESETS, Preset
from eke.data.cache import Pixels
from eke.errors import ConfigError, DataError, did_you_mean
from eke.randomness import rng

STEPS_AT_ONCE, VALUES_AT_ONCE = 16, 2**26
"""An accelerator makes the views of so many steps in one go, fewer where they would hold more values. Launching the
many small operations of a view costs it more than their work on one small batch."""


class ViewPlan(NamedTuple):
    """Which views a method needs: name of the view -> name of the preset that makes it."""

    labeled: Mapping[str, str]
    unlabeled: Mapping[str, str]
    """Empty where a method uses no unlabeled images: none are read then."""


class Batch(NamedTuple):
    """What one step sees: B labeled and U unlabeled images; of N processes, each sees its N-th."""

    x: dict[str, View]
    """One view of B labeled images for each name in the plan."""
    y: Tensor
    """(B,) int64 classes, or (B, K) of 0 and 1; empty, as `x_index`, where the plan has no labeled view."""
    u: dict[str, View]
    """One view of U unlabeled images for each name in the plan."""
    x_index: Tensor
    """(B,) int64 positions in the labeled pool."""
    u_index: Tensor
    """(U,) int64 positions in the unlabeled pool; empty where the plan has no unlabeled view."""
    step: int
    """0-based training step."""


class Stream:
    """Makes the batch of any step.

    Images come in epochs: a permutation of the pool for each epoch, cut into batches; a batch that passes the
    end of an epoch (or of several: a pool may be smaller than a batch) goes on in the next.

    Args:
        pixels: uint8 images or clips by row: a `PixelCache`, or `ResidentPixels` on the CPU or on `device`.
        labeled: rows of the labeled pool in `pixels`; may be empty where the plan has no labeled view.
        labels: their classes, 0 to K-1; or of each K of 0 and 1, where it may have several.
        unlabeled: rows of the unlabeled pool; may be empty where the plan has no unlabeled view.
        plan: the views to make, as the method declares them.
        n_labeled: B, labeled images of a global batch.
        n_unlabeled: U, unlabeled images of a global batch.
        seed: the run's seed.
        device: where views are made.

    Raises:
        ConfigError: a preset is unknown, or the batch cannot be shared evenly among the processes.
        DataError: a pool that the plan needs is empty.

    """

    def __init__(
        self,
        pixels: Pixels,
        labeled: Sequence[int],
        labels: Sequence[int] | Sequence[Sequence[int]],
        unlabeled: Sequence[int],
        plan: ViewPlan,
        *,
        n_labeled: int,
        n_unlabeled: int,
        seed: int,
        device: torch.device,
    ) -> None:
        if len(labeled) != len(labels):
            raise DataError(f"{len(labeled)} labeled images have {len(labels)} labels. Give one label to each image.")
        self.n_labeled, self.n_unlabeled, self.seed, self.device = n_labeled, n_unlabeled, seed, device
        self._pixels = pixels
        self._labeled, self._unlabeled = torch.as_tensor(labeled), torch.as_tensor(unlabeled)
        self._labels = torch.as_tensor(labels, dtype=torch.int64)
        self._x_presets, self._u_presets = _presets(plan.labeled), _presets(plan.unlabeled)
        self._order = lru_cache(maxsize=4)(self._draw_order)
        if self._x_presets and not len(labeled):
            raise DataError("There is no labeled image to train on. Give labels to a few images of each class.")
        if self._u_presets and not len(unlabeled):
            raise DataError(
                "This method learns from unlabeled images and there are none. "
                "Add some, or train with --method supervised."
            )
        n_processes = collectives.world_size()
        sizes = {"labeled": n_labeled * bool(self._x_presets), "unlabeled": n_unlabeled * bool(self._u_presets)}
        for kind, size in sizes.items():
            if size % n_processes:
                raise ConfigError(
                    f"{size} {kind} images per step cannot be shared evenly by {n_processes} processes. "
                    "Choose a multiple of their number (batch.labeled; in pretraining batch.size)."
                )
        n_views = n_labeled * len(self._x_presets) + n_unlabeled * len(self._u_presets)
        affordable = VALUES_AT_ONCE // (n_views // n_processes * math.prod(pixels.shape) or 1)
        self.n_at_once = 1 if device.type == "cpu" else max(1, min(STEPS_AT_ONCE, affordable))
        self._made: dict[int, Batch] = {}

    def batch(self, step: int) -> Batch:
        """Make this process's slice of the global batch of `step` (0-based), whatever was asked before."""
        if step not in self._made:
            self._made = self._make(range(step, step + self.n_at_once))
        return self._made.pop(step)

    def _make(self, steps: range) -> dict[int, Batch]:
        x_index, x = self._side("x", self._labeled, self._x_presets, self.n_labeled, steps)
        u_index, u = self._side("u", self._unlabeled, self._u_presets, self.n_unlabeled, steps)
        of_steps = (send(part, self.device).unbind() for part in (self._labels[x_index], x_index, u_index))
        parts = zip(steps, x, u, *of_steps, strict=True)
        return {step: Batch(x, y, u, x_index, u_index, step) for step, x, u, y, x_index, u_index in parts}

    def _side(
        self, side: str, rows: Tensor, presets: dict[str, Preset], size: int, steps: range
    ) -> tuple[Tensor, list[dict[str, View]]]:
        """Draw `size` positions of a pool for the global batch of each step, and make this process's views of them.

        Returns:
            (steps, n) int64 positions of this process, and for each step its views by name; without presets none.
        """
        if not presets:
            return torch.empty(len(steps), 0, dtype=torch.int64), [{} for _ in steps]
        index = torch.stack(
            [collectives.local_slice(self._positions(side, len(rows), step * size, size)) for step in steps]
        )
        images = self._read(rows[index.flatten()])
        source_size, channels = (images.shape[-2], images.shape[-1]), images.shape[1]
        start = collectives.rank() * index.shape[1]
        views: list[dict[str, View]] = [{} for _ in steps]
        for name, preset in presets.items():
            draws = (preset.draw(size, channels, source_size, rng(self.seed, step, f"{side}_{name}")) for step in steps)
            made = preset.apply(images, join([take(each, start, start + index.shape[1]) for each in draws]))
            for place, view in zip(views, made.chunk(len(steps)), strict=True):
                place[name] = view
        return index, views

    def _positions(self, side: str, n: int, first: int, count: int) -> Tensor:
        """Return the places `first` to `first + count` of the endless row of epochs of a pool of `n`."""
        epochs = range(first // n, (first + count - 1) // n + 1)
        orders = torch.cat([self._order(side, n, epoch) for epoch in epochs])
        return orders[first - epochs.start * n :][:count]

    def _draw_order(self, side: str, n: int, epoch: int) -> Tensor:
        return torch.randperm(n, generator=rng(self.seed, epoch, f"order_{side}"))

    def _read(self, rows: Tensor) -> Tensor:
        """Read pixels to the device, over pinned memory, so that the copy does not wait for it to compute."""
        if self.device.type != "cuda" or self._pixels.device.type == "cuda":
            return self._pixels.read(rows).to(self.device)
        pinned = torch.empty((len(rows), *self._pixels.shape), dtype=torch.uint8, pin_memory=True)
        return self._pixels.read(rows, out=pinned).to(self.device, non_blocking=True)


def _presets(views: Mapping[str, str]) -> dict[str, Preset]:
    for name in views.values():
        if name not in PRESETS:
            raise ConfigError(f"Unknown view preset {name!r}. {did_you_mean(name, PRESETS)}")
    return {view: PRESETS[name] for view, name in views.items()}
