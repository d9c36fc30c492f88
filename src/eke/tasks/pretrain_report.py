"""Gather what a pretraining run's page shows from its folder and its images, and write report.html."""

import json
from pathlib import Path
from typing import Any

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.processes import choose_device
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised
from eke.progress import Progress, silent
from eke.report.content import Figures, Problem
from eke.report.page import write_page
from eke.report.pretrain import PretrainReport, pretrain_page
from eke.tasks.measure import metrics_of
from eke.tasks.options import PretrainOptions
from eke.tasks.prepare import Material, prepare
from eke.tasks.probe import PROBES
from eke.tasks.report import curve_of, environment_of, interval, repeat_command, view_sheet, write_report

_NOT_LOSSES = {"step", "learning_rate", "steps_per_second", "images_per_second"}


def write_pretrain_report(run: Path, progress: Progress = silent, material: Material | None = None) -> Path:
    """Write `report.html` of a finished pretraining and return its path.

    Args:
        run: the run folder.
        progress: shows what takes long.
        material: the run's images, where they are at hand; else they are opened again from the run's options.

    Raises:
        CheckpointError: the run is not finished.
    """
    folder = RunFolder(run)
    results, lines = folder.read(folder.results), folder.lines()
    options = parse(PretrainOptions, folder.read(folder.config))
    material = material or prepare(options, choose_device(options.compute.device), progress)
    names, views = view_sheet(options, material)
    logged = [line for line in lines if "loss" in line]
    terms = [name for name in (logged[0] if logged else {}) if name not in _NOT_LOSSES]

    def looked(name: str) -> Any:
        return curve_of(name, lines, name, lambda line: name in line) if name in results["representation"] else None

    report = PretrainReport(
        title=f"{results['method']} on {options.source}",
        command=repeat_command("pretrain", options, run),
        method=results["method"],
        model=results["model"],
        n_images=results["n_unlabeled"],
        images=results["images_through_network"],
        losses=[curve_of(name, lines, name, lambda line: "loss" in line) for name in terms],
        embedding_std=looked("embedding_std"),
        effective_rank=looked("effective_rank"),
        knn_accuracy=looked("knn_accuracy"),
        **_probed(folder),
        view_names=names,
        views=views,
        environment=environment_of(folder, results),
        problems=[Problem(p["path"], f"{p['kind']}: {p['detail']}", p["remedy"]) for p in results["problems"]],
        notes=results["notes"],
    )
    write_page(folder.report, pretrain_page(report))
    return folder.report


def write_report_of(run: Path, progress: Progress = silent) -> Path:
    """Write the report of a finished run, fitted or pretrained, and return its path."""
    folder = RunFolder(run)
    pretrained = is_self_supervised(METHODS[folder.read(folder.results)["method"]])
    return (write_pretrain_report if pretrained else write_report)(run, progress)


def _probed(folder: RunFolder) -> dict[str, Any]:
    """Return the figures of `eke probe`, where it has been run with its own folder as --out."""
    file = folder.path / "probe" / "probe.json"
    if not file.exists():
        return {}
    probed = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for kind, figures in probed["probes"].items():
        for weights in ("trained", "untrained"):
            measured = {metric: interval(figures[weights][metric]) for metric in metrics_of(figures[weights])}
            rows.append(Figures(f"{PROBES[kind]}, {weights}", measured))
    return {"probes": rows, "measured": f"{probed['n']:,} {probed['part']} images"}
