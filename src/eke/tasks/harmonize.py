"""`eke harmonize`: fine-tune a trained run until two explanations of its decisions agree, and say what it bought."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from eke.config import from_assignments, merge, parse
from eke.engine.journal import RunFolder
from eke.errors import ConfigError, did_you_mean
from eke.progress import Progress, silent
from eke.tasks.fit import fit
from eke.tasks.options import FitOptions, PretrainOptions, resolve

Stop = Literal["agreement", "labels", "last"]
"""Which weights count: of the highest agreement on held-out images, of the best validation figure, or the last. The
weights before step 1 count where all later ones are worse."""

STOPS: Mapping[str, Mapping[str, Any]] = {
    "agreement": {"keep": "attention", "patience": 3, "start": True},
    "labels": {"keep": "labels", "patience": 3, "start": True},
    "last": {"keep": "last"},
}


def harmonize(
    run: Path,
    data: str | None = None,
    out: Path | None = None,
    *,
    stop: str = "labels",
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Fine-tune a run, on its own training images or on others, and compare it with what it was.

    Labels, split, images and network are the run's. The loss reads no label (finetune), and with `stop="agreement"` the
    choice of the weights that count does not either; figures on labeled images are given at the end.

    Args:
        run: a finished run of `eke fit`; it is not touched.
        data: unlabeled images from elsewhere, any source; None: the run's own.
        out: folder of the new run; by default as for `eke fit`.
        stop: one of STOPS.
        flags: nested options that win over the run's, such as {"steps": 200, "method": {"strategy": "combined"}}.
        assignments: `a.b=c` words.
        resume: go on with an interrupted run.
        progress: shows what takes long.

    Returns:
        As `eke.tasks.fit.fit`; the run is the baseline.

    Raises:
        ConfigError: the run has no class head, `stop` is unknown, or options cannot be carried out.
        CheckpointError: the run is not finished.
        DataError: images cannot be used.
    """
    return fit(harmonize_options(run, data, stop, flags or {}, assignments), out, resume=resume, progress=progress)


def harmonize_options(
    run: Path, data: str | None, stop: str, flags: Mapping[str, Any], assignments: Sequence[str]
) -> FitOptions:
    """Return the options of the fine-tuning; arguments and errors are those of `harmonize`."""
    if stop not in get_args(Stop):
        raise ConfigError(f"Unknown --stop {stop!r}. {did_you_mean(stop, get_args(Stop))}")
    folder = RunFolder(run)
    folder.read(folder.results)  # refused now, if it is not finished
    values = folder.read(folder.config)
    if set(values) == set(PretrainOptions.model_fields):
        raise ConfigError(f"{run} was trained without labels and decides nothing: fit it first, by --init {run}.")
    before = parse(FitOptions, values)
    kept = ("source", "test", "labels", "model", "data", "clip", "seed", "compute")
    its = before.model_dump(mode="json", include=set(kept))
    its["data"]["unlabeled_with_labeled"] = data is None
    its["data"]["unlabeled_source"] = data or its["data"]["unlabeled_source"]
    words = [f"evaluate.{name}={value}" for name, value in STOPS[stop].items()]
    asked = merge(merge(its, from_assignments([*words, *assignments])), dict(flags))  # later ones win over the run's
    return resolve("harmonize", {**asked, "init": str(run), "baseline": str(run)})
