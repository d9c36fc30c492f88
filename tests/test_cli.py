"""The command line in processes of its own, as users meet it."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMANDS = ["demo", "doctor", "fit", "eval", "predict", "export", "compare", "report", "methods"]


def eke(*words: str | Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "eke", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
    )
    if check and done.returncode:
        raise AssertionError(done.stderr)
    return done


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches_and_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; sys.argv = ['eke', *{command.split()}, '--help']\n"
        "from eke.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage" in done.stdout


def test_importing_eke_does_not_import_torch() -> None:
    code = "import sys, eke; print('torch' in sys.modules, 'numpy' in sys.modules, sorted(eke.__all__) == eke.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on digits, made by the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    eke(
        *("fit", "digits", "--labels-per-class", 5, "--steps", 10, "--model", "small", "--out", folder),
        *("--set", "data.holdout_rate=0.2", "--set", "batch.labeled=8", "--set", "batch.mu=2"),
    )
    return folder


def test_results_go_to_standard_output_and_progress_does_not(tmp_path: Path) -> None:
    done = eke(
        *("fit", "digits", "--method", "supervised", "--labels-per-class", 5, "--steps", 3, "--model", "small"),
        *("--set", "batch.labeled=8", "--json", "--out", tmp_path / "run"),
    )
    results = json.loads(done.stdout)
    assert results["labels"]["total"] == 50
    assert Path(results["report"]).exists()


def test_eval_predict_and_report_of_a_run(run: Path, tmp_path: Path) -> None:
    figures = json.loads(eke("eval", run, "digits", "--json").stdout)
    assert figures["n"] == 1797
    assert "macro F1" in eke("eval", run, "digits").stdout
    eke("predict", run, "digits", "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1797
    assert set(rows[0]) == {"id", "path", "class", "probability"}
    accuracy = sum(row["path"] != "" and 0 <= float(row["probability"]) <= 1 for row in rows)
    assert accuracy == 1797
    (run / "report.html").unlink()
    assert "report.html" in eke("report", run).stdout
    assert (run / "report.html").exists()


@pytest.mark.parametrize("format_", ["onnx", "torch"])
def test_an_exported_network_computes_the_same(format_: str, run: Path, tmp_path: Path) -> None:
    if format_ == "onnx":
        pytest.importorskip("onnxruntime")
    done = json.loads(eke("export", run, "--format", format_, "--out", tmp_path / f"m.{format_}", "--json").stdout)
    assert done["difference"] < 1e-5
    refused = eke("export", run, "--format", format_, "--out", tmp_path / f"m.{format_}", check=False)
    assert refused.returncode == 2
    assert "never overwritten" in refused.stderr


def test_compare_lays_a_run_and_its_baseline_side_by_side(run: Path, tmp_path: Path) -> None:
    done = json.loads(eke("compare", run, "--out", tmp_path / "c.html", "--json").stdout)
    assert [row["method"] for row in done["rows"]] == ["fixmatch", "supervised"]
    assert len(done["differences"]) == 1
    assert (tmp_path / "c.html").stat().st_size > 5000


def test_methods_lists_and_describes() -> None:
    assert "fixmatch" in eke("methods").stdout
    text = eke("methods", "fixmatch").stdout
    assert "Deviations" in text
    assert "method.tau = 0.95" in text
    described: list[dict[str, Any]] = json.loads(eke("methods", "--json").stdout)
    assert all(option["help"] for method in described for option in method["options"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fit", "digits", "--method", "fixmach"], 2, "Did you mean 'fixmatch'?"),
        (["fit", "digits", "--set", "batch.mu"], 2, "section.name=value"),
        (["fit", "nowhere/at/all", "--steps", "1"], 3, "nowhere/at/all"),
        (["eval", "no-run", "digits"], 4, "no-run"),
        (["compare", "no-run", "no-other"], 4, "no-run"),
        (["methods", "zebra"], 2, "Unknown method 'zebra'"),
    ],
)
def test_errors_are_one_message_with_an_exit_code(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = eke(*words, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_strategies_are_listed_and_shown() -> None:
    listed = json.loads(eke("strategies", "--json").stdout)
    names = {each["name"] for each in listed}
    assert {"random", "entropy", "badge", "typiclust", "varratio_mc", "batch_bald", "eba:ig"} <= names
    assert all(each["sentence"] for each in listed)
    assert "needs passes with dropout" in eke("strategies", "bald").stdout
    refused = eke("strategies", "bold", check=False)
    assert refused.returncode == 2
    assert "bald" in refused.stderr
