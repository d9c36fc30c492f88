"""Every explanation of every kind of network leaves the network bit-identical."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eke.errors import ConfigError
from eke.explain.cam import CAMS
from eke.explain.gradients import integrated_gradients, path_attention, saliency, smooth_grad
from eke.explain.guided import guided_grad_cam, guided_relus
from eke.models.backbones import build_network
from eke.models.network import ModelOptions
from eke.models.tap import Layout, tapped


def resnet18():
    from torchvision.models import resnet18

    return resnet18(num_classes=4), ["layer2", "layer4.1.bn2"], (64, 64), Layout()


def wide_resnet():
    options = ModelOptions(name="wrn-28-2")
    network = build_network(options, n_classes=4, channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, seed=0)
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return Logits(network), [f"network.{layers[4]}", f"network.{layers[-1]}"], (32, 32), Layout()


class Logits(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).logits


def inception():
    """All its ReLUs are functions."""
    from torchvision.models import inception_v3

    return inception_v3(num_classes=4, init_weights=False), ["Mixed_5b", "Mixed_6e"], (96, 96), Layout()


def vgg11():
    """All its ReLUs are in place; torchvision's head of a hundred million weights is replaced."""
    from torchvision.models.vgg import cfgs, make_layers

    head = nn.Sequential(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(inplace=True), nn.Linear(32, 4))
    return nn.Sequential(make_layers(cfgs["A"]), head), ["0.3", "0.13"], (32, 32), Layout()


def transformer():
    from torchvision.models import VisionTransformer

    network = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4)
    nn.init.normal_(network.heads.head.weight)  # it starts with zeros, which nothing explains
    return network, ["encoder.layers.encoder_layer_0"], (32, 32), Layout(prefix_tokens=1)


NETWORKS = [resnet18, wide_resnet, inception, vgg11, transformer]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda make: make.__name__)
def case(request):
    torch.manual_seed(0)
    network, layers, size, layout = request.param()
    network.eval()
    last = list(network.modules())[-1]
    last.train()  # a flag of its own, in a module without a mode
    return network, layers, torch.rand(2, 3, *size), layout


def state(network):
    """Everything that an explanation might change, in a form that can be compared."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    marks = {
        name: (id(tensor), tensor._version, tensor.requires_grad, tensor.grad is None, tensor._backward_hooks)
        for name, tensor in tensors.items()
    }
    modules = {
        name: (
            id(module),
            module.training,
            sorted(module.__dict__),
            {key: list(value) for key, value in module.__dict__.items() if "hooks" in key and value is not None},
        )
        for name, module in network.named_modules()
    }
    return values, marks, modules


def assert_untouched(network, before):
    values, marks, modules = state(network)
    assert marks == before[1]
    assert modules == before[2]
    assert all(torch.equal(values[name], before[0][name]) for name in values)


def look(case):
    network, layers, images, layout = case
    images = images.requires_grad_()
    # torch's fused attention has no second derivative; its plain one has
    with sdpa_kernel(SDPBackend.MATH), tapped(network, layers, images.shape, layout) as features:
        logits = network(images)
    return logits.amax(1), images, [features[name] for name in layers]


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_class_activation_maps(case, name, create_graph):
    before = state(case[0])
    score, _, features = look(case)
    maps = CAMS[name](score, features, create_graph=create_graph)
    for map_, feature in zip(maps, features, strict=True):
        assert map_.shape == feature[:, 0].shape
        assert map_.isfinite().all()
        assert map_.requires_grad == create_graph
    if create_graph:
        torch.autograd.grad(sum(map_.square().sum() for map_ in maps), features)
    assert_untouched(case[0], before)


def test_maps_of_a_batch_are_those_of_its_images(case):
    network, layers, images, layout = case
    network, images = copy.deepcopy(network).double(), images.detach().double()
    score, _, features = look((network, layers, images, layout))
    together = CAMS["gradcam"](score, features)
    for n in range(2):
        score, _, features = look((network, layers, images[n : n + 1], layout))
        for alone, batch in zip(CAMS["gradcam"](score, features), together, strict=True):
            torch.testing.assert_close(alone[0], batch[n], rtol=1e-6, atol=1e-8 * float(batch[n].abs().max()))


def test_guided_backpropagation(case):
    network, _, _, layout = case
    before = state(network)
    if layout.prefix_tokens is not None:
        with guided_relus(), pytest.raises(ConfigError, match="gelu"):
            look(case)
    else:
        with guided_relus() as guided:
            score, images, features = look(case)
        gradient = guided.gradient(score, images)
        assert gradient.isfinite().all()
        assert not torch.allclose(gradient, saliency(score, images), rtol=0.1, atol=0)
        assert guided_grad_cam(gradient, CAMS["gradcam"](score, features)[-1]).shape == images.shape
        guided.gradient(score, images, create_graph=True)
    assert_untouched(network, before)


def test_gradients_of_pixels(case):
    network, _, images, _ = case
    before = state(network)
    classes = network(images).argmax(1)

    def score(x):
        return network(x).gather(1, classes[:, None])[:, 0]

    x = images.detach().requires_grad_()
    for explained in (
        saliency(score(x), x),
        smooth_grad(score, images, n_samples=2),
        integrated_gradients(score, images, n_steps=2),
    ):
        assert explained.shape == images.shape
        assert explained.isfinite().all()
        assert explained.any()
    assert_untouched(network, before)


def test_path_attention(case):
    network, layers, images, layout = case
    before = state(network)
    classes = network(images).argmax(1)

    def forward(x):
        with tapped(network, layers, x.shape, layout) as features:
            logits = network(x)
        return logits, features

    attention = path_attention(forward, images, lambda z: F.cross_entropy(z, classes, reduction="none"), n_steps=2)
    assert list(attention) == layers
    assert all(each.ndim == 2 and each.isfinite().all() and each.any() for each in attention.values())
    assert_untouched(network, before)


def test_a_change_is_seen():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    changes = [
        lambda: network.train(),
        lambda: network[0].weight.sum().backward(),
        lambda: network[0].register_forward_hook(lambda *_: None),
        lambda: network[1].running_mean.add_(1),
        lambda: network[0].weight.data.mul_(2),
        lambda: setattr(network, "1", nn.BatchNorm1d(2)),
        lambda: network[0].weight.requires_grad_(False),
    ]
    for change in changes:
        network.eval()
        before = state(network)
        change()
        with pytest.raises(AssertionError):
            assert_untouched(network, before)
