"""The rows that several tables share. Equal cells have equal hashes, so tables with one OUT run them once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eke.tables.benches import Bench
from eke.tasks.grid_cells import Ask, Cell, Probe, Work
from eke.tasks.grid_table import Difference, Series


@dataclass(frozen=True)
class Rows:
    """Series of cells on one bench, one cell per seed."""

    bench: Bench
    seeds: Sequence[int]

    def supervised(self) -> Series:
        """Train on labels alone."""
        return self.series(self.bench.supervised())

    def semi_supervised(
        self, method: str, rate: float = 1.0, *, start: Series | None = None, asked: Series | None = None
    ) -> Series:
        """Train on labels and unlabeled images; from a pretrained network, or with the answers to a request."""
        return self.series(self.bench.semi_supervised(method, rate, extra=asked is not None), start, asked)

    def pretrained(self, method: str, rate: float | None = None) -> Series:
        """Train without labels."""
        return self.series(self.bench.pretraining(method, rate))

    def fine_tuned(self, start: Series, asked: Series | None = None) -> Series:
        """Train all weights of pretrained networks on the labels."""
        return self.series(self.bench.fine_tuning(), start, asked)

    def probed(self, start: Series) -> dict[str, Series]:
        """Measure the frozen embedding of pretrained networks, by column."""
        linear = self.series(Probe(), start)
        return {"Linear probe": replace(linear, figure="linear"), "kNN": replace(linear, figure="knn")}

    def request(self, by: Series, strategy: str) -> Series:
        """Let trained networks ask for labels."""
        return self.series(Ask(self.bench.n_extra, strategy), by)

    def series(self, work: Work, start: Series | None = None, asked: Series | None = None) -> Series:
        """Do the same work for each seed, each from the cells of its own seed."""
        none: Sequence[Cell | None] = [None] * len(self.seeds)
        starts, requests = start.cells if start else none, asked.cells if asked else none
        return Series(
            [
                Cell(work, self.bench.data, seed, start=begins, asked=answers)
                for seed, begins, answers in zip(self.seeds, starts, requests, strict=True)
            ]
        )


def above(words: str, higher: Series, lower: Series) -> Difference:
    """Say that one series lies above another."""
    return Difference(words, [higher], [lower])
