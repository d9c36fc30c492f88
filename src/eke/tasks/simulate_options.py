"""What `eke simulate` is told: its numbers, checked, how networks are trained, and the command that says the same."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eke.config import merge
from eke.errors import ConfigError, did_you_mean
from eke.tasks.asked_strategy import read_strategy
from eke.tasks.distortions import Distortion
from eke.tasks.grid_cells import Train
from eke.tasks.options import resolve_pretrain
from eke.tasks.replay import RANDOM

DROPS = {"lenet", "cnn8"}
"""Networks with dropout of their own."""


@dataclass(frozen=True)
class SimulateOptions:
    """What is simulated.

    Args:
        source: labeled images.
        test: labeled test images from elsewhere; None: the source's own, else a hold-out of a fifth.
        strategies: as `eke ask` has them; random is added where it is missing.
        rounds: requests after the first batch.
        batch: images of each.
        seeds: paired.
        imbalance: ratios of frequent to rare.
        distortion: what is rare, or damaged.
        noise: share of the pool that is answered wrongly.
        n_passes: passes with dropout, and steps of attention.
        n_val: validation images; None: a tenth, at most 1,000.
        method: of training.
        flags: nested options of training.
        start: method that trains without labels on the pool first; None: every network begins from scratch.
        start_steps: its steps.
    """

    source: str
    test: str | None
    strategies: Sequence[str]
    rounds: int
    batch: int
    seeds: int
    imbalance: Sequence[float]
    distortion: str
    noise: float
    n_passes: int
    n_val: int | None
    method: str
    flags: Mapping[str, Any]
    start: str | None = None
    start_steps: int = 1000

    def checked(self) -> "SimulateOptions":
        """Return itself.

        Raises:
            ConfigError: a number is out of range, a name unknown, or a strategy needs dropout and the network has none.
        """
        for name, value in (
            ("rounds", self.rounds), ("batch", self.batch), ("seeds", self.seeds), ("passes", self.n_passes),
            ("start-steps", self.start_steps),
        ):  # fmt: skip
            if value < 1:
                raise ConfigError(f"--{name} {value}: give 1 or more.")
        if not self.imbalance or min(self.imbalance) < 1:
            raise ConfigError("--imbalance is a list of ratios of 1 or more, such as 1,10,100.")
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"--noise {self.noise:g} is no share. Give a number from 0 to 1, such as 0.1.")
        if self.distortion not in get_args(Distortion):
            known = get_args(Distortion)
            raise ConfigError(f"Unknown distortion {self.distortion!r}. {did_you_mean(self.distortion, known)}")
        model = self.flags.get("model", {})
        has_dropout = model["dropout"] if model.get("dropout") is not None else model.get("name") in DROPS
        for strategy in self.names:
            if read_strategy(strategy).draws_dropout and not has_dropout:
                raise ConfigError(f"{strategy} needs dropout: add --set model.dropout=0.25, or --model lenet.")
        return self

    def start_work(self, n: int) -> Train | None:
        """Return how a network is trained on a pool of n images without labels, or None.

        Raises:
            ConfigError: the method is unknown, or learns from labels.
        """
        if self.start is None:
            return None
        shared = {name: self.flags[name] for name in ("model", "compute") if name in self.flags}
        flags = merge(shared, {"steps": self.start_steps})
        size = min(resolve_pretrain(self.start, {**flags, "source": self.source}).batch.size, n)
        return Train(self.start, merge(flags, {"batch": {"size": size}}))

    @property
    def names(self) -> list[str]:
        """The strategies, random first."""
        return [RANDOM, *(each for each in dict.fromkeys(self.strategies) if each != RANDOM)]

    def train(self) -> Train:
        """Return how networks are trained: the last weights count, and a class may be without a label."""
        shared = {"data": {"val_rate": 0.0, "empty_classes": True}}
        steps = self.flags.get("steps") or 1000
        length = {"steps": steps, "evaluate": {"every_steps": steps}}
        return Train(self.method, merge(merge(shared, self.flags), length))


def command(options: SimulateOptions, out: Path) -> str:
    """Return the command of a simulation."""
    words = ["eke", "simulate", options.source, *(["--test", options.test] if options.test else [])]
    words += ["--strategies", ",".join(options.strategies)]
    named = {
        "rounds": options.rounds,
        "batch": options.batch,
        "seeds": options.seeds,
        "imbalance": ",".join(f"{ratio:g}" for ratio in options.imbalance),
        "distort": options.distortion,
        "noise": options.noise,
        "passes": options.n_passes,
        "val": options.n_val,
        "method": options.method,
        "start": options.start,
        "start-steps": options.start and options.start_steps,
        "out": out,
    }
    words += [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
    words += [word for assignment in _assignments(options.flags) for word in ("--set", assignment)]
    return shlex.join(words)


def _assignments(flags: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for name, value in flags.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{where}{name}.")
        elif value is not None:
            yield f"{where}{name}={value}"
