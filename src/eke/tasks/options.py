"""All options of a training run, and how defaults, recipe, file, `--set` and flags become one of them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from eke.config import Options, from_assignments, merge, parse, read_file
from eke.data.splits import DataOptions
from eke.engine.optim import OptimOptions
from eke.engine.processes import ComputeOptions
from eke.errors import ConfigError, did_you_mean
from eke.methods import METHODS
from eke.models.network import ModelOptions


class BatchOptions(Options):
    """How many images a step takes, over all processes."""

    labeled: int = Field(64, ge=1)
    """B: labeled images per step."""
    mu: int = Field(7, ge=1)
    """Unlabeled images per labeled one (U = mu B), for methods that use unlabeled images."""


class CheckpointOptions(Options):
    """When the state is saved."""

    every_steps: int = Field(500, ge=1)
    """Steps between checkpoints; the last step is always saved."""


class EvaluateOptions(Options):
    """When the run is looked at."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between evaluations on validation; default: ten of them over the run."""
    log_every_steps: int = Field(20, ge=1)
    """Steps whose mean makes one line of steps.jsonl; the device is read only then."""


class FitOptions(Options):
    """Everything that determines a run. Saved as config.json, and reproduces it."""

    source: str
    """Training images, as named on the command line."""
    test: str | None = None
    """Labeled test images, read once, at the end."""
    labels: tuple[str, ...] = ()
    """Label files laid over the source's own labels; later ones win."""
    method: dict[str, Any]
    """The method's name and its own options."""
    steps: int | None = Field(None, ge=1)
    """Training steps. The papers' CIFAR runs take 2^20."""
    budget: str | None = None
    """Time instead of steps ("90s", "20m", "2h"), baseline included; becomes a number of steps before step 1.
    With neither steps nor budget: 20m."""
    baseline: str = "auto"
    """auto: a supervised run with equal labels, labeled views, labeled batch and steps; none; or a run folder."""
    seed: int = Field(0, ge=0)
    """Seed of split, weights, batches and views."""
    views: dict[str, str] = Field(default_factory=dict)
    """Other presets for the method's views, such as {"weak": "weak-noflip"} for digits."""
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    batch: BatchOptions = BatchOptions()
    optim: OptimOptions = OptimOptions()
    compute: ComputeOptions = ComputeOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    evaluate: EvaluateOptions = EvaluateOptions()

    @field_validator("budget")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        if text is not None:
            budget_seconds(text)
        return text


def budget_seconds(text: str) -> float:
    """Read a duration such as 90s, 20m or 1.5h.

    Example:
        >>> budget_seconds("20m")
        1200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match or float(match[1]) == 0:
        raise ValueError("write a duration such as 90s, 20m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def resolve(
    method: str | None, flags: Mapping[str, Any], assignments: Sequence[str] = (), config: Path | None = None
) -> FitOptions:
    """Make one set of options; later sources win: defaults < recipe < `config` < `assignments` < `flags`.

    Args:
        method: name of the method, one of METHODS; None: the one that `config` names, else fixmatch.
        flags: nested values; None means "not given".
        assignments: `a.b=c` words.
        config: YAML or JSON file of nested values.

    Raises:
        ConfigError: a name is unknown or a value is out of range.
    """
    file = read_file(config) if config else {}
    asked = merge(from_assignments(assignments), _given(flags))
    if {"steps", "budget"} <= set(asked):
        raise ConfigError("Give steps or a budget, not both: a budget becomes a number of steps.")
    if {"steps", "budget"} & set(asked):  # either replaces whatever length the file's run had
        file = {name: value for name, value in file.items() if name not in {"steps", "budget"}}
    given = merge(file, asked)
    own = dict(given.pop("method", {}))
    named = own.pop("name", "fixmatch")
    method = method or named
    if method not in METHODS:
        raise ConfigError(f"Unknown method {method!r}. {did_you_mean(method, METHODS)}")
    kind = METHODS[method]
    values = merge(dict(kind.recipe), given)
    values["source"] = str(values.get("source", "")).rstrip("/") or "/"
    values["method"] = {"name": method, **parse(kind.Config, own, where="method").model_dump(mode="json")}
    return parse(FitOptions, values)


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, Mapping) else value for name, value in flags.items()}
    return {name: value for name, value in nested.items() if value is not None and value != {}}


def method_options(options: FitOptions) -> Options:
    """Return the method's own options, typed."""
    own = {name: value for name, value in options.method.items() if name != "name"}
    return parse(METHODS[options.method["name"]].Config, own, where="method")
