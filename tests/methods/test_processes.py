"""Two gloo processes compute what one does on the same global batch: every method, all in one start."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eke.methods import METHODS

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("process_worker.py")


def start(out: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(WORKER), str(out)], env=os.environ | environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = [start(folder / "one.pt")] + [start(folder / "two.pt", RANK=str(r), **group) for r in range(2)]
    try:
        codes = [worker.wait(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0, 0, 0]
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one", "two")}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_two_processes_equal_one_in_float64(name: str, runs: dict[str, Any]) -> None:
    one, two = runs["one"][name]["float64"], runs["two"][name]["float64"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-8)
    for first, second in zip(one["terms"], two["terms"], strict=True):
        assert second == pytest.approx(first, abs=1e-8)
    assert one["state"].keys() == two["state"].keys()
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_two_processes_begin_like_one_in_float32(name: str, runs: dict[str, Any]) -> None:
    one, two = runs["one"][name]["float32"], runs["two"][name]["float32"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    whole = torch.cat([g.flatten() for g in one["gradient"].values()])
    shared = torch.cat([g.flatten() for g in two["gradient"].values()])
    assert ((whole - shared).norm() / whole.norm()).item() < 1e-5
