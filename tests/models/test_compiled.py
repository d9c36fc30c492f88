"""What of a network is compiled: modules that have run when the first tapped layer is done."""

import pytest
import torch
from torch import nn

from eke.models.backbones import build_network
from eke.models.compiled import compile_below, modules_below
from eke.models.network import ModelOptions, Network

COLORS = {"channels": 3, "mean": (0.4,) * 3, "std": (0.3,) * 3}


def residual() -> Network:
    return build_network(ModelOptions(name="resnet20"), n_classes=4, size=(16, 16), seed=1, **COLORS)


def test_the_outermost_modules_below_the_first_layer() -> None:
    assert modules_below(residual(), ("layer2",), (16, 16)) == ["stem", "layer1", "layer2.0", "layer2.1", "layer2.2"]
    first = modules_below(residual(), ("layer3.0", "layer1.1"), (16, 16))
    assert first[:2] == ["stem", "layer1.0"]
    assert all(name.startswith("layer1.1.") for name in first[2:])


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.relu(self.first(x))))


def test_what_runs_again_above_the_layer_stays_eager() -> None:
    network = Network(Reused(), nn.Linear(4, 2), width=4)
    assert modules_below(network, ("second",), (8, 8)) == ["first"]


@pytest.mark.parametrize("layers", [(), ("layer2",)])
def test_what_is_compiled_and_that_names_stay(layers: tuple[str, ...]) -> None:
    network = residual()
    names = list(network.state_dict())
    compile_below(network, layers, (16, 16))
    compiled = {name for name, module in network.named_modules() if module._compiled_call_impl is not None}
    below = modules_below(residual(), layers, (16, 16)) if layers else []
    assert compiled == ({f"body.{name}" for name in below} if layers else {"body"})
    assert list(network.state_dict()) == names
