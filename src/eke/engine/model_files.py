"""The trained model as files: weights as safetensors, and a card that says how to build it and feed it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from eke.config import Options, parse
from eke.data.options import ClipOptions
from eke.errors import CheckpointError, ConfigError, first_line
from eke.files import write_atomic, write_json
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network

WEIGHTS, CARD = "weights.safetensors", "model.json"


class ModelCard(Options):
    """What must be known to build the network and to make its images."""

    model: ModelOptions
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    several: bool = False
    """Whether an image may have several of the classes, or none."""
    thresholds: tuple[float, ...] = ()
    """With `several`: the probability from which each class is predicted; empty: 0.5."""
    channels: int
    """Channels of an image: 1 or 3."""
    size: tuple[int, int]
    """Height and width of an image."""
    fit: str
    """How an image of another shape is brought to `size`."""
    mean: tuple[float, ...]
    """Mean of the training pixels per channel, in [0, 1]; the network subtracts it itself."""
    std: tuple[float, ...]
    """Standard deviation likewise."""
    clip: ClipOptions | None = None
    """How recordings are cut into clips, where it reads clips; None for images."""

    @property
    def frames(self) -> int | None:
        """T of a clip; None for images."""
        return None if self.clip is None else self.clip.frames

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image or (C, T, H, W) of a clip."""
        return (self.channels, *([] if self.frames is None else [self.frames]), *self.size)


def new_network(card: ModelCard, seed: int) -> Network:
    """Build the card's network with weights drawn from `seed` (or pretrained, where the options say so)."""
    return build_network(
        card.model,
        n_classes=len(card.classes),
        channels=card.channels,
        size=card.size,
        mean=card.mean,
        std=card.std,
        seed=seed,
        several=card.several,
        frames=card.frames,
    )


def save_model(folder: Path, network: nn.Module, card: ModelCard) -> None:
    """Write weights and card, each atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = save(tensors)  # as bytes, so that a full disk is the system's error and not another library's
    write_atomic(folder / WEIGHTS, lambda temporary: temporary.write_bytes(content))
    write_json(folder / CARD, card.model_dump(mode="json"))


def load_model(folder: Path, device: torch.device) -> tuple[Network, ModelCard]:
    """Read a model folder, in evaluation mode.

    Raises:
        CheckpointError: a file is missing, damaged, or not a safetensors file (pickled code is never executed).
    """
    card = read_card(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise _unfinished(folder, WEIGHTS) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is damaged or is not a model of eke ({error}). Only safetensors files are read."
        ) from None
    # the weights below replace whatever a pretrained start would bring, so it is not asked for again
    bare = card.model_copy(update={"model": card.model.model_copy(update={"pretrained": False, "weights": None})})
    network = new_network(bare, seed=0)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"The weights in {folder} do not fit its card: {first_line(error)}") from None
    return network.to(device).eval(), card


def load_classifier(folder: Path, device: torch.device) -> tuple[Network, ModelCard]:
    """Read a model folder whose network has a class head.

    Raises:
        CheckpointError: as `load_model`.
        ConfigError: it has none.
    """
    network, card = load_model(folder, device)
    if not card.classes:
        raise ConfigError(
            f"{folder.parent} was trained without labels and has no class head. Fit one with "
            f"`eke fit DATA --init {folder.parent}`, or look at its embeddings with `eke probe {folder.parent} DATA`."
        )
    return network, card


def read_card(folder: Path) -> ModelCard:
    """Read the card of a model folder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    if not folder.parent.is_dir():
        raise CheckpointError(f"There is no run folder {folder.parent}. Name one that `eke fit --out` wrote.")
    if not (folder.parent / "config.json").exists() and not folder.is_dir():
        raise CheckpointError(f"{folder.parent} is not a run of eke. Name a folder that `eke fit --out` wrote.")
    try:
        values: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return parse(ModelCard, values)
    except FileNotFoundError:
        raise _unfinished(folder, CARD) from None
    except (ValueError, ConfigError, OSError) as error:
        raise CheckpointError(f"{folder} is damaged or is not a model of eke ({error}).") from None


def _unfinished(folder: Path, file: str) -> CheckpointError:
    return CheckpointError(f"{folder} has no {file}: the run has not finished. Go on with its command and --resume.")


def start_from(network: Network, card: ModelCard, folder: Path) -> str:
    """Give a new network the body of a trained one, its normalization, and its class head where the classes are equal.

    Args:
        network: made from `card`.
        card: of the new network.
        folder: the trained model's.

    Returns:
        A sentence that says what became of the head.

    Raises:
        CheckpointError: the trained model is missing, damaged, or of another architecture.
    """
    trained, its_card = load_model(folder, network.mean.device)
    run, body = folder.parent, trained.body.state_dict()
    mine = network.body.state_dict()
    if {name: value.shape for name, value in mine.items()} != {name: value.shape for name, value in body.items()}:
        raise CheckpointError(
            f"{run} is a {its_card.model.name} for images of {its_card.size}, this run a {card.model.name} for "
            f"{card.size}: the weights do not fit. Leave out --model and data.size, which then are that run's."
        )
    network.body.load_state_dict(body)
    network.mean.copy_(trained.mean)
    network.std.copy_(trained.std)
    if not card.classes:
        return f"The network started as that of {run}."
    if its_card.classes == card.classes and its_card.several == card.several:
        network.head.load_state_dict(trained.head.state_dict())
        return f"The network started as that of {run}, class head included."
    why = f"its head is for other classes ({len(its_card.classes)})" if its_card.classes else "it has no class head"
    return f"The network started as that of {run}; {why}, so a new head was made for {len(card.classes)} classes."
