"""A network, batches and methods small enough to check by hand; every batch is a function of its step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eke.augment.geometry import View, identity
from eke.collectives import local_slice
from eke.config import parse
from eke.data.stream import Batch
from eke.methods import METHODS
from eke.methods.contract import Setting, is_self_supervised
from eke.models.network import Network
from eke.randomness import rng

ACTIVE: dict[str, dict[str, Any]] = {
    "supervised": {},
    "pseudo_label": {"tau": 0.5, "ramp_rate": 0.0},
    "mean_teacher": {"ramp_rate": 0.0, "teacher_decay": 0.2},
    "mixmatch": {"ramp_rate": 0.0},
    "uda": {"tau": 0.5, "annealing": "linear"},
    "fixmatch": {"tau": 0.5},
    "flexmatch": {"tau": 0.5},
    "freematch": {"momentum": 0.9, "lambda_f": 0.05},
    "softmatch": {"momentum": 0.9},
    "comatch": {"tau": 0.5, "graph_tau": 0.4, "da_window": 3, "memory_size": 60},
    "simmatch": {"tau": 0.5, "da_window": 3, "teacher_decay": 0.5},
    "gradcam_consistency": {"layer": ["0", "2"]},
    "harmonize": {"strategy": "combined", "lambda_a": 0.5, "noise": 0.5},
    "simclr": {},
    "simsiam": {"projector_width": 32, "predictor_width": 8},
    "byol": {"tau_base": 0.2, "hidden_width": 32, "output_width": 16},
    "barlow_twins": {"projector_width": 16},
    "vicreg": {"projector_width": 16},
    "swav": {
        "n_prototypes": 6,
        "hidden_width": 16,
        "output_width": 8,
        "queue_size": 40,
        "queue_start_rate": 0.2,
        "freeze_rate": 0.0,
    },
    "autoencoder": {},
}
"""Options under which every term of each method counts from the first steps of an untrained network on."""

UNLABELED_WEIGHTS: dict[str, tuple[str, ...]] = {
    "supervised": (),
    "gradcam_consistency": ("beta", "gamma"),
    "harmonize": ("lambda_a",),
    "freematch": ("lambda_u", "lambda_f"),
    "comatch": ("lambda_cls", "lambda_ctr"),
    "simmatch": ("lambda_u", "lambda_in"),
}
"""The weights of the terms that unlabeled images have, where they are others than `lambda_u`."""


class TinyNetwork(Network):
    """Convolution, batch norm, activation, mean, linear head. Maps: `0`, `1` and `2`, of which `2` is averaged."""

    def __init__(self, n_classes: int = 4, channels: int = 3, batch_norm: bool = True) -> None:
        """Make it; `n_classes` = 0 gives a network without a head."""
        norm = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        body = nn.Sequential(nn.Conv2d(channels, 6, 3, bias=False), norm, nn.LeakyReLU(0.1))
        head = nn.Linear(6, n_classes) if n_classes else nn.Identity()
        super().__init__(body, head, width=6, mean=[0.0] * channels, std=[1.0] * channels)


SELF_SUPERVISED = sorted(name for name, method in METHODS.items() if is_self_supervised(method))
WITH_LABELS = sorted(set(METHODS) - set(SELF_SUPERVISED))


def make_setting(n_classes: int = 4, channels: int = 3, total_steps: int = 20) -> Setting:
    return Setting(
        n_classes,
        n_labeled=30,
        n_unlabeled=16,
        total_steps=total_steps,
        seed=3,
        image_shape=(channels, 6, 6),
        embedding_width=6,
    )


def make_method(
    name: str,
    options: Mapping[str, Any] | None = None,
    n_classes: int = 4,
    channels: int = 3,
    batch_norm: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """Make a method around a network whose weights are always the same."""
    torch.manual_seed(7)
    kind = METHODS[name]
    n_classes = 0 if is_self_supervised(kind) else n_classes
    network: Any = TinyNetwork(n_classes, channels, batch_norm)
    if n_classes:
        network.head.weight.data.mul_(
            4 if batch_norm else 30
        )  # else every prediction of an untrained network is near 1/K
    config = parse(kind.Config, ACTIVE[name] if options is None else options)
    method: Any = kind(config, network, make_setting(n_classes, channels))
    return method.to(dtype)


def make_batch(
    name: str,
    step: int,
    B: int = 8,
    mu: int = 2,
    n_classes: int = 4,
    channels: int = 3,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Make this process's slice of the global batch of B labeled and mu B unlabeled images, some twice."""
    plan = METHODS[name].views
    draw = rng(11, step, "tiny")

    def views(n: int, names: Mapping[str, str]) -> dict[str, View]:
        # images differ in color as well as in noise, so that predictions differ in confidence
        colors = [torch.rand(n, channels, 1, 1, generator=draw, dtype=torch.float64) for _ in names]
        noise = [torch.rand(n, channels, 6, 6, generator=draw, dtype=torch.float64) for _ in names]
        whole = [color * one for color, one in zip(colors, noise, strict=True)]
        parts = [local_slice(pixels).to(dtype) for pixels in whole]
        sight = [(part, identity(len(part), (6, 6)), torch.ones(len(part), 6, 6).bool()) for part in parts]
        return {name: View(*each) for name, each in zip(names, sight, strict=True)}

    n_labeled = B if plan.labeled else 0
    y = torch.randint(n_classes, (n_labeled,), generator=draw)
    x_index = torch.randint(30, (n_labeled,), generator=draw)
    u_index = torch.randint(16, (mu * B,), generator=draw)
    u_index[-1] = u_index[0]
    return Batch(
        views(B, plan.labeled),
        local_slice(y),
        views(mu * B, plan.unlabeled),
        local_slice(x_index),
        local_slice(u_index),
        step,
    )


def make_sgd(method: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    trainable = [p for p in method.parameters() if p.requires_grad]
    return torch.optim.SGD(trainable, lr=lr, momentum=0.9)


def train(method: Any, name: str, first: int, last: int, optimizer: torch.optim.Optimizer) -> list[float]:
    """Run steps `first` to `last` and return their losses."""
    losses = []
    for step in range(first, last):
        loss = method(make_batch(name, step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def moved(batch: Batch, device: str) -> Batch:
    """Send a batch to another device."""

    def there(view: View) -> View:
        matrix = view.geometry.matrix.to(device)
        return View(view.pixels.to(device), view.geometry._replace(matrix=matrix), view.valid.to(device))

    x, u = ({name: there(view) for name, view in side.items()} for side in (batch.x, batch.u))
    y, x_index, u_index = (part.to(device) for part in (batch.y, batch.x_index, batch.u_index))
    return Batch(x, y, u, x_index, u_index, batch.step)
