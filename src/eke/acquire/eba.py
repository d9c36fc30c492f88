"""Explanation-based attention: the images that resemble, for the same reasons, what the network gets wrong.

    R = R_d * R_a = (V_d^T S_d) * (V_a^T S_a)        columns of unit length

V are descriptors (pooled feature maps) and attention (their pooled gradients, `eke.explain.gradients.path_attention`)
of misclassified validation images, S those of the pool. Rows of R are never stored whole: blocks of it are multiplied
and leave their best columns behind.

Source: Gudovskiy et al. 2020, "Explanation-based attention for semi-supervised deep active learning", section 3. Where
the text is silent ("greedy k-center ... most similar to the misclassified entries") this follows its authors' code: of
more mistakes than picks, as many that differ most; then rank by rank, the most similar first, until enough different
images are found.

Deviations:
1. Two mistakes are as near as R of both says, their descriptors and attention; the code starts at a random one, and so
   does this (by seed and image). Its loop overwrites the number of neighbors and skips one index; this does not.
2. Without a mistake there is nothing to resemble: images are drawn at random, and the reason says so.
3. A length below `EPS` counts as it: the attention of a sure prediction is nearly 0, and the rest of it is rounding.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.acquire.checks import check_rows
from eke.acquire.contract import Pick, Pool, Strategy
from eke.acquire.sampling import first_of_largest, seeded_order, top_k
from eke.errors import ConfigError, DataError

EPS = 1e-8
BLOCK_MISTAKES, BLOCK_POOL = 2048, 4096
"""Rows and columns of R that exist at once: 32 MB, twice."""
BLOCK_PICKS = 256
"""Picks that are laid beside all mistakes at once."""
N_SIMILAR = 32
"""Most similar images that are kept per mistake at first; more where they are not enough."""

How = Literal["round_robin", "sum", "max"]
"""round_robin: rank by rank (the authors' code); sum or max: of R over the mistakes."""


@dataclass(frozen=True)
class Mistakes:
    """Validation images that the network gets wrong.

    Args:
        ids: M image ids.
        classes: M names of their true classes.
        descriptors: (M, L), floating-point or int8 codes (`eke.acquire.descriptors`).
        attention: (M, L) likewise, or None to match descriptors alone ("none" in the paper).
    """

    ids: Sequence[str]
    classes: Sequence[str]
    descriptors: Tensor
    attention: Tensor | None = None


@dataclass(frozen=True)
class Sides:
    """Descriptors and attention of one side of R, taken to unit length block by block."""

    descriptors: Tensor
    attention: Tensor | None

    def __len__(self) -> int:
        return len(self.descriptors)

    def unit(self, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Return (n, L) unit descriptors and attention of some rows, in float32 or wider."""
        parts = [None if x is None else _unit(x[rows]) for x in (self.descriptors, self.attention)]
        assert parts[0] is not None
        return parts[0], parts[1]


def similarity(
    mistakes: tuple[Tensor, Tensor | None], pool: tuple[Tensor, Tensor | None], room: Tensor | None = None
) -> Tensor:
    """Return R, (M, N) in [-1, 1], of unit rows; without attention R_d alone.

    `room`, (2, M or more, N or more), holds R and one factor: memory that is used again saves a quarter of the time.
    """
    out = [None, None] if room is None else list(room[:, : len(mistakes[0]), : len(pool[0])])
    R = torch.mm(mistakes[0], pool[0].T, out=out[0])
    if mistakes[1] is not None and pool[1] is not None:
        R *= torch.mm(mistakes[1], pool[1].T, out=out[1])
    return R


def _room(mistakes: Sides) -> Tensor:
    """Return room for a block of R."""
    return mistakes.unit(slice(1))[0].new_empty(2, min(BLOCK_MISTAKES, len(mistakes)), BLOCK_POOL)


def differing(mistakes: Sides, n: int, order: Tensor) -> Tensor:
    """Return (n,) int64 rows of mistakes, each the least similar to those before: greedy k-center.

    Args:
        mistakes: M of them.
        n: 1 to M.
        order: (M,) permutation that starts and decides between equals.
    """
    units = mistakes.unit(slice(None))
    nearest = torch.full((len(mistakes),), -torch.inf, device=units[0].device)
    order = order.to(nearest.device)
    rows: list[int] = []
    while len(rows) < n:
        row = int(order[0]) if not rows else first_of_largest(-nearest, order, tolerance=1e-6)
        rows.append(row)
        one = units[0][row : row + 1], None if units[1] is None else units[1][row : row + 1]
        nearest = torch.maximum(nearest, similarity(one, units)[0])
        nearest[row] = torch.inf
    return torch.tensor(rows)


def most_similar(mistakes: Sides, pool: Sides, k: int, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each mistake the most similar images: (M, k) similarities, descending, and (M, k) int64 rows.

    Args:
        mistakes: M of them.
        pool: N candidates.
        k: 1 to N.
        order: (N,) permutation in which candidates are read.
    """
    parts = []
    room = _room(mistakes)
    for start in range(0, len(mistakes), BLOCK_MISTAKES):
        units = mistakes.unit(slice(start, start + BLOCK_MISTAKES))
        best = units[0].new_empty(len(units[0]), 0)
        rows = torch.empty_like(best, dtype=torch.int64)
        for part in order.to(best.device).split(BLOCK_POOL):
            found = similarity(units, pool.unit(part), room).topk(min(k, len(part)), 1)
            best, at = torch.cat([best, found.values], 1).sort(stable=True, dim=1, descending=True)
            rows = torch.cat([rows, part[found.indices]], 1).gather(1, at)
            best, rows = best[:, :k].contiguous(), rows[:, :k].contiguous()
        parts.append((best, rows))
    return torch.cat([best for best, _ in parts]), torch.cat([rows for _, rows in parts])


def rank_by_rank(best: Tensor, rows: Tensor, k: int, order: Tensor) -> list[int]:
    """Collect different images: the nearest of each mistake, the most similar first, then the second nearest, etc.

    Args:
        best: (M, n) similarities, descending.
        rows: (M, n) int64, whose they are.
        k: images wanted.
        order: (N,) permutation that decides between equals.

    Returns:
        Up to k rows; fewer where the lists hold no more.
    """
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    chosen: dict[int, None] = {}
    for similar, names in zip(best.cpu().T, rows.cpu().T, strict=True):
        by_image = place[names].argsort(stable=True)
        for name in names[by_image[similar[by_image].argsort(descending=True, stable=True)]].tolist():
            chosen.setdefault(name)
            if len(chosen) == k:
                return list(chosen)
    return list(chosen)


def total_similarity(mistakes: Sides, pool: Sides, how: How) -> Tensor:
    """Return (N,) the sum or the maximum over mistakes of R."""
    totals = []
    room = _room(mistakes)
    for start in range(0, len(pool), BLOCK_POOL):
        units = pool.unit(slice(start, start + BLOCK_POOL))
        parts = []
        for first in range(0, len(mistakes), BLOCK_MISTAKES):
            R = similarity(mistakes.unit(slice(first, first + BLOCK_MISTAKES)), units, room)
            parts.append(R.sum(0) if how == "sum" else R.amax(0))
        totals.append(torch.stack(parts).sum(0) if how == "sum" else torch.stack(parts).amax(0))
    return torch.cat(totals)


def eba(mistakes: Mistakes, how: How = "round_robin") -> Strategy:
    """Return the strategy that looks for more of these mistakes.

    Args:
        mistakes: of the validation images; may be none.
        how: what makes a ranking of R.

    Returns:
        A strategy that needs the candidates' descriptors, and their attention where the mistakes have it.

    Raises:
        ConfigError: `how` is unknown.
        DataError: shapes of the mistakes do not fit, or their numbers are not finite.
    """
    if how not in ("round_robin", "sum", "max"):
        raise ConfigError(f"how is {how!r}. Known: round_robin, sum, max.")
    names = ("descriptors",) if mistakes.attention is None else ("descriptors", "attention")
    for name in names:
        check_rows(name, mistakes.ids, getattr(mistakes, name))
    ours = Sides(mistakes.descriptors, mistakes.attention)

    def choose(pool: Pool, k: int) -> list[Pick]:
        if not mistakes.ids:
            return [Pick(row, 0.0, "no validation mistakes: drawn at random") for row in pool.order[:k].tolist()]
        theirs = Sides(pool.tensor("descriptors"), pool.tensor("attention") if len(names) == 2 else None)
        _same_length(ours, theirs)
        if how == "round_robin":
            rows = _round_robin(ours, theirs, k, pool.order, seeded_order(mistakes.ids, pool.seed))
        else:
            rows = top_k(total_similarity(ours, theirs, how), k, pool.order).tolist()
        return _picks(rows, ours, theirs, mistakes.classes, how)

    sentence = "the images that resemble, for the same reasons, validation images that the network gets wrong"
    return Strategy(sentence, choose, frozenset(names))


def _round_robin(ours: Sides, theirs: Sides, k: int, order: Tensor, order_of_mistakes: Tensor) -> list[int]:
    if len(ours) > k:
        few = differing(ours, k, order_of_mistakes)
        ours = Sides(ours.descriptors[few], None if ours.attention is None else ours.attention[few])
    n = min(N_SIMILAR, len(theirs))
    while True:
        rows = rank_by_rank(*most_similar(ours, theirs, n, order), k, order)
        if len(rows) == k:
            return rows
        n = min(4 * n, len(theirs))  # with all of the pool in each list, there are always enough


def _picks(rows: list[int], ours: Sides, theirs: Sides, classes: Sequence[str], how: How) -> list[Pick]:
    """Say which mistakes each pick resembles: of its nearest one's class, those at least half as similar."""
    picks = []
    for part in torch.tensor(rows).split(BLOCK_PICKS):
        R = similarity(ours.unit(slice(None)), theirs.unit(part)).cpu()
        for row, similar in zip(part.tolist(), R.T, strict=True):
            best = float(similar.max())
            near = Counter(classes[m] for m in (similar >= best / 2).nonzero()[:, 0].tolist())
            name = classes[int(similar.argmax())]
            many = "mistake" if near[name] == 1 else "mistakes"
            reason = (
                f"like {near[name]} validation {many} of class {name}" if best > 0 else "like no validation mistake"
            )
            picks.append(Pick(row, float(similar.sum()) if how == "sum" else best, reason))
    return picks


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1, eps=EPS)


def _same_length(ours: Sides, theirs: Sides) -> None:
    for name, a, b in (
        ("descriptors", ours.descriptors, theirs.descriptors),
        ("attention", ours.attention, theirs.attention),
    ):
        if a is not None and b is not None and a.shape[1] != b.shape[1]:
            raise DataError(f"{name} of mistakes have {a.shape[1]} numbers, those of candidates {b.shape[1]}.")
