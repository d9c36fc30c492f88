import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eke.errors import ConfigError
from eke.models.backbones import build_network, from_module
from eke.models.ema import Ema
from eke.models.network import ModelOptions, Network, is_pooled_linearly, layers
from eke.models.tap import Layout


def _network(name, size=(32, 32), channels=3):
    return build_network(
        ModelOptions(name=name),
        n_classes=4,
        channels=channels,
        size=size,
        mean=(0.4,) * channels,
        std=(0.3,) * channels,
        seed=0,
    ).eval()


def _recorded(network, images, names):
    """What each layer gives at the moment it gives it, by hooks of this test's own on a copy."""
    body, found = copy.deepcopy(network).body, {}
    for name in names:
        body.get_submodule(name).register_forward_hook(_keep(found, name))
    body(network.normalize(images))
    return found


def _keep(found, name):
    def hook(module, args, output):
        found[name] = output.detach().clone()

    return hook


CASES = {
    "small": (24, 24),
    "lenet": (28, 28),
    "cnn8": (32, 24),
    "resnet20": (32, 32),
    "wrn-28-2": (16, 24),
    "resnet18": (16, 24),
    "timm/test_resnet.r160_in1k": (64, 48),
    "timm/convnext_atto": (64, 64),
    "timm/test_vit": (64, 32),
    "torchvision/resnet18": (64, 64),
    "torchvision/mobilenet_v3_small": (64, 64),
}
CHANNELS_LAST = ("timm/swin_tiny_patch4_window7_224", "torchvision/swin_t")


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in CHANNELS_LAST)])
def test_every_layer_of_every_model_gives_its_map_and_leaves_the_forward_as_it_is(name):
    size = CASES.get(name, (64, 64))
    _check_every_layer(_network(name, size), size, channels_last=name in CHANNELS_LAST)


def test_maps_of_swin_come_with_channels_first():
    from torchvision.models import SwinTransformer

    body = SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4])
    network = from_module(body, 4, size=(32, 48), head="head", layout=Layout(channels_last=True)).eval()
    _check_every_layer(network, (32, 48), channels_last=True)
    assert {"features.0.0", "features.1.0.norm1"} <= set(layers(network, (32, 48)))  # (N, C, h, w); (N, h, w, C)


def _check_every_layer(network, size, channels_last):
    images = torch.rand(2, 3, *size)
    names = layers(network, size)
    assert names
    outputs = network(images, taps=names)
    assert torch.equal(outputs.logits, network(images).logits)
    assert list(outputs.features) == names
    H, W = size
    for layer, output in _recorded(network, images, names).items():
        wanted = output
        conv = isinstance(network.body.get_submodule(layer), (nn.Conv2d, nn.BatchNorm2d))
        if output.ndim == 3:  # tokens, in rows
            h = output.shape[1] * H // W
            h = int(h**0.5)
            wanted = output[:, -h * (h * W // H) :].reshape(2, h, -1, output.shape[2]).permute(0, 3, 1, 2)
        elif channels_last and not conv:
            wanted = output.permute(0, 3, 1, 2)
        assert torch.equal(outputs.features[layer], wanted), layer
    torch.autograd.grad(outputs.logits.sum(), list(outputs.features.values()))  # fails off the path


def test_maps_and_gradients_of_resnet18_equal_a_forward_by_hand():
    """Its in-place ReLU and additions overwrite what plain hooks record."""
    network = _network("torchvision/resnet18", (64, 64))
    body, images = network.body, torch.rand(2, 3, 64, 64)
    assert any(module.inplace for module in body.modules() if isinstance(module, nn.ReLU))
    x = body.maxpool(F.relu(body.bn1(body.conv1(network.normalize(images)))))
    maps = {}
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        for block in stage:
            bn1 = block.bn1(block.conv1(x))
            bn2 = block.bn2(block.conv2(F.relu(bn1)))
            x = F.relu(bn2 + (x if block.downsample is None else block.downsample(x)))
            maps = {"layer4.1.bn1": bn1, "layer4.1.bn2": bn2, "layer4.1": x}
    logits = network.head(x.mean((2, 3)))
    outputs = network(images, taps=list(maps))
    torch.testing.assert_close(outputs.logits, logits)
    for name, wanted in maps.items():
        mine = outputs.features[name]
        torch.testing.assert_close(mine, wanted)
        assert mine.min() < 0 or name == "layer4.1"
        (a,) = torch.autograd.grad(outputs.logits[:, 0].sum(), mine, retain_graph=True)
        (b,) = torch.autograd.grad(logits[:, 0].sum(), wanted, retain_graph=True)
        torch.testing.assert_close(a, b)


def test_hooks_and_modes_are_left_as_found_also_after_an_error():
    network = _network("resnet20").train()
    network.body.layer1.eval()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    layers(network, (32, 32))
    with pytest.raises(ConfigError):
        network(torch.rand(1, 3, 32, 32), taps=["layer2", "layer9"])
    network.body.layer3.register_forward_pre_hook(_fail)
    with pytest.raises(ArithmeticError):
        network(torch.rand(1, 3, 32, 32), taps=["layer1"])
    assert not any(module._forward_hooks for module in network.modules())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(state["body.stem.1.weight"], network.state_dict()["body.stem.1.weight"])


def _fail(module, args):
    raise ArithmeticError


class _Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.spare = nn.Conv2d(8, 8, 1)
        self.pair = _Pair()
        self.keep = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.relu(self.relu(self.conv(x)))
        kept = x
        x = self.keep(x)
        x = x + kept.mul_(2)
        return self.pool(self.pair(x)[0]).flatten(1)


class _Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conf", "no layer 'conf'. Did you mean 'conv'"),
        ("", "no layer ''"),
        ("relu", "called 2 times.*Choose another, for example conv, spare"),
        ("spare", "never called"),
        ("pair", "gives a tuple"),
        ("pool", r"shape \(2, 8, 1, 1\).*no map"),
        ("keep", "overwrites the output"),
    ],
)
def test_layers_that_give_no_single_map_are_refused_with_their_neighbors(layer, message):
    network = from_module(_Odd(), 2, size=(8, 8))
    with torch.no_grad(), pytest.raises(ConfigError, match=message):
        network(torch.rand(2, 3, 8, 8), taps=[layer])
    assert layer == "keep" or layer not in layers(network, (8, 8))


def test_maps_that_are_not_channels_first_are_refused_where_that_is_not_declared():
    network = _network("timm/test_convnext", (64, 64))
    with pytest.raises(ConfigError, match="no map"):
        network(torch.rand(2, 3, 64, 64), taps=["stages.0.blocks.0.mlp.fc1"])  # (N, h, w, C) inside the block


def test_the_deepest_map_comes_last():
    wanted = {"small": "block4", "wrn-28-2": "activation", "resnet18": "layer4", "cnn8": "block4"}
    assert {name: layers(_network(name), (32, 32))[-1] for name in wanted} == wanted


def test_maps_of_one_pixel_are_left_out():
    network = _network("resnet18", (8, 8))
    assert layers(network, (8, 8))[-1] == "layer3"


def test_clips_have_maps_with_a_time_axis():
    body = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    network = Network(body, nn.Linear(4, 2), width=4, layout=Layout())
    outputs = network(torch.rand(2, 3, 5, 8, 8), taps=["1"])
    assert outputs.features["1"].shape == (2, 4, 5, 8, 8)


def test_taps_work_without_gradients_and_in_inference_mode():
    network = _network("small")
    images = torch.rand(2, 3, 32, 32)
    wanted = network(images, ["block4"]).features["block4"]
    with torch.inference_mode():
        assert torch.equal(network(images, ["block4"]).features["block4"], wanted)


def test_maps_of_networks_without_trained_weights_can_be_differentiated():
    average = Ema(_network("small"), 0.9).module
    outputs = average(torch.rand(2, 3, 32, 32), ["block1.0", "block3"])
    gradients = torch.autograd.grad(outputs.logits[:, 1].sum(), list(outputs.features.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_second_order_gradients_run_through_the_maps():
    network = _network("small", (8, 8)).double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    weight = network.body.block2[1].weight

    def attention():
        outputs = network(images, ["block2"])
        features = outputs.features["block2"]
        (g,) = torch.autograd.grad(outputs.logits[:, 0].sum(), features, create_graph=True)
        return (g.mean((2, 3), keepdim=True) * features).sum(1).square().sum()

    (gradient,) = torch.autograd.grad(attention(), weight)
    direction, step = torch.randn_like(weight), 1e-7
    with torch.no_grad():
        weight.add_(step * direction)
    up = attention().item()
    with torch.no_grad():
        weight.sub_(2 * step * direction)
    slope = (up - attention().item()) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "layer", "dropout", "expected"),
    [
        ("resnet20", "layer3", 0.0, True),
        ("resnet20", "layer3.2", 0.0, True),
        ("resnet20", "layer2", 0.0, False),
        ("resnet20", "layer3", 0.1, False),
        ("small", "block4", 0.0, True),
        ("wrn-28-2", "block3", 0.0, False),
        ("wrn-28-2", "activation", 0.0, True),
    ],
)
def test_layers_that_are_averaged_and_read_by_a_linear_head_are_recognized(name, layer, dropout, expected):
    options = ModelOptions(name=name, dropout=dropout)
    network = build_network(options, n_classes=3, channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.2,) * 3, seed=0)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    assert is_pooled_linearly(network, layer, (32, 32)) == expected
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    headless = build_network(options, n_classes=0, channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.2,) * 3, seed=0)
    assert not is_pooled_linearly(headless, layer, (32, 32))
