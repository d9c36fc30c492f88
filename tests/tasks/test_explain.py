import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model
from eke.errors import CheckpointError, ConfigError
from eke.models.backbones import build_network
from eke.models.network import ModelOptions
from eke.models.network import layers as every_layer
from eke.tasks.explain import activations, default_layers, evenly_spread, explain, render, safe_name


@pytest.fixture
def digit_files(tmp_path):
    """Six class folders of digits as PNG files, one of them damaged."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(6):
        folder = tmp_path / "images" / str(digits.target[i])
        folder.mkdir(parents=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(folder / f"a digit {i}.png")
    broken = tmp_path / "images" / "0" / "broken.png"
    broken.write_bytes((tmp_path / "images" / "0" / "a digit 0.png").read_bytes()[:40])
    return tmp_path / "images"


def test_each_image_gets_a_picture_and_its_maps(finished_run, digit_files, tmp_path):
    out = tmp_path / "maps"
    explained = explain(finished_run, str(digit_files), out, n_images=4, n_channels=3)
    assert len(explained["images"]) == 4
    assert [problem["path"] for problem in explained["problems"]] == ["0/broken.png"]
    assert len(explained["layers"]) == 4
    assert {path.name for path in out.iterdir()} == {"index.html"} | {
        f"{i:03d}-a-digit-{image['path'][-5]}-png.{kind}"
        for i, image in enumerate(explained["images"], 1)
        for kind in ("png", "npz")
    }
    for image in explained["images"]:
        assert image["label"] == image["path"][0]
        with Image.open(image["picture"]) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
    page = (out / "index.html").read_text()
    assert page.count("<img") == 4 * (1 + 4 * 3)
    assert len(page) < 500_000
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    json.dumps(explained)
    text = render(explained)
    assert "Set aside: 1 image (" in text
    assert all(image["picture"] in text for image in explained["images"])


def test_raw_maps_are_what_the_layers_give(finished_run, tmp_path):
    explained = explain(finished_run, "digits", tmp_path, layers=("block3", "block1.0"), n_images=2)
    network, card = load_model(RunFolder(finished_run).model, torch.device("cpu"))
    from sklearn.datasets import load_digits

    digits = load_digits()
    for image in explained["images"]:
        row = int(image["path"].split("#")[1])
        pixels = torch.from_numpy(np.round(digits.images[row] * 255 / 16).astype(np.uint8))
        x = pixels[None, None].float() / 255
        kept: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            logits = network(x).logits
            normalized = (x - network.mean) / network.std
            kept["block1.0"] = network.body.block1[0](normalized)
            kept["block3"] = network.body.block3(network.body.block2(network.body.block1(normalized)))
        assert image["predicted"] == card.classes[int(logits.argmax())]
        with np.load(image["maps"]) as maps:
            assert list(maps) == ["block3", "block1.0"]
            for name in maps:
                assert maps[name].dtype == np.float32
                np.testing.assert_allclose(maps[name], kept[name][0].numpy(), atol=1e-6)


def test_the_shown_maps_are_the_liveliest_and_scaled(finished_run):
    network, card = load_model(RunFolder(finished_run).model, torch.device("cpu"))
    pixels = torch.randint(0, 256, (card.channels, *card.size), dtype=torch.uint8)
    explained = activations(network, pixels, ["block2"], 5)
    (row,) = explained.rows
    maps = explained.maps["block2"]
    deviations = [float(map_.double().std(correction=0)) for map_ in maps]
    assert row.channels == sorted(range(len(maps)), key=lambda c: -deviations[c])[:5]
    assert row.size == tuple(maps.shape[1:])
    assert row.n_channels == len(maps)
    assert row.maps.min(axis=(1, 2)).tolist() == [0] * 5
    assert row.maps.max(axis=(1, 2)).tolist() == [1] * 5


def test_what_cannot_be_shown_is_refused(finished_run, tmp_path):
    with pytest.raises(ConfigError, match=r"no layer 'blok3'.*block3"):
        explain(finished_run, "digits", tmp_path, layers=("blok3",))
    with pytest.raises(ConfigError, match="no map 'activation'.*Known: activations"):
        explain(finished_run, "digits", tmp_path, map_="activation")
    with pytest.raises(ConfigError, match="0 images cannot be shown"):
        explain(finished_run, "digits", tmp_path, n_images=0)
    with pytest.raises(ConfigError, match="0 channels cannot be shown"):
        explain(finished_run, "digits", tmp_path, n_channels=0)
    with pytest.raises(CheckpointError, match="no run folder"):
        explain(tmp_path / "nowhere" / "run", "digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet20", (32, 32), ("stem", "layer1", "layer2", "layer3")),
        ("small", (32, 32), ("block1", "block2", "block3", "block4")),
    ],
)
def test_default_layers_are_the_stages_where_there_are_four(name, size, expected):
    assert default_layers(network_of(name, size), size) == expected


@pytest.mark.parametrize(("name", "size"), [("resnet18", (64, 64)), ("wrn-28-2", (32, 32)), ("lenet", (28, 28))])
def test_default_layers_go_from_early_to_deep(name, size):
    network = network_of(name, size)
    chosen, every = default_layers(network, size), every_layer(network, size)
    places = [every.index(layer) for layer in chosen]
    assert len(chosen) == 4
    assert places == sorted(set(places))
    assert places[0] < len(every) / 4
    assert places[-1] >= 0.75 * (len(every) - 1)


def network_of(name, size):
    channels = 1 if name == "lenet" else 3
    half = (0.5,) * channels
    return build_network(
        ModelOptions(name=name), n_classes=3, channels=channels, size=size, mean=half, std=half, seed=0
    )


def test_images_are_spread_over_the_source():
    assert evenly_spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert evenly_spread("ab", 8) == ["a", "b"]
    assert evenly_spread("abc", 1) == ["a"]
    assert evenly_spread([], 4) == []


def test_file_names_hold_nothing_dangerous():
    assert safe_name("../../a b/c:d?.png") == "c-d-png"
    assert safe_name("digits#3") == "digits-3"
    assert safe_name("...") == "image"
    assert len(safe_name("x" * 300)) == 60
