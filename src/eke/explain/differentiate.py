"""The one way in which explanations take gradients: nothing of the model is touched, and the graph lives on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from eke.errors import ConfigError


def differentiate(score: Tensor, tensors: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Return d sum(score) / d tensor for every tensor, from one backward pass.

    Where no image of the batch reads another (eval mode), row n is the gradient of image n's own score. Only what
    lies between the tensors and the score is differentiated: no gradient of a parameter is computed or stored.

    Args:
        score: (N,), one number per image, in one graph with all `tensors`.
        tensors: each (N, ...).
        create_graph: make the gradients differentiable themselves.

    Returns:
        One gradient for each tensor, of its shape, in float32 or better.

    Raises:
        ConfigError: the score is not (N,), or is not a function of one of the tensors.
    """
    if any(score.shape != tensor.shape[:1] for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ConfigError(
            f"The score has shape {tuple(score.shape)}, and it must be (N,), one number for each image of {shapes}: "
            "pick one class of each, for example logits.gather(1, classes[:, None])[:, 0]."
        )
    if not score.requires_grad or not all(tensor.requires_grad for tensor in tensors):
        raise ConfigError(
            "There is no graph from the score to what it is explained by: run the forward outside no_grad and "
            "inference_mode, and call requires_grad_() on images beforehand."
        )
    with full_precision(score):
        # The graph is retained, because a loss may follow that reads the same forward.
        gradients = torch.autograd.grad(
            score,
            list(tensors),
            torch.ones_like(score),
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    if unused := [i for i, gradient in enumerate(gradients) if gradient is None]:
        raise ConfigError(
            f"The score does not depend on tensor {unused[0]} of {len(tensors)}: take the maps and the score from "
            "the same forward, and the maps themselves, not copies or slices of them."
        )
    return [widened(gradient) for gradient in gradients]


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of `tensor`: channel weights are about 1e-4, and half precision rounds."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def widened(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32 or, where it is float64, as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
