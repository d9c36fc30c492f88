import pytest
import torch
from torch import nn

from eke.engine import processes
from eke.engine.processes import ComputeOptions, place_method
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.models.norm import BatchNorm

CPU = torch.device("cpu")


def network() -> Network:
    return build_network(
        ModelOptions(name="small"), n_classes=2, channels=1, size=(8, 8), mean=(0.5,), std=(0.2,), seed=0
    )


def placed(options: ComputeOptions) -> nn.ModuleDict:
    """A method is its network and heads of its own, which have batch norms too."""
    body = network()
    method = nn.ModuleDict({"network": body, "projection": nn.BatchNorm1d(4)})
    place_method(method, body, options, CPU, (), (8, 8))
    return method


def test_several_processes_sync_batch_norm_or_say_that_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    synced = placed(ComputeOptions())
    assert isinstance(synced["projection"], BatchNorm)
    assert any(isinstance(module, BatchNorm) for module in synced["network"].modules())
    with pytest.warns(UserWarning, match="each of 2 processes .* another algorithm"):
        alone = placed(ComputeOptions(sync_norm=False))
    assert not any(isinstance(module, BatchNorm) for module in alone.modules())


def test_one_process_needs_neither() -> None:
    plain = placed(ComputeOptions(sync_norm=False))
    assert not any(isinstance(module, BatchNorm) for module in plain.modules())
