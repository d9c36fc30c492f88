"""Attention consistency end to end: any method takes it, it resumes exactly, is reported, and its collapse is said."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.errors import ConfigError
from eke.tasks.fit import fit
from eke.tasks.held_out_attention import attention_notes
from eke.tasks.report import curves_of

from .conftest import digit_options

ATTENTION = ("attention.weight=2", "attention.layer=block2,block4")


@pytest.fixture(scope="module")
def attending_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("attending") / "run"
    fit(digit_options("fixmatch", ATTENTION), run)
    return run


def test_the_journal_holds_what_the_maps_do_and_the_baseline_has_none(attending_run: Path) -> None:
    windows = [line for line in RunFolder(attending_run).lines() if "loss" in line]
    for line in windows:
        assert line["loss_attention"] > 0
        assert -1 <= line["attention_agreement"] <= 1
        assert line["loss"] == pytest.approx(line["loss_x"] + line["loss_u"] + 2 * line["loss_attention"], rel=1e-5)
    baseline = Path(json.loads((attending_run / "results.json").read_text())["baseline"]["run"])
    assert json.loads((baseline / "config.json").read_text())["attention"]["weight"] == 0
    assert all("loss_attention" not in line for line in RunFolder(baseline).lines())


def test_attention_on_held_out_images_is_noted_over_time_and_at_the_end(attending_run: Path) -> None:
    folder = RunFolder(attending_run)
    looked = [line for line in folder.lines() if "evaluation" in line]
    assert len(looked) > 1
    assert all(-1 <= line["attention_agreement"] <= 1 for line in looked)
    measured = folder.read(folder.results)["attention"]
    assert measured["attention_agreement"] == pytest.approx(looked[-1]["attention_agreement"], abs=1e-6)
    assert (measured["part"], measured["layers"]) == ("validation", ["block2", "block4"])
    assert measured["n"] == folder.read(folder.results)["labels"]["validation"]
    assert set(measured["kept"]) == {"gradcam@block2", "gradcam@block4"}
    baseline = RunFolder(Path(folder.read(folder.results)["baseline"]["run"]))
    assert baseline.read(baseline.results)["attention"] is None


def test_the_report_shows_where_the_network_looks_over_time_before_and_after(attending_run: Path) -> None:
    page = (attending_run / "report.html").read_text()
    assert "Attention maps of fixmatch" in page
    charts = curves_of({"fixmatch": RunFolder(attending_run).lines(), "supervised": [{"step": 1, "loss": 0.5}]})
    assert [chart.title for chart in charts][2:] == ["Attention maps of fixmatch"]
    evaluations = sum("evaluation" in line for line in RunFolder(attending_run).lines())
    assert [len(curve.steps) for curve in charts[2].curves] == [6, 6, 6, *[evaluations] * 3]
    assert "Where it looks" in page
    assert page.count("before: supervised (baseline)") == page.count("after: fixmatch") > 0
    assert "Probability of the predicted class where a part of the image is kept" in page


def test_a_run_with_attention_resumes_bit_identical(
    attending_run: Path, tmp_path: Path, stopped_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    options = digit_options("fixmatch", ATTENTION)
    with stopped_at_a_checkpoint():
        fit(options, tmp_path / "cut")
    fit(options, tmp_path / "cut", resume=True)
    whole, cut = (load_file(run / "model" / "weights.safetensors") for run in (attending_run, tmp_path / "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_maps_that_collapse_under_a_weight_that_is_far_too_high_are_said(tmp_path: Path) -> None:
    """Against it the other losses weigh nothing: then one map for all images is the cheapest."""
    alone = ("method.gamma=10", "method.alpha=0", "method.beta=0", "method.layer=block4", "optim.lr=0.1")
    options = digit_options(
        "gradcam_consistency",
        (*alone, "attention.loss=cosine"),
        **{"steps": 60, "batch": {"labeled": 16, "mu": 2}, "evaluate": {"every_steps": 60}, "baseline": "none"},
    )
    results = fit(options, tmp_path / "collapsed")
    assert results is not None
    assert any("collapsed: they are nearly the same for every image" in note for note in results["notes"])
    assert "maps have collapsed" in (tmp_path / "collapsed" / "report.html").read_text()


def line(step: int, flat_rate: float, spread: float) -> dict[str, Any]:
    return {"step": step, "attention_flat_rate": flat_rate, "attention_spread": spread}


def test_the_end_of_a_run_decides_whether_its_maps_have_collapsed() -> None:
    assert attention_notes([{"step": 20, "loss": 1.0}], 20) == []
    assert attention_notes([line(20, 0.9, 0.0), line(100, 0.1, 0.8)], 100) == []
    assert "70 % of the images have a flat map" in attention_notes([line(20, 0.0, 0.8), line(100, 0.7, 0.8)], 100)[0]
    assert "10.0 % of their variance" in attention_notes([line(95, 0.0, 0.15), line(100, 0.0, 0.05)], 100)[0]
    assert attention_notes([line(7, 0.0, 0.01)], 100), "a run with one line only"


@pytest.mark.parametrize(
    ("method", "assignments", "message"),
    [
        ("supervised", ATTENTION, "which supervised is not"),
        ("mixmatch", ATTENTION, "which mixmatch is not"),
        ("fixmatch", ("attention.weight=1",), "needs attention.layer"),
        ("fixmatch", ("attention.weight=1", "attention.layer=block22"), "no layer 'block22'. Did you mean"),
        (
            "gradcam_consistency",
            ("compute.compile=true", "attention.map=saliency"),
            "with maps of pixels needs second derivatives.*compute.compile=false",
        ),
        ("fixmatch", ("attention.map=gradcamm",), "attention.map"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    method: str, assignments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(digit_options(method, assignments, baseline="none"), tmp_path / "run")
