import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eke.data.options import ClipOptions
from eke.data.sources import open_images
from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard, load_model, new_network, save_model
from eke.errors import CheckpointError, ConfigError, DataError
from eke.explain.cam import grad_cam, hires_cam
from eke.explain.faithfulness import blurred, deletion, insertion
from eke.explain.gradients import channel_magnitude, smooth_grad
from eke.explain.places import random_maps
from eke.metrics.statistics import t_interval
from eke.models.backbones import build_network
from eke.models.network import ModelOptions
from eke.models.network import layers as every_layer
from eke.tasks.activation_maps import activations, default_layers, evenly_spread
from eke.tasks.attention_maps import MAPS
from eke.tasks.explain import explain, render, safe_name


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
    with pytest.raises(ConfigError, match="no map 'activation'.*mean 'activations'"):
        explain(finished_run, "digits", tmp_path, maps=("activation",))
    with pytest.raises(ConfigError, match="activations shows channels"):
        explain(finished_run, "digits", tmp_path, maps=("gradcam", "activations"))
    with pytest.raises(ConfigError, match="activations shows channels"):
        explain(finished_run, "digits", tmp_path, maps=("activations",), against=(finished_run,))
    with pytest.raises(ConfigError, match="add --map gradcam"):
        explain(finished_run, "digits", tmp_path, wanted="3")
    with pytest.raises(ConfigError, match="one map of one layer"):
        explain(finished_run, "digits", tmp_path, maps=("gradcam", "layercam"), against=(finished_run,))
    with pytest.raises(ConfigError, match="one map of one layer"):
        explain(finished_run, "digits", tmp_path, layers=("block1", "block2"), against=(finished_run,))
    with pytest.raises(ConfigError, match="0 images cannot be shown"):
        explain(finished_run, "digits", tmp_path, n_images=0)
    with pytest.raises(ConfigError, match="0 channels cannot be shown"):
        explain(finished_run, "digits", tmp_path, n_channels=0)
    with pytest.raises(CheckpointError, match="no run folder"):
        explain(tmp_path / "nowhere" / "run", "digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_attention_maps_stand_side_by_side(finished_run, digit_files, tmp_path):
    out = tmp_path / "maps"
    explained = explain(
        finished_run,
        str(digit_files),
        out,
        maps=("gradcam", "saliency", "layercam", "gradcam"),
        layers=("block1", "block4"),
        n_images=2,
    )
    names = ["gradcam@block1", "gradcam@block4", "saliency@input", "layercam@block1", "layercam@block4"]
    assert explained["map"] == "gradcam,saliency,layercam"
    assert explained["layers"] == ["block1", "block4"]
    assert len(explained["images"]) == 2
    for image in explained["images"]:
        assert image["flat"] == dict.fromkeys(names, False)
        assert image["explained"] == image["predicted"]
        assert image["explained_probability"] == image["probability"]
        with np.load(image["maps"]) as maps:
            assert list(maps) == names
            assert [maps[name].shape for name in names] == [(8, 8), (4, 4), (8, 8), (8, 8), (4, 4)]
            assert all(maps[name].dtype == np.float32 for name in names)
        with Image.open(image["picture"]) as picture:
            assert picture.format == "PNG"
            assert picture.width > 2 * picture.height
    page = (out / "index.html").read_text()
    assert page.count("<img") == 2 * (1 + 5)
    assert "saliency" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    json.dumps(explained)
    assert all(f"taken for {image['predicted']}" in render(explained) for image in explained["images"])


def test_raw_attention_maps_are_those_of_a_direct_call(finished_run, tmp_path):
    explained = explain(finished_run, "digits", tmp_path, maps=("hirescam", "smoothgrad"), n_images=2, wanted="3")
    network, card = load_model(RunFolder(finished_run).model, torch.device("cpu"))
    for image in explained["images"]:
        x, three = digit(image["path"]), card.classes.index("3")
        outputs = network(x, taps=("block4",))
        probs = outputs.logits.detach().softmax(1)[0]
        hires = hires_cam(outputs.logits[:, three], outputs.features["block4"])
        smooth = channel_magnitude(smooth_grad(lambda x, k=three: network(x).logits[:, k], x))
        with np.load(image["maps"]) as maps:
            assert list(maps) == ["hirescam@block4", "smoothgrad@input"]
            for name, expected in (("hirescam@block4", hires), ("smoothgrad@input", smooth)):
                np.testing.assert_allclose(maps[name], expected[0].numpy(), rtol=1e-3, atol=1e-7)
        assert image["explained"] == "3"
        assert image["predicted"] == card.classes[int(probs.argmax())]
        assert image["probability"] == pytest.approx(float(probs.max()), rel=1e-4)
        assert image["explained_probability"] == pytest.approx(float(probs[three]), rel=1e-4)


def digit(path):
    """One of the digits as the network reads it."""
    from sklearn.datasets import load_digits

    pixels = np.round(load_digits().images[int(path.split("#")[1])] * 255 / 16).astype(np.uint8)
    return torch.from_numpy(pixels)[None, None].float() / 255


@pytest.mark.parametrize("wanted", ["predicted", "3"])
def test_maps_are_measured_by_deletion_and_insertion_beside_random_maps(finished_run, tmp_path, wanted):
    """Over two batches, each image with its own class and map, as a direct call of the curves has it."""
    maps = ("gradcam", "saliency", "guided")
    done = explain(finished_run, "digits", tmp_path, maps=maps, wanted=wanted, n_images=11, faithful=True)
    network, card = load_model(finished_run / "model", torch.device("cpu"))
    digits = open_images("digits")
    areas = {name: {"map": [], "random": []} for name in ("gradcam@block4", "saliency@input", "guided@input")}
    for number, entry in enumerate(done["images"]):
        row = digits.paths.index(entry["path"])
        image = torch.from_numpy(np.asarray(digits.read(row)).copy())[None, None].float() / 255
        k = card.classes.index(entry["explained"])
        assert wanted in ("predicted", entry["explained"])
        raw = np.load(entry["maps"])
        for name, found in areas.items():
            own = torch.from_numpy(raw[name])[None]
            chance = random_maps(min(8, 11 - number // 8 * 8), tuple(own.shape[1:]), number // 8 * 8)[number % 8][None]
            for kind, map_ in (("map", own), ("random", chance)):
                curves = [
                    curve(lambda x: network(x).logits.softmax(1)[:, k], image, map_, blurred(image))  # noqa: B023
                    for curve in (deletion, insertion)
                ]
                found[kind].append([float(curve.area) for curve in curves])
    for name, found in areas.items():
        own, chance = np.array(found["map"]), np.array(found["random"])
        for place, measure in enumerate(("deletion", "insertion")):
            figures = done["faithfulness"][name][measure]
            assert figures["area"] == pytest.approx(t_interval(own[:, place])._asdict(), abs=1e-6)
            less = t_interval(own[:, place] - chance[:, place])
            assert figures["less_random"] == pytest.approx(less._asdict(), abs=1e-6)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(f"{measure}: mean probability" in page for measure in ("Deletion", "Insertion"))
    assert "random 8x8" in page
    assert "saliency@input: deletion " in render(done)


def test_clips_are_not_measured_by_deletion(tmp_path, eke, monkeypatch):
    card = ModelCard(
        model=ModelOptions(name="small"),
        classes=("0", "1"),
        channels=1,
        size=(16, 16),
        fit="crop",
        mean=(0.5,),
        std=(0.5,),
        clip=ClipOptions(),
    )
    save_model(tmp_path / "run" / "model", new_network(card, 0), card)
    words = ("--map", "gradcam", "--faithful", "--out", tmp_path / "maps")
    code, _, error = eke("explain", tmp_path / "run", "digits", *words)
    assert code == 2
    assert "this run reads clips" in error


def test_the_true_class_is_explained_where_it_is_known(finished_run, digit_files, tmp_path):
    unlabeled = digit_files / "unlabeled"
    unlabeled.mkdir()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    Image.fromarray(pixels).save(unlabeled / "unknown.png")
    explained = explain(finished_run, str(digit_files), tmp_path / "a", maps=("gradcam",), wanted="true")
    assert [image["explained"] for image in explained["images"]] == ["0", "1", "2", "3", "4", "5"]
    assert [image["label"] for image in explained["images"]] == ["0", "1", "2", "3", "4", "5"]
    (without,) = (problem for problem in explained["problems"] if problem["kind"] == "unlabeled")
    assert without["path"] == "unlabeled/unknown.png"
    assert "no label" in without["detail"]
    assert "Set aside: 2 images" in render(explained)

    other = tmp_path / "other" / "zebra"
    other.mkdir(parents=True)
    Image.fromarray(pixels.T.copy()).save(other / "z.png")
    with pytest.raises(DataError, match=r"zebra/z.png: the network knows no class 'zebra'"):
        explain(finished_run, str(other.parent), tmp_path / "b", maps=("gradcam",), wanted="true")
    with pytest.raises(DataError, match=r"unknown.png: it has no label"):
        explain(finished_run, str(unlabeled), tmp_path / "b", maps=("gradcam",), wanted="true")
    assert not (tmp_path / "b").exists()


def test_images_beyond_a_batch_keep_their_own_maps(finished_run, tmp_path):
    explained = explain(finished_run, "digits", tmp_path, maps=("gradcam",), layers=("block2",), n_images=11)
    network, _ = load_model(RunFolder(finished_run).model, torch.device("cpu"))
    assert [Path(image["picture"]).name[:3] for image in explained["images"]] == [f"{i:03d}" for i in range(1, 12)]
    for image in explained["images"]:
        outputs = network(digit(image["path"]), taps=("block2",))
        expected = grad_cam(outputs.logits.amax(1), outputs.features["block2"])[0]
        with np.load(image["maps"]) as maps:
            np.testing.assert_allclose(maps["gradcam@block2"], expected.numpy(), rtol=1e-3, atol=1e-7)


@pytest.fixture
def eke(monkeypatch, capsys):
    """The command line in this process: (exit code, standard output, last line of standard error)."""
    from eke.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["eke", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "400")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err.strip().rpartition("\n")[2]

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--map gradcm", "no map 'gradcm'. Did you mean 'gradcam'?"),
        ("--map gradcam --layer blok3", "no layer 'blok3'. Did you mean 'block3'?"),
        ("--map gradcam --class 33", "no class '33'. Did you mean '3'?"),
        ("--map cam --layer block1", "'block1' is not. Ask for gradcam"),
        ("--map saliency --layer block1", "read no layer"),
        ("--map activations --map cam", "goes with neither other maps"),
        ("--faithful", "attention maps of one run: name them, such as --map gradcam"),
        ("--map gradcam --n 1 --faithful", "over 1 image has no interval"),
    ],
)
def test_what_does_not_fit_is_one_message(finished_run, tmp_path, eke, words, message):
    code, out, error = eke("explain", finished_run, "digits", *words.split(), "--out", tmp_path / "maps")
    assert (code, out) == (2, "")
    assert error.startswith("eke: ")
    assert message in error
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("name", "size", "words", "message"),
    [
        ("lenet", (28, 28), "--map layercam --layer dense", "Layer 'dense' gives a tensor of shape"),
        ("lenet", (28, 28), "--map cam", "averaged and read by a linear head"),
        ("timm/test_vit", (64, 64), "--map gradcam --map guided", "not defined for gelu"),
    ],
)
def test_networks_that_a_map_does_not_fit_say_so(tmp_path, eke, name, size, words, message):
    card = ModelCard(
        model=ModelOptions(name=name), classes=("0", "1"), channels=1, size=size, fit="crop", mean=(0.5,), std=(0.5,)
    )
    save_model(tmp_path / "run" / "model", new_network(card, 0), card)
    code, out, error = eke("explain", tmp_path / "run", "digits", *words.split(), "--out", tmp_path / "maps")
    assert (code, out) == (2, "")
    assert message in error
    assert not (tmp_path / "maps").exists()


def test_a_network_without_classes_is_not_explained(tmp_path, eke):
    card = ModelCard(
        model=ModelOptions(name="small"), classes=(), channels=1, size=(8, 8), fit="crop", mean=(0.5,), std=(0.5,)
    )
    save_model(tmp_path / "run" / "model", new_network(card, 0), card)
    code, _, error = eke("explain", tmp_path / "run", "digits", "--map", "gradcam", "--out", tmp_path / "maps")
    assert code == 2
    assert "no class head" in error


def test_the_command_line_explains(finished_run, tmp_path, eke):
    words = ("--map", "gradcam", "--map", "guided", "--class", "7", "--n", "1", "--out", tmp_path, "--json")
    code, out, _ = eke("explain", finished_run, "digits", *words)
    assert code == 0
    (image,) = json.loads(out)["images"]
    assert image["explained"] == "7"
    assert list(image["flat"]) == ["gradcam@block4", "guided@input"]
    code, out, _ = eke("explain", finished_run, "digits", "--against", finished_run, "--n", "1", "--out", tmp_path)
    assert code == 0
    assert out.count(f"{finished_run}, taken for") == 2
    assert out.count(", agreement ") == 2


def test_help_names_every_map(eke):
    _, out, _ = eke("explain", "--help")
    named = re.findall(r"[\w+-]+", out)
    assert set(MAPS) <= set(named)


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
