"""`eke fit`: train a method and its supervised baseline on the same labels, compare them, write the report."""

import time
from pathlib import Path
from typing import Any

import torch

from eke import collectives
from eke.config import fingerprint, parse
from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.engine.processes import choose_device, processes
from eke.errors import CheckpointError, ConfigError
from eke.files import write_json
from eke.progress import Progress, silent
from eke.report.content import METRICS
from eke.tasks.agreement_gain import measure_gain
from eke.tasks.baseline import train_baseline
from eke.tasks.budget import calibrate
from eke.tasks.localize import Located, box_lines, difference_of_boxes
from eke.tasks.measure import difference, metrics_of
from eke.tasks.options import FitOptions, Kind, RunOptions
from eke.tasks.prepare import Material, prepare
from eke.tasks.report import write_report
from eke.tasks.train import train

DEFAULT_BUDGET = "20m"
"""Where neither steps nor a budget are given."""
SHOWN_PROBLEMS = 3


def fit(
    options: FitOptions, out: Path | None = None, *, resume: bool = False, progress: Progress = silent
) -> dict[str, Any] | None:
    """Train, evaluate and report.

    Args:
        options: everything that determines the run; see `eke.tasks.options.resolve`.
        out: run folder; by default `runs/` with a name made from method, source and options.
        resume: go on with an interrupted run in that folder, exactly.
        progress: shows what takes long.

    Returns:
        The run's results with the paths written; None on processes other than the first.

    Raises:
        ConfigError: the folder holds a run already and `resume` is not given, or options cannot be carried out.
        CheckpointError: `resume` with other options than the run's.
        DataError: images or labels cannot be used.
        TrainingError: a loss was not finite.
    """
    device = choose_device(options.compute.device)
    torch.use_deterministic_algorithms(options.compute.deterministic)
    if options.baseline not in {"auto", "none"}:
        named = RunFolder(Path(options.baseline))
        named.read(named.results)  # refused now rather than after training
    if options.steps is None and options.budget is None:
        options = options.model_copy(update={"budget": DEFAULT_BUDGET})
    started = time.perf_counter()
    with processes(device):
        show = progress if collectives.rank() == 0 else silent
        folder = RunFolder(out or default_folder(options))
        options = collectives.from_first(lambda: claim(folder, options, resume))
        material = prepare(options, device, show)
        if options.steps is None:
            options = options.model_copy(update={"steps": calibrate(options, material, started, show)})
        identity = fingerprint(options.model_dump(mode="json"))
        train(options, material, folder, identity, resume=resume, progress=show)
        baseline = train_baseline(options, material, folder, show)
        if collectives.rank() != 0:
            return None
        results = conclude(options, folder, baseline, material)
        report = write_report(folder.path, show, material)
        return {**results, "run": str(folder.path), "report": str(report)}


def default_folder(options: RunOptions) -> Path:
    """Name a run folder after the method, the source and the options."""
    stem = Path(options.source).name.split(".")[0]
    return Path("runs") / f"{options.method['name']}-{stem}-{fingerprint(options.model_dump(mode='json'))[:6]}"


def claim(folder: RunFolder, options: Kind, resume: bool) -> Kind:
    """Take a run folder: a new one, or with `resume` the same run's. Nothing is ever deleted.

    Returns:
        The options; with `resume`, the number of steps that a time budget became comes from the folder.

    Raises:
        ConfigError: the folder holds something and `resume` is not given.
        CheckpointError: it holds a run with other options; the message names them.
    """
    if not folder.exists():
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise ConfigError(f"{folder.path} exists and is not a run of eke. Name another folder with --out.")
        return options
    if not resume:
        raise ConfigError(
            f"{folder.path} holds a run already. Add --resume to go on with it (a finished run is only reported "
            "again), or name another folder with --out."
        )
    values = folder.read(folder.config)
    if set(values) != set(type(options).model_fields):
        raise CheckpointError(f"{folder.path} holds a run of another kind or version. Name another folder with --out.")
    stored = parse(type(options), values)
    if options.steps is None and options.budget == stored.budget:
        options = options.model_copy(update={"steps": stored.steps})
    differing = _differences(options.model_dump(mode="json"), stored.model_dump(mode="json"))
    if differing:
        raise CheckpointError(
            f"{folder.path} was begun with other options: {'; '.join(differing)}. Resume with the same options, or "
            "name another folder with --out."
        )
    for unfinished in folder.path.glob(f".{folder.checkpoint.name}.*"):  # of a kill while saving
        unfinished.unlink()
    return options


def _differences(asked: dict[str, Any], stored: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for name in sorted({*asked, *stored}):
        a, b = asked.get(name), stored.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{where}{name}.")
        elif a != b:
            found.append(f"{where}{name} is {b!r} there, {a!r} here")
    return found


def conclude(options: FitOptions, folder: RunFolder, baseline: RunFolder | None, material: Material) -> dict[str, Any]:
    """Lay the baseline, or the run that was named in its place, beside the results, with the paired difference."""
    results: dict[str, Any] = folder.read(folder.results)
    if baseline is None:
        return results
    other = baseline.read(baseline.results)
    differences = {
        name: difference(Predictions.load(folder.predictions(name)), Predictions.load(baseline.predictions(name)))
        for name in material.evaluated()
        if baseline.predictions(name).exists()
    }
    kept = ("method", "model", "steps", "labels", "images_through_network", "evaluations", "boxes")
    named = options.baseline != "auto"
    results["baseline"] = {"run": str(baseline.path), "named": named, **{key: other[key] for key in kept}}
    results["difference"] = differences
    results["boxes_difference"] = {
        name: difference_of_boxes(Located.load(folder.boxes(name)), Located.load(baseline.boxes(name)))
        for name in results["boxes"]
        if baseline.boxes(name).exists()
    }
    results["agreement_by_image"] = measure_gain(options, folder, material)
    write_json(folder.results, results)
    return results


def render(results: dict[str, Any]) -> str:
    """Lay the results out as text: the label budget, a table with intervals, what can be said, and where it is."""
    labels = results["labels"]
    lines = [
        f"{labels['total']} labels = {labels['train']} train + {labels['validation']} validation; "
        f"{results['n_unlabeled']:,} images in the unlabeled pool; {results['steps']:,} steps of {results['model']}",
        "",
    ]
    shown = [name for name in ("test", "validation") if name in results["evaluations"]]
    for part in shown[:1]:
        lines += _table(results, part)
    if not shown:
        lines.append("Nothing was measured: there are neither test nor validation images. Name some with --test.")
    elif "test" not in shown:
        lines += ["", "No test images were named (--test SOURCE), so there are no test figures."]
    for part in shown[:1]:
        lines += box_lines(results, part)
    lines += [f"Note: {note}" for note in results["notes"]]
    problems = results["problems"]
    if problems:
        lines += ["", f"Set aside: {len(problems)} images or rows; results.json and the report name all of them."]
        lines += [f"  {p['path']}: {p['kind']}, {p['detail']}" for p in problems[:SHOWN_PROBLEMS]]
    return "\n".join([*lines, "", f"run     {results['run']}", f"report  {results['report']}"])


def _table(results: dict[str, Any], part: str) -> list[str]:
    rows = [(results["method"], results["evaluations"][part])]
    baseline = results.get("baseline")
    if baseline and part in baseline["evaluations"]:
        rows.append((f"{baseline['method']} (baseline)", baseline["evaluations"][part]))
    metrics = metrics_of(rows[0][1])
    width = max(24, *(len(name) + 1 for name, _ in rows))
    head = f"{part} ({rows[0][1]['n']:,} images)"
    lines = [head.ljust(width + 2) + "".join(f"{METRICS[each].words:<24}" for each in metrics)]
    for name, figures in rows:
        cells = "".join(f"{_cell(figures[metric]):<24}" for metric in metrics)
        lines.append(f"  {name:<{width}}{cells}")
    compared = results.get("difference", {}).get(part)
    if compared and baseline:
        cells = "".join(f"{_cell(compared[metric], '+'):<24}" for metric in metrics)
        lines.append(f"  {'difference':<{width}}{cells}")
        lines += ["", _verdict(results["method"], metrics[0], compared[metrics[0]], part, baseline)]
    return lines


def _cell(interval: dict[str, float], sign: str = "") -> str:
    value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}] %"


def _verdict(method: str, metric: str, compared: dict[str, Any], part: str, baseline: dict[str, Any]) -> str:
    named = baseline["named"]
    if not compared["decided"]:
        what = f"it is better than {baseline['run']}" if named else "the unlabeled images helped"
        return f"Cannot tell whether {what}: the interval of the difference contains 0."
    more, fewer = ("more", "fewer") if metric == "accuracy" else ("higher", "lower")
    change = more if compared["value"] > 0 else fewer
    other = baseline["run"] if named else "the supervised baseline with equal labels and steps"
    n_points, sure = f"{abs(100 * compared['value']):.1f} points", f"(p = {compared['p']:.2g}; one seed each)"
    if metric == "accuracy":
        return f"{method} gets {n_points} {change} of the {part} images right than {other} {sure}."
    return (
        f"The {METRICS[metric].words} of {method} on {part} images is {n_points} {change} than that of {other} {sure}."
    )
