"""Dropout at prediction time, for Monte-Carlo estimates of uncertainty."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def dropout_on(module: nn.Module) -> Iterator[int]:
    """Switch every dropout layer inside `module` to train mode, nothing else, and back as it was found.

    Masks come from the default generator of the device. Yields how many layers drop anything: with none, all
    Monte-Carlo passes are equal.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _DropoutNd)]
    found = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield sum(layer.p > 0 for layer in layers)
    finally:
        for layer, mode in zip(layers, found, strict=True):
            layer.train(mode)
