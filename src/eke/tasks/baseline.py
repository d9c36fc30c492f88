"""The supervised run that stands beside a method's: equal labels, labeled views, labeled batch, optimizer and steps."""

from contextlib import nullcontext
from pathlib import Path

from eke import collectives
from eke.config import fingerprint
from eke.engine.journal import RunFolder
from eke.files import locked
from eke.methods import METHODS
from eke.methods.terms import AttentionOptions
from eke.progress import Progress
from eke.tasks.options import EvaluateOptions, FitOptions
from eke.tasks.prepare import Material
from eke.tasks.train import train


def wants_baseline(options: FitOptions) -> bool:
    """Tell whether a supervised baseline is to be trained beside the method."""
    return options.baseline == "auto" and options.method["name"] != "supervised"


def baseline_options(options: FitOptions) -> FitOptions:
    """Return the supervised run with the same labels, labeled views, labeled batch, optimizer and steps."""
    supervised = METHODS["supervised"]
    labeled = {name: preset for name, preset in options.views.items() if name in supervised.views.labeled}
    last = (
        {"keep": "last", "patience": None, "start": False} if options.evaluate.keep == "attention" else {}
    )  # it has no maps
    return options.model_copy(
        update={
            "method": {"name": "supervised", **supervised.Config().model_dump(mode="json")},
            "attention": AttentionOptions(),
            "views": labeled,
            "batch": options.batch.model_copy(update={"mu": 1}),
            "evaluate": EvaluateOptions(**{**options.evaluate.model_dump(), **last}),
            "budget": None,
            "baseline": "none",
        }
    )


def train_baseline(options: FitOptions, material: Material, folder: RunFolder, progress: Progress) -> RunFolder | None:
    """Return the run to compare with: the one named, or a supervised one with equal steps, trained or found."""
    if options.baseline not in {"auto", "none"}:
        return RunFolder(Path(options.baseline))
    if not wants_baseline(options):
        return None
    return train_baseline_of(baseline_options(options), material, folder, progress)


def train_baseline_of(chosen: FitOptions, material: Material, folder: RunFolder, progress: Progress) -> RunFolder:
    """Train the supervised run `chosen` beside the run in `folder`, or find it there: its name is its options' hash."""
    elsewhere = {"source", "test", "labels", "data", "clip", "checkpoint", "evaluate"}
    determines = {
        **chosen.model_dump(mode="json", exclude=elsewhere),
        "card": material.pools.card.model_dump(mode="json"),  # how and what the images are, wherever they lie
        **chosen.evaluate.determines(),
        "split": [material.split.labeled, material.split.validation, material.split.test],
    }
    identity = fingerprint(determines)
    base = RunFolder(folder.path.parent / "baselines" / f"supervised-{identity}")
    alone = locked(base.path.with_suffix(".lock")) if collectives.rank() == 0 else nullcontext()
    with alone:  # another run may be training the same baseline just now
        if not collectives.from_first(base.results.exists):
            train(chosen, material, base, identity, resume=True, progress=progress)
    return base
