"""Every command on images with several labels and boxes: it works, or refuses in one clear sentence."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import eke
from eke.data.sources import open_images
from eke.engine.model_files import read_card
from eke.engine.predict import Predictions
from eke.errors import ConfigError
from eke.metrics.multilabel import average_precision, best_thresholds, f1_scores
from eke.tasks.ask import ask
from eke.tasks.compare import compare
from eke.tasks.doctor import diagnose
from eke.tasks.evaluate import evaluate
from eke.tasks.evaluate import render as render_evaluation
from eke.tasks.explain import explain
from eke.tasks.export import export
from eke.tasks.fit import fit, render
from eke.tasks.harmonize import harmonize
from eke.tasks.options import FitOptions, resolve, resolve_pretrain
from eke.tasks.predict import predict
from eke.tasks.pretrain import pretrain
from eke.tasks.probe import probe
from eke.tasks.report import write_report
from eke.tasks.train import choose_thresholds, threshold_notes

from .photographs import write_photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_photographs(tmp_path_factory.mktemp("voc") / "photographs"))


def options(source: str, method: str = "supervised", assignments: tuple[str, ...] = (), **flags: Any) -> FitOptions:
    values = {
        "source": source,
        "steps": 8,
        "data": {"size": 24, "val_per_class": 4},
        "model": {"name": "small"},
        "batch": {"labeled": 8, "mu": 1},
        "evaluate": {"every_steps": 4},
        **flags,
    }
    return resolve(method, values, assignments)


@pytest.fixture(scope="module")
def run(photographs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "supervised"
    recipe = {"optim": {"lr": 0.05, "ema_decay": 0.0}, "views": {"weak": "flip"}}
    fit(options(photographs, steps=80, **recipe), folder)
    return folder


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_it_learns_which_squares_are_there(run: Path) -> None:
    figures = results_of(run)["evaluations"]["test"]
    assert figures["n"] == 16
    assert figures["mean_average_precision"]["value"] > 0.9
    assert {"macro_f1", "micro_f1"} < set(figures)
    assert "accuracy" not in figures


def test_figures_are_those_of_the_predictions_at_the_thresholds_of_validation(run: Path) -> None:
    validation, test = (Predictions.load(run / "predictions" / f"{part}.npz") for part in ("validation", "test"))
    thresholds = best_thresholds(validation.probs, validation.labels)
    assert test.thresholds.tolist() == thresholds.tolist() == list(read_card(run / "model").thresholds)
    figures = results_of(run)["evaluations"]["test"]
    assert figures["mean_average_precision"]["value"] == pytest.approx(average_precision(test.probs, test.labels).mean)
    f1 = f1_scores(test.probs, test.labels, thresholds)
    assert figures["macro_f1"]["value"] == pytest.approx(f1.macro)
    assert figures["micro_f1"]["value"] == pytest.approx(f1.micro)
    assert [row["f1"] for row in figures["per_class"]] == pytest.approx(f1.f1.tolist())


def test_maps_find_the_squares_better_than_chance(run: Path) -> None:
    boxes = results_of(run)["boxes"]
    labeled = boxes["test"]["labeled"]
    assert labeled["map"]["pointing"]["value"] > labeled["random"]["pointing"]["value"] + 0.2
    assert labeled["at_threshold"]["threshold"] >= 0
    assert "at_threshold" not in boxes["validation"]["labeled"], "it was chosen there"


def test_the_text_and_the_page_say_it(run: Path) -> None:
    words = render({**results_of(run), "run": str(run), "report": "report.html"})
    for word in ("mAP", "macro F1", "overlap with boxes", "box in the center", "random maps", "best F1"):
        assert word in words
    page = write_report(run).read_text(encoding="utf-8")
    for word in ("Maps beside boxes", "Average precision", "Validation mAP", "drawn at random", "Predicted from"):
        assert word in page
    assert "Calibration" not in page


@pytest.mark.parametrize("method", ["fixmatch", "gradcam_consistency", "mean_teacher"])
def test_methods_that_take_several_labels(photographs: str, tmp_path: Path, method: str) -> None:
    fit(options(photographs, method, steps=2), tmp_path / "run")
    results = results_of(tmp_path / "run")
    assert results["difference"]["test"]["mean_average_precision"]["p"] > 0
    assert set(results["boxes_difference"]) == {"test", "validation"}
    assert "run less baseline" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["comatch", "flexmatch", "mixmatch", "pseudo_label", "simmatch", "uda"])
def test_methods_that_give_one_class_refuse(photographs: str, tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError, match="gives every image one class.*fixmatch"):
        fit(options(photographs, method, steps=2), tmp_path / "run")


@pytest.mark.parametrize("several", ["yes_or_no", "in_shares"])
def test_both_losses(photographs: str, tmp_path: Path, several: str) -> None:
    fit(options(photographs, model={"name": "small", "several": several}), tmp_path / "run")
    probs = Predictions.load(tmp_path / "run" / "predictions" / "test.npz").probs
    assert np.allclose(probs.sum(1), 1) == (several == "in_shares")


def test_the_best_weights_by_map(photographs: str, tmp_path: Path) -> None:
    fit(options(photographs, assignments=("evaluate.keep=labels",), steps=12), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    values = {line["step"]: line["mean_average_precision"] for line in lines if "evaluation" in line}
    assert results_of(tmp_path / "run")["kept"]["value"] == max(values.values())


def test_harmonize(run: Path, tmp_path: Path) -> None:
    flags = {"steps": 4, "method": {"strategy": "combined"}}
    results = harmonize(run, None, tmp_path / "run", stop="labels", flags=flags)
    assert results is not None
    assert results["baseline"]["boxes"]["test"]
    assert results["boxes"]["test"]["map"] == f"gradcam@{results['attention']['layers'][0]}"
    assert set(results["boxes_difference"]["test"]) <= {"true_positives", "common_true_positives", "labeled"}


def test_eval_and_predict(run: Path, photographs: str, tmp_path: Path) -> None:
    figures = evaluate(run, photographs)
    assert figures["n"] == 64
    assert figures["boxes"]["labeled"]["n_pairs"] > 20
    predict(run, photographs, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = open_images(photographs, labels=[tmp_path / "out.csv"])
    assert images.labeled.all(), "what is predicted can be laid over the source as labels"
    thresholds = read_card(run / "model").thresholds
    for row in rows[:10]:
        probs = [float(row[f"probability of {name}"]) for name in ("blue", "green", "red")]
        chosen = [name for name, p, t in zip(("blue", "green", "red"), probs, thresholds, strict=True) if p >= t - 1e-6]
        assert row["labels"] == ("; ".join(chosen) or ";")


def test_the_python_face(run: Path, photographs: str) -> None:
    opened = eke.load(run)
    images = opened.read(photographs)[:3]
    probs = opened.predict_proba(images)
    expected = [
        tuple(n for n, p, t in zip(opened.classes, row, opened.card.thresholds, strict=True) if p >= t) for row in probs
    ]
    assert opened.predict(images) == expected


def test_ask_fills_a_column_of_sets(run: Path, tmp_path: Path) -> None:
    more = str(write_photographs(tmp_path / "more", 12, 0, seed=5))
    asked = ask(run, more, 3, "entropy", tmp_path / "ask.csv")
    with (tmp_path / "ask.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "id", "path", "score", "reason", "control", "round", "labels"]
    assert asked["n"] == 3
    opened = eke.load(run)
    images = open_images(more)
    row = images.ids.index(rows[0]["id"])
    p = opened.predict_proba(opened.read(more))[row].astype(float)
    binary = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert float(rows[0]["score"]) == pytest.approx(binary.mean(), abs=1e-5)


def test_explain_compare_and_export(run: Path, photographs: str, tmp_path: Path) -> None:
    explained = explain(run, photographs, tmp_path / "maps", maps=("gradcam",), wanted="true")
    one_class = [image for image in explained["images"] if "," not in image["label"]]
    assert len(one_class) == len(explained["images"]) > 0
    assert any("not one class" in problem["detail"] for problem in explained["problems"])
    fit(options(photographs), tmp_path / "other")
    compared = compare([run, tmp_path / "other"], tmp_path / "compare.html")
    assert compared["metric"] == "mean_average_precision"
    exported = export(run, "torch", tmp_path / "model.pt2")
    assert exported["difference"] < 1e-4


def test_doctor(photographs: str) -> None:
    found = diagnose(photographs)
    images = open_images(photographs)
    test = np.array(images.split) == "test"
    assert found.counts["test"]["red"] == images.labels[test, 2].sum()
    assert found.n_several == (images.labels.sum(1) > 1).sum() > 0
    assert found.n_boxes == sum(map(len, images.boxes or ()))
    assert found.n_unlabeled == 0


def test_pretraining_reads_no_label_and_a_probe_refuses(photographs: str, tmp_path: Path) -> None:
    values = {"source": photographs, "steps": 2, "data": {"size": 24}, "model": {"name": "small"}, "batch": {"size": 8}}
    pretrain(resolve_pretrain("simclr", values), tmp_path / "start")
    fit(options(photographs, init=str(tmp_path / "start"), steps=2), tmp_path / "run")
    assert "new head" in results_of(tmp_path / "run")["notes"][0]
    with pytest.raises(ConfigError, match="may have several"):
        probe(tmp_path / "start", options(photographs, init=str(tmp_path / "start")), tmp_path / "probe")


def test_an_image_that_cannot_be_read_moves_no_other(run: Path, photographs: str, tmp_path: Path) -> None:
    whole, images = evaluate(run, photographs), open_images(photographs)
    row = next(row for row, boxes in enumerate(images.boxes or ()) if boxes)
    shutil.copytree(photographs, tmp_path / "damaged")
    (tmp_path / "damaged" / images.paths[row]).write_bytes(b"no image")
    figures = evaluate(run, str(tmp_path / "damaged"))
    assert figures["n"] == whole["n"] - 1
    n_pairs = whole["boxes"]["labeled"]["n_pairs"] - len((images.boxes or ())[row])
    assert figures["boxes"]["labeled"]["n_pairs"] == n_pairs
    for name, source in (("whole", photographs), ("part", str(tmp_path / "damaged"))):
        predict(run, source, tmp_path / f"{name}.csv")
    before, after = ((tmp_path / f"{name}.csv").read_text(encoding="utf-8").splitlines() for name in ("whole", "part"))
    assert after == [line for line in before if images.ids[row] not in line]
    said = render_evaluation(figures)
    for word in ("average precision", "overlap with boxes", "box in the center", "1 images were set aside"):
        assert word in said


def test_without_validation_a_class_is_predicted_from_one_half() -> None:
    material: Any = SimpleNamespace(
        validation=[], pools=SimpleNamespace(card=SimpleNamespace(several=True, classes=("a", "b", "c")))
    )
    network: Any = None
    assert choose_thresholds(network, material) == (0.5, 0.5, 0.5)
    (note,) = threshold_notes(material)
    assert "from a probability of 0.5" in note
    material.pools.card.several = False
    assert choose_thresholds(network, material) == ()
    assert threshold_notes(material) == []
