"""Every command on images with one label, images with several, and clips: it works, or refuses in one sentence.

What refuses must be listed by the documentation.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from eke.methods import METHODS
from eke.methods.contract import is_self_supervised

sys.path.insert(0, str(Path(__file__).parent / "data"))
from clips import write_recordings

from .tasks.photographs import write_photographs

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
KINDS = ("one label", "several labels", "clips")
SHARED = ("--model", "small", "--set", "data.channels=3", "--set", "optim.lr=0.01")
FIT = (*SHARED, "--steps", "2", "--set", "batch.labeled=4", "--set", "batch.mu=1", "--set", "evaluate.every_steps=2")


class Kind(NamedTuple):
    """One kind of data, and a run that was trained on it."""

    source: Path
    flags: tuple[str, ...]
    run: Path
    column: str
    """Of labels, in the files that `eke ask` writes."""


class Said(NamedTuple):
    code: int
    out: str
    err: str


def eke(capsys: Any, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> Said:
    """Run the command line in this process."""
    from eke.cli import main

    monkeypatch.setattr(sys, "argv", ["eke", *map(str, words)])
    capsys.readouterr()
    try:
        main()
        code = 0
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return Said(code, *capsys.readouterr())


def write_folders(root: Path, seed: int = 0) -> Path:
    """Class folders of noise that is bright or dark."""
    for place, name in enumerate(("bright", "dark")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            generator = np.random.default_rng(seed + 100 * place + i)
            pixels = generator.integers(0, 120, (12, 12, 3)) + (130 if name == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every")


@pytest.fixture(scope="module")
def kinds(home: Path) -> Iterator[dict[str, Kind]]:
    """The three kinds of data, each with a supervised run."""
    from eke.tasks.fit import fit
    from eke.tasks.options import resolve

    patch = pytest.MonkeyPatch()
    patch.setenv("EKE_CACHE", str(home / "cache"))
    clip = ("--set", "clip.seconds=1", "--set", "clip.fps=4")
    sources = {
        "one label": (write_folders(home / "folders"), (), "label"),
        "several labels": (write_photographs(home / "photographs"), (), "labels"),
        "clips": (write_recordings(home / "recordings", n=8), clip, "label"),
    }
    found = {}
    for name, (source, flags, column) in sources.items():
        run = home / "runs" / name.replace(" ", "-")
        values = {
            "source": str(source),
            "steps": 3,
            "data": {"val_rate": 0.3, "channels": 3},
            "model": {"name": "small"},
            "batch": {"labeled": 4, "mu": 1},
            "evaluate": {"every_steps": 3},
        }
        assignments = [word for word in flags if word != "--set"]
        fit(resolve("supervised", values, assignments), run)
        found[name] = Kind(source, flags, run, column)
    yield found
    patch.undo()


Say = Callable[..., Said]


@pytest.fixture
def say(home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("EKE_CACHE", str(home / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(home)
    return lambda *words: eke(capsys, monkeypatch, *words)


def refused(said: Said, pattern: str, documented: str, page: str) -> None:
    """Check that a command refused in one sentence, which the documentation lists."""
    messages = [line for line in said.err.splitlines() if line.startswith("eke: ")]
    assert said.code != 0
    assert len(messages) == 1, said.err
    assert re.search(pattern, messages[0]), messages[0]
    assert "Traceback" not in said.err
    words = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    assert documented in words, f"docs/{page} must say {documented!r}"


def works(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out


@pytest.mark.parametrize("kind", KINDS)
def test_doctor(kinds: dict[str, Kind], say: Say, kind: str) -> None:
    each = kinds[kind]
    out = works(say("doctor", each.source, *each.flags))
    assert ("several" in out) == (kind == "several labels")
    assert ("clips of 4 frames" in out) == (kind == "clips")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if not is_self_supervised(method)))
def test_fit(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str, method: str) -> None:
    each = kinds[kind]
    more = ("--init", each.run) if method == "harmonize" else ()
    words = ("fit", each.source, "--method", method, *FIT, *each.flags, "--baseline", "none", *more)
    said = say(*words, "--out", tmp_path / "run", "--json")
    if kind == "several labels" and not getattr(METHODS[method], "several_labels", False):
        refused(said, f"{method} gives every image one class", "it gives each image one class", "several_labels.md")
        return
    figures = json.loads(works(said))["evaluations"]["validation"]
    assert ("mean_average_precision" in figures) == (kind == "several labels")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if is_self_supervised(method)))
def test_pretrain(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str, method: str) -> None:
    each = kinds[kind]
    narrow = {
        "barlow_twins": ("method.projector_width=16",),
        "vicreg": ("method.projector_width=16",),
        "simsiam": ("method.projector_width=16", "method.predictor_width=8"),
        "byol": ("method.hidden_width=16", "method.output_width=8"),
        "swav": ("method.n_prototypes=4", "method.hidden_width=16", "method.output_width=8", "method.queue_size=0"),
    }
    sets = [word for value in narrow.get(method, ()) for word in ("--set", value)]
    words = ("pretrain", each.source, "--method", method, *SHARED, "--steps", "2", "--set", "batch.size=4", *sets)
    said = say(*words, *each.flags, "--out", tmp_path / "run")
    if kind == "clips" and method == "autoencoder":
        refused(said, "autoencoder", "the method `autoencoder`", "data.md")
    else:
        works(said)


@pytest.mark.parametrize("kind", KINDS)
def test_probe(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str) -> None:
    each = kinds[kind]
    said = say("probe", each.run, each.source, "--set", "data.val_rate=0.3", "--out", tmp_path / "probe")
    if kind == "several labels":
        refused(said, "may have several", "a probe sorts images into classes", "several_labels.md")
    else:
        works(said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["finetune", "combined", "alternated"])
def test_harmonize(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str, strategy: str) -> None:
    each = kinds[kind]
    words = ("harmonize", each.run, "--strategy", strategy, "--steps", "2", "--set", "batch.labeled=2")
    assert "harmonize" in works(say(*words, "--out", tmp_path / "run"))


@pytest.mark.parametrize("kind", KINDS)
def test_eval(kinds: dict[str, Kind], say: Say, kind: str) -> None:
    each = kinds[kind]
    out = works(say("eval", each.run, each.source))
    assert ("overlap with boxes" in out) == (kind == "several labels")


@pytest.mark.parametrize("kind", KINDS)
def test_predict(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str) -> None:
    each = kinds[kind]
    works(say("predict", each.run, each.source, "--out", tmp_path / "out.csv"))
    header = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("id,path,labels," if kind == "several labels" else "id,path,class,")


@pytest.mark.parametrize("kind", KINDS)
def test_explain(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str) -> None:
    each = kinds[kind]
    works(say("explain", each.run, each.source, "--map", "gradcam", "--out", tmp_path / "maps", "--n", "2"))
    works(say("explain", each.run, each.source, "--map", "guided", "--out", tmp_path / "guided", "--n", "2"))
    assert (tmp_path / "maps" / "index.html").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_ask(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str) -> None:
    each = kinds[kind]
    new = {
        "one label": lambda: write_folders(tmp_path / "new" / "unlabeled", seed=1000),
        "several labels": lambda: write_photographs(tmp_path / "new", 6, 0, seed=9),
        "clips": lambda: write_recordings(tmp_path / "new", n=1, words=("jump", "sit")),
    }[kind]()
    works(say("ask", each.run, new if kind != "one label" else new.parent, "--n", "1", "--out", tmp_path / "ask.csv"))
    header = (tmp_path / "ask.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",")[-1] == each.column


@pytest.mark.parametrize("kind", KINDS)
def test_compare_report_and_export(kinds: dict[str, Kind], say: Say, tmp_path: Path, kind: str) -> None:
    each = kinds[kind]
    words = ("fit", each.source, "--method", "supervised", *FIT, "--set", "data.val_rate=0.3", *each.flags)
    works(say(*words, "--out", tmp_path / "other"))
    works(say("compare", each.run, tmp_path / "other", "--out", tmp_path / "compare.html"))
    works(say("report", tmp_path / "other"))
    for format_ in ("onnx", "torch"):
        works(say("export", each.run, "--format", format_, "--out", tmp_path / f"model-{format_}"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimator(kinds: dict[str, Kind], kind: str) -> None:
    """Arrays of one label only: what else there is has another shape, and is refused."""
    from eke.estimator import EkeClassifier

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    model = EkeClassifier(steps=2, model="small", batch_size=4, mu=1)
    if kind == "one label":
        assert model.fit(images, np.arange(12) % 2).predict(images).shape == (12,)
    elif kind == "several labels":
        with pytest.raises(ValueError, match="y should be a 1d array|1-dimensional|multilabel"):
            model.fit(images, np.eye(3, dtype=int)[np.arange(12) % 3])
        assert "`EkeClassifier`" in (DOCS / "several_labels.md").read_text(encoding="utf-8")
    else:
        with pytest.raises(ValueError, match=r"Images must be \(H, W\)"):
            model.fit(generator.integers(0, 256, (12, 4, 8, 8, 3), dtype=np.uint8), np.arange(12) % 2)
        assert "`EkeClassifier`" in (DOCS / "data.md").read_text(encoding="utf-8")
