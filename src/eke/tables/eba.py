"""What the tables of explanation-based attention share: rounds of requests on pools that are imbalanced.

A network is trained from scratch on a random batch; then a strategy asks for as many labels again, and so on
(Gudovskiy, Hodgkinson, Yamaguchi, Tsukizawa 2020: Explanation-Based Attention for Semi-Supervised Deep Active Learning,
section 4).
Strategies of a seed share the first batch and the network that it trains. Of the pool the first half of the classes
stays whole, n images, and int(n / ratio) of the others together; validation and test images stay as they are.

What the paper leaves open, or what is otherwise here:
1. Momentum 0.5, as in the authors' later code; no weight decay, no augmentation.
2. The authors' code reads the test accuracy of each epoch and keeps the best. Here the last weights count.
3. Pixels are normalized by the pool's own mean and deviation. Attention's path starts at the mean color.
4. The validation classes of the attention are those predicted, as the paper has it; "/oracle" takes the true classes of
   pool and validation images ("Abl" in the paper).
5. What the paper states as "up to" a number of points is judged by its sign, as the difference of the mean
   heights of the curves; the number stands in words beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tasks.grid_cells import Train
from eke.tasks.grid_table import Claim, Difference, Section, Table
from eke.tasks.replay import RANDOM, Replay, area
from eke.tasks.simulate_data import SimulationPlan, build_simulation, pool_size

OPTIM: Mapping[str, Any] = {
    "name": "sgd",
    "momentum": 0.5,
    "nesterov": False,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "ema_decay": 0.0,
}
BATCH = 25
"""Images of a step."""


@dataclass(frozen=True)
class EbaBench:
    """One scale of one of the tables."""

    plan: SimulationPlan
    """Of imbalance 1."""
    ratios: Sequence[float]
    strategies: Sequence[str]
    rounds: int
    """Requests after the first batch."""
    n_passes: int
    """K."""
    model: str
    optim: Mapping[str, Any]
    """Rate and schedule."""
    steps: Callable[[int], int]
    """Number of labels -> training steps."""
    text: str

    def train(self, n: int) -> Train:
        """Return how a network is trained on n labels."""
        steps = self.steps(n)
        return Train(
            "supervised",
            {
                "data": {"val_rate": 0.0, "empty_classes": True},
                "model": {"name": self.model},
                "batch": {"labeled": BATCH, "mu": 1},
                "optim": {**OPTIM, **self.optim},
                "views": {"weak": "none"},
                "steps": steps,
                "evaluate": {"every_steps": steps},
            },
        )


def epochs(n_epochs: int) -> Callable[[int], int]:
    """Return the steps of so many passes over the labels."""
    return lambda n: n_epochs * -(-n // BATCH)


def make_replays(bench: EbaBench, seeds: Sequence[int], out: Path, progress: Progress) -> dict[float, Replay]:
    """Build the data and list the cells of each imbalance."""
    found = {}
    for ratio in bench.ratios:
        plan = bench.plan.at(ratio)
        data = build_simulation(plan, out / "data", seeds, progress)
        names = [RANDOM, *bench.strategies]
        found[ratio] = Replay(data, seeds, names, bench.rounds, plan.batch, bench.train, bench.n_passes)
    return found


def lay_out(
    name: str, title: str, scale: Scale, bench: EbaBench, replays: Mapping[float, Replay], claims: Sequence[Claim]
) -> Table:
    """Put the table together: a section of curves for each imbalance."""
    sections = []
    for replay in replays.values():
        n = pool_size(replay.data)
        text = (
            f"{bench.text} A pool of {n:,} images; {replay.batch:,} random ones, then {replay.rounds} requests of "
            f"{replay.batch:,}. K = {replay.n_passes}. What a row took is its last training alone."
        )
        sections.append(Section(replay.data.name, text, replay.columns, replay.rows(n), x="labels"))
    seeds = next(iter(replays.values())).seeds
    return Table(name=name, title=title, scale=scale, seeds=seeds, sections=sections, claims=claims)


class Claims:
    """Makes the sentences of the paper: differences of mean heights of curves at an imbalance."""

    def __init__(self, replays: Mapping[float, Replay], source: str) -> None:
        self.replays, self.source = replays, source
        self.made: list[Claim] = []

    def add(self, sentence: str, *pairs: tuple[float, str, str]) -> None:
        """Say that of each (imbalance, higher, lower) the first strategy's curve lies above the second's."""
        differences = [
            area(
                f"imbalance {ratio:g}: {higher} − {lower}",
                self.replays[ratio].curve(higher),
                self.replays[ratio].curve(lower),
            )
            for ratio, higher, lower in pairs
        ]
        baseline = self.replays[pairs[0][0]].curve(RANDOM)[-1]
        self.made.append(Claim(sentence, self.source, differences, baseline))

    def add_growth(self, sentence: str, higher: str, lower: str, less: float, more: float) -> None:
        """Say that the difference of two strategies is larger at imbalance `more` than at `less`."""
        large, small = (
            area("", self.replays[ratio].curve(higher), self.replays[ratio].curve(lower)) for ratio in (more, less)
        )
        words = f"({higher} − {lower} at imbalance {more:g}) − (the same at {less:g})"
        growth = Difference(words, [*large.plus, *small.minus], [*large.minus, *small.plus], large.n)
        self.made.append(Claim(sentence, self.source, [growth], self.replays[more].curve(RANDOM)[-1]))
