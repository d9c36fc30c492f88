"""`eke gain`: what labels bought, what the next ones would buy, and when to stop, by images drawn at random."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eke.config import parse
from eke.data.dividing import order_of
from eke.data.images import ImageSet
from eke.data.labels import apply_labels
from eke.data.splits import Split, load_split
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.engine.predict import predict_probs
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError
from eke.metrics.gain import Round, fit_curve, paired_gain, pool_rounds
from eke.metrics.stopping import advise, kappa
from eke.progress import Progress, silent
from eke.report.charts import Curve, learning_curves
from eke.report.page import Page, Section, Table, Text, write_page
from eke.report.words import percent
from eke.tasks.measure import plain
from eke.tasks.options import FitOptions
from eke.tasks.prepare import open_pixels

N_COMPARED = 1000
"""Images on which two successive models are compared, whatever their labels."""


class _Looked(NamedTuple):
    """What one run says of the control images and of a sample."""

    run: Path
    n_labels: int
    correct: dict[str, bool]
    """Control image that the run did not train on -> whether it is right."""
    sample: np.ndarray
    """Predicted classes of the sample, (n,) int64."""

    @property
    def round(self) -> Round:
        return Round(str(self.run), self.n_labels, sum(self.correct.values()), len(self.correct))


def gain(
    runs: Sequence[Path],
    n_more: int = 100,
    threshold: float = 0.01,
    out: Path | None = None,
    progress: Progress = silent,
    random: Sequence[Path] = (),
) -> dict[str, Any]:
    """Measure runs of successive rounds on all control images that their label files hold.

    Args:
        runs: finished runs on one source, in any order; files of `eke ask` among their labels hold the control.
        n_more: labels that would be bought next.
        threshold: gain in accuracy that they would be worth: 0.01 is one point.
        out: page to write; None: none.
        progress: shows decoding and predicting.
        random: finished runs on the same source whose labels were drawn at random: what the others must beat.

    Returns:
        rounds (run, labels, accuracy with its interval, n), the forecast, the advice with its signs, and the page; of
        random runs their rounds, and the difference to each run with as many labels, paired over control images.

    Raises:
        ConfigError: a number is out of range, the runs have different sources or several labels per image.
        DataError: their label files hold no answered control image.
        CheckpointError: a run is not finished.
    """
    if n_more < 1 or not 0 <= threshold <= 1:
        raise ConfigError(f"--more {n_more} must be 1 or more, and --worth {threshold:g} a rate from 0 to 1.")
    options = [parse(FitOptions, RunFolder(run).read(RunFolder(run).config)) for run in [*runs, *random]]
    sources = {each.source for each in options}
    if len(sources) > 1:
        raise ConfigError(
            f"These runs have different sources ({', '.join(sorted(sources))}): name those of one campaign."
        )
    files = list(dict.fromkeys(Path(file) for each in options for file in each.labels))
    looked, drawn = (
        sorted((_look(run, options[0].source, files, progress) for run in each), key=lambda look: look.n_labels)
        for each in (runs, random)
    )
    rounds, by_chance = ([look.round for look in each] for each in (looked, drawn))
    if not any(each.n for each in rounds):
        raise DataError(
            "None of these runs has an answered control image. Ask with --control 0.1, fill in its rows too, and fit "
            "with --labels FILE."
        )
    agreements = [kappa(a.sample, b.sample) for a, b in pairwise(looked)]
    advice = advise(rounds, n_more, threshold, agreements)
    result = {
        "rounds": [_plain_round(each) for each in rounds],
        "random": [_plain_round(each) for each in by_chance],
        "over_random": [each for look in looked if (each := _over_random(look, drawn)) is not None],
        "agreements": agreements,
        "n_more": n_more,
        "threshold": threshold,
        "forecast": None if advice.forecast is None else plain(advice.forecast),
        "stop": advice.stop,
        "signs": [sign._asdict() for sign in advice.signs],
    }
    if out is not None:
        _write_page(out, result, rounds, by_chance)
        result["page"] = str(out)
    return result


def _plain_round(each: Round) -> dict[str, Any]:
    return {"run": each.model, "labels": each.n_labels, "n": each.n, "accuracy": plain(each.accuracy())}


def _over_random(look: _Looked, drawn: Sequence[_Looked]) -> dict[str, Any] | None:
    """Compare a run with the random one whose number of labels is nearest, where it is within a tenth."""
    if not drawn:
        return None
    other = min(drawn, key=lambda each: abs(each.n_labels - look.n_labels))
    both = sorted(look.correct.keys() & other.correct.keys())
    if abs(other.n_labels - look.n_labels) > 0.1 * look.n_labels or not both:
        return None
    ours, theirs = ([each.correct[name] for name in both] for each in (look, other))
    difference = plain(paired_gain(theirs, ours))
    return {"run": str(look.run), "random": str(other.run), "n": len(both), "difference": difference}


def _look(run: Path, source: str, files: Sequence[Path], progress: Progress) -> _Looked:
    """Predict the control images that a run did not train on, and a sample that is the same for every run."""
    network, card = load_classifier(RunFolder(run).model, choose_device("auto"))
    if card.several:
        raise ConfigError(f"{run} gives images several labels, and the gain is measured in images that are right.")
    images, cache, readable, _ = open_pixels(source, card, progress)
    images = apply_labels(images, files) if files else images
    split = load_split(RunFolder(run).split)
    control = _control_rows(images, readable, split)
    sample = _sample(images, readable)
    rows = [*control, *sample]
    with progress(f"predicting: {run.name}", len(rows)) as advance:
        probs = predict_probs(network, cache.resident(network.mean.device).read, rows, network.mean.device, advance)
    predicted = probs.argmax(1).numpy()
    correct = {
        images.ids[row]: card.classes[label] == images.label_words(row)
        for row, label in zip(control, predicted[: len(control)].tolist(), strict=True)
    }
    return _Looked(run, max(1, len(split.labeled)), correct, predicted[len(control) :])


def _control_rows(images: ImageSet, readable: Sequence[int], split: Split) -> list[int]:
    trained = set(split.labeled)
    asked = images.asked or ("",) * len(images)
    return [
        row for row in readable if asked[row] == "control" and images.labeled[row] and images.ids[row] not in trained
    ]


def _sample(images: ImageSet, readable: Sequence[int]) -> list[int]:
    ranks = order_of(images.ids, 0)
    return sorted(readable, key=lambda row: ranks[row])[:N_COMPARED]


def _write_page(out: Path, result: dict[str, Any], rounds: Sequence[Round], by_chance: Sequence[Round]) -> None:
    measured = pool_rounds(rounds)
    rows = [
        [each.model, f"{each.n_labels:,}", f"{each.n:,}", percent(each.accuracy().value), _ends(plain(each.accuracy()))]
        for each in measured
    ]
    labels = [each.n_labels for each in measured]
    curves = [Curve("control images", labels, [each.accuracy().value for each in measured])]
    if len(set(labels)) > 1:
        curve = fit_curve(rounds)
        further = np.linspace(labels[0], labels[-1] + result["n_more"], 30)
        curves.append(Curve("fitted curve", further.tolist(), [curve.at(n) for n in further]))
    if by_chance:
        curves.append(
            Curve("random labels", [r.n_labels for r in by_chance], [r.accuracy().value for r in by_chance if r.n])
        )
    beside = [
        [
            each["run"],
            each["random"],
            f"{each['n']:,}",
            f"{100 * each['difference']['value']:+.1f}",
            _ends(each["difference"]),
        ]
        for each in result["over_random"]
    ]
    page = Page(
        title="What the labels bought",
        headline=["Stop labeling." if result["stop"] else "Go on labeling.", *(s["sentence"] for s in result["signs"])],
        facts=[("Next labels", f"{result['n_more']:,}"), ("Worth", f"{100 * result['threshold']:g} points")],
        sections=[
            Section(
                "Accuracy on the control",
                [
                    Text("Control images were drawn at random, whatever the strategy, and trained none of these runs."),
                    learning_curves("Accuracy", curves, rate=True, x="number of labels"),
                    Table("Each run", ["Run", "Labels", "Control images", "Accuracy", "95 % interval"], rows),
                    *(
                        [
                            Table(
                                "Over random labels",
                                ["Run", "Random", "Control images", "Points", "95 % interval"],
                                beside,
                            )
                        ]
                        if beside
                        else []
                    ),
                ],
            )
        ],
    )
    write_page(out, page)


def render(result: dict[str, Any]) -> str:
    """Lay the result out as text."""
    lines = [f"{'labels':>8}  {'control':>8}  accuracy"]
    lines += [
        f"{each['labels']:>8,}  {each['n']:>8,}  {percent(each['accuracy']['value'] if each['n'] else float('nan'))} "
        f"[{_ends(each['accuracy'])}]  {each['run']}{' (random labels)' if each in result['random'] else ''}"
        for each in [*result["rounds"], *result["random"]]
    ]
    lines += [
        f"{each['run']}: {100 * each['difference']['value']:+.1f} points [{_ends(each['difference'])}] over random "
        f"labels ({each['random']}), on the same {each['n']:,} control images"
        for each in result["over_random"]
    ]
    if result["forecast"]:
        value, low, high = (100 * result["forecast"][end] for end in ("value", "low", "high"))
        lines += ["", f"{result['n_more']:,} more labels: {value:+.1f} points expected [{low:+.1f}, {high:+.1f}]"]
    lines += ["", "Stop labeling." if result["stop"] else "Go on labeling."]
    lines += [f"  {sign['sentence']}" for sign in result["signs"]]
    return "\n".join([*lines, *(["", f"page  {result['page']}"] if "page" in result else [])])


def _ends(interval: dict[str, Any]) -> str:
    return f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"
