"""What to ask for: a control drawn at random, then a strategy's picks among the others.

The control measures the pool as it was found, over all rounds of a campaign. Drawn from what a strategy leaves, it
would not: hard images are asked for first, and those left are easier. So every image has a fixed number in [0, 1),
drawn from its content, and images below the control's rate are set apart for good: a strategy never chooses them, and
each round's control is the next of them. Campaigns on the same images thus share their control, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from eke.acquire.contract import Candidates, Labeled, Pick, Strategy
from eke.acquire.descriptors import discrepancy
from eke.acquire.eba import eba
from eke.acquire.scores import random_scores
from eke.acquire.strategies import STRATEGIES
from eke.randomness import mixed_seed
from eke.tasks.asked_strategy import Asked
from eke.tasks.candidates import Attention, Pool, SeenMistakes, gather, labeled_features, mistakes_of

CONTROL_SEED = mixed_seed(0, 0, "ask/control") % 2**31
"""Of the control, whatever the seed of a request: it is one control over all rounds."""
CONTROL_REASON = "control: drawn at random from all images, to measure by"


class Control(NamedTuple):
    """Images that no strategy may choose."""

    drawn: list[Pick]
    """Those that are asked for now; rows of the given ids."""
    apart: set[str]
    """These, and those of later rounds."""


def draw_control(ids: Sequence[str], n: int, rate: float) -> Control:
    """Draw round(rate n) of n images as the control, and set apart those of later rounds.

    Args:
        ids: N images whose label may be asked for.
        n: images to ask for in all, at most N.
        rate: in [0, 1].
    """
    numbers = random_scores(ids, CONTROL_SEED)
    rows = numbers.argsort(stable=True)[: round(rate * n)].tolist()
    apart = {name for name, number in zip(ids, numbers.tolist(), strict=True) if number < rate}
    if len(ids) - len(apart) < n - len(rows):  # too few would be left to choose: the pool is nearly used up
        apart = set()
    drawn = [Pick(row, float(numbers[row]), CONTROL_REASON) for row in rows]
    return Control(drawn, apart | {ids[row] for row in rows})


class Chosen(NamedTuple):
    """What was chosen, and from what."""

    picks: list[tuple[str, Pick]]
    """By id: the strategy's, whose rows are those of the candidates, the best first; then the control."""
    controls: set[str]
    """Ids that were drawn at random."""
    candidates: Candidates
    """What the strategy chose from: the pool without what is set apart."""
    mistakes: SeenMistakes | None
    """Of explanation-based attention."""

    def discrepancies(self) -> dict[str, float] | None:
        """Return how far the picks, and all candidates, are from the mistakes that picks should resemble.

        The squared maximum mean discrepancy of descriptors and attention, which Gudovskiy et al. 2020 (section 3) state
        that their picks make small; None where there is nothing to resemble.
        """
        candidates, rows = self.candidates, [pick.row for name, pick in self.picks if name not in self.controls]
        if self.mistakes is None or not self.mistakes.mistakes.ids or not rows:
            return None
        mistakes, found = self.mistakes.mistakes, {}
        for name, part in (("picked", candidates.rows(torch.tensor(rows))), ("pool", candidates)):
            assert part.descriptors is not None
            found[name] = discrepancy(part.descriptors, mistakes.descriptors, part.attention, mistakes.attention)
        return found


def choose(
    pool: Pool, asked: Asked, labeled_ids: Sequence[str], n: int, seed: int, control_rate: float, n_passes: int
) -> Chosen:
    """Draw the control images, then let the strategy choose from those that are not set apart.

    Args:
        pool: the candidates, and the network that looks at them.
        asked: the strategy.
        labeled_ids: images whose labels are spent, of which some may lie in the pool's source.
        n: images in all.
        seed: of draws, and of the order of equals.
        control_rate: share of the images that is drawn at random.
        n_passes: with dropout, or of attention.
    """
    ids = pool.candidates
    drawn, apart = draw_control(ids, min(n, len(ids)), control_rate)
    control = [(ids[pick.row], pick) for pick in drawn]
    mistakes = attention = None
    if asked.attention is not None:
        attention = Attention(asked.attention.form, asked.attention.scale, n_passes, asked.attention.oracle)
        mistakes = mistakes_of(pool, attention)
        strategy: Strategy = eba(mistakes.mistakes, asked.attention.how)
    else:
        strategy = STRATEGIES[asked.name]
    candidates = gather(replace(pool, apart=apart), strategy.needs, n_passes, seed, attention)
    labeled = labeled_features(pool, labeled_ids) if "features" in strategy.needs else Labeled()
    picks = [(candidates.ids[pick.row], pick) for pick in strategy.select(candidates, labeled, n - len(drawn), seed)]
    return Chosen([*picks, *control], {name for name, _ in control}, candidates, mistakes)
