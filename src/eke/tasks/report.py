"""Gather what a run's page shows from its folder and its images, and write report.html."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.engine.processes import choose_device
from eke.metrics.classification import confusion_matrix, reliability
from eke.metrics.statistics import Interval, Paired
from eke.progress import Progress, silent
from eke.report.charts import Curve
from eke.report.content import (
    Budget,
    CurveChart,
    Differences,
    Figures,
    Mistake,
    Problem,
    PseudoLabelReport,
    RunReport,
    ViewRow,
)
from eke.report.page import write_page
from eke.report.run import run_page
from eke.tasks.assemble import make_stream
from eke.tasks.measure import METRICS
from eke.tasks.options import FitOptions
from eke.tasks.prepare import Material, prepare

N_MISTAKES = 24
N_VIEW_ROWS = 4


def write_report(run: Path, progress: Progress = silent, material: Material | None = None) -> Path:
    """Write `report.html` of a finished run and return its path.

    Args:
        run: the run folder.
        progress: shows what takes long.
        material: the run's images, where they are at hand; else they are opened again from the run's options.

    Raises:
        CheckpointError: the run is not finished.
    """
    folder = RunFolder(run)
    results = folder.read(folder.results)
    options = parse(FitOptions, folder.read(folder.config))
    material = material or prepare(options, choose_device(options.compute.device), progress)
    split: Literal["test", "validation"] = "test" if "test" in results["evaluations"] else "validation"
    evaluated = results["evaluations"].get(split)
    baseline = results.get("baseline")
    predictions = Predictions.load(folder.predictions(split)) if evaluated else None
    confusion = table = None
    if predictions is not None:
        confusion = confusion_matrix(predictions.probs.argmax(1), predictions.labels, len(results["classes"]))
        table = reliability(predictions.probs, predictions.labels)
    names, views = _view_sheet(options, material)
    lines = {results["method"]: folder.lines()}
    if baseline:
        lines[f"{baseline['method']} (baseline)"] = RunFolder(Path(baseline["run"])).lines()
    report = RunReport(
        title=f"{results['method']} on {options.source}",
        command=fit_command(options, run),
        method=results["method"],
        model=results["model"],
        classes=results["classes"],
        budget=Budget(results["labels"]["train"], results["labels"]["validation"]),
        split=split,
        n_images=evaluated["n"] if evaluated else 0,
        run=figures_of(results["method"], results, split),
        baselines=[figures_of(f"{baseline['method']} (baseline)", baseline, split, _EQUAL)] if baseline else [],
        differences=list(_differences(results, split)),
        curves=curves_of(lines),
        confusion=confusion,
        reliability=table,
        pseudo_labels=_pseudo_labels(folder.lines(), results["pool"]),
        view_names=names,
        views=views,
        mistakes=list(_mistakes(predictions, material, split)) if predictions is not None else [],
        environment=_environment(folder, results),
        problems=[Problem(p["path"], f"{p['kind']}: {p['detail']}", p["remedy"]) for p in results["problems"]],
        notes=_notes(results),
    )
    write_page(folder.report, run_page(report))
    return folder.report


_EQUAL = "same labels, labeled views, labeled batch, optimizer and steps"


def fit_command(options: FitOptions, run: Path) -> str:
    """Return the command that repeats a run: its config.json holds every option."""
    return shlex.join(["eke", "fit", options.source, "--config", str(run / "config.json"), "--out", "ANOTHER-FOLDER"])


def figures_of(name: str, results: dict[str, Any], split: str, note: str = "") -> Figures:
    """Return one row of a table of figures from a run's results."""
    evaluated = results["evaluations"].get(split)
    intervals = {metric: interval(evaluated[metric]) if evaluated else None for metric in METRICS}
    return Figures(
        name,
        labels=results["labels"]["total"],
        images=results["images_through_network"],
        note=note,
        **intervals,
    )


def interval(values: dict[str, Any]) -> Interval:
    """Read an interval from JSON values; a missing end is unknown."""
    return Interval(*(float("nan") if values[end] is None else values[end] for end in ("value", "low", "high")))


def paired(values: dict[str, Any]) -> Paired:
    """Read a paired difference from JSON values."""
    return Paired(interval(values), values["p"])


def _differences(results: dict[str, Any], split: str) -> Iterator[Differences]:
    compared = results.get("difference", {}).get(split)
    if compared:
        yield Differences("the supervised baseline", **{metric: paired(compared[metric]) for metric in METRICS})


def curves_of(lines: dict[str, list[dict[str, Any]]]) -> list[CurveChart]:
    """Make the charts of several journals: validation accuracy and loss."""
    accuracy = [_curve(name, rows, "accuracy", lambda row: "evaluation" in row) for name, rows in lines.items()]
    loss = [_curve(name, rows, "loss", lambda row: "loss" in row) for name, rows in lines.items()]
    return [
        CurveChart("Validation accuracy", accuracy, rate=True),
        CurveChart("Training loss", loss),
    ]


def _curve(name: str, rows: list[dict[str, Any]], key: str, wanted: Any) -> Curve:
    kept = [row for row in rows if wanted(row)]
    return Curve(name, [row["step"] for row in kept], [_nan(row[key]) for row in kept])


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _pseudo_labels(lines: list[dict[str, Any]], pool: dict[str, Any] | None) -> PseudoLabelReport | None:
    rows = [row for row in lines if "known_pseudo_label_accuracy" in row]
    if not rows and pool is None:
        return None
    return PseudoLabelReport(
        steps=[row["step"] for row in rows],
        mask_rate=[_nan(row.get("mask_rate")) for row in rows],
        accuracy=[_nan(row["known_pseudo_label_accuracy"]) for row in rows],
        shares=np.array(pool["predicted"]) / pool["n"] if pool else None,
        label_shares=np.array(pool["labeled"]) / max(1, sum(pool["labeled"])) if pool else None,
    )


def _view_sheet(options: FitOptions, material: Material) -> tuple[list[str], list[ViewRow]]:
    """Show the first images of a batch as step 0 made them: original, then each view."""
    pools = material.pools
    batch = make_stream(options, pools).batch(0)
    side, rows, index = ("u", pools.unlabeled, batch.u_index) if batch.u else ("x", pools.labeled, batch.x_index)
    views = batch.u if batch.u else batch.x
    originals = [rows[int(i)] for i in index[:N_VIEW_ROWS]]
    shown = {"original": pools.pixels.read(originals).cpu()}
    for name, view in views.items():
        shown[f"{side} {name}"] = view.pixels[:N_VIEW_ROWS].mul(255).round_().byte().cpu()
    return list(shown), [
        ViewRow(material.images.paths[row], [_image(images[i]) for images in shown.values()])
        for i, row in enumerate(originals)
    ]


def _mistakes(predictions: Predictions, material: Material, split: str) -> Iterator[Mistake]:
    part = material.part(split)
    predicted = predictions.probs.argmax(1)
    confidence = predictions.probs.max(1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    place = {part.images.ids[row]: row for row in part.rows}
    for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:N_MISTAKES]:
        row = place[str(predictions.ids[i])]
        yield Mistake(
            image=_image(part.pixels.read([row])[0].cpu()),
            true=material.pools.card.classes[predictions.labels[i]],
            predicted=material.pools.card.classes[predicted[i]],
            confidence=float(confidence[i]),
            path=part.images.paths[row],
        )


def _image(pixels: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(C, H, W) uint8 -> (H, W, 3) or (H, W)."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = pixels.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def _environment(folder: RunFolder, results: dict[str, Any]) -> dict[str, str]:
    environment = {name: str(value) for name, value in folder.read(folder.environment).items() if value is not None}
    return {**environment, "seed": str(results["seed"]), "steps": f"{results['steps']:,}"}


def _notes(results: dict[str, Any]) -> list[str]:
    if results["method"] == "supervised" or results.get("baseline"):
        return list(results["notes"])
    return [
        *results["notes"],
        "No supervised baseline was trained, so nothing is said about what the unlabeled images brought.",
    ]
