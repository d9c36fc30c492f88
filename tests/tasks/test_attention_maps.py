"""Attention maps by name: each is what the functions of `eke.explain` give of one image at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from eke.engine.model_files import ModelCard
from eke.errors import ConfigError
from eke.explain.cam import class_activation, grad_cam, grad_cam_plus_plus, hires_cam, layer_cam
from eke.explain.gradients import channel_magnitude, integrated_gradients, saliency, smooth_grad
from eke.explain.guided import guided_grad_cam, guided_relus
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.tasks.attention_maps import INPUT, MAPS, OF_PIXELS, SIGNED, attention_maps, check_maps, deepest_layer
from eke.tasks.explanation import Subject
from eke.tasks.side_by_side import attention_kind, decide, heat, remark

SIZE = (16, 16)
CLASSES = ("cat", "dog", "frog")


@pytest.fixture(scope="module")
def network():
    half = (0.5,) * 3
    options = ModelOptions(name="small")
    built = build_network(options, n_classes=3, channels=3, size=SIZE, mean=half, std=half, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):  # so that running statistics matter
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 5)
    return built


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def card_of(classes=CLASSES, size=SIZE, name="small", fit="crop"):
    return ModelCard(
        model=ModelOptions(name=name),
        classes=classes,
        channels=3,
        size=size,
        fit=fit,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def subjects(n, label=None):
    return [Subject(f"{i:032x}", f"{i}.png", label) for i in range(n)]


def directly(name, network, image, k, layer):
    """Return one map (h, w) of one image (C, H, W), written out for each name."""
    x = (image[None].float() / 255).requires_grad_()
    with guided_relus() as guided:
        outputs = network(x, taps=(layer,))
    score, features = outputs.logits[:, k], outputs.features[layer]

    def forward(x):
        return network(x).logits[:, k]

    computed = {
        "gradcam": lambda: grad_cam(score, features),
        "gradcam++": lambda: grad_cam_plus_plus(score, features),
        "layercam": lambda: layer_cam(score, features),
        "hirescam": lambda: hires_cam(score, features),
        "cam": lambda: class_activation(features, network.head.weight[[k]]).detach(),
        "guided": lambda: guided.gradient(score, x).abs().amax(1),
        "guided-gradcam": lambda: guided_grad_cam(guided.gradient(score, x), grad_cam(score, features)).abs().amax(1),
        "saliency": lambda: saliency(score, x).abs().amax(1),
        "smoothgrad": lambda: channel_magnitude(smooth_grad(forward, x)),
        "integrated-gradients": lambda: integrated_gradients(forward, x).sum(1),
    }
    assert set(computed) == set(MAPS)
    return computed[name]()[0]


@pytest.mark.parametrize("name", MAPS)
def test_a_batch_of_maps_is_that_of_single_images(network, images, name):
    classes = torch.tensor([2, 0, 1])
    (key, found), *others = attention_maps(network, images, classes, [name], ["block4"]).items()
    assert others == []
    assert key == f"{name}@{INPUT if name in OF_PIXELS else 'block4'}"
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    for image, k, map_ in zip(images, classes.tolist(), found, strict=True):
        expected = directly(name, network, image, k, "block4")
        torch.testing.assert_close(map_, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
    assert bool((found < 0).any()) == (name in SIGNED | {"gradcam", "hirescam", "cam"})


def test_maps_of_several_layers_come_in_order(network, images):
    classes = torch.tensor([0, 1, 2])
    maps = attention_maps(network, images, classes, ["layercam", "guided", "guided-gradcam"], ["block3", "block1"])
    expected = [
        *("layercam@block3", "layercam@block1", "guided@input", "guided-gradcam@block3", "guided-gradcam@block1")
    ]
    assert list(maps) == expected
    for name in ("layercam", "guided-gradcam"):
        for layer in ("block3", "block1"):
            alone = attention_maps(network, images, classes, [name], [layer])[f"{name}@{layer}"]
            torch.testing.assert_close(maps[f"{name}@{layer}"], alone)


def test_maps_leave_the_network_as_it_was(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attention_maps(network, images, torch.tensor([0, 1, 2]), list(MAPS), ["block4"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_the_default_layer_is_the_deepest_that_counts(network):
    assert deepest_layer(network, SIZE) == "block4"
    half = (0.5,) * 3
    options = ModelOptions(name="timm/test_vit")
    vit = build_network(options, n_classes=3, channels=3, size=(64, 64), mean=half, std=half, seed=0).eval()
    layer = deepest_layer(vit, (64, 64))
    assert layer.startswith("blocks.")  # behind them only the class token is read
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    map_ = attention_maps(vit, image, torch.tensor([0]), ["gradcam"], [layer])[f"gradcam@{layer}"]
    assert map_.std() > 0
    after = attention_maps(vit, image, torch.tensor([0]), ["gradcam"], ["norm"])["gradcam@norm"]
    assert after.abs().max() == 0
    with pytest.raises(ConfigError, match="not defined for gelu"):
        attention_maps(vit, image, torch.tensor([0]), ["guided"], [])


def test_an_image_of_one_place_has_no_map():
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="8x8 pixels no layer gives a map"):
        deepest_layer(Network(body, nn.Linear(3, 2), width=3).eval(), (8, 8))


def test_layers_that_nothing_reads_are_refused():
    check_maps(["saliency", "gradcam"], ["layer1"])
    check_maps(["saliency"], [])
    with pytest.raises(ConfigError, match="saliency, guided: maps of pixels"):
        check_maps(["saliency", "guided"], ["layer1"])


def test_the_closed_form_needs_pooling_and_a_linear_head(network, images):
    with pytest.raises(ConfigError, match="'block2' is not. Ask for gradcam"):
        attention_maps(network, images, torch.tensor([0, 1, 2]), ["cam"], ["block4", "block2"])


def test_the_explained_class_is_the_one_that_was_asked_for(network, images):
    with torch.no_grad():
        probs = network(images.float() / 255).logits.softmax(1)
    labeled = [Subject("a", "a", "dog"), Subject("b", "b", "frog"), Subject("c", "c", "cat")]
    for wanted, expected in (("predicted", probs.argmax(1).tolist()), ("true", [1, 2, 0]), ("frog", [2, 2, 2])):
        classes, decisions = decide(network, card_of(), images, labeled, wanted)
        assert classes.tolist() == expected
        for row, k, decision in zip(probs, expected, decisions, strict=True):
            assert decision.predicted == CLASSES[int(row.argmax())]
            assert decision.explained == CLASSES[k]
            assert decision.probability == pytest.approx(float(row.max()), rel=1e-4)
            assert decision.explained_probability == pytest.approx(float(row[k]), rel=1e-4)
    with pytest.raises(ConfigError, match=r"knows no class 'frok'. Did you mean 'frog'\? --class also takes predicted"):
        attention_kind(network, card_of(), ("gradcam",), (), "frok")


def test_a_flat_map_is_said_to_be_flat(network, images):
    silent = Network(network.body, nn.Linear(network.width, 3), width=network.width).eval()
    with torch.no_grad():
        silent.head.weight.zero_()
    maps = tuple(name for name in MAPS if name != "guided")
    kind = attention_kind(silent, card_of(), maps, ("block4",), "predicted")
    for explanation in kind.explain(images, subjects(3)):
        assert set(explanation.facts["flat"].values()) == {True}
        assert all(map_.isfinite().all() for map_ in explanation.maps.values())
        pictures = [picture for _, row in explanation.block.rows for picture in row if picture.lines != ("the image",)]
        assert len(pictures) == len(maps)
        for picture in pictures:
            assert picture.lines[-1] == "flat: no place stands out"
            plain = images[int(explanation.block.caption[0])].repeat_interleave(10, 1).repeat_interleave(10, 2)
            np.testing.assert_array_equal(picture.image, plain.permute(1, 2, 0).numpy())


def test_a_map_that_shows_nothing_has_a_remark():
    map_ = torch.tensor([[-1.0, -2], [-3, -4]])
    assert remark(map_) == "no place speaks for the class"
    assert remark(map_, signed=True) == ""
    assert remark(-map_) == ""
    assert remark(map_ * 0 + 2) == "flat: no place stands out"


def test_heat_lies_where_the_map_is_high():
    image = torch.full((1, 32, 32), 100, dtype=torch.uint8)
    map_ = torch.tensor([[1.0, 0], [-1, 0]])
    shown = heat(image, map_).astype(int)
    assert shown.shape == (160, 160, 3)
    changed = np.abs(shown - 100).max(2)
    assert changed[:40, :40].min() > 30
    assert changed[120:, :40].max() == 0
    signed = heat(image, map_, signed=True).astype(int)
    assert signed[10, 10, 0] > signed[10, 10, 2] + 30
    assert signed[150, 10, 2] > signed[150, 10, 0] + 30
    assert heat(torch.zeros(3, 200, 120, dtype=torch.uint8), map_).shape == (200, 120, 3)


def test_side_by_side_names_everything(network, images):
    kind = attention_kind(network, card_of(), ("gradcam", "saliency"), ("block2", "block4"), "frog")
    explanation = kind.explain(images, subjects(3, "cat"))[1]
    sheet = explanation.block
    ((name, pictures),) = sheet.rows
    assert name == ""
    assert sheet.caption.startswith("1.png, labeled cat, taken for ")
    assert "explained: frog" in sheet.caption
    assert [picture.lines for picture in pictures] == [
        ("the image",),
        ("gradcam", "block2, 8×8"),
        ("gradcam", "block4, 4×4"),
        ("saliency", "input, 16×16"),
    ]
    np.testing.assert_array_equal(pictures[0].image, images[1].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(pictures[1].image, heat(images[1], explanation.maps["gradcam@block2"]))
    np.testing.assert_array_equal(pictures[3].image, heat(images[1], explanation.maps["saliency@input"]))
