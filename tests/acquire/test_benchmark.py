"""The benchmark of `benchmarks/speed/acquire.py` runs at its small size."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "speed" / "acquire.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("part", ["k_center", "badge", "eba"])
def test_each_part_runs(part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--small", "--part", part, "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *arguments])
    runpy.run_path(str(BENCHMARK))["main"]()
    found = json.loads(capsys.readouterr().out)
    assert found["peak_gb"] > 0.05
    assert ("share" in found) == (part == "eba")
    assert ("seconds_per_pick" in found) == (part != "eba")
