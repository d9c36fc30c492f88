import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.errors import CheckpointError, ConfigError, InterruptedRunError, TrainingError
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised
from eke.tasks.fit import fit, render
from eke.tasks.options import resolve

from .conftest import digit_options


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "weights.safetensors")


def test_a_run_writes_everything_it_promises(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "config.json",
        "split.json",
        "environment.json",
        "steps.jsonl",
        "checkpoint.pt",
        "model",
        "predictions",
        "results.json",
        "report.html",
    }
    results = json.loads((finished_run / "results.json").read_text())
    assert results["labels"] == {"train": 40, "validation": 20, "total": 60}
    assert set(results["evaluations"]) == {"validation", "test"}
    assert results["images_through_network"] == 12 * 8 * (1 + 2 * 2)
    assert results["baseline"]["labels"] == results["labels"]
    assert results["baseline"]["images_through_network"] == 12 * 8
    assert set(results["difference"]["test"]) == {"accuracy", "macro_f1", "calibration_error"}
    assert "60 labels = 40 train + 20 validation" in render({**results, "run": "r", "report": "p"})


def test_the_journal_has_windows_and_evaluations(finished_run: Path) -> None:
    lines = RunFolder(finished_run).lines()
    windows = [line for line in lines if "loss" in line]
    assert [line["step"] for line in windows] == [3, 5, 6, 9, 10, 12]
    assert all({"loss_x", "loss_u", "mask_rate", "learning_rate", "images_per_second"} <= set(line) for line in windows)
    assert [(line["step"], line["evaluation"]) for line in lines if "evaluation" in line] == [
        (6, "validation"),
        (12, "validation"),
    ]


class StoppedError(Exception):
    pass


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make the run die after `after` steps, wherever its last checkpoint is."""
    import eke.tasks.train as train

    real = train.training_steps

    def dying(*args: Any, **kwargs: Any) -> Any:
        for report in real(*args, **kwargs):
            yield report
            if report.step == after:
                raise StoppedError

    monkeypatch.setattr(train, "training_steps", dying)


@pytest.mark.parametrize("method", sorted(name for name in METHODS if not is_self_supervised(METHODS[name])))
def test_a_resumed_run_ends_bit_identical(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = digit_options(method, baseline="none")
    fit(options, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        interrupted(patch, after=8)
        fit(options, tmp_path / "stopped")
    fit(options, tmp_path / "stopped", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    states = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "stopped")]
    for a, b in zip(states[0]["method"].values(), states[1]["method"].values(), strict=True):
        assert torch.equal(a, b)
    steps = [[line["step"] for line in RunFolder(tmp_path / run).lines()] for run in ("whole", "stopped")]
    assert steps[0] == steps[1]


def test_an_interrupt_saves_the_run_after_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    import eke.tasks.train as train

    options = digit_options(baseline="none")
    handler = signal.getsignal(signal.SIGINT)  # not the usual one where the tests run in the background
    fit(options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        real = train.training_steps

        def interrupting(*args: Any, **kwargs: Any) -> Any:
            for report in real(*args, **kwargs):
                if report.step == 7:
                    os.kill(os.getpid(), signal.SIGINT)
                yield report

        patch.setattr(train, "training_steps", interrupting)
        with pytest.raises(InterruptedRunError, match="interrupted after step 7 of 12.*--resume") as raised:
            fit(options, tmp_path / "stopped")
    assert raised.value.exit_code == 130
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == 7
    fit(options, tmp_path / "stopped", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert signal.getsignal(signal.SIGINT) is handler


def test_steps_and_a_budget_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps or a budget, not both"):
        digit_options(budget="20m")
    with pytest.raises(ConfigError, match="write a duration"):
        digit_options(steps=None, budget="soon")


def test_a_folder_with_a_run_is_refused_or_resumed_and_never_deleted(finished_run: Path) -> None:
    before = (finished_run / "checkpoint.pt").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already.*--resume"):
        fit(digit_options(), finished_run)
    with pytest.raises(CheckpointError, match="begun with other options: optim.lr is 0.03 there, 0.5 here"):
        fit(digit_options(assignments=("optim.lr=0.5",)), finished_run, resume=True)
    assert (finished_run / "checkpoint.pt").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is not a run of eke"):
        fit(digit_options(), tmp_path)


def test_the_baseline_is_trained_once_and_shared(tmp_path: Path) -> None:
    first = fit(digit_options("fixmatch"), tmp_path / "a")
    trained = (Path(first["baseline"]["run"]) / "checkpoint.pt").stat().st_mtime_ns
    second = fit(digit_options("pseudo_label", assignments=("optim.lr=0.03",)), tmp_path / "b")
    third = fit(digit_options("fixmatch", seed=1), tmp_path / "c")
    assert third["baseline"]["run"] != first["baseline"]["run"]
    assert (Path(first["baseline"]["run"]) / "checkpoint.pt").stat().st_mtime_ns == trained
    assert second["baseline"]["labels"] == first["baseline"]["labels"]


def test_without_test_images_there_are_no_test_figures(tmp_path: Path) -> None:
    options = digit_options("supervised", data={"labels_per_class": 6, "val_rate": 0.34})
    results = fit(options, tmp_path / "run")
    assert set(results["evaluations"]) == {"validation"}
    assert "no test figures" in render(results)
    assert "test figures are left out" in (tmp_path / "run" / "report.html").read_text()


def test_a_loss_that_is_not_finite_stops_the_run_by_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Step \d+: .*loss.* is not finite"):
        fit(digit_options(assignments=("optim.lr=1e18",)), tmp_path / "run")
    assert RunFolder(tmp_path / "run").lines() == []


def test_a_budget_becomes_steps_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import eke.tasks.budget as task

    options = digit_options(steps=None, budget="30s")
    monkeypatch.setattr(task, "_seconds_per_step", lambda options, material: 1.0)
    results = fit(options, tmp_path / "run")
    assert 8 <= results["steps"] <= 13  # (27 s less preparing) / (1 s method + 1 s baseline)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["steps"], config["budget"]) == (results["steps"], "30s")
    assert fit(options, tmp_path / "run", resume=True)["steps"] == results["steps"]


def test_a_budget_that_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        fit(digit_options(steps=None, budget="0.1s"), Path("never-made"))
    assert not Path("never-made").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("batch.labelled=3",), "Unknown option 'batch.labelled'. Did you mean 'labeled'"),
        (("method.tua=0.9",), "Unknown option 'method.tua'. Did you mean 'tau'"),
        (("method.tau=2",), "Option method.tau = 2"),
        (("optm.lr=1",), "Unknown option 'optm'. Did you mean 'optim'"),
        (("views.week=none",), "no view 'week'.*Did you mean 'weak'"),
        (("views.weak=nonne",), "Unknown view preset 'nonne'. Did you mean 'none'"),
    ],
)
def test_wrong_options_are_named_with_a_suggestion(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(digit_options(assignments=words), tmp_path / "run")


def test_an_unknown_model_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'resnet21'.*resnet2"):
        fit(digit_options(model={"name": "resnet21"}), tmp_path / "run")


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Unknown method 'fixmach'. Did you mean 'fixmatch'"):
        resolve("fixmach", {"source": "digits"})


def test_later_sources_of_options_win(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("batch: {mu: 3, labeled: 5}\noptim: {lr: 0.5}\n")
    options = resolve("fixmatch", {"source": "x", "optim": {"lr": 0.1}}, ["batch.labeled=6", "optim.lr=0.2"], file)
    assert (options.batch.mu, options.batch.labeled, options.optim.lr, options.optim.weight_decay) == (
        3,
        6,
        0.1,
        5e-4,
    )


def test_a_baseline_that_another_run_left_unfinished_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import eke.tasks.baseline as baseline

    whole = fit(digit_options(), tmp_path / "elsewhere" / "whole")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        real = baseline.train

        def dying(*args: Any, **kwargs: Any) -> None:
            interrupted(patch, after=7)
            real(*args, **kwargs)

        patch.setattr(baseline, "train", dying)
        fit(digit_options(), tmp_path / "first")
    other = fit(digit_options(assignments=("method.tau=0.5",), evaluate={"every_steps": 4}), tmp_path / "second")
    assert Path(other["baseline"]["run"]).parent == tmp_path / "baselines"
    one, two = weights(Path(whole["baseline"]["run"])), weights(Path(other["baseline"]["run"]))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_is_named_in_the_baselines_place_is_called_by_its_name(finished_run: Path, tmp_path: Path) -> None:
    results = fit(digit_options("supervised", baseline=str(finished_run)), tmp_path / "run")
    assert results is not None
    assert results["baseline"]["named"]
    assert f"than {finished_run}" in render(results)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"fixmatch ({finished_run})" in page
    assert "the supervised baseline" not in page
    assert not (tmp_path / "baselines").exists()
