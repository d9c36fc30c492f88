"""Class activation maps: which positions of a layer's maps speak for a class.

`features` A are the maps of one layer, (N, C, h, w), of clips (N, C, t, h, w), or a sequence of several layers',
which share one backward pass. `score` S is one number per image, usually the logit of its class, in one graph with
them; g = d S / d A. A map is sum_k w_k A_k, and the methods differ in the weights w. Maps are signed and as large as
they are: ReLU, scale and size are the caller's choice. In eval mode an image's map does not depend on its batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from eke.errors import ConfigError
from eke.explain.differentiate import differentiate, widened

Maps = TypeVar("Maps", Tensor, Sequence[Tensor])
"""One layer's tensor or several layers'."""


def grad_cam(score: Tensor, features: Maps, *, create_graph: bool = False, constant_weights: bool = False) -> Maps:
    """Weigh each channel by its mean gradient: sum_k alpha_k A_k with alpha_k = mean over positions of d S / d A_k.

    Source: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), eq. 1 and 2, without the ReLU.

    Args:
        score: S, (N,).
        features: A, (N, C, h, w) or (N, C, t, h, w), or a sequence of such.
        create_graph: make the maps differentiable; else they are detached.
        constant_weights: with `create_graph`: the maps are differentiable through A only. A loss on them then
            does not reach the layers above, and costs no second derivatives.

    Returns:
        (N, h, w) or (N, t, h, w) in float32 or better; for a sequence, a list of them.

    Raises:
        ConfigError: the features are not maps of images, the score is not (N,), or it does not depend on them.
    """
    return _explain(_mean_gradient, score, features, create_graph, constant_weights)


def grad_cam_plus_plus(
    score: Tensor, features: Maps, *, create_graph: bool = False, constant_weights: bool = False
) -> Maps:
    """Weigh each channel by its positive gradients, so that several objects of a class all count.

    w_k = sum_ij alpha_kij relu(g_kij) with alpha_kij = g_kij^2 / (2 g_kij^2 + sum_ab A_kab g_kij^3): the closed form
    for Y = exp(S), whose derivatives are exp(S) times powers of g where the network is piecewise linear above A. As
    in the paper, A is at least 0 (after a ReLU); where the sum of A is below 0 the denominator may come near 0.

    The common factor exp(S) of an image's map is left out: it overflows, and scaling the map removes it.

    Source: Grad-CAM++ (Chattopadhyay et al. 2018, arXiv:1710.11063), the closed form of its weights.

    Arguments, result and errors are those of `grad_cam`.
    """
    return _explain(_weighted_positive_gradients, score, features, create_graph, constant_weights)


def layer_cam(score: Tensor, features: Maps, *, create_graph: bool = False, constant_weights: bool = False) -> Maps:
    """Weigh each position of each channel by its own positive gradient: sum_k relu(g_k) A_k. Good at early layers.

    Source: LayerCAM (Jiang et al. 2021, IEEE Transactions on Image Processing 30), without the last ReLU.

    Arguments, result and errors are those of `grad_cam`.
    """
    return _explain(lambda gradient, features: gradient.relu(), score, features, create_graph, constant_weights)


def hires_cam(score: Tensor, features: Maps, *, create_graph: bool = False, constant_weights: bool = False) -> Maps:
    """Weigh each position of each channel by its own gradient: sum_k g_k A_k.

    Where everything above the layer is linear, the map sums to S without its bias.

    Source: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891), without the ReLU.

    Arguments, result and errors are those of `grad_cam`.
    """
    return _explain(lambda gradient, features: gradient, score, features, create_graph, constant_weights)


def class_activation(features: Tensor, weights: Tensor) -> Tensor:
    """Project maps on the linear head's weights for a class: sum_k W_ck A_k. Needs no gradient and no graph.

    At the last layer of a network that ends in average pooling and a linear head, `grad_cam` of the logit equals
    this / (h w), because d S / d A_k is W_ck / (h w) everywhere. There it is the cheaper way, and it gives the
    derivatives to both features and head without a second backward pass.

    Source: CAM (Zhou et al. 2016, arXiv:1512.04150), eq. 2.

    Args:
        features: A, (N, C, h, w) or (N, C, t, h, w).
        weights: (N, C), of each image the head's row for its class: `head.weight[classes]`.

    Returns:
        (N, h, w) or (N, t, h, w) in float32 or better.

    Raises:
        ConfigError: the features are not maps of images.
    """
    _check(features)
    return _weighted_sum(widened(weights)[(...,) + (None,) * (features.ndim - 2)], features)


class Cam(Protocol):
    """What the methods in `CAMS` have in common."""

    def __call__(
        self, score: Tensor, features: Maps, *, create_graph: bool = False, constant_weights: bool = False
    ) -> Maps: ...


CAMS: dict[str, Cam] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "layercam": layer_cam,
    "hirescam": hires_cam,
}


def _explain(
    weigh: Callable[[Tensor, Tensor], Tensor], score: Tensor, features: Maps, create_graph: bool, constant_weights: bool
) -> Maps:
    layers = [features] if isinstance(features, Tensor) else list(features)
    for layer in layers:
        _check(layer)
    gradients = differentiate(score, layers, create_graph=create_graph and not constant_weights)
    maps = []
    for gradient, layer in zip(gradients, layers, strict=True):
        weights = weigh(gradient, widened(layer))
        map_ = _weighted_sum(weights.detach() if constant_weights else weights, layer)
        maps.append(map_ if create_graph else map_.detach())
    return maps[0] if isinstance(features, Tensor) else maps


def _check(features: Tensor) -> None:
    if features.ndim not in {4, 5}:
        raise ConfigError(
            f"Features of shape {tuple(features.shape)} are no maps: (N, C, h, w), or (N, C, t, h, w) of clips, are "
            "needed. Choose a layer below the pooling."
        )


def _weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """Return sum_k w_k A_k; not as a matrix product, which autocast would do in half precision."""
    return (weights * widened(features)).sum(1)


def _positions(features: Tensor) -> tuple[int, ...]:
    return tuple(range(2, features.ndim))


def _mean_gradient(gradient: Tensor, features: Tensor) -> Tensor:
    return gradient.mean(_positions(features), keepdim=True)


def _weighted_positive_gradients(gradient: Tensor, features: Tensor) -> Tensor:
    # g^2 is cancelled, so that neither g^3 underflows nor 0 / 0 arises; where g is negative, relu(g) is 0 anyway
    positive, positions = gradient.relu(), _positions(features)
    alpha = 1 / (2 + features.sum(positions, keepdim=True) * positive)
    return (alpha * positive).sum(positions, keepdim=True)
