"""What to ask for: a control drawn at random, then a strategy's picks among the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from eke.acquire.contract import Candidates, Labeled, Pick, Strategy
from eke.acquire.descriptors import discrepancy
from eke.acquire.eba import eba
from eke.acquire.strategies import STRATEGIES
from eke.randomness import mixed_seed
from eke.tasks.asked_strategy import Asked
from eke.tasks.candidates import Attention, Pool, SeenMistakes, gather, labeled_features, mistakes_of

CONTROL_REASON = "control: drawn at random from all images, to measure by"


class Chosen(NamedTuple):
    """What was chosen, and from what."""

    picks: list[tuple[str, Pick]]
    """By id: the strategy's, whose rows are those of the candidates, the best first; then the control."""
    controls: set[str]
    """Ids that were drawn at random."""
    candidates: Candidates
    """What the strategy chose from: the pool without the control."""
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
    """Draw the control images from the whole pool, then let the strategy choose from the others.

    Args:
        pool: the candidates, and the network that looks at them.
        asked: the strategy.
        labeled_ids: images whose labels are spent, of which some may lie in the pool's source.
        n: images in all.
        seed: of draws, and of the order of equals.
        control_rate: share of the images that is drawn at random.
        n_passes: with dropout, or of attention.
    """
    everything = Candidates(pool.candidates, several=pool.card.several)
    n_control = round(control_rate * min(n, len(everything)))
    drawn = STRATEGIES["random"].select(everything, Labeled(), n_control, mixed_seed(seed, 0, "ask/control") % 2**31)
    control = [(everything.ids[pick.row], pick._replace(reason=CONTROL_REASON)) for pick in drawn]
    controls = {name for name, _ in control}
    mistakes = attention = None
    if asked.attention is not None:
        attention = Attention(asked.attention.form, asked.attention.scale, n_passes, asked.attention.oracle)
        mistakes = mistakes_of(pool, attention)
        strategy: Strategy = eba(mistakes.mistakes, asked.attention.how)
    else:
        strategy = STRATEGIES[asked.name]
    candidates = gather(replace(pool, controls=controls), strategy.needs, n_passes, seed, attention)
    labeled = labeled_features(pool, labeled_ids) if "features" in strategy.needs else Labeled()
    picks = strategy.select(candidates, labeled, n - n_control, seed)
    return Chosen([*((candidates.ids[pick.row], pick) for pick in picks), *control], controls, candidates, mistakes)
