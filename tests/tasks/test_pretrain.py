"""Pretraining without labels, and fits that start from it, end to end on real digits."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model, start_from
from eke.errors import CheckpointError, ConfigError, DataError
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised
from eke.progress import silent
from eke.tasks.assemble import assemble
from eke.tasks.evaluate import predict_source
from eke.tasks.fit import fit
from eke.tasks.options import PretrainOptions, resolve, resolve_pretrain
from eke.tasks.prepare import prepare
from eke.tasks.pretrain import pretrain, render

CPU = torch.device("cpu")
SELF_SUPERVISED = sorted(name for name, method in METHODS.items() if is_self_supervised(method))
NO_FLIP = {"view_1": "simclr-noflip", "view_2": "simclr-noflip"}


def options_for(method: str = "simclr", **flags: Any) -> PretrainOptions:
    given: dict[str, Any] = {
        "source": "digits",
        "steps": 6,
        "views": NO_FLIP if "view_1" in METHODS[method].views.unlabeled else {},
        "model": {"name": "small"},
        "batch": {"size": 16},
        "data": {"labels_per_class": 5, "holdout_rate": 0.3},
        "checkpoint": {"every_steps": 4},
        "evaluate": {"log_every_steps": 2},
    }
    return resolve_pretrain(method, given | flags)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(options_for(), folder)
    return folder


def test_a_run_says_what_its_embeddings_are_like(pretrained: Path) -> None:
    folder = RunFolder(pretrained)
    results = folder.read(folder.results)
    figures = results["representation"]
    assert 0 < figures["embedding_std"] <= 1.1
    assert 1 < figures["effective_rank"] <= 256
    assert 0.1 < figures["knn_accuracy"] <= 1
    assert results["images_through_network"] == 2 * 16 * 6
    assert results["labels"] == {"train": 40, "validation": 10, "total": 50}
    looked = [line for line in folder.lines() if line.get("evaluation") == "representation"]
    assert looked[-1]["knn_accuracy"] == figures["knn_accuracy"]
    assert folder.report.exists()
    text = render({**results, "run": "R", "report": "P"})
    assert "eke fit DATA --init R" in text
    assert "10 validation images, from 40 labels" in text


def test_the_network_has_no_class_head(pretrained: Path) -> None:
    network, card = load_model(pretrained / "model", CPU)
    assert card.classes == ()
    assert list(network.head.parameters()) == []
    with pytest.raises(ConfigError, match="no class head.*eke fit DATA --init"):
        predict_source(pretrained, "digits")


@pytest.mark.parametrize("method", SELF_SUPERVISED)
def test_an_interrupted_run_goes_on_exactly(
    method: str, tmp_path: Path, stopped_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    options = options_for(method)
    pretrain(options, tmp_path / "whole")
    with stopped_at_a_checkpoint():
        pretrain(options, tmp_path / "cut")
    pretrain(options, tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    checkpoints = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")]
    states = [each["method"] for each in checkpoints]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_images_without_any_label_are_enough(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=load_digits().images.astype(np.uint8) * 15)
    results = pretrain(options_for(source=str(tmp_path / "plain.npz"), data={}), tmp_path / "run")
    assert results is not None
    assert results["n_unlabeled"] > 1700
    assert "knn_accuracy" not in results["representation"]
    assert any("No label is used" in note for note in results["notes"])


def test_test_images_need_no_classes_in_common_with_images_that_have_none(tmp_path: Path) -> None:
    digits = load_digits()
    images = digits.images.astype(np.uint8) * 15
    np.savez(tmp_path / "pool.npz", images=images[:500])
    np.savez(tmp_path / "test.npz", images=images[450:600], labels=digits.target[450:600])
    flags = {"source": str(tmp_path / "pool.npz"), "test": str(tmp_path / "test.npz"), "data": {}, "steps": 1}
    pretrain(options_for(**flags), tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (len(split["unlabeled"]), len(split["dropped"])) == (450, 50)


def test_test_images_are_never_pretrained_on(pretrained: Path) -> None:
    split = json.loads((pretrained / "split.json").read_text())
    assert split["test"]
    assert not set(split["unlabeled"]) & {*split["test"], *split["validation"]}


def test_a_fit_starts_from_the_pretrained_body_and_says_so(pretrained: Path, tmp_path: Path) -> None:
    options = resolve("supervised", {"source": "digits", "steps": 2, "init": str(pretrained)}, ["batch.labeled=8"])
    assert options.model.name == "small"
    assert options.data.size == (8, 8)
    material = prepare(options, CPU, silent)
    body = assemble(options, material.pools).network.body.state_dict()
    theirs = load_model(pretrained / "model", CPU)[0].body.state_dict()
    assert all(torch.equal(body[name], theirs[name]) for name in theirs)
    results = fit(options, tmp_path / "run")
    assert results is not None
    assert any("has no class head, so a new head was made for 10 classes" in note for note in results["notes"])
    again = resolve("fixmatch", {"source": "digits", "steps": 2, "init": str(tmp_path / "run")}, ["batch.labeled=8"])
    kept = assemble(again, material.pools)
    assert kept.notes == (f"The network started as that of {tmp_path / 'run'}, class head included.",)
    trained = load_model(tmp_path / "run" / "model", CPU)[0]
    assert torch.equal(kept.network.head.weight, trained.head.weight)  # type: ignore[arg-type]


def test_the_baseline_starts_from_the_same_run(pretrained: Path, tmp_path: Path) -> None:
    options = resolve(
        "fixmatch", {"source": "digits", "steps": 2, "init": str(pretrained)}, ["batch.labeled=8", "batch.mu=1"]
    )
    results = fit(options, tmp_path / "run")
    assert results is not None
    config = json.loads((Path(results["baseline"]["run"]) / "config.json").read_text())
    assert config["method"]["name"] == "supervised"
    assert config["init"] == str(pretrained)


def test_another_architecture_is_refused(pretrained: Path) -> None:
    options = resolve(
        "supervised", {"source": "digits", "steps": 2, "init": str(pretrained), "model": {"name": "resnet20"}}
    )
    material = prepare(options, CPU, silent)
    with pytest.raises(CheckpointError, match="is a small for images of .*this run a resnet20"):
        assemble(options, material.pools)


def test_a_run_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder .*nowhere"):
        resolve("fixmatch", {"source": "digits", "init": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("pretraining", "method", "words"),
    [
        (False, "simclr", "learns without labels: `eke pretrain DATA --method simclr`"),
        (True, "fixmatch", "learns with labels: `eke fit`"),
        (True, "simclrr", "Did you mean 'simclr'"),
        (False, "comatch/imagnet", "no preset 'imagnet'. Did you mean 'imagenet'"),
        (False, "fixmatch/rac", "It has none: write fixmatch"),
    ],
)
def test_methods_of_the_other_command_and_unknown_presets(pretraining: bool, method: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        (resolve_pretrain if pretraining else resolve)(method, {"source": "digits"})


def test_a_preset_lies_between_recipe_and_what_was_given() -> None:
    options = resolve("comatch/report-96px", {"source": "digits", "batch": {"mu": 2}, "method": {"alpha": 0.5}})
    assert (options.batch.labeled, options.batch.mu) == (64, 2)
    assert options.optim.schedule == "half-cosine"
    assert options.views["weak"] == "flip"
    assert options.method["name"] == "comatch"
    assert (options.method["alpha"], options.method["temperature"]) == (0.5, 0.1)
    assert resolve("comatch", {"source": "digits"}).method["temperature"] == 0.2


def test_too_few_images_for_two_classes_of_labels_still_pretrain(tmp_path: Path) -> None:
    digits = load_digits()
    labels = np.where(np.arange(len(digits.target)) == 0, digits.target, -1)
    np.savez(tmp_path / "one.npz", images=digits.images.astype(np.uint8) * 15, labels=labels)
    results = pretrain(options_for(source=str(tmp_path / "one.npz"), data={}, steps=1), tmp_path / "run")
    assert results is not None
    with pytest.raises(DataError):
        fit(resolve("fixmatch", {"source": str(tmp_path / "one.npz"), "steps": 1}), tmp_path / "fit")


def test_start_from_without_classes_has_no_head_to_speak_of(pretrained: Path) -> None:
    network, card = load_model(pretrained / "model", CPU)
    assert start_from(network, card, pretrained / "model") == f"The network started as that of {pretrained}."
