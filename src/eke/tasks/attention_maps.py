"""Attention maps of images by name.

A map has one number per place and image. Those of layers are on the layer's grid, those of pixels on the image's.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from eke.errors import ConfigError
from eke.explain.cam import CAMS, class_activation, grad_cam
from eke.explain.differentiate import differentiate
from eke.explain.gradients import channel_magnitude, integrated_gradients, saliency, smooth_grad
from eke.explain.guided import guided_grad_cam, guided_relus
from eke.models.network import Network, is_pooled_linearly
from eke.models.network import layers as find_layers

INPUT = "input"
"""What stands for the layer in the names of maps of pixels."""

Maps = dict[str, Tensor]
"""Layer -> (N, h, w), of clips (N, t, h, w), on the network's device."""
Compute = Callable[[Network, Tensor, Tensor, Sequence[str]], Maps]
"""(network in evaluation mode, images (N, C, [T,] H, W) uint8, classes (N,) int64, layers) -> maps, float32."""


def _cam(name: str, network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    outputs = network(as_input(images), taps=layers)
    return dict(zip(layers, CAMS[name](score(outputs.logits, classes), list(outputs.features.values())), strict=True))


@torch.no_grad()
def _closed_form(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    size = (images.shape[-2], images.shape[-1])
    features = network(as_input(images), taps=layers).features
    if unfit := [layer for layer in layers if not is_pooled_linearly(network, layer, size)]:
        raise ConfigError(
            f"The map cam needs a layer that is averaged and read by a linear head, as many networks' last map is, "
            f"and {unfit[0]!r} is not. Ask for gradcam, which holds at any layer."
        )
    weights = cast("nn.Linear", network.head).weight[classes]
    return {layer: class_activation(features[layer], weights) for layer in layers}


def _guided(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    x = as_input(images).requires_grad_()
    with guided_relus() as guided:
        logits = network(x).logits
    return {INPUT: channel_magnitude(guided.gradient(score(logits, classes), x))}


def _guided_grad_cam(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    x = as_input(images).requires_grad_()
    with guided_relus() as guided:
        outputs = network(x, taps=layers)
    scores = score(outputs.logits, classes)
    cams = grad_cam(scores, list(outputs.features.values()))
    gradient = guided.gradient(scores, x)
    return {layer: channel_magnitude(guided_grad_cam(gradient, cam)) for layer, cam in zip(layers, cams, strict=True)}


def _saliency(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    x = as_input(images).requires_grad_()
    return {INPUT: channel_magnitude(saliency(score(network(x).logits, classes), x))}


def _smooth_grad(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    return {INPUT: channel_magnitude(smooth_grad(lambda x: score(network(x).logits, classes), as_input(images)))}


def _integrated_gradients(network: Network, images: Tensor, classes: Tensor, layers: Sequence[str]) -> Maps:
    return {INPUT: integrated_gradients(lambda x: score(network(x).logits, classes), as_input(images)).sum(1)}


MAPS: Mapping[str, Compute] = {
    **{name: partial(_cam, name) for name in CAMS},
    "cam": _closed_form,
    "guided": _guided,
    "guided-gradcam": _guided_grad_cam,
    "saliency": _saliency,
    "smoothgrad": _smooth_grad,
    "integrated-gradients": _integrated_gradients,
}
"""Attention maps by the name that --map takes."""
OF_PIXELS = frozenset({"guided", "saliency", "smoothgrad", "integrated-gradients"})
"""Those that read no layer and give one map, called `INPUT`."""
BLOCK = 16
"""Images, or frames of clips, whose maps are taken at once: the graphs of a large network take much memory."""
SIGNED = frozenset({"integrated-gradients"})
"""Those whose negative values are shown too."""


def as_input(images: Tensor) -> Tensor:
    """Scale uint8 images to the floats in [0, 1] that a network reads."""
    return images.float().div(255)


def score(logits: Tensor, classes: Tensor) -> Tensor:
    """Pick each image's logit (N,) of its class: (N, K), (N,) int64."""
    return logits.gather(1, classes[:, None])[:, 0]


def attention_maps(
    network: Network, images: Tensor, classes: Tensor, maps: Sequence[str], layers: Sequence[str]
) -> dict[str, Tensor]:
    """Compute several attention maps of a batch.

    Args:
        network: in evaluation mode.
        images: (N, C, [T,] H, W) uint8 on the network's device.
        classes: (N,) int64, what is explained of each.
        maps: names in `MAPS`.
        layers: whose maps; those of `OF_PIXELS` read none.

    Returns:
        "MAP@LAYER" -> (N, [t,] h, w) float32 on the CPU, signed and as large as they are; in the order of `maps`, and
        of `layers` within each.

    Raises:
        ConfigError: a layer is unknown or gives no map, or a map is not defined for it or for this network.
    """
    found: dict[str, list[Tensor]] = {}
    step = max(1, BLOCK // images.shape[2:-2].numel())
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        for name in maps:
            for layer, map_ in MAPS[name](network, images[rows], classes[rows], layers).items():
                found.setdefault(f"{name}@{layer}", []).append(map_.detach().float().cpu())
    return {name: torch.cat(blocks) for name, blocks in found.items()}


def deepest_layer(network: Network, size: tuple[int, int]) -> str:
    """Return the deepest layer whose map the logits depend on.

    Behind the last attention of a transformer that reads its class token they do not: there every Grad-CAM is 0.

    Args:
        network: in evaluation mode.
        size: (H, W) of its images.

    Raises:
        ConfigError: at this size no layer gives such a map.
    """
    shape = network.input_shape(size)
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(network.mean)
    for name in reversed(find_layers(network, size)):
        outputs = network(image, taps=(name,))
        if differentiate(outputs.logits.square().sum(1), [outputs.features[name]])[0].any():
            return name
    raise ConfigError(f"At {size[0]}x{size[1]} pixels no layer gives a map. Train with a larger data.size.")


def check_maps(maps: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse layers that none of the maps would read.

    Raises:
        ConfigError: there are some.
    """
    if layers and OF_PIXELS.issuperset(maps):
        raise ConfigError(
            f"{', '.join(maps)}: maps of pixels, which read no layer. Leave out --layer, or add one of "
            f"{', '.join(name for name in MAPS if name not in OF_PIXELS)}."
        )
