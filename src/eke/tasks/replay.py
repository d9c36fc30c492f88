"""Rounds of active learning as cells: train, ask, look the answers up, train anew, for strategies that begin alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from eke.tasks.grid_cells import Ask, Cell, Train
from eke.tasks.grid_data import TableData
from eke.tasks.grid_table import Difference, Row, Series

RANDOM = "random"


@dataclass(frozen=True)
class Replay:
    """Strategies on one pool, over paired seeds: those of a seed share the first batch and the network trained on it.

    Args:
        data: pool, first batches, and the truth.
        seeds: paired.
        strategies: as `read_strategy` reads them.
        rounds: requests after the first batch.
        batch: images of each.
        train: number of labels -> how a network is trained on them, from scratch.
        n_passes: passes with dropout, and steps of attention.
        noise: share of the pool that is answered wrongly.
        start: how a network is trained without labels on the pool, once for each seed, from which every other begins.
    """

    data: TableData
    seeds: Sequence[int]
    strategies: Sequence[str]
    rounds: int
    batch: int
    train: Callable[[int], Train]
    n_passes: int
    noise: float = 0.0
    start: Train | None = None
    _chains: dict[str, list[Series]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def columns(self) -> list[str]:
        """Labels after the first batch and after each request."""
        return [str(self.batch * (number + 1)) for number in range(self.rounds + 1)]

    def curve(self, strategy: str) -> list[Series]:
        """Return test accuracy after the first batch and after each request."""
        if strategy not in self._chains:
            chains = [self._chain(strategy, seed) for seed in self.seeds]
            self._chains[strategy] = [Series(cells) for cells in zip(*chains, strict=True)]
        return self._chains[strategy]

    def _chain(self, strategy: str, seed: int) -> list[Cell]:
        start = self._start(seed)
        cells = [Cell(self.train(self.batch), self.data, seed, start=start)]
        ask = Ask(self.batch, strategy, self.n_passes, self.noise)
        for number in range(1, self.rounds + 1):
            request = Cell(ask, self.data, seed, start=cells[-1])
            cells.append(Cell(self.train(self.batch * (number + 1)), self.data, seed, start=start, asked=request))
        return cells

    def _start(self, seed: int) -> Cell | None:
        return None if self.start is None else Cell(self.start, self.data, seed)

    def whole(self, n: int) -> Series:
        """Return test accuracy with the true labels of all n images of the pool."""
        assert self.data.truth is not None
        known = replace(self.data, labels=dict.fromkeys(self.seeds, self.data.truth))
        return Series([Cell(self.train(n), known, seed, start=self._start(seed)) for seed in self.seeds])

    def rows(self, n: int) -> list[Row]:
        """Return a row for each strategy, and one of the fully labeled pool of n images, the same at every budget."""
        rows = []
        for strategy in self.strategies:
            figures = dict(zip(self.columns, self.curve(strategy), strict=True))
            last = self.columns[-1]
            rows.append(Row(strategy, {last: figures.pop(last), **figures}))  # first: whose cells count as spent
        return [*rows, Row(f"all {n:,} labels", dict.fromkeys(self.columns, self.whole(n)))]


def area(words: str, higher: Sequence[Series], lower: Sequence[Series]) -> Difference:
    """Compare two curves of equal first points: the difference of the mean heights, by trapezoids.

    The first point has half of the weight of an inner one, and so has the last; the first ones cancel.
    """
    plus, minus = ([*curve[1:-1], *curve[1:]] for curve in (higher, lower))
    return Difference(words, plus, minus, n=2 * (len(higher) - 1))
