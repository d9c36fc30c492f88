"""Compiling a network of which maps are taken: only what lies below the first of them.

A compiled graph neither shows the tensors inside it nor has a second derivative. A map's gradient runs from the logits
down to the layer and no farther, so what has run when the layer is done may be compiled, and what follows stays eager.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from eke.models.network import Network


def compile_below(network: Network, layers: Sequence[str], size: tuple[int, int]) -> None:
    """Compile the body of a network in place; where `layers` are tapped, what lies below all of them.

    Args:
        network: state-dict keys stay as they are.
        layers: names that `taps` takes.
        size: (H, W) of its images, to see in which order the body's modules run.
    """
    if not layers:
        network.body.compile()
        return
    for name in modules_below(network, layers, size):
        module = network.body.get_submodule(name)
        module.compile()
        module._compiled_call_impl = _outside_modes(module._compiled_call_impl)  # type: ignore[arg-type]


def modules_below(network: Network, layers: Sequence[str], size: tuple[int, int]) -> list[str]:
    """Return the outermost modules of the body that have run for the last time when the first of `layers` is done."""
    probe = copy.deepcopy(network).eval()
    done: list[str] = []
    for name, module in probe.body.named_modules():
        module.register_forward_hook(lambda *_, name=name: done.append(name))
    with torch.no_grad():
        probe(torch.zeros(1, *network.input_shape(size)).to(network.mean))
    last = {name: place for place, name in enumerate(done)}
    first = min(last[layer] for layer in layers)
    below = {name for name, place in last.items() if place < first}
    return [name for name in last if name in below and name.rpartition(".")[0] not in below]


def _outside_modes(call: Callable[..., Any]) -> Callable[..., Any]:
    """Leave torch-function modes for compiled code: what they do to batch norm concerns the layers above only."""

    def outside(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return call(*args, **kwargs)

    return outside
