"""Explanations by gradients of pixels, and of layers along the straight path from black to the image.

`forward` is any callable, so that these hold for every network: close over the network, in eval mode, and over what
is explained, for example `lambda x: network(x).logits.gather(1, classes[:, None])[:, 0]`. The classes are fixed
beforehand; an argmax inside would change on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from eke.errors import ConfigError, did_you_mean
from eke.explain.differentiate import differentiate, widened
from eke.randomness import rng

Rule = Literal["right", "midpoint", "gauss-legendre"]
"""How the path is sampled: k / K, (k - 1/2) / K, or the K points that are exact for polynomials of degree 2 K - 1."""

_ROWS_AT_ONCE = 512


def saliency(score: Tensor, images: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return d S / d x, the signed gradient of each image's score with respect to its pixels.

    Source: Simonyan et al. 2014, arXiv:1312.6034, section 3.

    Args:
        score: S, (N,), in one graph with `images`.
        images: x, (N, C, H, W) or (N, C, T, H, W), with `requires_grad`.
        create_graph: make the result differentiable.

    Returns:
        Of the shape of `images`, in float32 or better.

    Raises:
        ConfigError: the score is not (N,), or does not depend on the images.
    """
    return differentiate(score, [images], create_graph=create_graph)[0]


def channel_magnitude(gradient: Tensor, reduce: Literal["max", "sum"] = "max") -> Tensor:
    """Make one map of the color channels: the largest of their magnitudes (arXiv:1312.6034, section 3.1), or the sum.

    Args:
        gradient: (N, C, ...), signed.
        reduce: "max" or "sum".

    Returns:
        (N, ...), at least 0.
    """
    return gradient.abs().amax(1) if reduce == "max" else gradient.abs().sum(1)


def smooth_grad(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    n_samples: int = 50,
    noise_rate: float = 0.15,
    seed: int = 0,
    create_graph: bool = False,
) -> Tensor:
    """Average the gradient over noisy copies of each image: 1/n sum_i d S / d x at x + noise_i.

    All images of a batch meet the same noise, each scaled to its own range of values, so that the result for an
    image depends on neither its batch nor the device.

    Source: SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825), section 3.

    Args:
        forward: images (N, ...) -> score (N,).
        images: (N, C, H, W) or (N, C, T, H, W).
        n_samples: n, at least 1; each is one forward and one backward pass.
        noise_rate: standard deviation of the normal noise, in units of (highest - lowest value of the image).
        seed: of the noise.
        create_graph: make the result differentiable with respect to the parameters; it holds n graphs.

    Returns:
        Of the shape of `images`, signed, in float32 or better.

    Raises:
        ConfigError: `n_samples` is below 1, or the score is not (N,) or does not depend on the images.
    """
    _check_count("n_samples", n_samples)
    images = images.detach()
    values = images.flatten(1)
    deviation = (noise_rate * (values.amax(1) - values.amin(1))).view(-1, *[1] * (images.ndim - 1))
    total = torch.zeros_like(widened(images))
    for sample in range(n_samples):
        noise = torch.randn(images.shape[1:], generator=rng(seed, sample, "smooth_grad")).to(images)
        total = total + _gradient_at(forward, images + deviation * noise, create_graph)
    return total / n_samples


def integrated_gradients(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    baseline: Tensor | float = 0.0,
    *,
    n_steps: int = 50,
    rule: Rule = "gauss-legendre",
    create_graph: bool = False,
) -> Tensor:
    """Share the score out among the pixels: (x - x') times the mean of d S / d x on the straight path from x' to x.

    Up to the error of the quadrature, the result of an image sums to S(x) - S(x').

    Source: Integrated Gradients (Sundararajan et al. 2017, arXiv:1703.01365), eq. 1 and 3.

    Args:
        forward: images (N, ...) -> score (N,).
        images: x, (N, C, H, W) or (N, C, T, H, W).
        baseline: x', an image without evidence; a number or a tensor that broadcasts to `images`.
        n_steps: points on the path, at least 1; each is one forward and one backward pass.
        rule: how the path is sampled.
        create_graph: make the result differentiable with respect to the parameters; it holds all graphs.

    Returns:
        Of the shape of `images`, signed, in float32 or better.

    Raises:
        ConfigError: `n_steps` is below 1, the rule is unknown, or the score is not (N,) or does not depend on
            the images.
    """
    images = images.detach()
    difference = images - baseline
    total = torch.zeros_like(widened(images))
    for position, weight in _quadrature(n_steps, rule):
        total = total + weight * _gradient_at(forward, baseline + position * difference, create_graph)
    return difference * total


def path_attention(
    forward: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]],
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    n_steps: int = 128,
    rule: Rule = "right",
    steps_at_once: int | None = None,
    pooled: bool = True,
) -> dict[str, Tensor]:
    """Average d loss / d F_j over the straight path from zero to the image, for all layers j that `forward` returns.

    The path is in the space of what `forward` reads: with normalized images, zero is the mean color. The features
    are those at each point of the path, and the gradient is not multiplied by them.

    Source: Explanation-Based Attention (Gudovskiy et al. 2020), eq. 1: A^j = 1/K sum_k d L(Phi(k X / K), y) / d F^j.

    Args:
        forward: images (M, ...) -> (logits (M, K), {layer: features (M, C, ...)}), where rows do not see each other
            (eval mode); M is up to `steps_at_once` * N.
        images: X, (N, ...).
        loss: logits (N, K) of one point of the path -> (N,), with the same target y at every point.
        n_steps: K, points on the path, at least 1.
        rule: how the path is sampled; the paper's is "right".
        steps_at_once: points that share one forward and backward pass; by default about 512 rows of points and
            images do, which bounds the memory, and on a processor larger passes are slower.
        pooled: average over positions, which commutes with the mean over the path and keeps C numbers of each map.

    Returns:
        {layer: (N, C)}, or of the features' own shape (N, C, ...) where not `pooled`; float32 or better, detached.

    Raises:
        ConfigError: a count is below 1, the rule is unknown, the loss is not (N,) or does not depend on a layer.
    """
    images = images.detach()
    if steps_at_once is None:
        steps_at_once = max(1, _ROWS_AT_ONCE // max(1, len(images)))
    _check_count("steps_at_once", steps_at_once)
    path = _quadrature(n_steps, rule)
    total: dict[str, Tensor] = {}
    for start in range(0, n_steps, steps_at_once):
        part = path[start : start + steps_at_once]
        points, weights = [position * images for position, _ in part], [weight for _, weight in part]
        _add_up(total, _sum_over(points, weights, forward, loss), pooled)
    return total


def random_attention(
    forward: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]],
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    n_steps: int = 128,
    seed: int = 0,
    pooled: bool = True,
) -> dict[str, Tensor]:
    """Average d loss / d F_j over images of which a random part of the pixels is kept, the others being zero.

    In step k of K a pixel is kept, in all colors, with the rate (k - 1/2) / K: as many at each point as the path of
    `path_attention` has brightness there. All images share the pixels of a step, so that the result for an image does
    not depend on its batch.

    Source: Explanation-Based Attention (Gudovskiy et al. 2020), section 3, names "randomly sampled input features" as a
    form of eq. 1 and gives no formula; this one is ours.

    Args:
        forward: as of `path_attention`; it reads N images at a time.
        images: X, (N, C, ...).
        loss: as of `path_attention`.
        n_steps: K, at least 1.
        seed: of the pixels that are kept.
        pooled: as of `path_attention`.

    Returns:
        As `path_attention`.

    Raises:
        ConfigError: as of `path_attention`.
    """
    images = images.detach()
    total: dict[str, Tensor] = {}
    for k, (rate, weight) in enumerate(_quadrature(n_steps, "midpoint")):
        kept = torch.rand(images.shape[2:], generator=rng(seed, k, "kept pixels")) < rate
        _add_up(total, _sum_over([images * kept.to(images)], [weight], forward, loss), pooled)
    return total


def _add_up(total: dict[str, Tensor], gradients: Mapping[str, Tensor], pooled: bool) -> None:
    for layer, gradient in gradients.items():
        if pooled and gradient.ndim > 2:
            gradient = gradient.flatten(2).mean(2)
        total[layer] = total.get(layer, 0) + gradient


def _sum_over(
    points: Sequence[Tensor],
    weights: Sequence[float],
    forward: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]],
    loss: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Add up d loss / d F_j at some points; a function of its own, so that their graph is freed before the next."""
    with torch.enable_grad():
        # the points are the root of the graph, so that networks without trained parameters have one
        rows = torch.cat(list(points)).requires_grad_()
        logits, features = forward(rows)
        steps = zip(logits.split(len(points[0])), weights, strict=True)
        losses = torch.cat([weight * loss(step) for step, weight in steps])
    gradients = differentiate(losses, list(features.values()))
    return {
        layer: gradient.unflatten(0, (len(points), -1)).sum(0)
        for layer, gradient in zip(features, gradients, strict=True)
    }


def _gradient_at(forward: Callable[[Tensor], Tensor], point: Tensor, create_graph: bool) -> Tensor:
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        return saliency(forward(point), point, create_graph=create_graph)


def _quadrature(n_steps: int, rule: Rule) -> list[tuple[float, float]]:
    """Return (position, weight) of each point of the path [0, 1]; the weights sum to 1."""
    _check_count("n_steps", n_steps)
    if rule == "gauss-legendre":
        positions, weights = np.polynomial.legendre.leggauss(n_steps)
        return [(float(p + 1) / 2, float(w) / 2) for p, w in zip(positions, weights, strict=True)]
    if rule not in get_args(Rule):
        raise ConfigError(f"There is no rule {rule!r}. {did_you_mean(rule, get_args(Rule))}")
    shift = 0.5 if rule == "midpoint" else 0.0
    return [((k - shift) / n_steps, 1 / n_steps) for k in range(1, n_steps + 1)]


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise ConfigError(f"{name} is {count}, and at least 1 is needed.")
