import copy
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eke.config import parse
from eke.errors import CheckpointError, ConfigError
from eke.models.backbones import build_network, from_module, resolve_name
from eke.models.dropout import dropout_on
from eke.models.network import ModelOptions, Network


def _build(name, *, n_classes=10, channels=3, size=(32, 32), seed=0, **options):
    return build_network(
        ModelOptions(name=name, **options),
        n_classes=n_classes,
        channels=channels,
        size=size,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.4)[:channels],
        seed=seed,
    )


@pytest.mark.parametrize(
    ("name", "channels", "n_parameters"),
    [
        ("wrn-28-2", 3, 1_467_610),  # 1.47 million
        ("resnet20", 3, 269_722),  # 0.27 million in the paper's table 6
        ("resnet18", 3, 11_173_962),
        ("lenet", 1, 21_840),
        ("cnn8", 3, 584_746),
        ("small", 3, 168_650),
    ],
)
def test_parameter_counts(name, channels, n_parameters):
    size = (28, 28) if name == "lenet" else (32, 32)
    network = _build(name, channels=channels, size=size)
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters


def test_big_networks_have_the_parameters_of_their_papers():
    with torch.device("meta"):
        from eke.models.resnet import resnet
        from eke.models.wide_resnet import WideResNet

        wide, deep = WideResNet(3, width=8), resnet("resnet50", 3, (224, 224))
    assert sum(p.numel() for p in wide.parameters()) + 512 * 100 + 100 == 23_401_012  # 23.4 million
    assert sum(p.numel() for p in deep.parameters()) + 2048 * 1000 + 1000 == 25_557_032


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("small", (8, 8), 128),
        ("small", (5, 7), 128),
        ("small", (33, 20), 128),
        ("lenet", (28, 28), 50),
        ("lenet", (16, 30), 50),
        ("cnn8", (32, 32), 256),
        ("cnn8", (24, 40), 256),
        ("resnet20", (32, 32), 64),
        ("resnet20", (9, 17), 64),
        ("wrn-28-2", (32, 32), 128),
        ("wrn-28-2", (15, 8), 128),
        ("resnet18", (16, 24), 512),
        ("resnet18", (65, 40), 512),
        ("timm/test_resnet.r160_in1k", (32, 40), 96),
        ("torchvision/mobilenet_v3_small", (40, 32), 1024),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_of_every_model_at_several_sizes(name, size, width, channels):
    network = _build(name, channels=channels, size=size, n_classes=5)
    logits, embedding, features = network(torch.rand(2, channels, *size))
    assert logits.shape == (2, 5)
    assert embedding.shape == (2, width)
    assert logits.isfinite().all()
    assert features == {}
    assert torch.equal(network.eval()(torch.rand(1, channels, *size)).features.get("x", logits), logits)


def test_no_own_network_has_a_relu_in_place():
    for name in ("small", "lenet", "cnn8", "resnet20", "wrn-28-2", "resnet18"):
        assert not any(getattr(module, "inplace", False) for module in _build(name).modules()), name


def test_wide_resnet_follows_the_recipe():
    body = _build("wrn-28-2").body
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 25
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 1e-3)}
    convolutions = [module for module in body.modules() if isinstance(module, nn.Conv2d)]
    assert sum(convolution.kernel_size == (3, 3) for convolution in convolutions) == 25
    assert sum(convolution.kernel_size == (1, 1) for convolution in convolutions) == 3
    first = body.block3[0].conv1.weight  # 64 inputs, 128 outputs
    assert first.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)


def test_wide_resnet_equals_the_recipe_written_out():
    body = _build("wrn-28-2").body.double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    weights = dict(body.named_parameters())

    def activate(x, norm):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = (x - mean) / (var + 1e-3).sqrt()
        return torch.where(x > 0, x, 0.1 * x)

    x = nn.functional.conv2d(images, weights["stem.weight"], padding=1)
    for block, stride in ((1, 1), (2, 2), (3, 2)):
        for i in range(4):
            at = f"block{block}.{i}"
            y = activate(x, at)
            if block == 1 and i == 0:
                x = y
            s = stride if i == 0 else 1
            y = nn.functional.conv2d(y, weights[f"{at}.conv1.weight"], padding=1, stride=s)
            y = nn.functional.conv2d(activate(y, at), weights[f"{at}.conv2.weight"], padding=1)
            if i == 0:
                x = nn.functional.conv2d(x, weights[f"{at}.shortcut.weight"], stride=s)
            x = x + y
    torch.testing.assert_close(body(images), activate(x, "norm").mean((2, 3)))


def test_resnet20_equals_the_paper_written_out():
    body = _build("resnet20").body.double().eval()  # running statistics are 0 and 1
    images = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    weights, F, scale = dict(body.named_parameters()), nn.functional, (1 + 1e-5) ** -0.5
    x = F.relu(scale * F.conv2d(images, weights["stem.0.weight"], padding=1))
    for layer in (1, 2, 3):
        for i in range(3):
            stride = 2 if layer > 1 and i == 0 else 1
            at = f"layer{layer}.{i}"
            y = F.relu(scale * F.conv2d(x, weights[f"{at}.conv1.weight"], padding=1, stride=stride))
            y = scale * F.conv2d(y, weights[f"{at}.conv2.weight"], padding=1)
            if stride == 2:
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, torch.zeros_like(x)], 1)
            x = F.relu(x + y)
    torch.testing.assert_close(body(images), x.mean((2, 3)))


def test_networks_of_explanation_based_attention_equal_their_description():
    F, images = nn.functional, torch.rand(2, 3, 32, 40)
    lenet, cnn8 = _build("lenet", size=(32, 40)).eval().body, _build("cnn8", size=(32, 40)).eval().body
    x = F.relu(F.max_pool2d(lenet.block1[0](images), 2))
    x = F.relu(F.max_pool2d(lenet.block2[0](x), 2))
    torch.testing.assert_close(lenet(images), F.relu(lenet.dense[0](x.flatten(1))))
    x = images
    convolutions = [module for module in cnn8.modules() if isinstance(module, nn.Conv2d)]
    for i, convolution in enumerate(convolutions, 1):
        x = F.relu(convolution(x) * (1 + 1e-5) ** -0.5)
        x = F.max_pool2d(x, 2) if i in (2, 4, 6) else x
    assert len(convolutions) == 7
    torch.testing.assert_close(cnn8(images), x.amax((2, 3)))


def test_small_keeps_four_pixels_a_side():
    for side, deepest in ((3, 3), (7, 7), (8, 4), (16, 4), (31, 7), (32, 4), (64, 8)):
        network = _build("small", size=(side, side), channels=1)
        maps = network(torch.rand(1, 1, side, side), taps=["block4"]).features["block4"]
        assert maps.shape == (1, 128, deepest, deepest)


def test_resnet_stem_follows_the_size():
    small, large = _build("resnet18", size=(64, 64)).body, _build("resnet18", size=(64, 65)).body
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.maxpool, nn.MaxPool2d)


def test_descriptor_lengths_of_explanation_based_attention():
    lenet = _build("lenet", channels=1, size=(28, 28))
    outputs = lenet(torch.rand(2, 1, 28, 28), taps=["block1", "block2"])
    assert outputs.features["block1"].shape == (2, 10, 12, 12)
    assert outputs.features["block2"].shape == (2, 20, 4, 4)
    assert 10 + 20 + outputs.embedding.shape[1] + outputs.logits.shape[1] == 90
    cnn8 = _build("cnn8")
    outputs = cnn8(torch.rand(2, 3, 32, 32), taps=["block3"])
    assert outputs.features["block3"].shape == (2, 128, 4, 4)
    assert outputs.embedding.shape[1] + 128 == 384


def test_same_seed_same_weights_and_no_global_state_is_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in ("small", "timm/test_vit"):
        a, b = _build(name), _build(name)
        c = _build(name, seed=1)
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        assert not torch.equal(a.head.weight, c.head.weight)
        assert not all(torch.equal(x, y) for x, y in zip(a.body.parameters(), c.body.parameters(), strict=True))
        assert all(module.training for module in a.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_normalized_inside_and_grey_is_repeated():
    network = _build("small").eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    wanted = network.body((images - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(network(images).embedding, wanted)
    assert {"mean", "std"} <= set(network.state_dict())
    grey = _build("torchvision/resnet18", channels=1).eval()
    assert grey.mean.tolist() == pytest.approx([0.4] * 3)
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(grey(image).logits, grey(image.expand(-1, 3, -1, -1)).logits)
    with pytest.raises(ConfigError, match="3 channels, and these have 2"):
        network(torch.rand(2, 2, 32, 32))


def test_auto_depends_on_the_size_only():
    sizes = {
        (8, 8): "small",
        (16, 9): "small",
        (17, 8): "wrn-28-2",
        (40, 40): "wrn-28-2",
        (41, 40): "resnet18",
    }
    assert {size: resolve_name("auto", size) for size in sizes} == sizes
    assert resolve_name("resnet18", (8, 8)) == "resnet18"
    assert resolve_name("convnext_atto", (8, 8)) == "timm/convnext_atto"
    assert resolve_name("convnext_tiny", (8, 8)) == "timm/convnext_tiny"
    assert resolve_name("alexnet", (8, 8)) == "torchvision/alexnet"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn-28-3", "Did you mean 'wrn-28-2'|Did you mean 'wrn-28-8'"),
        ("timm/convnxt_atto", "Did you mean 'convnext_atto'"),
        ("torchvision/resnet81", "Did you mean 'resnet18'"),
        ("mobilenetv3-small_100", "Did you mean 'mobilenetv3_small_100'"),
        ("zzzz", "eke's own: small, lenet"),
        ("hub/resnet18", "timm/NAME"),
    ],
)
def test_unknown_names_get_a_suggestion(name, message):
    with pytest.raises(ConfigError, match=message):
        resolve_name(name, (32, 32))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lenet", {"size": (12, 28)}, "16 or more pixels"),
        ("cnn8", {"size": (16, 16)}, "24 or more pixels"),
        ("resnet18", {"pretrained": True}, "no published weights"),
        ("timm/test_vit", {"size": (20, 20)}, r"test_vit.*\(20, 20\)"),
        ("torchvision/vit_b_16", {"size": (20, 20)}, r"vit_b_16.*\(20, 20\)"),
        ("torchvision/squeezenet1_1", {}, "no linear class head"),
        ("torchvision/alexnet", {"size": (8, 8)}, "cannot read"),
    ],
)
def test_what_cannot_be_made_is_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        _build(name, **settings)


def test_a_number_of_channels_torchvision_cannot_read_is_refused():
    options = ModelOptions(name="torchvision/resnet18")
    with pytest.raises(ConfigError, match="not 4"):
        build_network(options, n_classes=2, channels=4, size=(32, 32), mean=(0.5,) * 4, std=(0.2,) * 4, seed=0)


def test_a_network_without_classes_gives_its_embedding():
    network = _build("small", n_classes=0)
    outputs = network(torch.rand(4, 3, 32, 32))
    assert torch.equal(outputs.logits, outputs.embedding)
    assert not list(network.head.parameters())


def test_published_models_bring_their_normalization_with_their_weights(tmp_path):
    saved = _build("timm/test_resnet.r160_in1k", seed=3)
    path = tmp_path / "body.safetensors"
    save_file(saved.body.state_dict(), path)
    network = _build("timm/test_resnet.r160_in1k", weights=path)
    assert network.mean.tolist() == pytest.approx([0.5, 0.5, 0.5])  # of r160_in1k
    assert torch.equal(network.body.conv1[0].weight, saved.body.conv1[0].weight)
    assert _build("timm/test_resnet.r160_in1k").mean.tolist() == pytest.approx([0.4, 0.5, 0.6])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_that_eke_saved_bring_body_and_normalization(tmp_path, suffix):
    saved = _build("small", seed=3)
    saved.mean.fill_(0.25)
    path = tmp_path / f"weights{suffix}"
    save_file(saved.state_dict(), path) if suffix == ".safetensors" else torch.save(saved.state_dict(), path)
    network = _build("small", n_classes=4, weights=path)
    assert all(torch.equal(a, b) for a, b in zip(network.body.parameters(), saved.body.parameters(), strict=True))
    assert network.mean.tolist() == [0.25] * 3
    fresh = _build("small", n_classes=4)
    assert torch.equal(network.head.weight, fresh.head.weight)


class _Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_are_no_weights_of_this_model_are_refused(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    with pytest.raises(CheckpointError, match="No such file"):
        _build("small", weights=path)
    torch.save(_build("resnet20").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"another model.*Set model\.name"):
        _build("small", weights=path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="named tensors"):
        _build("small", weights=path)
    path.write_bytes(pickle.dumps({"x": _Harmful()}))
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        _build("small", weights=path)
    torch.save({"x": _Harmful()}, path)
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        _build("small", weights=path)
    assert "code ran" not in capsys.readouterr().out
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        _build("small", weights=damaged)


def test_any_module_becomes_a_network():
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    body[1].eval()
    statistics = copy.deepcopy(body[1].state_dict())
    network = from_module(body, 4, size=(8, 9))
    assert network.body is body
    assert not body[1].training
    assert torch.equal(statistics["running_mean"], body[1].running_mean)
    outputs = network(torch.rand(2, 3, 8, 9), taps=["2"])
    torch.testing.assert_close(outputs.embedding, outputs.features["2"].mean((2, 3)))
    assert outputs.logits.shape == (2, 4)


def test_a_modules_own_head_is_replaced():
    from torchvision.models import resnet18

    network = from_module(resnet18(num_classes=7), 4, size=(32, 32), head="fc")
    assert network(torch.rand(2, 3, 32, 32)).embedding.shape == (2, 512)
    with pytest.raises(ConfigError, match=r"no layer 'fcc'. Did you mean 'fc'"):
        from_module(resnet18(num_classes=7), 4, size=(32, 32), head="fcc")
    with pytest.raises(ConfigError, match="_Tuple must give one tensor"):
        from_module(_Tuple(), 4, size=(8, 8))


class _Tuple(nn.ReLU):
    def forward(self, x):
        return (x,)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.2, 0.2)), ((0.5,), (0.0,)), ((), ())])
def test_normalization_that_makes_no_sense_is_refused(mean, std):
    with pytest.raises(ConfigError, match="one number per channel"):
        Network(nn.Identity(), nn.Identity(), width=1, mean=mean, std=std)


@pytest.mark.parametrize(
    ("name", "rate", "inside", "before_head"),
    [
        ("lenet", None, {0.25}, 0.5),
        ("lenet", 0.1, {0.1}, 0.1),
        ("lenet", 0.0, {0.0}, 0.0),
        ("cnn8", None, {0.3}, 0.0),
        ("cnn8", 0.2, {0.2}, 0.0),
        ("small", None, set(), 0.0),
        ("small", 0.4, set(), 0.4),
    ],
)
def test_dropout_rates(name, rate, inside, before_head):
    network = _build(name, dropout=rate)
    found = {module.p for module in network.body.modules() if isinstance(module, nn.Dropout)}
    assert found == inside
    assert network.dropout.p == before_head


def test_dropout_on_switches_dropout_only_and_back():
    network = _build("cnn8").eval()
    network.body.block1[3].train()
    modes = [module.training for module in network.modules()]
    images = torch.rand(2, 3, 32, 32)
    with dropout_on(network) as n_layers:
        assert n_layers == 7
        assert not torch.equal(network(images).logits, network(images).logits)
        assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert [module.training for module in network.modules()] == modes
    with dropout_on(_build("small")) as n_layers:
        assert n_layers == 0


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"model\.dropout"):
        parse(ModelOptions, {"dropout": 1.0}, "model")
    with pytest.raises(ConfigError, match="Did you mean 'pretrained'"):
        parse(ModelOptions, {"pretraind": True}, "model")
