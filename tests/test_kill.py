"""Runs that are killed at random moments and resumed end bit-identical to the uninterrupted run: every method."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.methods import METHODS
from eke.tasks.fit import fit
from eke.tasks.options import FitOptions, resolve

pytestmark = pytest.mark.slow

STEPS = 40
ASSIGNMENTS = (
    *("batch.labeled=8", "batch.mu=2", "checkpoint.every_steps=7", "evaluate.log_every_steps=1"),
    *("evaluate.every_steps=10", "data.labels_per_class=6", "data.holdout_rate=0.2"),
)
PATIENCE_S = 240.0
"""How long a process may take to start, on a machine that is busy with other things."""


class Killed(NamedTuple):
    """What became of one killed process."""

    step: int
    """The last step in the journal when it died."""
    unfinished_file: bool
    """Whether it died while it wrote a checkpoint."""


def options_of(method: str) -> FitOptions:
    flags = {"source": "digits", "steps": STEPS, "model": {"name": "small"}, "baseline": "none"}
    return resolve(method, flags, ASSIGNMENTS)


def start(method: str, out: Path, *words: str) -> "subprocess.Popen[bytes]":
    assignments = [word for each in ASSIGNMENTS for word in ("--set", each)]
    fixed = ("--method", method, "--model", "small", "--steps", str(STEPS), "--baseline", "none", "--out", str(out))
    with (out.parent / f"{out.name}.log").open("ab") as log:
        command = [sys.executable, "-m", "eke", "fit", "digits", *fixed, *assignments, *words]
        return subprocess.Popen(command, stdout=log, stderr=log)


def is_saving(run: Path) -> bool:
    return any(run.glob(".checkpoint.pt.*"))


def last_step(folder: RunFolder) -> int:
    return max((line["step"] for line in folder.lines()), default=0)


def kill_at(process: "subprocess.Popen[bytes]", run: Path, step: int, delay_s: float | None) -> Killed | None:
    """Kill `process` once its journal shows `step`: `delay_s` later, or as soon as it then writes a checkpoint.

    Returns:
        None where the process was faster and ended by itself.
    """
    folder, until = RunFolder(run), time.monotonic() + PATIENCE_S
    before = last_step(folder)  # of the process before; the journal is cut back to the checkpoint
    while process.poll() is None and time.monotonic() < until:
        shown = last_step(folder)
        begun = shown < before or before == 0 or shown > before
        if begun and shown >= step and (delay_s is not None or is_saving(run)):
            time.sleep(delay_s or 0)
            break
        time.sleep(0.001)
    process.kill()
    return Killed(last_step(folder), is_saving(run)) if process.wait() == -9 else None


def kill_and_resume(method: str, out: Path) -> list[Killed]:
    """Run to the end through two kills at random moments and one while a checkpoint is written."""
    dice = random.Random(method)
    killed = []
    moments: list[tuple[int, float | None]] = [
        (dice.randint(2, 12), dice.uniform(0, 0.04)),
        (dice.randint(13, 17), None),
        (dice.randint(22, 30), dice.uniform(0, 0.04)),
    ]
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
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path, "Future[list[Killed]]"]]]:
    """For each method: the uninterrupted run, and the killed one, two of them at a time."""
    root = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("EKE_CACHE", str(root / "cache"))
        for method in METHODS:
            fit(options_of(method), root / "whole" / method)
        (root / "killed").mkdir()
        yield {
            method: (
                root / "whole" / method,
                root / "killed" / method,
                pool.submit(kill_and_resume, method, root / "killed" / method),
            )
            for method in METHODS
        }
        pool.shutdown(cancel_futures=True)


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return bool(a == b)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_killed_run_ends_bit_identical(
    method: str, runs: dict[str, tuple[Path, Path, "Future[list[Killed]]"]]
) -> None:
    whole, resumed, future = runs[method]
    killed = future.result()
    hits = [each for each in killed if 0 < each.step < STEPS]
    assert hits, f"no kill hit training: {killed}"
    weights = [load_file(run / "model" / "weights.safetensors") for run in (whole, resumed)]
    assert same_state(*weights)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, resumed)]
    assert {"method", "average", "optimizer", "step"} <= states[0].keys()
    assert states[0]["step"] == STEPS
    assert same_state(*states)
    journals = [RunFolder(run).lines() for run in (whole, resumed)]
    timing = {"steps_per_second", "images_per_second"}
    plain = [[{k: v for k, v in line.items() if k not in timing} for line in lines] for lines in journals]
    assert [line["step"] for line in plain[0] if "loss" in line] == list(range(1, STEPS + 1))
    assert plain[0] == plain[1]
    results = [RunFolder(run).read(RunFolder(run).results) for run in (whole, resumed)]
    assert results[0] == results[1]
    left = {path.name for path in resumed.iterdir()} - {path.name for path in whole.iterdir()}
    assert not left, f"left behind by kills: {left}"


def test_some_kills_came_while_a_checkpoint_was_written(
    runs: dict[str, tuple[Path, Path, "Future[list[Killed]]"]],
) -> None:
    killed = [each for _, _, future in runs.values() for each in future.result()]
    assert any(each.unfinished_file for each in killed)
    assert len({each.step for each in killed}) > 3, f"the moments are not random: {killed}"
    assert os.environ.get("OMP_NUM_THREADS") == "1"
