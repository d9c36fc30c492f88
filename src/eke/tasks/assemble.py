"""Put a run together: from options and pools of images to the parts that the loop works on."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from eke.data.cache import Pixels
from eke.data.stream import Stream, ViewPlan
from eke.engine.checkpoint import Stateful
from eke.engine.loop import StepReport, run_steps
from eke.engine.model_files import ModelCard, new_network, start_from
from eke.engine.optim import learning_rate, make_optimizer
from eke.engine.processes import ComputeOptions, autocast, place_method, spread
from eke.errors import ConfigError, did_you_mean
from eke.methods import METHODS
from eke.methods.contract import Setting
from eke.methods.terms import AttentionOptions
from eke.models.ema import Ema
from eke.models.network import Network
from eke.randomness import mixed_seed
from eke.tasks.options import FitOptions, RunOptions, TrainingOptions, method_options


class Pools(NamedTuple):
    """The images that a run trains on: positions in `pixels`."""

    card: ModelCard
    pixels: Pixels
    labeled: list[int]
    labels: list[int] | list[list[int]]
    """Class of each labeled image; of several labels K of 0 and 1 each."""
    unlabeled: list[int]
    device: torch.device


class Assembly(NamedTuple):
    """What one training step touches."""

    method: nn.Module
    network: Network
    stream: Stream
    optimizer: torch.optim.Optimizer
    average: Ema[Network]
    notes: tuple[str, ...]
    """What became of the network that the run starts from."""
    attention: AttentionOptions | None
    """Of the method's attention term; None where it has none, or one without weight."""

    def parts(self) -> dict[str, Stateful]:
        """Return everything that has state, for a checkpoint."""
        return {"method": self.method, "average": self.average, "optimizer": self.optimizer}


def assemble(options: TrainingOptions, pools: Pools) -> Assembly:
    """Build network, method, stream, optimizer and average on the device of the pools.

    Raises:
        ConfigError: an option names what does not exist, or cannot be carried out.
        DataError: the method needs images that are not there.
    """
    assert options.steps is not None, "a time budget becomes steps before training"
    kind = METHODS[options.method["name"]]
    attention = options.attention if isinstance(options, FitOptions) else AttentionOptions()
    if pools.card.several and not getattr(kind, "several_labels", False):
        fitting = ", ".join(name for name, each in METHODS.items() if getattr(each, "several_labels", False))
        raise ConfigError(
            f"{options.method['name']} gives every image one class, and these may have several. Choose one of "
            f"{fitting}; or pretrain, which reads no label."
        )
    network = new_network(pools.card, options.seed)
    notes = (start_from(network, pools.card, Path(options.init) / "model"),) if options.init else ()
    setting = Setting(
        n_classes=len(pools.card.classes),
        n_labeled=len(pools.labeled),
        n_unlabeled=len(pools.unlabeled),
        total_steps=options.steps,
        seed=options.seed,
        image_shape=pools.card.shape,
        embedding_width=network.width,
        attention=attention,
    )
    with torch.random.fork_rng(devices=[]):  # the method's own heads, too, are a function of the seed
        torch.default_generator.manual_seed(mixed_seed(options.seed, 0, "method"))
        method = kind(method_options(options), network, setting)
    assert isinstance(method, nn.Module)
    looked_at = attention_of(options.method["name"], method, attention, options.compute)
    layers = looked_at.layer if looked_at is not None else ()
    place_method(method, network, options.compute, pools.device, layers, pools.card.size)
    method.train()
    optimizer, average = make_optimizer(method, options.optim), Ema(network, options.optim.ema_decay)
    return Assembly(method, network, make_stream(options, pools), optimizer, average, notes, looked_at)


def attention_of(
    name: str, method: nn.Module, asked: AttentionOptions, compute: ComputeOptions
) -> AttentionOptions | None:
    """Return the options of a method's attention term, None where it has none or one without weight.

    Raises:
        ConfigError: a weight is asked for, and the method has no such term, or it cannot be compiled.
    """
    term = getattr(method, "attention", None)
    if term is None:
        if asked.weight > 0:
            raise ConfigError(
                f"attention.weight needs a method whose network sees two views of an unlabeled image, which {name} is "
                "not. Choose another, such as fixmatch, or set attention.weight=0."
            )
        return None
    options: AttentionOptions = term.options
    if options.weight == 0:
        return None
    if compute.compile and (options.map == "saliency" or not getattr(method, "compiles", True)):
        raise ConfigError(
            f"{name} with maps of pixels needs second derivatives of the whole network, which a compiled one does not "
            "have: set compute.compile=false, or take the map of a layer, such as attention.map=gradcam."
        )
    return options


def make_stream(options: TrainingOptions, pools: Pools) -> Stream:
    """Build the stream of the run's batches."""
    return Stream(
        pools.pixels,
        pools.labeled,
        pools.labels,
        pools.unlabeled,
        chosen_views(options),
        n_labeled=options.batch.labeled,
        n_unlabeled=options.batch.unlabeled,
        seed=options.seed,
        device=pools.device,
    )


def chosen_views(options: RunOptions) -> ViewPlan:
    """Return the method's plan, its presets replaced by view name with those that the user chose.

    Raises:
        ConfigError: the method has no such view.
    """
    plan = METHODS[options.method["name"]].views
    names = {*plan.labeled, *plan.unlabeled}
    for name in options.views:
        if name not in names:
            raise ConfigError(f"This method has no view {name!r} (views.{name}). {did_you_mean(name, names)}")
    return ViewPlan(
        {name: options.views.get(name, preset) for name, preset in plan.labeled.items()},
        {name: options.views.get(name, preset) for name, preset in plan.unlabeled.items()},
    )


def images_per_step(options: TrainingOptions) -> int:
    """Count the images of a global batch that go through the network, every view of them."""
    plan = chosen_views(options)
    return options.batch.labeled * len(plan.labeled) + options.batch.unlabeled * len(plan.unlabeled)


def training_steps(assembly: Assembly, options: RunOptions, first: int = 0) -> Iterator[StepReport]:
    """Train from step `first` to the last, on one process or as one of several."""
    assert options.steps is not None
    steps, device = options.steps, next(assembly.network.parameters()).device
    return run_steps(
        spread(assembly.method, device),
        assembly.network,
        assembly.stream,
        assembly.optimizer,
        lambda step: learning_rate(step, options.optim, steps),
        assembly.average,
        autocast(options.compute, device),
        first=first,
        last=steps,
        seed=options.seed,
    )
