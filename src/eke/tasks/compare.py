"""`eke compare`: runs and their baselines side by side, and every difference tested, on the same images or not."""

import shlex
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError, did_you_mean
from eke.metrics.multilabel import mean_average_precision_samples
from eke.metrics.statistics import Paired, compare_samples, holm
from eke.progress import Progress, silent
from eke.report.compare import compare_page
from eke.report.content import METRICS, CompareReport, Comparison, Pairing
from eke.report.page import write_page
from eke.report.words import star_in_words, survives
from eke.tasks.baseline import baseline_options, train_baseline_of
from eke.tasks.measure import ONE_LABEL, difference, metrics_of
from eke.tasks.options import FitOptions
from eke.tasks.prepare import prepare
from eke.tasks.report import curves_of, figures_of, paired


def compare(
    runs: list[Path], out: Path, *, test: str = "paired", equal_images: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Compare finished runs, each with each and with its own baselines.

    Args:
        runs: run folders.
        out: HTML page to write.
        test: "paired", on the same images, or "unpaired", which takes each run's images for draws of their own: less
            can be told, but the images may differ.
        equal_images: also train (once; it is kept) a supervised baseline that sees as many images as each run.
        progress: shows the training.

    Returns:
        rows (figures of each), differences (of accuracy or mAP, p, `p_holm` corrected by Holm's method over all of
        them, and whether the difference `survives` that) and the page's path.

    Raises:
        ConfigError: fewer than two runs, or `test` is unknown.
        DataError: they were measured on different images, and the test is paired.
    """
    if test not in get_args(Pairing):
        raise ConfigError(f"Unknown --test {test!r}. {did_you_mean(test, get_args(Pairing))}")
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
    measure = on_the_same_images if test == "paired" else on_images_of_their_own
    comparisons = [Comparison(a, b, metrics[0], measure(predictions[a], predictions[b], metrics[0])) for a, b in pairs]
    report = CompareReport(
        title=f"{len(named)} runs compared",
        command=shlex.join(
            ["eke", "compare", *map(str, runs), "--out", str(out)]
            + ["--test", "unpaired"] * (test == "unpaired")
            + ["--equal-images"] * equal_images
        ),
        split=split,
        measured=f"{_counted(predictions.values())} {split} images, one seed each",
        test="paired" if test == "paired" else "unpaired",
        rows=[figures_of(name, results, split, results["method"]) for name, results in results_of.items()],
        comparisons=comparisons,
        curves=curves_of({name: folder.lines() for name, folder in named.items()}),
    )
    write_page(out, compare_page(report))
    adjusted = holm([comparison.paired.p for comparison in comparisons])
    return {
        "page": str(out),
        "split": split,
        "test": test,
        "metric": metrics[0],
        "rows": [
            {"run": name, **{k: r[k] for k in ("method", "labels", "steps", "images_through_network")}}
            | {metric: r["evaluations"][split][metric] for metric in metrics}
            for name, r in results_of.items()
        ],
        "differences": [
            {
                "run": c.name,
                "against": c.against,
                **c.paired.interval._asdict(),
                "p": c.paired.p,
                "p_holm": float(p),
                "survives": survives(c.paired, float(p), 1 - report.level),
            }
            for c, p in zip(comparisons, adjusted, strict=True)
        ],
    }


def on_the_same_images(a: Predictions, b: Predictions, metric: str) -> Paired:
    """Return the difference in a metric, image by image.

    Raises:
        DataError: the images differ.
    """
    if sorted(a.ids.tolist()) != sorted(b.ids.tolist()):
        raise DataError(
            "These runs were measured on different images, so they cannot be compared image by image. Compare them "
            "with --test unpaired, or evaluate both on the same --test source."
        )
    return paired(difference(a, b)[metric])


def on_images_of_their_own(a: Predictions, b: Predictions, metric: str) -> Paired:
    """Return the difference in a metric, each run's images taken for draws of their own.

    Raises:
        DataError: the labels are of another kind, or of other classes.
    """
    if a.labels.shape[1:] != b.labels.shape[1:] or a.probs.shape[1:] != b.probs.shape[1:]:
        raise DataError("The two runs do not have the same classes, or labels of one kind, so nothing compares them.")
    if a.several:
        return compare_samples(*mean_average_precision_samples((a.probs, a.labels), (b.probs, b.labels)))
    return compare_samples(*(ONE_LABEL[metric](each)[0] for each in (a, b)))


def _counted(predictions: Iterable[Predictions]) -> str:
    """Print how many images there are: "100", or "100 to 250"."""
    counts = [len(each.labels) for each in predictions]
    return " to ".join(f"{n:,}" for n in dict.fromkeys((min(counts), max(counts))))


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
    where = "the same images" if compared["test"] == "paired" else "each run on images of its own"
    lines += ["", f"Differences in {metric} (points), {where}"]
    for each in compared["differences"]:
        value, low, high = (100 * each[end] for end in ("value", "low", "high"))
        word = "cannot tell" if not each["survives"] else "better *" if value > 0 else "worse *"
        lines.append(f"  {value:+.1f} [{low:+.1f}, {high:+.1f}]  p = {each['p_holm']:.2g}  {word}")
        lines.append(f"      {each['run']}  against  {each['against']}")
    lines += ["", star_in_words(len(compared["differences"]), 0.05)]
    return "\n".join([*lines, "", f"page  {compared['page']}"])
