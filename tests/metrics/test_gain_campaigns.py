"""The gain meter over campaigns on digits with a real probe: `benchmarks/accuracy/gain_meter.py` at a small size."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "gain_meter.py"


@pytest.mark.slow
def test_the_control_holds_the_truth_and_little_to_gain_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--campaigns", "8", "--rounds", "7", "--json"])
    runpy.run_path(str(BENCHMARK))["main"]()
    pools = json.loads(capsys.readouterr().out)["pools"]
    assert list(pools) == ["digits, whole", "digits, easy", "digits, noise"]
    assert all(pool["covered_all"] >= 0.9 for pool in pools.values())
    whole, easy, noise = pools.values()
    assert whole["truth"][1] - whole["truth"][0] > 0.05
    assert abs(noise["truth"][1] - 0.1) < 0.05
    assert whole["forecast_rms"] < 0.03
    assert easy["stopped"]["value"] >= whole["stopped"]["value"]
    assert easy["stopped"]["value"] == 1
