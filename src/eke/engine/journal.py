"""The run folder and its journal: what was asked, on what, what happened at each step, and what came of it.

config.json        the resolved options, which reproduce the run
split.json         ids of labeled, validation, unlabeled and test images
environment.json   versions, hardware, threads, commit
steps.jsonl        one line per logged window of steps, one per evaluation
checkpoint.pt      tensors and plain values: enough to go on exactly
kept.safetensors   of the best evaluation, where they count
model/             weights.safetensors and model.json: classes, preprocessing, architecture
predictions/       ids, labels and probabilities of validation and test images
agreement.npz      of a harmonized run: agreement of both explanations of held-out images, before and after
results.json       final figures, with intervals
report.html        the same, to look at
"""

import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eke.collectives import gather, rank, world_size
from eke.engine.loop import StepReport
from eke.errors import CheckpointError, TrainingError
from eke.files import write_text


class RunFolder:
    """Names of the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.split = path / "split.json"
        self.environment = path / "environment.json"
        self.steps = path / "steps.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.model = path / "model"
        self.kept = path / "kept.safetensors"
        self.start_decisions = path / "start-decisions.npz"
        self.agreements = path / "agreement.npz"
        self.results = path / "results.json"
        self.report = path / "report.html"

    def predictions(self, part: str) -> Path:
        """Name the file of predictions for "validation" or "test"."""
        return self.path / "predictions" / f"{part}.npz"

    def boxes(self, part: str) -> Path:
        """Name the file of what maps find beside the boxes of a part."""
        return self.path / "predictions" / f"{part}-boxes.npz"

    def exists(self) -> bool:
        """Tell whether a run was begun here."""
        return self.config.exists()

    def read(self, file: Path) -> Any:
        """Read one of the JSON files.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            remedy = "Finish it with --resume" if self.exists() else "Name a folder that `eke fit --out` wrote"
            raise CheckpointError(f"{self.path} has no {file.name}: not a finished run of eke. {remedy}.") from None
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}.") from None

    def lines(self) -> list[dict[str, Any]]:
        """Read the journal; a last line that a kill cut short is left out."""
        if not self.steps.exists():
            return []
        lines = []
        for text in self.steps.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines


class Noted(NamedTuple):
    """What is kept of a step until its window is written: not its batch, whose pixels are large."""

    step: int
    learning_rate: float
    n_images: int
    terms: dict[str, Tensor]


class Journal:
    """Collects the terms of each step on the device and reads them once per window.

    The mean of a window, over all processes, is written as one line; a term that is not finite on any of them stops
    the run on all, by name and step.
    """

    def __init__(self, folder: RunFolder, every_steps: int, resume_step: int = 0) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self._window: list[Noted] = []
        self._started = time.perf_counter()
        if rank() == 0:
            kept = [line for line in folder.lines() if line["step"] <= resume_step] if resume_step else []
            write_text(folder.steps, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, report: StepReport, extra: dict[str, Tensor]) -> None:
        """Note one step, with `extra` scalars that the task measured; reads the device once per window."""
        terms = {"loss": report.result.loss.detach(), **report.result.terms, **extra}
        self._window.append(Noted(report.step, report.learning_rate, _n_images(report), terms))
        if len(self._window) >= self.every_steps:
            self.flush()

    def flush(self) -> None:
        """Read, check and write the window so far.

        Raises:
            TrainingError: a term was NaN or infinite; names the first such step and term.
        """
        if not self._window:
            return
        names = list(dict.fromkeys(name for noted in self._window for name in noted.terms))
        absent = torch.tensor(math.nan, device=self._window[0].terms["loss"].device)  # of a loss that takes turns
        rows = torch.stack(
            [torch.stack([noted.terms.get(name, absent).float() for name in names]) for noted in self._window]
        )
        rows = gather(rows[None]).transpose(0, 1).flatten(0, 1).cpu()  # row: step, then process, which saw its slice
        _stop_if_not_finite(rows, names, self._window)
        seconds = time.perf_counter() - self._started
        last = self._window[-1]
        self._append(
            {
                "step": last.step,
                "learning_rate": last.learning_rate,
                **dict(zip(names, rows.nanmean(0).tolist(), strict=True)),
                "steps_per_second": len(self._window) / seconds,
                "images_per_second": sum(noted.n_images for noted in self._window) / seconds,
            }
        )
        self._window.clear()
        self._started = time.perf_counter()

    def write_evaluation(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Note an evaluation after `step` steps; the clock of the next window starts after it."""
        self._append({"step": step, "evaluation": split, **figures})
        self._started = time.perf_counter()

    def _append(self, line: dict[str, Any]) -> None:
        if rank() == 0:
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
            with self.folder.steps.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False) + "\n")


def _n_images(report: StepReport) -> int:
    """Count the images of a global batch that went through the network, every view of them."""
    views = [*report.batch.x.values(), *report.batch.u.values()]
    return world_size() * sum(len(view.pixels) for view in views)


def _stop_if_not_finite(rows: Tensor, names: list[str], window: list[Noted]) -> None:
    """`known_*` terms may be NaN (no truth is known in that batch); every other term that a step has must be finite."""
    checked = [i for i, name in enumerate(names) if not name.startswith("known_")]
    present = torch.tensor([[names[i] in noted.terms for i in checked] for noted in window])
    bad = (~rows[:, checked].isfinite() & present.repeat_interleave(len(rows) // len(window), 0)).nonzero()
    if len(bad) == 0:
        return
    row = int(bad[0, 0])
    step = window[row // (len(rows) // len(window))].step
    terms = ", ".join(names[checked[int(column)]] for r, column in bad if int(r) == row)
    raise TrainingError(
        f"Step {step}: {terms} is not finite ({rows[row, checked[int(bad[0, 1])]].item()}). "
        "The run stopped and its last checkpoint is valid. Try a lower optim.lr or compute.precision=float32."
    )


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Say what a result depends on: versions, hardware, threads, processes, commit of the working folder."""
    import numpy
    import torchvision

    from eke.version import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "eke": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "device": f"{device.type}: {name}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of eke's own checkout; an installed copy has none, whatever repository lies around it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not (root / "src" / "eke").is_dir():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
