"""Runs that are killed at random moments and resumed end bit-identical to the uninterrupted run: every method that
learns with labels, and those without that have the most state (a queue, an average); the others resume in process.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised

pytestmark = pytest.mark.slow

STEPS = 40
ASSIGNMENTS = (
    *("checkpoint.every_steps=7", "evaluate.log_every_steps=1"),
    *("evaluate.every_steps=10", "data.labels_per_class=6", "data.holdout_rate=0.2"),
)
PRETRAINED = {"swav": ("method.queue_size=32", "method.queue_start_rate=0.2"), "byol": ("method.hidden_width=64",)}
METHODS_KILLED = [name for name, method in METHODS.items() if not is_self_supervised(method)] + list(PRETRAINED)
PATIENCE_S = 240.0
"""How long a process may take to start, on a machine that is busy with other things."""


class Killed(NamedTuple):
    """What became of one killed process."""

    step: int
    """The last step in the journal when it died."""
    unfinished_file: bool
    """Whether it died while it wrote a checkpoint."""


def words_of(method: str) -> list[str]:
    """Return the command line of a run, --out left out."""
    command, own = "fit", ["--baseline", "none", "--set", "batch.labeled=8", "--set", "batch.mu=2"]
    if method in PRETRAINED:
        command, own = "pretrain", [word for each in ("batch.size=16", *PRETRAINED[method]) for word in ("--set", each)]
    shared = [word for each in ASSIGNMENTS for word in ("--set", each)]
    return [command, "digits", "--method", method, "--model", "small", "--steps", str(STEPS), *own, *shared]


def start(method: str, out: Path, *words: str) -> "subprocess.Popen[bytes]":
    with (out.parent / f"{out.name}.log").open("ab") as log:
        command = [sys.executable, "-m", "eke", *words_of(method), "--out", str(out), *words]
        return subprocess.Popen(command, stdout=log, stderr=log)


def last_step(folder: RunFolder) -> int:
    return max((line["step"] for line in folder.lines()), default=0)


def kill_at(process: "subprocess.Popen[bytes]", run: Path, step: int, delay_s: float | None) -> Killed | None:
    """Kill `process` once its journal shows `step`: `delay_s` later, or (None) while it then writes a checkpoint.

    Returns:
        None where the process was faster and ended by itself.
    """
    folder, until = RunFolder(run), time.monotonic() + PATIENCE_S
    before, journal = being_written(run), identity(folder.steps)  # of the process that was killed before
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
        if identity(folder.steps) == journal or last_step(folder) < step:
            continue
        if delay_s is not None:
            time.sleep(delay_s)
            break
        if being_written(run) - before:
            process.send_signal(signal.SIGSTOP)
            if being_written(run) - before:
                break
            process.send_signal(signal.SIGCONT)
    process.kill()
    stopped = process.wait() == -signal.SIGKILL
    return Killed(last_step(folder), bool(being_written(run) - before)) if stopped else None


def identity(file: Path) -> int | None:
    """Tell one journal from the next: a resumed run replaces it by one that is cut back to the checkpoint."""
    return file.stat().st_ino if file.exists() else None


def being_written(run: Path) -> set[Path]:
    return set(run.glob(".checkpoint.pt.*"))


def kill_and_resume(method: str, out: Path) -> list[Killed]:
    """Run to the end through a kill at a random moment and one while a checkpoint is written."""
    dice = random.Random(method)
    killed = []
    moments = [(dice.randint(2, 24), dice.uniform(0, 0.04)), (1, None)]
    for number, (step, delay_s) in enumerate(moments):
        process = start(method, out, *(["--resume"] if number else []))
        with ended(process):
            hit = kill_at(process, out, step, delay_s)
        killed += [hit] if hit else []
    process = start(method, out, "--resume")
    with ended(process):
        assert process.wait(PATIENCE_S) == 0, (out.parent / f"{out.name}.log").read_text()
    return killed


@contextlib.contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return bool(a == b)


@pytest.mark.parametrize("method", METHODS_KILLED)
def test_a_killed_run_ends_bit_identical(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKE_CACHE", str(tmp_path / "cache"))
    whole, resumed = tmp_path / "whole", tmp_path / "killed"
    with ended(start(method, whole)) as process:
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "whole.log").read_text()
    killed = kill_and_resume(method, resumed)
    assert [each.step for each in killed if 0 < each.step < STEPS], f"no kill hit training: {killed}"
    assert killed[-1].unfinished_file, f"no kill hit the writing of a checkpoint: {killed}"
    assert same_state(*[load_file(run / "model" / "weights.safetensors") for run in (whole, resumed)])
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, resumed)]
    assert {"method", "average", "optimizer"} < states[0].keys()
    assert states[0]["step"] == STEPS
    assert same_state(*states)
    journals = [without_timing(RunFolder(run).lines()) for run in (whole, resumed)]
    assert [line["step"] for line in journals[0] if "loss" in line] == list(range(1, STEPS + 1))
    assert journals[0] == journals[1]
    results = [RunFolder(run).read(RunFolder(run).results) for run in (whole, resumed)]
    assert results[0] == results[1]
    assert {path.name for path in resumed.iterdir()} == {path.name for path in whole.iterdir()}


def without_timing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if not key.endswith("_per_second")} for line in lines]
