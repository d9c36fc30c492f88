"""`torchrun -m eke fit` on two gloo processes: one run, the one-process losses, clear errors, exact resume."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eke.engine.journal import RunFolder
from eke.tasks.fit import fit
from eke.tasks.options import resolve

pytestmark = pytest.mark.slow

STEPS = 30
ASSIGNMENTS = (
    *("batch.labeled=8", "batch.mu=2", "checkpoint.every_steps=7", "evaluate.log_every_steps=1"),
    *("data.labels_per_class=6", "data.holdout_rate=0.2", "compute.device=cpu"),
)
PATIENCE_S = 240.0


def start(out: Path, *words: str, assignments: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """Start two processes; standard output and error go to files beside the run folder."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
    command = [sys.executable, *torchrun, "--rdzv-endpoint", "127.0.0.1:0", "-m", "eke", "fit", "digits"]
    assigned = [word for each in (*ASSIGNMENTS, *assignments) for word in ("--set", each)]
    fixed = ["--method", "fixmatch", "--model", "small", "--out", str(out), "--json"]
    with out.with_suffix(".out").open("w") as stdout, out.with_suffix(".err").open("w") as stderr:
        return subprocess.Popen(
            [*command, *fixed, *assigned, *words],
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Leave no process behind: torchrun's workers outlive a torchrun that is killed."""
    try:
        yield
    finally:
        for worker in workers(process):
            os.kill(worker, signal.SIGKILL)
        process.kill()
        process.wait()


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """List the ranks of a torchrun, as far as they live."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def run(out: Path, *words: str, assignments: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run to the end; return exit code, standard output and standard error."""
    process = start(out, *words, assignments=assignments)
    with ended(process):
        code = process.wait(PATIENCE_S)
    return code, out.with_suffix(".out").read_text(), out.with_suffix(".err").read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("torchrun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EKE_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def two(root: Path) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run of two processes with its baseline, and what it printed."""
    code, printed, errors = run(root / "two", "--steps", str(STEPS))
    assert code == 0, errors
    return root / "two", json.loads(printed)  # one JSON document: only the first process prints


def test_two_processes_make_one_run(two: tuple[Path, dict[str, Any]], root: Path) -> None:
    folder, results = two
    assert [path.name for path in root.iterdir() if path.is_dir()].count("two") == 1
    assert RunFolder(folder).read(RunFolder(folder).results) == {
        key: value for key, value in results.items() if key not in {"run", "report"}
    }
    assert results["evaluations"]["test"]["n"] == 355
    assert results["baseline"]["steps"] == STEPS
    assert len(list((root / "baselines").glob("*/"))) == 1
    assert RunFolder(folder).read(RunFolder(folder).environment)["processes"] == 2
    for journal in (RunFolder(folder), RunFolder(Path(results["baseline"]["run"]))):
        steps = [line["step"] for line in journal.lines() if "loss" in line]
        assert steps == list(range(1, STEPS + 1)), "each step is logged once, by one process"
    assert (folder / "report.html").exists()


def test_two_processes_begin_with_the_loss_of_one(two: tuple[Path, dict[str, Any]], root: Path) -> None:
    flags = {"source": "digits", "steps": STEPS, "model": {"name": "small"}, "baseline": "none"}
    alone = fit(resolve("fixmatch", flags, ASSIGNMENTS), root / "one")
    assert alone is not None
    first = [RunFolder(path).lines()[0] for path in (two[0], root / "one")]
    for term in ("loss", "loss_x", "loss_u", "mask_rate"):
        assert first[0][term] == pytest.approx(first[1][term], rel=1e-5), term
    accuracy = [results["evaluations"]["test"]["accuracy"]["value"] for results in (two[1], alone)]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.1)
    assert min(accuracy) > 0.3


def test_a_run_that_lost_a_process_goes_on_exactly(two: tuple[Path, dict[str, Any]], root: Path) -> None:
    process = start(root / "killed", "--steps", str(STEPS), "--baseline", "none")
    with ended(process):
        until = time.monotonic() + PATIENCE_S
        folder = RunFolder(root / "killed")
        while process.poll() is None and time.monotonic() < until:
            if len([line for line in folder.lines() if "loss" in line]) >= 11:
                os.kill(workers(process)[-1], signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait(PATIENCE_S) != 0  # torchrun ends the other process too
    assert folder.checkpoint.exists()
    assert not folder.results.exists(), "the kill came too late to hit training"
    code, _, errors = run(root / "killed", "--steps", str(STEPS), "--baseline", "none", "--resume")
    assert code == 0, errors
    weights = [load_file(path / "model" / "weights.safetensors") for path in (two[0], folder.path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    methods = [torch.load(path / "checkpoint.pt", weights_only=True)["method"] for path in (two[0], folder.path)]
    assert all(torch.equal(methods[0][name], methods[1][name]) for name in methods[0])
    losses = [[line["loss"] for line in RunFolder(path).lines() if "loss" in line] for path in (two[0], folder.path)]
    assert losses[0] == losses[1]


def test_a_budget_becomes_the_same_steps_on_both(root: Path) -> None:
    code, printed, errors = run(root / "budget", "--budget", "12s")
    assert code == 0, errors
    results = json.loads(printed)
    assert results["steps"] == results["baseline"]["steps"] >= 1
    assert RunFolder(root / "budget").lines()[-1]["step"] == results["steps"]


@pytest.mark.parametrize(
    ("words", "assignments", "message"),
    [
        (("--steps", "3"), ("batch.labeled=9",), "9 labeled images per step cannot be shared evenly by 2 processes"),
        (("--steps", "3"), ("compute.device=quantum",), "compute.device = 'quantum' cannot be used"),
    ],
)
def test_an_error_ends_all_processes(
    words: tuple[str, ...], assignments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    code, printed, errors = run(tmp_path / "bad", *words, assignments=assignments)
    assert code != 0
    assert f"eke: {message}" in errors
    assert printed == ""
    assert 'File "' not in errors.split("eke: ")[0], "no traceback before the message"


def test_a_run_that_exists_is_refused_by_all_processes(two: tuple[Path, dict[str, Any]], root: Path) -> None:
    before = (two[0] / "checkpoint.pt").read_bytes()
    printed = {suffix: two[0].with_suffix(suffix).read_text() for suffix in (".out", ".err")}
    code, _, errors = run(two[0], "--steps", str(STEPS))
    assert code != 0
    assert f"{two[0]} holds a run already" in errors
    assert (two[0] / "checkpoint.pt").read_bytes() == before
    for suffix, text in printed.items():
        two[0].with_suffix(suffix).write_text(text)
