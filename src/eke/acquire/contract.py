"""What a selector is given and gives back: candidates and labeled images in, ranked picks out.

Every selector has one form, `select(candidates, labeled, budget, seed) -> list[Pick]`. What holds for all of them is
done here once: inputs are checked and never changed, images that are labeled or excluded leave the pool, the budget is
cut to what is left, and rows are put in an order that depends on seed and image alone, which decides between equals.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from eke.acquire.checks import check_finite, check_probabilities, check_rows
from eke.acquire.passes import Passes
from eke.acquire.sampling import seeded_order
from eke.errors import ConfigError, DataError


@dataclass(frozen=True)
class Candidates:
    """The pool, one row per image; a selector says which of the tensors it needs.

    Args:
        ids: N different image ids.
        probs: (N, K) probabilities in [0, 1]; rows sum to 1 unless `several`.
        features: (N, D) embeddings.
        passes: statistics of stochastic passes over the same N images.
        draws: (N, T, K) probabilities of T stochastic passes, each pass with one network for all images.
        descriptors: (N, L) pooled feature maps, for `eke.acquire.eba`; floating-point or int8 codes.
        attention: (N, L) their pooled gradients, likewise.
        excluded: ids that may not be picked (skipped, leased to somebody else).
        several: whether an image may have several labels, so that `probs` are K answers to yes or no.
    """

    ids: Sequence[str]
    probs: Tensor | None = None
    features: Tensor | None = None
    passes: Passes | None = None
    draws: Tensor | None = None
    descriptors: Tensor | None = None
    attention: Tensor | None = None
    excluded: Collection[str] = ()
    several: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: Tensor) -> "Candidates":
        """Return the candidates of some rows, (n,) int64."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows.to(values.device)]

        return replace(
            self,
            ids=[self.ids[row] for row in rows.tolist()],
            probs=cut(self.probs),
            features=cut(self.features),
            passes=None if self.passes is None else self.passes.rows(rows),
            draws=cut(self.draws),
            descriptors=cut(self.descriptors),
            attention=cut(self.attention),
        )


@dataclass(frozen=True)
class Labeled:
    """What is labeled already; may be empty.

    Args:
        ids: L image ids.
        features: (L, D), as those of the candidates.
        labels: (L,) int64 in [0, K).
    """

    ids: Sequence[str] = ()
    features: Tensor | None = None
    labels: Tensor | None = None

    def features_like(self, features: Tensor) -> Tensor:
        """Return (L, D) features beside those of the candidates.

        Raises:
            DataError: images are labeled, but their features are missing, of another length, or not finite.
        """
        if not self.ids:
            return features[:0]
        if self.features is None or self.features.shape != (len(self.ids), features.shape[1]):
            seen = "none" if self.features is None else str(tuple(self.features.shape))
            raise DataError(
                f"{len(self.ids)} labeled images need features of shape ({len(self.ids)}, {features.shape[1]}), and "
                f"{seen} are given."
            )
        check_rows("features", self.ids, self.features)
        return self.features.to(features.device)

    def sorted(self) -> "Labeled":
        """Return the same images in the order of their ids."""
        rows = torch.tensor(sorted(range(len(self.ids)), key=lambda row: self.ids[row]), dtype=torch.int64)

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows.to(values.device)]

        return Labeled([self.ids[row] for row in rows.tolist()], cut(self.features), cut(self.labels))

    def counts(self, n_classes: int) -> Tensor:
        """Return (K,) int64: labels of each class; zeros where no labels are given."""
        if self.labels is None:
            return torch.zeros(n_classes, dtype=torch.int64)
        return torch.bincount(self.labels.cpu(), minlength=n_classes)[:n_classes]


class Pick(NamedTuple):
    """One image to label."""

    row: int
    """Of the candidates."""
    score: float
    """Of the selector, finite; comparable within one call only."""
    reason: str
    """In words."""


@dataclass(frozen=True)
class Pool:
    """What a selector chooses from: every row may be picked."""

    candidates: Candidates
    labeled: Labeled
    order: Tensor
    """(N,) int64 permutation of rows, of seed and images alone: of equals, the first in it wins."""
    seed: int

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the candidates that the strategy needs, and that therefore is there."""
        values: Tensor = getattr(self.candidates, name)
        return values

    @property
    def passes(self) -> Passes:
        assert self.candidates.passes is not None
        return self.candidates.passes


Select = Callable[[Candidates, Labeled, int, int], list[Pick]]
"""candidates, what is labeled, budget, seed -> picks, the best first."""
Choose = Callable[[Pool, int], list[Pick]]
"""A pool, how many of it (1 to N) -> that many picks: what a strategy has of its own."""


@dataclass(frozen=True)
class Strategy:
    """A way to choose images."""

    sentence: str
    """What it chooses, and why."""
    choose: Choose
    needs: frozenset[str] = field(default_factory=frozenset)
    """Of the candidates: "probs", "features", "passes", "draws", "descriptors", "attention"."""
    several: bool = False
    """Whether it can choose among images that may have several labels."""

    def select(self, candidates: Candidates, labeled: Labeled, budget: int, seed: int) -> list[Pick]:
        """Choose images.

        Args:
            candidates: the pool. Where some of it may not be picked, the tensors of the others are copied.
            labeled: what is labeled already, and never picked.
            budget: how many, from 0; where fewer are left, all of them are picked.
            seed: of draws, and of the order of equals.

        Returns:
            Different picks, the best first: a function of the set of candidates and the seed, not of their order.

        Raises:
            ConfigError: the budget is negative, or the strategy does not know several labels.
            DataError: something is missing, of a wrong shape, not finite, or not a probability; the image is named.
        """
        if budget < 0:
            raise ConfigError(f"A budget of {budget} images is not possible. Give 0 or more.")
        if candidates.several and not self.several:
            raise ConfigError("This strategy knows one label per image, and these images may have several.")
        check(candidates, self.needs)
        spent = {*labeled.ids, *candidates.excluded}
        rows = [row for row, name in enumerate(candidates.ids) if name not in spent]
        budget = min(budget, len(rows))
        if budget == 0:
            return []
        left = candidates if len(rows) == len(candidates) else candidates.rows(torch.tensor(rows))
        picks = self.choose(Pool(left, labeled.sorted(), seeded_order(left.ids, seed), seed), budget)
        return [pick._replace(row=rows[pick.row]) for pick in picks]


def check(candidates: Candidates, needs: frozenset[str]) -> None:
    """Refuse candidates that a selector with these needs cannot use; `Strategy.select` says how."""
    n = len(candidates)
    if len(set(candidates.ids)) < n:
        twice = Counter(candidates.ids).most_common(1)[0][0]
        raise DataError(f"Image {twice} is in the pool twice. Give each image once.")
    for name in sorted(needs - {"passes"}):
        check_rows(name, candidates.ids, getattr(candidates, name), axes=3 if name == "draws" else 2)
    for name in sorted(needs & {"probs", "draws"}):
        check_probabilities(candidates.ids, getattr(candidates, name), candidates.several)
    if "passes" in needs:
        passes = candidates.passes
        if passes is None or len(passes) != n or passes.n_passes == 0:
            seen = "none" if passes is None else f"{passes.n_passes} passes over {len(passes)} images"
            raise DataError(f"Stochastic passes over {n} candidates are needed, and there are {seen}.")
        for name, values in (("mean probabilities", passes.mean), ("entropies", passes.expected_entropy()[:, None])):
            check_finite(f"{name} of stochastic passes", candidates.ids, values)
        check_probabilities(candidates.ids, passes.mean, several=False)
