"""Weights of the best evaluation: kept, taken at the end, resumed exactly, and no better one waited for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.errors import ConfigError
from eke.tasks.baseline import baseline_options
from eke.tasks.fit import fit
from eke.tasks.keep import best_of
from eke.tasks.options import EvaluateOptions

from .conftest import digit_options

ACCURACY = ("evaluate.keep=accuracy",)  # an evaluation every six steps


def evaluations(*values: float | None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 1, "loss": 1.0}]
    return lines + [{"step": 10 * i, "evaluation": "validation", "accuracy": v} for i, v in enumerate(values, 1)]


def test_the_first_of_the_best() -> None:
    assert best_of(evaluations(), "accuracy") is None
    assert best_of(evaluations(0.5, 0.7, 0.7, 0.6), "accuracy") == (20, 0.7, 2)
    assert best_of(evaluations(0.5), "accuracy") == (10, 0.5, 0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "weights.safetensors")


def test_the_weights_of_the_best_evaluation_count(tmp_path: Path) -> None:
    results = fit(digit_options("supervised", ACCURACY, **{"optim": {"lr": 0.2}}), tmp_path / "best")
    assert results is not None
    lines = [line for line in RunFolder(tmp_path / "best").lines() if "evaluation" in line]
    best = max(lines, key=lambda line: (line["accuracy"], -line["step"]))
    assert results["kept"]["step"] == best["step"]
    assert results["evaluations"]["validation"]["accuracy"]["value"] == pytest.approx(best["accuracy"])
    assert any(f"The weights of step {best['step']} count" in note for note in results["notes"])
    cut = digit_options("supervised", **{"steps": best["step"], "optim": {"lr": 0.2, "schedule": "constant"}})
    whole = digit_options("supervised", ACCURACY, **{"optim": {"lr": 0.2, "schedule": "constant"}})
    fit(whole, tmp_path / "whole")
    step = RunFolder(tmp_path / "whole").read(RunFolder(tmp_path / "whole").results)["kept"]["step"]
    fit(cut.model_copy(update={"steps": step}), tmp_path / "cut")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(a[name], b[name]) for name in a)


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


def test_it_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import eke.tasks.train as train_task

    class StoppedError(Exception):
        pass

    save = train_task.save_checkpoint

    def save_and_stop(*args: Any, **named: Any) -> None:
        save(*args, **named)
        raise StoppedError

    options = digit_options("supervised", ACCURACY)
    fit(options, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(train_task, "save_checkpoint", save_and_stop)
        fit(options, tmp_path / "cut")
    fit(options, tmp_path / "cut", resume=True)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_baseline_keeps() -> None:
    same = baseline_options(digit_options("fixmatch", ("evaluate.keep=accuracy", "evaluate.patience=2")))
    assert (same.evaluate.keep, same.evaluate.patience) == ("accuracy", 2)
    attention = baseline_options(digit_options("fixmatch", ("evaluate.keep=attention", "evaluate.patience=2")))
    assert (attention.evaluate.keep, attention.evaluate.patience) == ("last", None)
    assert EvaluateOptions().determines() == {}
    assert EvaluateOptions(keep="accuracy").determines() != EvaluateOptions(keep="attention").determines()


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="patience waits for a better evaluation"):
        EvaluateOptions(patience=2)
    with pytest.raises(ConfigError, match="keep=attention needs a method that compares maps"):
        fit(digit_options("supervised", ("evaluate.keep=attention",)), tmp_path / "a")
    with pytest.raises(ConfigError, match="needs validation images"):
        fit(
            digit_options("supervised", ("evaluate.keep=accuracy",), data={"labels_per_class": 6, "val_rate": 0}),
            tmp_path / "b",
        )
