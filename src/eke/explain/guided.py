"""Guided backpropagation: which pixels raise a score through units that are active and wanted.

A ReLU's gradient passes where the unit is active; guided, it must be positive as well. ReLUs are met as they are
called, so that modules, functions, in-place and reused ones are all the same, and the model is not edited.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eke.errors import ConfigError
from eke.explain.differentiate import differentiate, widened

# Names without the underscore of the in-place form; torch, torch.nn.functional and Tensor use the same ones.
_PIECEWISE_LINEAR = {"relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu"}
_SMOOTH = {"gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "softplus"}


class GuidedReLUs(TorchFunctionMode):
    """The ReLUs of one forward, with a switch; see `guided_relus`."""

    def __init__(self) -> None:
        super().__init__()
        self._guiding = False
        self._n_relus = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        if name in _SMOOTH:
            raise ConfigError(
                f"Guided backpropagation is not defined for {name}, which this network calls: it needs ReLUs. "
                "Use saliency, smooth_grad or integrated_gradients, which hold for any network."
            )
        output = func(*args, **(kwargs or {}))
        if name in _PIECEWISE_LINEAR and output.requires_grad:
            self._n_relus += 1
            # a hook on the tensor belongs to this graph, not to the model, and is differentiable to any order
            output.register_hook(self._guide)
        return output

    def _guide(self, gradient: Tensor) -> Tensor:
        return gradient.relu() if self._guiding else gradient

    def gradient(self, score: Tensor, images: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the guided gradient of each image's score; every other gradient of the graph stays ordinary.

        Args:
            score: (N,), of the forward that ran inside `with guided_relus()`.
            images: (N, C, H, W) or (N, C, T, H, W), what that forward read, with `requires_grad`.
            create_graph: make the result differentiable with respect to the parameters. A loss on it is then
                differentiated with ordinary ReLUs, as it must be.

        Returns:
            Of the shape of `images`, signed, in float32 or better.

        Raises:
            ConfigError: no ReLU was met, the score is not (N,), or it does not depend on the images.
        """
        if not self._n_relus:
            raise ConfigError(
                "No ReLU was met: run the forward of a network with ReLUs inside `with guided_relus()`, and outside "
                "no_grad."
            )
        self._guiding = True
        try:
            return differentiate(score, [images], create_graph=create_graph)[0]
        finally:
            self._guiding = False


@contextmanager
def guided_relus() -> Iterator[GuidedReLUs]:
    """Watch the ReLUs of the forward inside `with`, so that guided gradients can be taken of it, also afterwards.

    The forward is the ordinary one: one pass serves the loss, Grad-CAM and guided gradients. ReLU6, hard tanh, leaky
    and parametric ReLUs follow the same rule: the gradient, where positive, times the unit's own slope. Pooling, norm,
    attention and gates (sigmoid, tanh) keep their gradients.

    ReLUs that are not called by name stay ordinary: `clamp(min=0)`, scripted or compiled modules, and an in-place
    ReLU of a slice of a tensor that is read as a whole afterwards.

    Source: Striving for Simplicity (Springenberg et al. 2015, arXiv:1412.6806), section 4.

    Yields:
        The handle that gives the gradients.

    Raises:
        ConfigError: the forward calls an activation for which guided backpropagation is not defined (GELU, SiLU ...).

    Example:
        >>> with guided_relus() as guided:
        ...     logits = torch.nn.functional.relu(images.requires_grad_()).flatten(1)
        >>> guided.gradient(logits[:, 0], images).shape == images.shape
        True
    """
    with GuidedReLUs() as relus:
        yield relus


def guided_grad_cam(guided: Tensor, cam: Tensor) -> Tensor:
    """Multiply guided gradients by the positive part of a class activation map, drawn to the size of the images.

    Source: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), section 3.2.

    Args:
        guided: (N, C, H, W) or (N, C, T, H, W), as `GuidedReLUs.gradient` gives it.
        cam: (N, h, w) or (N, t, h, w), signed.

    Returns:
        Of the shape of `guided`, in float32 or better.
    """
    mode = "bilinear" if guided.ndim == 4 else "trilinear"
    return widened(guided) * F.interpolate(widened(cam).relu()[:, None], guided.shape[2:], mode=mode)
