"""The cells of a table: what is run, on what, after which other cells; and the name that all this gives it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eke.config import fingerprint
from eke.engine.journal import RunFolder
from eke.errors import DataError
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised
from eke.progress import Progress
from eke.tasks.ask import ask
from eke.tasks.asked_strategy import read_strategy
from eke.tasks.assemble import images_per_step
from eke.tasks.fit import fit
from eke.tasks.grid_data import TableData, hash_file, mistaken, read_known, write_known
from eke.tasks.measure import metrics_of
from eke.tasks.options import FitOptions, PretrainOptions, resolve, resolve_pretrain
from eke.tasks.pretrain import pretrain
from eke.tasks.probe import probe


class Place(NamedTuple):
    """Where a cell runs, and what it finds there."""

    folder: Path
    """The cell's own."""
    data: TableData
    seed: int
    labels: tuple[str, ...]
    """Label files: the first labels, then the answers to each request, the oldest first."""
    start: Path | None
    """Run folder of the cell that this one starts from or looks at."""


class Work(Protocol):
    """What a cell does. A table may bring its own kinds: nothing here knows them all."""

    @property
    def kind(self) -> str:
        """One word for plans and hashes."""
        ...

    @property
    def uses_labels(self) -> bool:
        """Whether its outcome depends on the first labels."""
        ...

    def determines(self, data: TableData) -> Mapping[str, Any]:
        """Return plain values: everything in the work that determines its outcome."""
        ...

    def words(self, data: TableData) -> str:
        """Name the work in a plan; works of equal words take equally long."""
        ...

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        """Do it, or go on with it, and return its figures. What it leaves lies in `place.folder`."""
        ...


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work for one seed. Its identity is its content, so tables share what they have in common."""

    work: Work
    data: TableData
    seed: int
    start: "Cell | None" = None
    """The cell whose network this one starts from or looks at."""
    asked: "Cell | None" = None
    """The last request whose answers this one may use besides the first labels, those of earlier ones included."""

    @property
    def first_labels(self) -> tuple[Path, ...]:
        """The label files that it is given, the answers to a request left out."""
        return self.data.labels_of(self.seed) if self.work.uses_labels else ()

    @property
    def requests(self) -> tuple["Cell", ...]:
        """The requests whose answers it may use, the oldest first: its own, those of the run that asked, and so on."""
        if self.asked is None:
            return ()
        return (*(self.asked.start.requests if self.asked.start else ()), self.asked)

    @property
    def needs(self) -> tuple["Cell", ...]:
        """The cells that must be finished before."""
        return tuple(cell for cell in (self.start, self.asked) if cell is not None)

    @cached_property
    def identity(self) -> str:
        """Hash of the resolved options, the data, the labels, the seed, and the cells it needs."""
        return fingerprint(
            {
                "kind": self.work.kind,
                "work": self.work.determines(self.data),
                "data": self.data.identity,
                "labels": [hash_file(file) for file in self.first_labels],
                "seed": self.seed,
                "start": self.start and self.start.identity,
                "asked": self.asked and self.asked.identity,
            }
        )

    @property
    def words(self) -> str:
        """What a plan calls it, the seed left out."""
        return self.work.words(self.data)


def run_folder(folder: Path) -> Path:
    """Return the run inside a cell's folder."""
    return folder / "run"


def answers_file(folder: Path) -> Path:
    """Return the file of answers inside the folder of a request."""
    return folder / "answers.csv"


@dataclass(frozen=True)
class Train:
    """`eke fit` or, for a method that learns without labels, `eke pretrain`.

    Args:
        method: METHOD or METHOD/PRESET.
        flags: nested options; source, test, labels, seed, start and baseline are the grid's.
        images: instead of `steps` in `flags`: as many steps as put this number of images through the network.
    """

    method: str
    flags: Mapping[str, Any]
    images: int | None = None

    @property
    def kind(self) -> str:
        return "pretrain" if is_self_supervised(METHODS[self.method.partition("/")[0]]) else "fit"

    @property
    def uses_labels(self) -> bool:
        return self.kind == "fit"

    def options(
        self, data: TableData, seed: int = 0, labels: tuple[str, ...] = (), start: Path | None = None
    ) -> FitOptions | PretrainOptions:
        """Resolve the options of the run.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        place = {"source": data.source, "seed": seed, "init": start and str(start)}
        given = {**self.flags, **place} if self.images is None else {**self.flags, **place, "steps": 1}
        options: FitOptions | PretrainOptions
        if self.kind == "pretrain":
            options = resolve_pretrain(self.method, given)
        else:
            elsewhere = {"val_source": data.validation, "unlabeled_source": data.unlabeled}
            measured = {"test": data.test, "data": {**self.flags.get("data", {}), **elsewhere}}
            options = resolve(self.method, {**given, **measured, "labels": list(labels), "baseline": "none"})
        if self.images is None:
            return options
        return options.model_copy(update={"steps": max(1, self.images // images_per_step(options))})

    def determines(self, data: TableData) -> Mapping[str, Any]:
        elsewhere = {"source", "test", "labels", "init", "seed", "checkpoint", "evaluate"}
        options = self.options(replace(data, unlabeled=None))  # its path; the images are part of the data's identity
        values = {**options.model_dump(mode="json", exclude=elsewhere), **options.evaluate.determines()}
        left_out = {"val_source", "unlabeled_source", *(() if options.data.empty_classes else ("empty_classes",))}
        return {**values, "data": {name: value for name, value in values["data"].items() if name not in left_out}}

    def words(self, data: TableData) -> str:
        options = self.options(data)
        images = images_per_step(options) * (options.steps or 0)
        return f"{self.kind} {self.method} on {data.name}, {options.steps:,} steps, {images:,} images"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        options = self.options(place.data, place.seed, place.labels, place.start)
        folder = RunFolder(run_folder(place.folder))
        if isinstance(options, PretrainOptions):
            pretrain(options, folder.path, resume=True, progress=progress)
        else:
            fit(options, folder.path, resume=True, progress=progress)
        results = folder.read(folder.results)
        figures = {"steps": results["steps"], "images": results["images_through_network"]}
        figures["train_seconds"] = _train_seconds(folder)
        if "evaluations" in results:
            figures["labels"] = results["labels"]["total"]
            measured = results["evaluations"]["test"]
            names = metrics_of(measured)
            figures |= {name: measured[name]["value"] for name in names}
            figures |= {f"f1/{each['class']}": each["f1"] for each in measured["per_class"] if each["f1"] is not None}
            if "validation" in results["evaluations"]:
                figures["validation"] = results["evaluations"]["validation"][names[0]]["value"]
            figures |= overlaps_of(results["boxes"].get("test", {}))
        return figures


def overlaps_of(boxes: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean overlap of maps and boxes, of recognized and of all labeled pairs, the latter also of chance."""
    figures = {}
    for group, name in (("true_positives", "overlap"), ("labeled", "overlap_labeled")):
        if boxes and "map" in boxes[group]:
            figures[name] = boxes[group]["map"]["overlap"]["value"]
    if figures:
        figures |= {f"overlap_{who}": boxes["labeled"][who]["overlap"]["value"] for who in ("center", "random")}
    return figures


def _train_seconds(folder: RunFolder) -> float:
    """Add the seconds of the logged windows: evaluating, saving and what came between a kill and its resume are out."""
    seconds, done = 0.0, 0
    for line in folder.lines():
        if "steps_per_second" in line:
            seconds += (line["step"] - done) / line["steps_per_second"]
            done = line["step"]
    return seconds


@dataclass(frozen=True)
class Probe:
    """`eke probe`: linear and kNN accuracy of the embeddings of the run that the cell starts from."""

    kind: str = "probe"
    uses_labels: bool = True

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {}

    def words(self, data: TableData) -> str:
        return f"probe on {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        assert place.start is not None
        options = resolve(
            "supervised",
            {
                "source": place.data.source,
                "test": place.data.test,
                "labels": list(place.labels),
                "init": str(place.start),
                "seed": place.seed,
                "data": {"val_rate": 0.0},
            },
        )
        out = place.folder / "probe"
        shutil.rmtree(out, ignore_errors=True)  # left by a kill: a probe is quick and starts anew
        probes = probe(place.start, options, out, progress)["probes"]
        return {name: probes[name]["trained"]["accuracy"]["value"] for name in ("linear", "knn")}


@dataclass(frozen=True)
class Ask:
    """`eke ask`: the run that the cell starts from names images of the pool, and their labels are looked up.

    Without a truth to look them up in, a person fills in the label column, and the grid goes on when it is run again.

    Args:
        n: images to ask for, none of them as a control.
        strategy: as `read_strategy` reads it; one that may look at the true classes gets the truth, no other does.
        n_passes: passes with dropout, and steps of the path of attention.
        noise: share of the pool that is answered wrongly; see `mistaken`.
    """

    n: int
    strategy: str
    n_passes: int = 32
    noise: float = 0.0
    kind: str = "ask"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        values: dict[str, Any] = {"n": self.n, "strategy": self.strategy}
        if read_strategy(self.strategy).uses_passes:
            values["n_passes"] = self.n_passes
        return {**values, "noise": self.noise} if self.noise else values

    def words(self, data: TableData) -> str:
        return f"ask for {self.n:,} labels by {self.strategy} on {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        """Write request.csv and answers.csv.

        Raises:
            DataError: nobody has answered yet; the message says which file to fill in.
        """
        assert place.start is not None
        request, answers = place.folder / "request.csv", answers_file(place.folder)
        truth = place.data.truth
        attention = read_strategy(self.strategy).attention
        if not request.exists():
            ask(
                place.start,
                place.data.source,
                self.n,
                self.strategy,
                request,
                place.seed,
                progress,
                control_rate=0.0,
                n_passes=self.n_passes,
                sheet=False,
                truth=truth if attention and attention.oracle else None,
            )
        if truth is not None:
            asked = {row.path for row in read_known(request)}
            said = mistaken(read_known(truth), self.noise, place.seed)
            write_known(answers, [row for row in said if row.path in asked])
        if not answers.exists():
            raise DataError(
                f"The labels of {request} are not there yet. Fill in its column label, save it as {answers}, and run "
                "the same command again."
            )
        return {"labels": sum(bool(row.label) for row in read_known(answers))}
