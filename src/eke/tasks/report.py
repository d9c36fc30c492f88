"""Gather what a run's page shows from its folder and its images, and write report.html."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model
from eke.engine.predict import Predictions, embed
from eke.engine.processes import choose_device
from eke.metrics.classification import confusion_matrix, reliability
from eke.metrics.statistics import Interval, Paired
from eke.models.network import Network
from eke.progress import Progress, silent
from eke.report.balance import imbalances
from eke.report.charts import Curve
from eke.report.content import (
    Budget,
    ClassExamples,
    ClassFigures,
    CurveChart,
    Differences,
    EmbeddingMap,
    Figures,
    LayerReport,
    Mistake,
    PoolPredictions,
    Problem,
    PseudoLabelReport,
    RunReport,
    ViewRow,
)
from eke.report.page import write_page
from eke.report.pictures import Image, picture_of
from eke.report.projection import project
from eke.report.run import run_page
from eke.tasks.activation_maps import N_CHANNELS, activations, default_layers
from eke.tasks.assemble import make_stream
from eke.tasks.box_report import box_report
from eke.tasks.look_report import look_report
from eke.tasks.measure import metric_of_run, metrics_of
from eke.tasks.options import FitOptions, RunOptions, TrainingOptions
from eke.tasks.prepare import Material, prepare

N_MISTAKES = 24
N_VIEW_ROWS = 4
N_EMBEDDED = 2000
"""Evaluated images on the map of embeddings at most."""
N_EXAMPLE_CLASSES = 2
"""Classes with pictures of those predicted too seldom, and of those predicted too often."""
N_EXAMPLES = 8
"""Pictures of each."""


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
    names, views = view_sheet(options, material)
    lines = {results["method"]: folder.lines()}
    other = _called(baseline) if baseline else ""
    if baseline:
        lines[other] = RunFolder(Path(baseline["run"])).lines()
    report = RunReport(
        title=f"{results['method']} on {options.source}",
        command=repeat_command("fit", options, run),
        method=results["method"],
        model=results["model"],
        classes=results["classes"],
        budget=Budget(results["labels"]["train"], results["labels"]["validation"]),
        split=split,
        n_images=evaluated["n"] if evaluated else 0,
        run=figures_of(results["method"], results, split),
        baselines=[figures_of(other, baseline, split, "" if baseline["named"] else _EQUAL)] if baseline else [],
        differences=list(_differences(results, split)),
        curves=curves_of(lines),
        pseudo_labels=_pseudo_labels(folder.lines()),
        pool=_pool_predictions(results["pool"]),
        view_names=names,
        views=views,
        environment=environment_of(folder, results),
        problems=[Problem(p["path"], f"{p['kind']}: {p['detail']}", p["remedy"]) for p in results["problems"]],
        notes=_notes(results),
    )
    before = [(f"before: {other}", Path(baseline["run"]))] if baseline else []
    runs = [*before, (f"after: {results['method']}", run)]
    if results.get("attention"):
        report = replace(report, look=look_report(results, runs, material))
    report = replace(report, boxes=box_report(results, runs, material, split))
    if evaluated:
        predictions = Predictions.load(folder.predictions(split))
        report = _with_images(report, folder, Evaluated(predictions, material, split), results["seed"], progress)
    write_page(folder.report, run_page(report))
    return folder.report


def _called(baseline: dict[str, Any]) -> str:
    return f"{baseline['method']} ({baseline['run'] if baseline['named'] else 'baseline'})"


_EQUAL = "same labels, labeled views, labeled batch, optimizer and steps"


def repeat_command(command: str, options: RunOptions, run: Path) -> str:
    """Return the command line that repeats a run of `eke fit` or `eke pretrain`: its config.json holds every option."""
    return shlex.join(["eke", command, options.source, "--config", str(run / "config.json"), "--out", "ANOTHER-FOLDER"])


def figures_of(name: str, results: dict[str, Any], split: str, note: str = "") -> Figures:
    """Return one row of a table of figures from a run's results."""
    evaluated = results["evaluations"].get(split)
    values = {metric: interval(evaluated[metric]) for metric in metrics_of(evaluated)} if evaluated else {}
    return Figures(
        name,
        values,
        labels=results["labels"]["total"],
        images=results["images_through_network"],
        note=note,
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
        other = results["baseline"]
        against = other["run"] if other["named"] else "the supervised baseline"
        yield Differences(against, {metric: paired(compared[metric]) for metric in metrics_of(compared)})


def curves_of(lines: dict[str, list[dict[str, Any]]]) -> list[CurveChart]:
    """Make the charts of several journals: accuracy or mAP on validation, and loss."""
    loss = [curve_of(name, rows, "loss", lambda row: "loss" in row) for name, rows in lines.items()]
    charts = []
    for metric, title in ((metric_of_run(several=False), "accuracy"), (metric_of_run(several=True), "mAP")):
        curves = [curve_of(name, rows, metric, lambda row, key=metric: key in row) for name, rows in lines.items()]
        if any(len(curve.steps) for curve in curves):
            charts.append(CurveChart(f"Validation {title}", curves, rate=True))
    charts.append(CurveChart("Training loss", loss))
    for name, rows in lines.items():
        looked = [row for row in rows if "attention_agreement" in row]
        parts = {
            "": [row for row in looked if "loss" in row],
            ", held out": [row for row in looked if "loss" not in row],
        }
        kinds = {"agreement": "agreement", "part between images": "spread", "flat": "flat_rate"}
        curves = [
            curve_of(words + where, its, f"attention_{kind}", lambda row: True)
            for where, its in parts.items()
            for words, kind in kinds.items()
            if its and f"attention_{kind}" in its[0]
        ]
        if curves:
            charts.append(CurveChart(f"Attention maps of {name}", curves))
    return charts


def curve_of(name: str, rows: list[dict[str, Any]], key: str, wanted: Any) -> Curve:
    kept = [row for row in rows if wanted(row)]
    return Curve(name, [row["step"] for row in kept], [_nan(row[key]) for row in kept])


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _pseudo_labels(lines: list[dict[str, Any]]) -> PseudoLabelReport | None:
    rows = [row for row in lines if "known_pseudo_label_accuracy" in row]
    if not rows:
        return None
    return PseudoLabelReport(
        steps=[row["step"] for row in rows],
        mask_rate=[_nan(row.get("mask_rate")) for row in rows],
        accuracy=[_nan(row["known_pseudo_label_accuracy"]) for row in rows],
    )


def _pool_predictions(pool: dict[str, Any] | None) -> PoolPredictions | None:
    return PoolPredictions(np.array(pool["predicted"]), np.array(pool["labeled"])) if pool else None


def view_sheet(options: TrainingOptions, material: Material) -> tuple[list[str], list[ViewRow]]:
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
        ViewRow(material.images.paths[row], [picture_of(images[i]) for images in shown.values()])
        for i, row in enumerate(originals)
    ]


def _surest(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Return what each image is taken for, how surely, and whether that is wrong, (n,) each.

    Of several labels: the likeliest of the wrongly predicted classes, or where there is none the likeliest of all.
    """
    if not predictions.several:
        predicted = predictions.probs.argmax(1)
        return predicted, predictions.probs.max(1), predicted != predictions.labels
    wrong = predictions.predicted & (predictions.labels == 0)
    shown = np.where(wrong, 1 + predictions.probs, predictions.probs).argmax(1)
    return shown, predictions.probs[np.arange(len(shown)), shown], wrong.any(1)


class Evaluated:
    """The evaluated images with what the network took them for; an image is named by its place among them."""

    def __init__(self, predictions: Predictions, material: Material, split: str) -> None:
        self.part = material.part(split)
        self.classes = material.pools.card.classes
        self.device = material.pools.device
        self.probs = predictions.probs
        self.labels = predictions.labels
        self.several = predictions.several
        self.predicted, self.confidence, self.wrong = _surest(predictions)
        place = {self.part.images.ids[row]: row for row in self.part.rows}
        self.rows = [place[identity] for identity in predictions.ids.tolist()]

    def true(self, i: int) -> str:
        """Name the class or the classes of one image."""
        return str(self.part.images.label_words(self.rows[i]))

    def picture(self, i: int) -> Image:
        """Return one image."""
        return picture_of(self.part.pixels.read([self.rows[i]])[0])

    def mistakes(self, among: NDArray[np.bool_], n: int) -> list[Mistake]:
        """Return the `n` that the network is surest of, of the images `among` (n_images,)."""
        chosen = np.flatnonzero(among)
        return [
            Mistake(
                image=self.picture(i),
                true=self.true(i),
                predicted=self.classes[self.predicted[i]],
                confidence=float(self.confidence[i]),
                path=self.part.images.paths[self.rows[i]],
            )
            for i in chosen[np.argsort(-self.confidence[chosen], kind="stable")][:n].tolist()
        ]


def _with_images(report: RunReport, folder: RunFolder, shown: Evaluated, seed: int, progress: Progress) -> RunReport:
    """Add what the evaluated images show: confusions, calibration, mistakes, examples, embeddings, layers."""
    network, _ = load_model(folder.model, shown.device)
    if shown.several:
        figures = folder.read(folder.results)["evaluations"][report.split]["per_class"]
        return replace(
            report,
            class_figures=[
                ClassFigures(
                    row["class"],
                    row["n"],
                    row["n_predicted"],
                    _nan(row["average_precision"]),
                    _nan(row["f1"]),
                    row["threshold"],
                )
                for row in figures
            ],
            mistakes=shown.mistakes(shown.wrong, N_MISTAKES),
            layers=_layer_report(network, shown),
        )
    confusion = confusion_matrix(shown.predicted, shown.labels, len(shown.classes))
    under, over = _examples(shown, confusion)
    return replace(
        report,
        confusion=confusion,
        reliability=reliability(shown.probs, shown.labels),
        mistakes=shown.mistakes(shown.wrong, N_MISTAKES),
        under_examples=under,
        over_examples=over,
        embeddings=_embedding_map(network, shown, seed, progress),
        layers=_layer_report(network, shown),
    )


def _examples(shown: Evaluated, confusion: NDArray[np.int64]) -> tuple[list[ClassExamples], list[ClassExamples]]:
    """Picture the classes that are predicted too seldom (their images) and too often (what is taken for them)."""
    under, over = imbalances(confusion)

    def pictured(label: int, side: NDArray[np.int64]) -> ClassExamples:
        return ClassExamples(shown.classes[label], shown.mistakes(shown.wrong & (side == label), N_EXAMPLES))

    return (
        [pictured(each.label, shown.labels) for each in under[:N_EXAMPLE_CLASSES]],
        [pictured(each.label, shown.predicted) for each in over[:N_EXAMPLE_CLASSES]],
    )


def _embedding_map(network: Network, shown: Evaluated, seed: int, progress: Progress) -> EmbeddingMap:
    n = len(shown.rows)
    sample = np.arange(n)
    if n > N_EMBEDDED:
        sample = np.sort(torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:N_EMBEDDED].numpy())
    rows = [shown.rows[i] for i in sample.tolist()]
    with progress("embedding", len(rows)) as advance:
        embedded = embed(network, shown.part.pixels.read, rows, shown.device, advance)
    return EmbeddingMap(project(embedded, seed), shown.labels[sample], shown.predicted[sample])


def _layer_report(network: Network, shown: Evaluated) -> LayerReport | None:
    """Look at the layers' maps of the rightly classified image that the network is surest of, or of the first."""
    pixels = shown.part.pixels
    layers = default_layers(network, (pixels.shape[-2], pixels.shape[-1]))
    if not layers:
        return None
    i = int(np.where(shown.wrong, -1, shown.confidence).argmax())
    explained = activations(network, pixels.read([shown.rows[i]])[0].to(shown.device), layers, N_CHANNELS)
    return LayerReport(
        image=shown.picture(i),
        path=shown.part.images.paths[shown.rows[i]],
        true=shown.true(i),
        predicted=shown.classes[shown.predicted[i]],
        rows=explained.rows,
    )


def environment_of(folder: RunFolder, results: dict[str, Any]) -> dict[str, str]:
    environment = {name: str(value) for name, value in folder.read(folder.environment).items() if value is not None}
    return {**environment, "seed": str(results["seed"]), "steps": f"{results['steps']:,}"}


def _notes(results: dict[str, Any]) -> list[str]:
    if results["method"] == "supervised" or results.get("baseline"):
        return list(results["notes"])
    return [
        *results["notes"],
        "No supervised baseline was trained, so nothing is said about what the unlabeled images brought.",
    ]
