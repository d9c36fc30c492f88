"""Feature maps of named layers, taken from the same forward that gives the logits.

Hooks live for one forward only. Each records the layer's output and hands a clone onward, because networks
with in-place operations would otherwise overwrite what was recorded, without an error: in torchvision's
ResNet-18, 17 of 67 modules lose their output that way.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eke.errors import ConfigError, did_you_mean

# These give (N, C, ...) even inside bodies whose other maps are (N, ..., C) or tokens.
_CHANNELS_FIRST = (nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d)

# Unpadded convolutions shift the sides of a map by this many pixels against the sides of the image.
_SIDE_TOLERANCE = 2


class Layout(NamedTuple):
    """How the tensors inside a body hold the image."""

    channels_last: bool = False
    """Maps are (N, h, w, C), as in Swin."""
    prefix_tokens: int | None = None
    """Tokens (class, registers) before the image's tokens in (N, L, D); None where the body has no tokens."""
    frames: int | None = None
    """T, where the body reads the frames of clips one by one: its N are clips times T. Maps are given per clip."""


@contextmanager
def tapped(body: nn.Module, names: Sequence[str], images: torch.Size, layout: Layout) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary with the maps (N, C, h, w) of layers `names` while the body runs once inside `with`.

    Each map lies on the path from images to outputs, so outputs can be differentiated with respect to it, to
    any order. Maps of clips are (N, C, t, h, w), also where the body reads frame by frame. Tokens
    (N, prefix + h * w, D) come as (N, D, h, w).

    Args:
        body: the module whose layers are named (as in `body.named_modules()`).
        names: the layers.
        images: the shape (N, C, H, W) or (N, C, T, H, W) of what the body reads.
        layout: how the tensors inside the body hold the image.

    Raises:
        ConfigError: a layer is unknown, is called never or more than once, gives no map of more than one
            pixel, or has its output overwritten by the body itself.
    """
    features: dict[str, Tensor] = {}
    if not names:
        yield features
        return
    modules = {name: module for name, module in body.named_modules() if name}
    found: dict[str, list[Tensor | str]] = {name: [] for name in names}
    versions: dict[str, int] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def record(module: nn.Module, args: Any, output: Any) -> Any:
            taken = _take(module, output, images, layout)
            if isinstance(taken, str):
                found[name].append(taken)
                return None
            kept, onward = taken
            found[name].append(kept)
            versions[name] = 0 if kept.is_inference() else kept._version
            return onward

        return record

    handles = []
    try:
        for name in found:
            if name not in modules:
                raise ConfigError(f"The network has no layer {name!r}. {similar_layer(name, modules)}")
            handles.append(modules[name].register_forward_hook(recorder(name)))
        yield features
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in found.items():
        kept = _single(name, outputs, modules)
        if not kept.is_inference() and kept._version != versions[name]:
            raise ConfigError(f"The network overwrites the output of layer {name!r}. {_neighbors(name, modules)}")
        features[name] = kept


def find_layers(body: nn.Module, images: Tensor, layout: Layout) -> list[str]:
    """Return the names that can be tapped, in the order in which the layers finish: the last map is the
    deepest.

    Args:
        body: the module; a copy of it reads the images in eval mode.
        images: (N, C, [T,] H, W), as the body reads them. Where they are small the deepest maps may have a single
            pixel, which is no map.
        layout: how the tensors inside the body hold the image.
    """
    probe = copy.deepcopy(body).eval()
    found: dict[str, list[bool]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            good = not isinstance(_take(module, output, images.shape, layout), str)
            found.setdefault(name, []).append(good)

        return look

    for name, module in probe.named_modules():
        if name:
            module.register_forward_hook(watch(name))
    with torch.no_grad():
        probe(images)
    return [name for name, good in found.items() if good == [True]]


def similar_layer(name: str, layers: Iterable[str]) -> str:
    """Say which of `layers` was meant, or list the outermost: a network may have hundreds."""
    layers = list(layers)
    near = get_close_matches(name, layers)
    return did_you_mean(name, near or [layer for layer in layers if "." not in layer])


def _take(module: nn.Module, output: Any, images: torch.Size, layout: Layout) -> tuple[Tensor, Tensor] | str:
    """Return (the map to keep, what the body goes on with, made of the map), or what is wrong."""
    if not isinstance(output, Tensor):
        return f"gives a {type(output).__name__}, not a tensor"
    if torch.is_grad_enabled() and not output.requires_grad:  # below the first trained layer, or in an average
        output = output.detach().requires_grad_()
    first = isinstance(module, _CHANNELS_FIRST)
    tokens = layout.prefix_tokens is not None and not first
    if tokens and output.ndim == 3 and len(output) == images[0]:
        for prefix in (layout.prefix_tokens or 0, 0):  # the patches' own layers stand before the prefix
            h = round(((output.shape[1] - prefix) * images[2] / images[3]) ** 0.5)
            if h > 0 and output.shape[1] - prefix > 1 and (output.shape[1] - prefix) % h == 0:
                kept = _per_clip(output[:, prefix:].mT.unflatten(2, (h, -1)), layout)
                return kept, torch.cat([output[:, :prefix], _per_frame(kept, layout).flatten(2).mT], 1)
    elif not tokens and output.ndim == len(images) and len(output) == images[0]:
        last = layout.channels_last and not first
        kept = _per_clip(output.movedim(-1, 1) if last else output, layout)
        (h, w), (H, W) = kept.shape[-2:], images[-2:]
        # a map has the image's aspect; (N, h, w, C) inside a channels-first body has not
        if h * w > 1 and abs(h * W - w * H) <= _SIDE_TOLERANCE * max(H, W):
            onward = _per_frame(kept, layout)
            return kept, (onward.movedim(1, -1) if last else onward).clone()
    return f"gives a tensor of shape {tuple(output.shape)}, which is no map of the images {tuple(images)}"


def _per_clip(maps: Tensor, layout: Layout) -> Tensor:
    """Give maps (N T, C, h, w) of frames a time axis, (N, C, T, h, w), where the body reads frame by frame."""
    return maps if layout.frames is None else maps.unflatten(0, (-1, layout.frames)).transpose(1, 2)


def _per_frame(maps: Tensor, layout: Layout) -> Tensor:
    """Undo `_per_clip`."""
    return maps if layout.frames is None else maps.transpose(1, 2).flatten(0, 1)


def _single(name: str, outputs: list[Tensor | str], modules: dict[str, nn.Module]) -> Tensor:
    if len(outputs) == 1 and isinstance(outputs[0], Tensor):
        return outputs[0]
    if len(outputs) == 1:
        problem = outputs[0]
    else:
        problem = f"is called {len(outputs)} times in one forward" if outputs else "is never called in a forward"
    raise ConfigError(f"Layer {name!r} {problem}. {_neighbors(name, modules)}")


def _neighbors(name: str, modules: dict[str, nn.Module]) -> str:
    parent = name.rpartition(".")[0]
    near = [other for other in modules if other != name and other.rpartition(".")[0] == parent]
    return f"Choose another, for example {', '.join(filter(None, [*near[:8], parent]))}."
