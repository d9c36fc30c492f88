"""Weights of the best evaluation: kept, taken at the end, resumed exactly, and no better one waited for."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.errors import ConfigError
from eke.tasks.baseline import baseline_options
from eke.tasks.fit import fit
from eke.tasks.harmonize import harmonize
from eke.tasks.keep import best_of, decisions_kept
from eke.tasks.options import EvaluateOptions

from .conftest import digit_options
from .test_fit import StoppedError, interrupted

ACCURACY = ("evaluate.keep=labels",)  # an evaluation every six steps


def evaluations(*values: float | None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 1, "loss": 1.0}]
    return lines + [{"step": 10 * i, "evaluation": "validation", "accuracy": v} for i, v in enumerate(values, 1)]


def test_the_first_of_the_best() -> None:
    assert best_of(evaluations(), "labels") is None
    assert best_of(evaluations(0.5, 0.7, 0.7, 0.6), "labels") == (20, 0.7, 2)
    assert best_of(evaluations(0.5), "labels") == (10, 0.5, 0)
    start = {"step": 0, "evaluation": "validation", "accuracy": 0.7}
    assert best_of([start, *evaluations(0.5, 0.7, 0.7)], "labels") == (20, 0.7, 1), "of equals, not the start"
    assert best_of([start, *evaluations(0.5, 0.6)], "labels") == (0, 0.7, 2)


def test_agreement_counts_only_while_decisions_are_those_of_the_start() -> None:
    def looks(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
        return [
            {"step": i, "evaluation": "validation", "attention_agreement": a, "accuracy": a, "decisions_kept": kept}
            for i, (a, kept) in enumerate(pairs)
        ]

    lines = looks((0.8, 1.0), (0.85, 0.97), (0.84, 0.95), (0.99, 0.94), (1.0, 0.1))
    assert best_of(lines, "attention") == (1, 0.85, 3)
    flat = [{**lines[0], "attention_agreement": None}, lines[3]]
    assert best_of(flat, "attention") == (0, -math.inf, 1)
    assert best_of(lines, "labels") == (4, 1.0, 0), "labels say themselves whether a change is for the better"


@pytest.mark.parametrize("several", [False, True])
def test_decisions_are_compared_with_those_of_the_start_image_by_image(tmp_path: Path, several: bool) -> None:
    start = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], bool) if several else np.array([3, 1, 2, 2])
    now = start.copy()
    now[0] = now[0] ^ np.array([True, False]) if several else 1
    assert decisions_kept(RunFolder(tmp_path), start, 0) == 1
    assert decisions_kept(RunFolder(tmp_path), now, 5) == 0.75
    assert decisions_kept(RunFolder(tmp_path), start, 10) == 1


def test_harmonizing_without_labels_stops_before_decisions_change(tmp_path: Path) -> None:
    """At a rate that makes maps agree by destroying the network, the weights that it began with stay."""
    first = tmp_path / "first"
    fit(digit_options("supervised", steps=40, baseline="none"), first)
    flags = {"steps": 12, "optim": {"lr": 0.1, "warmup_steps": 0}, "evaluate": {"every_steps": 3}}
    results = harmonize(first, out=tmp_path / "run", stop="agreement", flags=flags)
    assert results is not None
    lines = [line for line in RunFolder(tmp_path / "run").lines() if "evaluation" in line]
    best = max(lines, key=lambda line: line["attention_agreement"] or 0)
    assert best["step"] > 0
    assert best["decisions_kept"] < 0.95
    assert results["kept"]["step"] == 0
    before, after = weights(first), weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "weights.safetensors")


def test_the_weights_of_the_best_evaluation_count(tmp_path: Path) -> None:
    """Of this run the first evaluation, after half of the steps, is the best: a run of as many steps ends with it."""
    flags = {"optim": {"lr": 0.2, "schedule": "constant", "ema_decay": 0.0}, "seed": 1}
    results = fit(digit_options("supervised", ACCURACY, **flags), tmp_path / "best")
    assert results is not None
    lines = [line for line in RunFolder(tmp_path / "best").lines() if "evaluation" in line]
    best = max(lines, key=lambda line: (line["accuracy"], -line["step"]))
    assert results["kept"]["step"] == best["step"] == 6
    assert results["steps"] == 12
    assert any("The weights of step 6 count" in note for note in results["notes"])
    half = fit(digit_options("supervised", **flags, steps=6), tmp_path / "half")
    assert half is not None
    assert results["evaluations"] == half["evaluations"]
    a, b = weights(tmp_path / "best"), weights(tmp_path / "half")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("lr", "kept"), [(30.0, 0), (1e-2, None)])
def test_the_start_counts_where_no_step_is_better(tmp_path: Path, lr: float, kept: int | None) -> None:
    """A rate that destroys a trained network leaves it as it was; one that suits it does not."""
    first = tmp_path / "first"
    fit(digit_options("supervised", steps=40 if kept == 0 else 2), first)
    flags = {"init": str(first), "optim": {"lr": lr, "schedule": "constant", "warmup_steps": 0, "ema_decay": 0.0}}
    options = digit_options("supervised", (*ACCURACY, "evaluate.start=true"), steps=30, **flags)
    results = fit(options, tmp_path / "run")
    assert results is not None
    lines = [line for line in RunFolder(tmp_path / "run").lines() if "evaluation" in line]
    assert [line["step"] for line in lines] == [0, 6, 12, 18, 24, 30]
    if kept == 0:
        assert results["kept"]["step"] == 0
        assert any("The weights that it started with count" in note for note in results["notes"])
        before, after = weights(first), weights(tmp_path / "run")
        assert all(torch.equal(before[name], after[name]) for name in before)
    else:
        assert results["kept"]["step"] > 0
        assert max(line["accuracy"] for line in lines) > lines[0]["accuracy"]


@pytest.mark.parametrize("dies_after", [3, 8])
def test_a_start_that_was_looked_at_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    """A run that died before its first checkpoint, at step 5, begins anew; later, it goes on from there."""
    options = digit_options("supervised", (*ACCURACY, "evaluate.start=true"))
    whole = fit(options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, dies_after)
        with pytest.raises(StoppedError):
            fit(options, tmp_path / "cut")
    cut = fit(options, tmp_path / "cut", resume=True)
    assert whole is not None
    assert cut is not None
    assert cut["kept"] == whole["kept"]
    assert [line["step"] for line in RunFolder(tmp_path / "cut").lines() if "evaluation" in line] == [0, 6, 12]


def test_it_stops_after_so_many_evaluations_without_a_better_one(tmp_path: Path) -> None:
    still = {"optim": {"lr": 1e-12}, "steps": 40}  # no evaluation is better than the first
    results = fit(digit_options("supervised", (*ACCURACY, "evaluate.patience=3"), **still), tmp_path / "run")
    assert results is not None
    assert results["steps"] == 6 + 3 * 6
    assert results["kept"]["step"] == 6
    assert results["images_through_network"] == 24 * digit_options("supervised", **still).batch.labeled
    before = weights(tmp_path / "run")
    again = fit(digit_options("supervised", (*ACCURACY, "evaluate.patience=3"), **still), tmp_path / "run", resume=True)
    assert again is not None
    assert again["kept"] == results["kept"]
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize("lr", [0.2, 1e-12])
def test_it_resumes_to_the_same_weights(
    lr: float, tmp_path: Path, stopped_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    """At the tiny rate the first evaluation stays the best, and its weights were kept before the checkpoint."""
    options = digit_options("supervised", ACCURACY, optim={"lr": lr}, checkpoint={"every_steps": 8})
    whole = fit(options, tmp_path / "whole")
    with stopped_at_a_checkpoint():
        fit(options, tmp_path / "cut")
    cut = fit(options, tmp_path / "cut", resume=True)
    assert whole is not None
    assert cut is not None
    assert cut["kept"] == whole["kept"]
    assert (whole["kept"]["step"] == 6) or lr == 0.2
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_baseline_keeps() -> None:
    same = baseline_options(digit_options("fixmatch", ("evaluate.keep=labels", "evaluate.patience=2")))
    assert (same.evaluate.keep, same.evaluate.patience) == ("labels", 2)
    attention = baseline_options(digit_options("fixmatch", ("evaluate.keep=attention", "evaluate.patience=2")))
    assert (attention.evaluate.keep, attention.evaluate.patience) == ("last", None)
    started = baseline_options(digit_options("fixmatch", ("evaluate.keep=attention", "evaluate.start=true")))
    assert not started.evaluate.start
    assert EvaluateOptions().determines() == {}
    assert "start" not in EvaluateOptions(keep="labels").determines()
    assert EvaluateOptions(keep="labels", start=True).determines()["start"]
    assert EvaluateOptions(keep="labels").determines() != EvaluateOptions(keep="attention").determines()


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="patience waits for a better evaluation"):
        EvaluateOptions(patience=2)
    with pytest.raises(ConfigError, match="keep=attention needs a method that compares maps"):
        fit(digit_options("supervised", ("evaluate.keep=attention",)), tmp_path / "a")
    with pytest.raises(ConfigError, match="needs validation images"):
        fit(
            digit_options("supervised", ("evaluate.keep=labels",), data={"labels_per_class": 6, "val_rate": 0}),
            tmp_path / "b",
        )


def test_an_evaluation_without_a_figure_is_not_the_best() -> None:
    assert best_of(evaluations(None, 0.3, None), "labels") == (20, 0.3, 1)
