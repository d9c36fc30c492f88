"""What a table's figures say about the sentences of a paper: agrees, does not agree, cannot tell, or nothing at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eke.metrics.statistics import Paired, holm, paired_t
from eke.randomness import mixed_seed
from eke.report.table import Judged, JudgedClaim, Verdict

N_PERMUTATIONS = 999

PerSeed = Mapping[int, float]
"""Seed -> figure; seeds whose cell failed are missing."""


@dataclass(frozen=True)
class Contrast:
    """One difference that a claim says is above 0: the sum of some figures minus that of others, seed by seed."""

    words: str
    plus: Sequence[PerSeed]
    minus: Sequence[PerSeed]
    rate: bool = True
    """Whether the figures lie in [0, 1]."""
    n: int = 1
    """What the sums are divided by."""

    def paired(self) -> Paired | None:
        """Return the mean over the seeds that all figures have, with its t interval; None where there is none."""
        seeds = sorted(set.intersection(*(set(figures) for figures in (*self.plus, *self.minus))))
        if not seeds:
            return None
        high, low = (
            [sum(figures[seed] for figures in side) / self.n for seed in seeds] for side in (self.plus, self.minus)
        )
        return paired_t(high, low)


class Statement(NamedTuple):
    """A sentence of a paper, put as differences: it says that each of them is above 0."""

    sentence: str
    source: str
    """Where it stands."""
    contrasts: Sequence[Contrast]
    at_chance: bool
    """Whether what it builds on cannot be told from guessing."""


def judge(paired: Paired | None, at_chance: bool) -> Verdict:
    """Say what one paired difference over seeds tells about "it is above 0".

    Args:
        paired: difference with its interval; None where nothing was measured.
        at_chance: whether what the claim builds on cannot be told from guessing.
    """
    if paired is None:
        return "not measured"
    if at_chance:
        return "at chance: no statement"
    if not paired.decided:
        return "cannot tell"
    return "agrees" if paired.interval.value > 0 else "does not agree"


def judge_all(statements: Sequence[Statement]) -> list[JudgedClaim]:
    """Judge all sentences of a table; p-values are corrected over all their contrasts together (Holm 1979)."""
    paired = [[contrast.paired() for contrast in each.contrasts] for each in statements]
    p = [math.nan if each is None else each.p for part in paired for each in part]
    adjusted = iter(holm(p).tolist())
    judged = []
    for statement, differences in zip(statements, paired, strict=True):
        parts = tuple(
            Judged(contrast.words, each, next(adjusted), judge(each, statement.at_chance), contrast.rate)
            for contrast, each in zip(statement.contrasts, differences, strict=True)
        )
        verdict = _together([part.verdict for part in parts])
        judged.append(JudgedClaim(statement.sentence, statement.source, verdict, parts))
    return judged


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Judge "all of them": one that is refuted refutes it, one that is open leaves it open."""
    order: tuple[Verdict, ...] = ("at chance: no statement", "does not agree", "not measured", "cannot tell", "agrees")
    return next(verdict for verdict in order if verdict in verdicts)


def above_chance(predicted: NDArray[np.int64], labels: NDArray[np.int64], seed: int = 0) -> float:
    """Return the one-sided p of "which image was predicted to be what does not matter", by permuting the labels.

    A network that gives every image the same class has p = 1, however frequent the class is.

    Args:
        predicted: (n,) classes; of several labels, the likeliest.
        labels: (n,) true classes, or (n, K) of several labels: what is predicted is right where it is one of them.
        seed: of the permutations.

    Returns:
        (1 + #{permuted accuracy >= accuracy}) / (1 + 999), as Phipson and Smyth (2010) have it.
    """
    generator = np.random.default_rng(mixed_seed(seed, 0, "chance"))
    several = labels.ndim == 2

    def n_right(truth: NDArray[np.int64]) -> int:
        return int(
            (np.take_along_axis(truth, predicted[:, None], 1) == 1).sum() if several else (truth == predicted).sum()
        )

    right = n_right(labels)
    reached = sum(n_right(generator.permutation(labels)) >= right for _ in range(N_PERMUTATIONS))
    return (1 + reached) / (1 + N_PERMUTATIONS)
