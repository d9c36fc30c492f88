"""Feature maps of layers: what each of the liveliest channels makes of one image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eke.engine.model_files import ModelCard
from eke.explain.activations import liveliest_channels, scaled_to_unit
from eke.models.network import Network
from eke.models.network import layers as find_layers
from eke.report.content import LayerReport, LayerRow
from eke.report.insides import LAYERS_IN_WORDS, layer_sheet
from eke.report.pictures import middle_map, picture_of
from eke.report.sheet import write_layer_sheet
from eke.tasks.explanation import Explanation, Kind, Subject

ACTIVATIONS = "activations"
"""What --map calls them."""
N_LAYERS = 4
"""Layers that are shown where none is named."""
N_CHANNELS = 8
"""Channels of each."""


class Explained(NamedTuple):
    """What the network makes of one image."""

    predicted: int
    """The class that it is taken for."""
    rows: list[LayerRow]
    """The maps to show, per layer."""
    maps: dict[str, Tensor]
    """Layer -> all its maps (C, [t,] h, w), float32 on the CPU, as the network computes them."""


@torch.inference_mode()
def activations(network: Network, pixels: Tensor, layers: Sequence[str], n_channels: int) -> Explained:
    """Take the feature maps of one image and choose the channels whose maps vary most over it.

    Args:
        network: in evaluation mode.
        pixels: (C, H, W) uint8 on the network's device; of a clip (C, T, H, W) the middle of each map is shown.
        layers: names of layers; see `eke.models.network.layers`.
        n_channels: how many channels to show of each layer.

    Raises:
        ConfigError: a layer is unknown or gives no map.
    """
    outputs = network(pixels[None].float().div(255), taps=layers)
    maps = {name: features[0].float().cpu() for name, features in outputs.features.items()}
    rows = []
    for name, layer in maps.items():
        chosen = liveliest_channels(layer, n_channels)
        h, w = layer.shape[-2:]
        shown = scaled_to_unit(torch.stack([middle_map(layer[channel]) for channel in chosen.tolist()]))
        rows.append(LayerRow(name, (h, w), len(layer), chosen.tolist(), shown.numpy()))
    return Explained(int(outputs.logits[0].argmax()), rows, maps)


def activation_kind(network: Network, card: ModelCard, layers: tuple[str, ...], n_channels: int) -> Kind:
    """Make the kind that shows feature maps, of the default layers where none is named."""
    layers = layers or default_layers(network, card.size)

    def explain(pixels: Tensor, subjects: Sequence[Subject]) -> list[Explanation]:
        return [explain_one(image, subject) for image, subject in zip(pixels, subjects, strict=True)]

    def explain_one(image: Tensor, subject: Subject) -> Explanation:
        explained = activations(network, image.to(network.mean.device), layers, n_channels)
        predicted = card.classes[explained.predicted] if card.classes else None
        shown = LayerReport(picture_of(image), subject.path, subject.label, predicted, explained.rows)
        return Explanation(
            layer_sheet(shown), lambda path: write_layer_sheet(path, shown), explained.maps, {"predicted": predicted}
        )

    return Kind(
        (ACTIVATIONS,),
        layers,
        title="{source} through the layers of {run}",
        claim="What the layers of {model} see",
        section="Feature maps",
        in_words=LAYERS_IN_WORDS,
        explain=explain,
    )


def default_layers(network: Network, size: tuple[int, int]) -> tuple[str, ...]:
    """Return up to four layers, spread evenly from the earliest to the deepest that give a map.

    Layers that are made of others (blocks, stages) come first; single operations are taken where there are too few.

    Args:
        network: whose layers.
        size: (H, W) of its images.

    Returns:
        Their names; none where no layer gives a map of more than one pixel.
    """
    every = find_layers(network, size)
    blocks = [name for name in every if any(other.startswith(f"{name}.") for other in every)]
    return tuple(evenly_spread(blocks if len(blocks) >= N_LAYERS else every, N_LAYERS))


def evenly_spread(values: Sequence[Any], n: int) -> list[Any]:
    """Return `n` of the values, or all where there are fewer, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(n, len(values))).round().astype(int)
    return [values[place] for place in places]
