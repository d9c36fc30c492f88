"""Descriptors and attention of images: what explanation-based attention compares (Gudovskiy et al. 2020, section 3).

    d_i = [phi(F^j_i), ...]    F^j: the output of layer j; phi: the mean over places
    a_i = [phi(A^j_i), ...]    A^j = 1/K sum_k d L(Phi(k X_i / K), y_i) / d F^j              eq. 1
    y_i = argmax of Phi(X_i), or the true class

The gradient is of the loss, not of a logit, and is not multiplied by F. k X / K is taken of the normalized image, whose
zero is the mean color. All layers come from one backward pass, and no gradient of a weight is taken; a mean over places
commutes with that over k, so that only L numbers of an image are kept.

Deviations:
1. Images with several labels: L is the cross entropy of each class's yes or no, y the decisions at one half.
2. Layers are named; the lengths of the paper are the names in `SCALES`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError, did_you_mean
from eke.explain.gradients import Rule, path_attention, random_attention
from eke.losses.classification import cross_entropies
from eke.models.network import Network, layers

Form = Literal["none", "grad", "ig", "random"]
"""No attention; eq. 1 with K = 1, saliency; with K steps, integrated gradients; over randomly kept pixels."""
EMBEDDING, LOGITS = "embedding", "logits"
"""What can be named beside layers: what the class head reads, and what it gives."""
SCALES: Mapping[str, tuple[str, ...]] = {
    "L20": ("block2",),
    "L90": ("block1", "block2", EMBEDDING, LOGITS),
    "L256": (EMBEDDING,),
    "L384": ("block3", EMBEDDING),
}
"""The paper's: before the first dense layer and all layers of lenet; before the last layer and one more of cnn8."""
BLOCK = 128
"""Images whose attention is taken at once. Fixed, so that an image's numbers do not depend on the others."""


class Described(NamedTuple):
    """N images as they are compared, on the CPU, in float32."""

    descriptors: Tensor
    """(N, L)."""
    attention: Tensor | None
    """(N, L); None of the form "none"."""
    probs: Tensor
    """(N, K)."""


def scale_layers(network: Network, scale: str | None, size: tuple[int, int]) -> tuple[str, ...]:
    """Return what a scale names: one of SCALES, layers apart by commas, or by default the embedding.

    Raises:
        ConfigError: a layer is unknown, or gives no map at this size.
    """
    if scale is None:
        return (EMBEDDING,)
    known = (*layers(network, size), EMBEDDING, LOGITS)
    wanted = SCALES.get(scale, tuple(name.strip() for name in scale.split(",")))
    for name in wanted:
        if name in known:
            continue
        if name in dict(network.body.named_modules()):
            raise ConfigError(
                f"Layer {name!r} has no map of more than one place at {size[0]} x {size[1]} pixels. "
                "Train on larger images (data.size), or name another layer."
            )
        hint = did_you_mean(name, [*SCALES, *known])
        raise ConfigError(f"The network has no layer {name!r} to describe images by. {hint}")
    return wanted


def describe(
    network: Network,
    read: Callable[[Sequence[int]], Tensor],
    rows: Sequence[int],
    names: Sequence[str],
    form: Form,
    *,
    n_steps: int = 128,
    rule: Rule = "right",
    targets: Tensor | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Described:
    """Describe images by the layers of a network.

    Args:
        network: in evaluation mode, with a class head.
        read: positions -> uint8 pixels (n, C, H, W).
        rows: N positions.
        names: layers, EMBEDDING or LOGITS.
        form: of attention.
        n_steps: K of "ig" and "random"; "grad" has 1.
        rule: how the path of "ig" is sampled; the paper's is "right".
        targets: (N,) int64 classes, of several labels (N, K), in the place of what is predicted.
        advance: told the number of images done.

    Raises:
        ConfigError: the form is unknown.
    """
    if form not in get_args(Form):
        raise ConfigError(f"There is no attention {form!r}. {did_you_mean(form, get_args(Form))}")
    parts = []
    for start in range(0, len(rows), BLOCK):
        chosen = rows[start : start + BLOCK]
        pixels = read(chosen).to(network.mean.device).float().div_(255)
        wanted = None if targets is None else targets[start : start + BLOCK].to(pixels.device)
        parts.append(_describe(network, pixels, names, form, n_steps, rule, wanted))
        advance(len(chosen))
    descriptors, attention, probs = zip(*parts, strict=True)
    found = [each for each in attention if each is not None]
    return Described(torch.cat(descriptors), torch.cat(found) if found else None, torch.cat(probs))


def _describe(
    network: Network,
    images: Tensor,
    names: Sequence[str],
    form: Form,
    n_steps: int,
    rule: Rule,
    targets: Tensor | None,
) -> Described:
    with torch.no_grad():
        logits, features = _forward(network, names, network.normalize(images))
        probs = network.kind.probabilities(logits)
    y = network.kind.guess(probs).label if targets is None else targets
    descriptors = _joined(features, names)
    if form == "none":
        return Described(descriptors, None, probs.float().cpu())
    attend = {
        "grad": partial(path_attention, n_steps=1),
        "ig": partial(path_attention, n_steps=n_steps, rule=rule),
        "random": partial(random_attention, n_steps=n_steps),
    }[form]
    forward = partial(_forward, network, names)
    attention = attend(forward, network.normalize(images), partial(_losses, network, y))
    return Described(descriptors, _joined(attention, names), probs.float().cpu())


def _forward(network: Network, names: Sequence[str], normalized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the network on normalized images, and keep what is named."""
    shape = (-1,) + (1,) * (normalized.ndim - 2)
    images = normalized * network.std.view(shape) + network.mean.view(shape)
    outputs = network(images, taps=[name for name in names if name not in (EMBEDDING, LOGITS)])
    own = {EMBEDDING: outputs.embedding, LOGITS: outputs.logits}
    return outputs.logits, {name: own[name] if name in own else outputs.features[name] for name in names}


def _losses(network: Network, y: Tensor, logits: Tensor) -> Tensor:
    """Return the loss of each image (N,)."""
    if not network.kind.several:
        return cross_entropies(logits, y)
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(1)


def _joined(features: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Average each map over its places and put them side by side: (N, L) on the CPU."""
    pooled = [each.flatten(2).mean(2) if each.ndim > 2 else each for each in (features[name] for name in names)]
    return torch.cat(pooled, 1).detach().float().cpu()
