"""The exponential moving average of a network's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from eke.errors import ConfigError

Averaged = TypeVar("Averaged", bound=nn.Module)


class Ema(nn.Module, Generic[Averaged]):
    """A copy of a module whose parameters follow the original's slowly; its buffers are the original's.

    After each step average <- d * average + (1 - d) * parameter, and batch-norm statistics are copied, as the
    code of FixMatch and CoMatch does. There d is `decay` from the first step on; here it is
    min(decay, (1 + step) / (10 + step)), the rule of TensorFlow's moving average, because a run of a few
    hundred steps would otherwise be evaluated with mostly its random start. From step 9,000 on, 0.999 is the
    same. `module` is the copy; it has no gradients and stays in eval mode.

    Args:
        module: the network that is trained; it is copied, not held.
        decay: in [0, 1).

    Raises:
        ConfigError: `decay` is out of range.
    """

    module: Averaged

    def __init__(self, module: Averaged, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"The decay of a moving average must be in [0, 1), not {decay}.")
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, step: int, decay: float | None = None) -> None:
        """Move the average towards `module`, which must have the structure that was copied.

        Args:
            module: the network after its step.
            step: 0-based number of that step.
            decay: of this step, instead of `decay`, for methods that change it over the run.
        """
        decay = min(self.decay if decay is None else decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        buffers = list(self.module.buffers())
        if buffers:  # the fused call refuses empty lists
            torch._foreach_copy_(buffers, list(module.buffers()))

    def train(self, mode: bool = True) -> "Ema[Averaged]":
        """Stay in eval mode, whatever mode the method around it is put into."""
        return super().train(False)
