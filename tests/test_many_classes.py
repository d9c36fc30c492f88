"""CoMatch as the report ran it, in the small: 96 px crops of real photographs, 800 label values, K = 30,000."""

import io
import resource
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eke.progress import silent
from eke.tasks.assemble import assemble, training_steps
from eke.tasks.fit import fit
from eke.tasks.options import FitOptions, resolve
from eke.tasks.prepare import prepare

pytestmark = pytest.mark.slow
N_CLASSES, CROPS, SIDE = 800, 3, 96
REPORT_LIMIT = 10 * 2**20


@pytest.fixture(scope="module")
def crops(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photograph is the class: one of its crops has the label, one is unlabeled, one tests."""
    draw = np.random.default_rng(0)
    parts: dict[str, list[Any]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    with zipfile.ZipFile(shared_data / "voc5.zip") as file:
        names = [name for name in sorted(file.namelist()) if name.endswith(".jpg")][:N_CLASSES]
        for label, name in enumerate(names):
            photo = np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB"))
            pad = [(0, max(0, SIDE - side)) for side in photo.shape[:2]]
            photo = np.pad(photo, [*pad, (0, 0)], mode="reflect")
            rows, columns = (side - SIDE + 1 for side in photo.shape[:2])
            corners = draw.choice(rows * columns, CROPS, replace=False)  # equal crops would be one image
            for place, (top, left) in enumerate(zip(*np.unravel_index(corners, (rows, columns)), strict=True)):
                part = "test" if place == CROPS - 1 else "train"
                parts[f"x_{part}"].append(photo[top : top + SIDE, left : left + SIDE])
                parts[f"y_{part}"].append(label if place in (0, CROPS - 1) else -1)
    path = tmp_path_factory.mktemp("crops") / "crops.npz"
    np.savez(path, **{name: np.stack(values) for name, values in parts.items()})
    return path


def options_for(crops: Path, model: str, steps: int) -> FitOptions:
    flags: dict[str, Any] = {
        "source": str(crops),
        "steps": steps,
        "baseline": "none",
        "model": {"name": model},
        "data": {"val_rate": 0.0},
        "batch": {"labeled": 4},
        "checkpoint": {"every_steps": 20},
    }
    return resolve("comatch/report-96px", flags)


def test_forty_steps_resume_exactly_and_the_report_stays_small(
    crops: Path, tmp_path: Path, stopped_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    options = options_for(crops, "resnet18", 40)
    assert (options.method["memory_size"], options.batch.mu) == (30_000, 4)
    results = fit(options, tmp_path / "whole")
    assert results is not None
    assert len(results["classes"]) == N_CLASSES
    assert (tmp_path / "whole" / "report.html").stat().st_size < REPORT_LIMIT

    with stopped_at_a_checkpoint():
        fit(options, tmp_path / "cut")
    fit(options, tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    states = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["method"] for n in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process: {peak:.2f} GiB")
    assert peak < 6


def test_a_step_of_resnet50(crops: Path) -> None:
    options = options_for(crops, "resnet50", 1)
    assembly = assemble(options, prepare(options, torch.device("cpu"), silent).pools)
    before = [parameter.detach().clone() for parameter in assembly.network.parameters()]
    (report,) = training_steps(assembly, options)
    assert torch.isfinite(report.result.loss)
    moved = [not torch.equal(a, b) for a, b in zip(before, assembly.network.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
