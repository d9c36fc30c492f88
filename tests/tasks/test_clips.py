"""Every command with clips: recordings of two classes that differ in how bright they are, four frames a clip."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clips import write_recordings, write_video

import eke
from eke.data.sources import open_images
from eke.engine.journal import RunFolder
from eke.engine.model_files import read_card
from eke.errors import ConfigError, DataError
from eke.estimator import EkeClassifier
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised
from eke.progress import silent
from eke.tasks.ask import ask
from eke.tasks.assemble import assemble, training_steps
from eke.tasks.compare import compare
from eke.tasks.diagnosis import render
from eke.tasks.doctor import diagnose
from eke.tasks.evaluate import evaluate
from eke.tasks.explain import explain
from eke.tasks.export import export
from eke.tasks.fit import fit
from eke.tasks.harmonize import harmonize
from eke.tasks.options import resolve, resolve_pretrain
from eke.tasks.predict import predict
from eke.tasks.prepare import prepare
from eke.tasks.pretrain import pretrain
from eke.tasks.probe import probe
from eke.tasks.report import write_report

SECOND = {"seconds": 1.0, "fps": 4.0}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    write_recordings(root / "train", n=8)
    write_recordings(root / "test" / "inside", n=3)
    for word in ("run", "walk"):
        for each in range(3):
            (root / "test" / "inside" / word / f"{word}{each}").rename(root / "test" / "inside" / word / f"held{each}")
    return root / "train"


def options_of(source, method="fixmatch", **flags):
    values = {
        "source": str(source),
        "steps": 2,
        "clip": SECOND,
        "data": {"size": 8, "channels": 3},
        "model": {"name": "small"},
        "batch": {"labeled": 4, "mu": 1},
        "evaluate": {"log_every_steps": 1},
        **flags,
    }
    if is_self_supervised(METHODS[method.partition("/")[0]]):
        return resolve_pretrain(method, {**values, "batch": {"size": 6}})
    return resolve(method, values)


@pytest.fixture(scope="module")
def run(recordings, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "consistency"
    fit(options_of(recordings, "gradcam_consistency"), path)
    return path


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_on_clips_or_refuses_them(method, recordings):
    options = options_of(recordings, method)
    material = prepare(options, torch.device("cpu"), silent)
    if method == "autoencoder":
        with pytest.raises(ConfigError, match="paints images, not clips"):
            assemble(options, material.pools)
        return
    assembly = assemble(options, material.pools)
    before = [value.clone() for value in assembly.network.parameters()]
    losses = [float(report.result.loss.detach()) for report in training_steps(assembly, options)]
    assert np.isfinite(losses).all()
    assert any(not torch.equal(a, b) for a, b in zip(before, assembly.network.parameters(), strict=True))
    view = next(iter({**assembly.stream.batch(0).x, **assembly.stream.batch(0).u}.values()))
    assert view.pixels.shape[1:] == (3, 4, 8, 8)
    assert view.valid.ndim == 3


def test_the_card_says_how_clips_are_cut_and_the_split_keeps_recordings(run, recordings):
    card = read_card(run / "model")
    assert card.clip is not None
    assert card.shape == (3, 4, 8, 8)
    split = RunFolder(run).read(RunFolder(run).split)
    images = open_images(recordings, clip=card.clip)
    groups = dict(zip(images.ids, images.groups, strict=True))
    assert not {groups[each] for each in split["labeled"]} & {groups[each] for each in split["validation"]}


def test_evaluate_predict_and_ask(run, recordings, tmp_path):
    figures = evaluate(run, str(recordings))
    assert figures["n"] == 16
    written = predict(run, str(recordings), tmp_path / "predictions.csv")
    assert written["n_images"] == 17
    with (tmp_path / "predictions.csv").open() as file:
        assert "unlabeled/new" in {row["path"] for row in csv.DictReader(file)}
    asked = ask(run, str(recordings), 1, "entropy", tmp_path / "ask.csv")
    assert asked["n"] == 1
    assert "unlabeled/new" in (tmp_path / "ask.csv").read_text()


def test_windows_of_long_recordings_are_cut_as_in_training(run, tmp_path):
    write_recordings(tmp_path / "long", n=1, n_frames=9)
    images = eke.load(run).read(tmp_path / "long")
    assert images.shape == (6, 3, 4, 8, 8)


def test_explain(run, recordings, tmp_path):
    shown = explain(run, str(recordings), tmp_path / "activations", n_images=2)
    raw = np.load(shown["images"][0]["maps"])
    assert all(raw[name].ndim == 4 and raw[name].shape[1] == 4 for name in raw.files)
    maps = ("gradcam", "guided", "cam", "saliency", "guided-gradcam", "smoothgrad", "integrated-gradients")
    shown = explain(run, str(recordings), tmp_path / "maps", maps=maps, n_images=2)
    raw = np.load(shown["images"][0]["maps"])
    assert len(raw.files) == len(maps)
    assert all(raw[name].ndim == 3 and len(raw[name]) == 4 for name in raw.files)
    assert Path(shown["images"][0]["picture"]).exists()
    shown = explain(run, str(recordings), tmp_path / "against", against=(run,), n_images=1)
    assert shown["images"][0]["runs"][0]["agreement"] == shown["images"][0]["runs"][1]["agreement"]


def test_maps_of_python(run, recordings):
    opened = eke.load(run)
    images = opened.read(recordings)
    maps = opened.attention_maps(images)
    assert maps.shape[:2] == (17, 4)
    assert np.allclose(maps[3], opened.attention_maps(images[3:4])[0], atol=1e-6)
    with pytest.raises(ConfigError, match="frames"):
        opened.attention_maps(images[:, :, 0])
    with pytest.raises(DataError, match="holds images, and this run reads clips of 4 frames"):
        opened.read("digits")


def test_harmonize_compare_report_and_export(run, tmp_path):
    results = harmonize(run, out=tmp_path / "harmonized", flags={"steps": 2, "batch": {"labeled": 2}})
    assert results is not None
    assert "attention_agreement" in results["attention"]
    assert set(results["attention"]["kept"]) == {"gradcam@block4"}
    assert write_report(tmp_path / "harmonized").read_text().count("data:image/png") > 20
    compared = compare([run, tmp_path / "harmonized"], tmp_path / "compared.html")
    assert compared["split"] == "validation"
    exported = export(run, "torch", tmp_path / "model.pt2")
    assert exported["input"] == ["N", 3, 4, 8, 8]


def test_pretraining_probing_and_starting_from_it(recordings, tmp_path):
    views = {"view_1": "simclr/clips", "view_2": "simclr/clips"}
    pretrain(options_of(recordings, "simclr", views=views), tmp_path / "pretrained")
    start = {"source": str(recordings), "init": str(tmp_path / "pretrained")}
    probed = probe(tmp_path / "pretrained", resolve("supervised", start), tmp_path / "probed")
    assert probed["n"] == 4
    options = resolve("supervised", {**start, "steps": 1, "batch": {"labeled": 4}})
    assert options.clip.model_dump(exclude={"stride"}) == SECOND
    fit(options, tmp_path / "fitted")
    assert read_card(tmp_path / "fitted" / "model").clip == options.clip


def test_a_network_of_images_starts_a_network_of_clips(recordings, tmp_path):
    frames = {"data": {"size": 8, "channels": 3, "group_level": True, "val_rate": 0.0}, "baseline": "none"}
    fit(options_of(recordings, "supervised", **frames), tmp_path / "images")
    assert read_card(tmp_path / "images" / "model").clip is None
    assert predict(tmp_path / "images", str(recordings), tmp_path / "frames.csv")["n_images"] == 68
    options = resolve(
        "supervised",
        {"source": str(recordings), "init": str(tmp_path / "images"), "clip": SECOND, "steps": 1, "baseline": "none"},
    )
    results = fit(options, tmp_path / "clips")
    assert any("started as that of" in note for note in results["notes"])
    assert read_card(tmp_path / "clips" / "model").frames == 4


def test_test_clips_must_be_as_long_as_training_clips(recordings, tmp_path):
    with pytest.raises(DataError, match="holds clips of 4 frames, and digits holds images"):
        prepare(options_of(recordings, test="digits"), torch.device("cpu"), silent)
    held = recordings.parent / "test" / "inside"
    material = prepare(options_of(recordings, test=str(held)), torch.device("cpu"), silent)
    assert material.test is not None
    assert tuple(material.test.pixels.shape) == (3, 4, 8, 8)


def test_doctor(recordings):
    clip = options_of(recordings).clip
    diagnosis = diagnose(str(recordings), clip=clip)
    assert diagnosis.frames == 4
    assert diagnosis.n_groups == 17
    assert render(diagnosis).startswith(f"{recordings}: 17 train clips of 4 frames; 1 train clips have no label")
    assert json.loads(json.dumps(diagnosis.pixels.sizes)) == {"16x12": 17}


def test_videos_train_too(tmp_path):
    for word, first in (("dawn", 0), ("dusk", 60)):
        for each in range(3):
            write_video(tmp_path / "videos" / word / f"{each}.mp4", 30, first=first + 8 * each)
    options = options_of(tmp_path / "videos", "supervised", data={"size": 8, "val_rate": 0.34}, baseline="none")
    results = fit(options, tmp_path / "run")
    assert results["labels"] == {"train": 4, "validation": 2, "total": 6}
    assert evaluate(tmp_path / "run", str(tmp_path / "videos"))["n"] == 6


def test_the_estimator_refuses_clips():
    with pytest.raises(ValueError, match="Images must be"):
        EkeClassifier(steps=1).fit(np.zeros((4, 2, 8, 8, 3)), [0, 1, 0, 1])
    with pytest.raises(ConfigError, match="reads clips, and these are images"):
        EkeClassifier(model="r3d_18", steps=1).fit(np.random.default_rng(0).random((4, 8, 8, 3)), [0, 1, 0, 1])


@pytest.mark.slow
def test_harmonizing_a_network_with_three_dimensions(tmp_path):
    """The paper's network and size: r3d_18 on 16 frames of 80 x 80."""
    write_recordings(tmp_path / "set", n=2, n_frames=16)
    values = {
        "source": str(tmp_path / "set"),
        "steps": 3,
        "data": {"size": 80, "channels": 3, "val_rate": 0.5},
        "model": {"name": "torchvision/r3d_18"},
        "batch": {"labeled": 1, "mu": 2},
        "optim": {"lr": 1e-3},
    }
    options = resolve("harmonize", values)
    assert options.clip.frames == 16
    assembly = assemble(options, prepare(options, torch.device("cpu"), silent).pools)
    losses = [float(report.result.loss.detach()) for report in training_steps(assembly, options)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 3
    assert all(-1 <= loss <= 1 for loss in losses)


@pytest.mark.slow
def test_real_clips(shared_data, tmp_path):
    values = {
        "source": str(shared_data / "sign-clips.zip"),
        "steps": 60,
        "data": {"size": 16, "labels_per_class": 10},
        "model": {"name": "small"},
        "batch": {"labeled": 16, "mu": 1},
        "optim": {"ema_decay": 0.9},
    }
    results = fit(resolve("supervised", values), tmp_path / "run")
    assert results["labels"]["total"] == 60
    accuracy = results["evaluations"]["test"]["accuracy"]
    assert results["evaluations"]["test"]["n"] == 72
    assert accuracy["low"] > 1 / 6, accuracy
