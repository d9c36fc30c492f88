"""`eke gain` over a small campaign: two rounds of questions about digits, answered by the truth."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eke.data.sources import open_images
from eke.data.splits import load_split
from eke.engine.model_files import load_model
from eke.errors import ConfigError, DataError
from eke.metrics.statistics import wilson
from eke.metrics.stopping import kappa
from eke.tasks.ask import ask
from eke.tasks.fit import fit
from eke.tasks.gain import gain, render

from .conftest import digit_options

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], dict[str, str]]:
    """A pool of 400 digits, 60 of them labeled; the runs of two rounds; and the truth by id."""
    home = tmp_path_factory.mktemp("campaign")
    digits = open_images("digits")
    pixels = np.stack([np.asarray(digits.read(row)) for row in range(400)])
    labels = digits.labels[:400].copy()
    truth = {digits.ids[row]: digits.classes[label] for row, label in enumerate(labels.tolist())}
    hidden = np.where(np.arange(400) < 60, labels, -1)
    np.savez(home / "pool.npz", images=pixels, labels=hidden)
    runs, files = [], []
    for number in range(2):
        run = home / f"run{number}"
        fit(fit_options(home / "pool.npz", tuple(files)), run)
        runs.append(run)
        file = home / f"ask{number}.csv"
        ask(run, str(home / "pool.npz"), 60, "margin", file, control_rate=0.5, sheet=False)
        fill(file, truth)
        files.append(str(file))
    last = home / "run2"
    fit(fit_options(home / "pool.npz", tuple(files)), last)
    return home, [*runs, last], truth


def fill(file: Path, truth: dict[str, str]) -> None:
    """Fill in true labels."""
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "label": truth[row["id"]]} for row in rows)


def fit_options(source: Path, labels: tuple[str, ...]) -> Any:
    return digit_options("supervised", source=str(source), labels=labels, data={"val_rate": 0.2}, steps=20)


def controls(home: Path, files: str = "ask*.csv") -> set[str]:
    found = set()
    for file in home.glob(files):
        with file.open(newline="", encoding="utf-8") as opened:
            found |= {row["id"] for row in csv.DictReader(opened) if row["control"] == "1"}
    return found


def test_each_run_is_measured_on_every_control_image(campaign: Any) -> None:
    home, runs, truth = campaign
    result = gain(runs, n_more=50)
    assert [each["run"] for each in result["rounds"]] == [str(run) for run in runs]
    images = open_images(home / "pool.npz")
    rows = [images.ids.index(name) for name in sorted(controls(home))]
    assert len(rows) == 60
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(row)))[None] for row in rows])
    for run, each in zip(runs, result["rounds"], strict=True):
        network, card = load_model(run / "model", CPU)
        with torch.no_grad():
            predicted = network(pixels.float() / 255).logits.argmax(1).tolist()
        right = sum(card.classes[k] == truth[images.ids[row]] for k, row in zip(predicted, rows, strict=True))
        expected = wilson(right, 60)
        assert (each["n"], each["labels"]) == (60, len(load_split(run / "split.json").labeled))
        assert each["accuracy"]["value"] == pytest.approx(expected.value)
        assert each["accuracy"]["low"] == pytest.approx(expected.low)
    assert not controls(home) & set(load_split(runs[2] / "split.json").labeled), "a control never trains"


def test_successive_runs_are_compared_on_the_same_images(campaign: Any) -> None:
    home, runs, _ = campaign
    images = open_images(home / "pool.npz")
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(row)))[None] for row in range(400)])
    said = []
    for run in runs:
        with torch.no_grad():
            said.append(load_model(run / "model", CPU)[0](pixels.float() / 255).logits.argmax(1).numpy())
    found = gain(runs)["agreements"]
    assert found == pytest.approx([kappa(said[0], said[1]), kappa(said[1], said[2])])


def test_the_order_of_runs_does_not_matter_and_the_page_says_what_the_text_says(campaign: Any, tmp_path: Path) -> None:
    _, runs, _ = campaign
    result = gain(runs[::-1], n_more=50, out=tmp_path / "gain.html")
    assert {**gain(runs, n_more=50), "page": result["page"]} == result
    page, text = (tmp_path / "gain.html").read_text(encoding="utf-8"), render(result)
    for sign in result["signs"]:
        assert sign["sentence"] in text
    assert ("Stop labeling." if result["stop"] else "Go on labeling.") in page
    assert result["forecast"]["low"] <= result["forecast"]["value"] <= result["forecast"]["high"]
    json.dumps(result, allow_nan=False)


def test_a_run_is_compared_with_random_labels_on_the_control_images_of_both(campaign: Any, tmp_path: Path) -> None:
    home, runs, truth = campaign
    beside = tmp_path / "random.csv"
    ask(runs[0], str(home / "pool.npz"), 62, "random", beside, control_rate=0.5, sheet=False)
    fill(beside, truth)
    fit(fit_options(home / "pool.npz", (str(beside),)), tmp_path / "random")
    result = gain(runs, n_more=50, out=tmp_path / "gain.html", random=[tmp_path / "random"])
    images = open_images(home / "pool.npz")
    trained = {name for run in (runs[1], tmp_path / "random") for name in load_split(run / "split.json").labeled}
    shared = sorted((controls(home) | controls(tmp_path, "random.csv")) - trained)
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(images.ids.index(name))))[None] for name in shared])
    rates = []
    for run in (runs[1], tmp_path / "random"):
        network, card = load_model(run / "model", CPU)
        with torch.no_grad():
            predicted = network(pixels.float() / 255).logits.argmax(1).tolist()
        rates.append(np.mean([card.classes[k] == truth[name] for k, name in zip(predicted, shared, strict=True)]))
    (found,) = [each for each in result["over_random"] if each["run"] == str(runs[1])]
    assert found["n"] == len(shared) > 40
    assert found["difference"]["value"] == pytest.approx(rates[0] - rates[1])
    assert {each["run"] for each in result["over_random"]} == {str(runs[1])}, "no other has as many labels"
    assert f"over random labels ({tmp_path / 'random'})" in render(result)
    assert "random labels" in (tmp_path / "gain.html").read_text(encoding="utf-8")


def test_what_cannot_be_measured_is_refused(campaign: Any, tmp_path: Path) -> None:
    home, runs, _ = campaign
    with pytest.raises(DataError, match="no answered control|None of these runs has an answered control"):
        gain(runs[:1])
    fit(digit_options("supervised"), tmp_path / "other")
    with pytest.raises(ConfigError, match="different sources"):
        gain([runs[1], tmp_path / "other"])
    with pytest.raises(ConfigError, match="--more 0"):
        gain(runs, n_more=0)
    assert home.exists()
