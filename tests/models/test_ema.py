import copy

import pytest
import torch
from torch import nn

from eke.errors import ConfigError
from eke.models.backbones import build_network
from eke.models.ema import Ema
from eke.models.network import ModelOptions


def _network():
    options = ModelOptions(name="small")
    return build_network(options, n_classes=3, channels=1, size=(8, 8), mean=(0.5,), std=(0.2,), seed=0)


def _move(network):
    """Change weights and statistics as a training step would."""
    network.train()(torch.rand(4, 1, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_average_equals_the_loop_over_tensors_bit_for_bit():
    network = _network()
    average, slow = Ema(network, 0.9), copy.deepcopy(network)
    for step in (0, 1, 50, 100, 500):
        _move(network)
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, theirs in zip(slow.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
    for mine, theirs in zip(average.module.parameters(), slow.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (26, 0.75), (10_000, 0.75)])
def test_average_follows_the_formula(step, decay):
    network = nn.Linear(1, 1, bias=False)
    average = Ema(network, 0.75)
    start = network.weight.item()
    with torch.no_grad():
        network.weight.fill_(start + 4)
    average.update(network, step)
    assert average.module.weight.item() == pytest.approx(start + 4 * (1 - decay))


def test_statistics_and_counters_are_the_originals():
    network = _network()
    average = Ema(network, 0.999)
    for step in range(3):
        _move(network)
        average.update(network, step)
    for (name, mine), theirs in zip(average.module.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr()
    assert average.module.body.block1[1].num_batches_tracked == 3


def test_the_copy_has_no_gradients_and_stays_in_eval_mode():
    network = _network()
    method = nn.ModuleList([network, Ema(network, 0.5)]).train()
    assert network.training
    assert not any(module.training for module in method[1].modules())
    assert not any(parameter.requires_grad for parameter in method[1].parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_state_round_trips():
    network = _network()
    average = Ema(network, 0.9)
    _move(network)
    average.update(network, 0)
    other = Ema(_network(), 0.9)
    other.load_state_dict(average.state_dict())
    _move(network)
    average.update(network, 1)
    other.update(network, 1)
    for mine, theirs in zip(other.state_dict().values(), average.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_module_without_buffers_is_averaged():
    average, other = Ema(nn.Linear(2, 2), 0.5), nn.Linear(2, 2)
    before = average.module.weight.clone()
    average.update(other, 10_000)
    assert torch.allclose(average.module.weight, (before + other.weight) / 2)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match=str(decay)):
        Ema(nn.Linear(1, 1), decay)
