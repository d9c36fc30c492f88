"""Where and how a run computes: device, precision, memory format, compilation, and how many processes."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from eke.collectives import world_size
from eke.config import Options
from eke.errors import ConfigError, first_line
from eke.models.compiled import compile_below
from eke.models.network import Network
from eke.models.norm import has_batch_norm, sync_batch_norm


class ComputeOptions(Options):
    """Switches that change speed and rounding, never the algorithm."""

    device: str = "auto"
    """auto = the accelerator if there is one, else cpu; or a torch device such as cpu or cuda:1."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward pass under autocast; weights and losses stay float32."""
    channels_last: bool = False
    """Keep kernels in channels-last order, which tensor cores prefer."""
    compile: bool = False
    """Compile the network's body with torch.compile; where maps of layers are taken, what lies below them."""
    deterministic: bool = False
    """Refuse kernels whose result can differ from run to run, so that an accelerator resumes bit-exactly."""
    sync_norm: bool = True
    """With several processes: batch norm over the global batch. Without it, N processes are another algorithm."""


def choose_device(name: str) -> torch.device:
    """Resolve `compute.device`; under torchrun each local rank gets its own accelerator."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"compute.device = {name!r} cannot be used: {first_line(error)}") from None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else device


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the process group that torchrun describes in the environment; with one process do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def place_method(
    method: nn.Module,
    network: Network,
    options: ComputeOptions,
    device: torch.device,
    layers: Sequence[str],
    size: tuple[int, int],
) -> None:
    """Place a method and its network on the device as the options say. State-dict keys stay as they were.

    Args:
        method: holds the network.
        network: the one that is trained.
        options: what is asked for.
        device: where to.
        layers: whose maps the method takes.
        size: (H, W) of the images.
    """
    if world_size() > 1 and options.sync_norm:
        sync_batch_norm(method)
    elif world_size() > 1 and has_batch_norm(method):
        warnings.warn(
            f"compute.sync_norm=false: each of {world_size()} processes normalizes its own part of the batch, which is "
            "another algorithm than one process runs.",
            stacklevel=2,
        )
    if options.channels_last:
        method.to(memory_format=torch.channels_last_3d if network.sees_motion else torch.channels_last)
    if options.compile:
        compile_below(network, layers, size)
    method.to(device)


def spread(method: nn.Module, device: torch.device) -> nn.Module:
    """Wrap the whole method for several processes: gradients are averaged over ranks."""
    if world_size() == 1:
        return method
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(method, device_ids=[device.index] if device.type == "cuda" else None)


def autocast(options: ComputeOptions, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return the maker of the forward pass's precision context."""
    if options.precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
