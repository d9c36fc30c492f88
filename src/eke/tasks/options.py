"""All options of a training run, and how defaults, recipe, preset, file, `--set` and flags become one of them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from eke.config import Options, from_assignments, merge, parse, read_file
from eke.data.options import ClipOptions
from eke.data.splits import DataOptions
from eke.engine.model_files import read_card
from eke.engine.optim import OptimOptions
from eke.engine.processes import ComputeOptions
from eke.errors import ConfigError, did_you_mean
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised, presets_of
from eke.methods.terms import AttentionOptions
from eke.models.network import ModelOptions


class BatchOptions(Options):
    """How many images a step takes, over all processes."""

    labeled: int = Field(64, ge=1)
    """B: labeled images per step."""
    mu: int = Field(7, ge=1)
    """Unlabeled images per labeled one (U = mu B), for methods that use unlabeled images."""

    @property
    def unlabeled(self) -> int:
        """U: unlabeled images per step."""
        return self.mu * self.labeled


class PretrainBatchOptions(Options):
    """How many images a pretraining step takes, over all processes."""

    size: int = Field(256, ge=2)
    """U: images per step, none of them with its label."""

    @property
    def labeled(self) -> int:
        """B: 0."""
        return 0

    @property
    def unlabeled(self) -> int:
        """U."""
        return self.size


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
    keep: Literal["last", "labels", "attention"] = "last"
    """Weights that count: the last; those of the best validation accuracy (of several labels: mAP); or, without a
    label, those whose maps of validation images agree most."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better one; default: at the last step."""
    start: bool = False
    """Whether the weights before step 1 are looked at too: they count where all later ones are worse. With
    keep=attention, no later ones count that decide more than a twentieth of the validation images otherwise."""

    @model_validator(mode="after")
    def _waits_for_something(self) -> Self:
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience waits for a better evaluation: set keep to labels or attention")
        if self.start and self.keep == "last":
            raise ValueError(
                "start is for weights that may count, and the last ones do: set keep to labels or attention"
            )
        return self

    def determines(self) -> dict[str, Any]:
        """Return what determines the weights that count: nothing, where they are the last."""
        left_out = {"log_every_steps"} if self.start else {"log_every_steps", "start"}
        return {} if self.keep == "last" else self.model_dump(mode="json", exclude=left_out)


class RunOptions(Options):
    """What determines a run of any kind. Saved as config.json, and reproduces it."""

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
    init: str | None = None
    """Run folder whose trained network this run starts from, instead of random weights."""
    seed: int = Field(0, ge=0)
    """Seed of split, weights, batches and views."""
    views: dict[str, str] = Field(default_factory=dict)
    """Other presets for the method's views, such as {"weak": "weak-noflip"} for digits."""
    data: DataOptions = DataOptions()
    clip: ClipOptions = ClipOptions()
    model: ModelOptions = ModelOptions()
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


class FitOptions(RunOptions):
    """What determines a run of `eke fit`."""

    batch: BatchOptions = BatchOptions()
    attention: AttentionOptions = AttentionOptions()
    baseline: str = "auto"
    """auto: a supervised run with equal start, labels, labeled views, labeled batch and steps; none; or a RUN."""


class PretrainOptions(RunOptions):
    """What determines a run of `eke pretrain`."""

    batch: PretrainBatchOptions = PretrainBatchOptions()


TrainingOptions = FitOptions | PretrainOptions
Kind = TypeVar("Kind", FitOptions, PretrainOptions)


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
    """Make the options of a fit; later sources win: defaults < recipe < preset < `init` < `config` < `assignments`
    < `flags`.

    Args:
        method: one of METHODS, or METHOD/PRESET; None: the one that `config` names, else fixmatch.
        flags: nested values; None means "not given".
        assignments: `a.b=c` words.
        config: YAML or JSON file of nested values.

    Raises:
        ConfigError: a name is unknown, a value is out of range, or the method learns without labels.
        CheckpointError: `init` names no finished run.
    """
    return _resolve(FitOptions, method, flags, assignments, config)


def resolve_pretrain(
    method: str | None, flags: Mapping[str, Any], assignments: Sequence[str] = (), config: Path | None = None
) -> PretrainOptions:
    """Make the options of a pretraining, as `resolve` does; without a method: simclr."""
    return _resolve(PretrainOptions, method, flags, assignments, config)


def _resolve(
    options: type[Kind], method: str | None, flags: Mapping[str, Any], assignments: Sequence[str], config: Path | None
) -> Kind:
    file = read_file(config) if config else {}
    asked = merge(from_assignments(assignments), _given(flags))
    if {"steps", "budget"} <= set(asked):
        raise ConfigError("Give steps or a budget, not both: a budget becomes a number of steps.")
    if {"steps", "budget"} & set(asked):  # either replaces whatever length the file's run had
        file = {name: value for name, value in file.items() if name not in {"steps", "budget"}}
    given = merge(file, asked)
    own = dict(given.pop("method", {}))
    pretraining = options is PretrainOptions
    named = own.pop("name", "simclr" if pretraining else "fixmatch")
    name, preset = find_method(method or named, pretraining)
    kind = METHODS[name]
    laid = dict(preset)
    own = merge(laid.pop("method", {}), own)
    values = merge(merge(merge(dict(kind.recipe), laid), _start(given.get("init"))), given)
    values["source"] = str(values.get("source", "")).rstrip("/") or "/"
    values["method"] = {"name": name, **parse(kind.Config, own, where="method").model_dump(mode="json")}
    return parse(options, values)


def find_method(word: str, pretraining: bool) -> tuple[str, Mapping[str, Any]]:
    """Read METHOD or METHOD/PRESET: the method's name and what the preset lays over its recipe.

    Raises:
        ConfigError: unknown, or of the other command.
    """
    name, slash, preset = word.partition("/")
    fitting = [each for each, kind in METHODS.items() if is_self_supervised(kind) == pretraining]
    if name in METHODS and name not in fitting:
        remedy = (
            "learns with labels: `eke fit` trains it"
            if pretraining
            else f"learns without labels: `eke pretrain DATA --method {name}`, then `eke fit DATA --init RUN`"
        )
        raise ConfigError(f"The method {name!r} {remedy}.")
    if name not in METHODS:
        raise ConfigError(f"Unknown method {name!r}. {did_you_mean(name, fitting)}")
    presets = presets_of(METHODS[name])
    if slash and preset not in presets:
        remedy = did_you_mean(preset, presets) if presets else f"It has none: write {name}."
        raise ConfigError(f"The method {name!r} has no preset {preset!r}. {remedy}")
    return name, presets[preset] if slash else {}


def _start(init: str | None) -> dict[str, Any]:
    """Return the options that must be those of the run that is started from: architecture, size, channels."""
    if init is None:
        return {}
    card = read_card(Path(init) / "model")
    return {
        "model": {"name": card.model.name, "dropout": card.model.dropout},
        "data": {"size": list(card.size), "channels": card.channels, "fit": card.fit},
        **({"clip": card.clip.model_dump()} if card.clip else {}),
    }


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, Mapping) else value for name, value in flags.items()}
    return {name: value for name, value in nested.items() if value is not None and value != {}}


def method_options(options: RunOptions) -> Options:
    """Return the method's own options, typed."""
    own = {name: value for name, value in options.method.items() if name != "name"}
    return parse(METHODS[options.method["name"]].Config, own, where="method")


def learns_classes(options: RunOptions) -> bool:
    """Tell whether the run's network gets a class head."""
    return not is_self_supervised(METHODS[options.method["name"]])
