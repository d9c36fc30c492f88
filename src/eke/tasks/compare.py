"""`eke compare`: runs side by side, their baselines with them, and every difference measured on the same images."""

import shlex
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError
from eke.metrics.statistics import holm
from eke.progress import Progress, silent
from eke.report.compare import compare_page
from eke.report.content import METRICS, CompareReport, Comparison
from eke.report.page import write_page
from eke.tasks.baseline import baseline_options, train_baseline_of
from eke.tasks.measure import difference, metrics_of
from eke.tasks.options import FitOptions
from eke.tasks.prepare import prepare
from eke.tasks.report import curves_of, figures_of, paired


def compare(runs: list[Path], out: Path, *, equal_images: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Compare finished runs that were measured on the same images, each with each and with its own baselines.

    Args:
        runs: run folders.
        out: HTML page to write.
        equal_images: also train (once; it is kept) a supervised baseline that sees as many images as each run.
        progress: shows the training.

    Returns:
        rows (figures of each), differences (paired, of accuracy or mAP, p corrected by Holm's method), the page's path.

    Raises:
        ConfigError: fewer than two runs.
        DataError: they were measured on different images.
    """
    named = {str(run): RunFolder(run) for run in runs}
    pairs = list(combinations(named, 2))
    for run in map(str, runs):
        results = named[run].read(named[run].results)
        others: dict[str, RunFolder] = {}
        if results.get("baseline"):
            path = Path(results["baseline"]["run"])
            others[f"equal steps {path.name[-4:]}"] = RunFolder(path)
        if equal_images and results["method"] != "supervised":
            folder = equal_images_baseline(named[run], results, progress)
            others[f"equal images {folder.path.name[-4:]}"] = folder
        named |= others
        pairs += [(run, other) for other in others]
    if len(named) < 2:
        raise ConfigError("Comparing needs two runs at least. Name another run folder.")
    results_of = {name: folder.read(folder.results) for name, folder in named.items()}
    everywhere = all("test" in results["evaluations"] for results in results_of.values())
    split: Literal["test", "validation"] = "test" if everywhere else "validation"
    if any(split not in results["evaluations"] for results in results_of.values()):
        raise DataError("These runs have no common test or validation images, so there is nothing to compare.")
    predictions = {name: Predictions.load(folder.predictions(split)) for name, folder in named.items()}
    metrics = metrics_of(next(iter(results_of.values()))["evaluations"][split])
    comparisons = [
        Comparison(a, b, metrics[0], paired(difference(predictions[a], predictions[b])[metrics[0]])) for a, b in pairs
    ]
    report = CompareReport(
        title=f"{len(named)} runs compared",
        command=shlex.join(["eke", "compare", *map(str, runs), "--out", str(out), *["--equal-images"] * equal_images]),
        split=split,
        measured=f"{len(next(iter(predictions.values())).labels):,} {split} images, one seed each",
        rows=[figures_of(name, results, split, results["method"]) for name, results in results_of.items()],
        comparisons=comparisons,
        curves=curves_of({name: folder.lines() for name, folder in named.items()}),
    )
    write_page(out, compare_page(report))
    adjusted = holm([comparison.paired.p for comparison in comparisons])
    return {
        "page": str(out),
        "split": split,
        "metric": metrics[0],
        "rows": [
            {"run": name, **{k: r[k] for k in ("method", "labels", "steps", "images_through_network")}}
            | {metric: r["evaluations"][split][metric] for metric in metrics}
            for name, r in results_of.items()
        ],
        "differences": [
            {"run": c.name, "against": c.against, **c.paired.interval._asdict(), "p_holm": float(p)}
            for c, p in zip(comparisons, adjusted, strict=True)
        ],
    }


def equal_images_baseline(folder: RunFolder, results: dict[str, Any], progress: Progress) -> RunFolder:
    """Train or find the supervised run that puts as many images through the network as a run did."""
    options = parse(FitOptions, folder.read(folder.config))
    material = prepare(options, choose_device(options.compute.device), progress)
    steps = max(1, results["images_through_network"] // options.batch.labeled)
    chosen = baseline_options(options).model_copy(update={"steps": steps})
    return train_baseline_of(chosen, material, folder, progress)


def render(compared: dict[str, Any]) -> str:
    """Lay a comparison out as text."""
    width, metric = max(len(row["run"]) for row in compared["rows"]), METRICS[compared["metric"]].words
    lines = [f"{'run':<{width}}  {'labels':>6}  {'images seen':>12}  {compared['split']} {metric}"]
    for row in compared["rows"]:
        figure = "{value:.1f} [{low:.1f}, {high:.1f}] %".format(
            **{end: 100 * row[compared["metric"]][end] for end in ("value", "low", "high")}
        )
        images = f"{row['images_through_network']:,}"
        lines.append(f"{row['run']:<{width}}  {row['labels']['total']:>6}  {images:>12}  {figure}")
    lines += ["", f"Differences in {metric} (points), the same images, p corrected by Holm's method"]
    for each in compared["differences"]:
        value, low, high = (100 * each[end] for end in ("value", "low", "high"))
        unsure = low <= 0 <= high or each["p_holm"] > 0.05
        word = "cannot tell" if unsure else "better" if value > 0 else "worse"
        lines.append(f"  {value:+.1f} [{low:+.1f}, {high:+.1f}]  p = {each['p_holm']:.2g}  {word}")
        lines.append(f"      {each['run']}  against  {each['against']}")
    return "\n".join([*lines, "", f"page  {compared['page']}"])
