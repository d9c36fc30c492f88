"""What README and docs say works: every Python block runs, every command parses, every link leads somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = {"", "sh", "bash", "console"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, languages: set[str]) -> list[str]:
    return [code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words after `eke` of each command in a page's shell blocks."""
    for block in blocks(page, SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["eke"]:
                yield words[1:]
            elif words[:1] == ["torchrun"]:
                yield words[words.index("eke") + 1 :]


def mentions(page: Path) -> set[tuple[str, ...]]:
    """Return the commands between backticks in the text, as the words after `eke`."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"`eke ([^`]+)`", text)
    return {tuple(re.sub(r"[\[\]]", " ", " ".join(each.split())).split()) for each in found}


WITH_PYTHON = [page for page in PAGES if blocks(page, {"python"})]
WITH_COMMANDS = [page for page in PAGES if any(True for _ in commands(page))]


def given_names(page: Path) -> dict[str, Any]:
    """Return what a page's blocks take as given, in words: a network, images, a module of the reader's own."""
    if page.name != "models.md":
        return {}
    import torch
    from torchvision.models import resnet18

    from eke.models.backbones import build_network
    from eke.models.network import ModelOptions

    grey = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    network = build_network(ModelOptions(name="resnet18"), n_classes=10, channels=3, size=(32, 32), seed=0, **grey)
    return {"network": network, "images": torch.rand(2, 3, 32, 32), "my_module": resnet18()}


def write_pets(folder: Path) -> None:
    """Write the folder `pets/` and the label file `mine.csv` that docs/data.md speaks of."""
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for place in range(2):
            pixels = np.random.default_rng([place, len(name), ord(name[0])]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / name / f"{place}.png")
    (folder / "mine.csv").write_text("path,label\ncat/0.png,dog\n")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_pets(tmp_path)
    names = given_names(page)
    for number, code in enumerate(blocks(page, {"python"}), 1):
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)


def test_there_are_blocks_and_commands_to_test() -> None:
    """Else the tests above and below would pass by finding nothing."""
    with_python = ["README.md", *(f"docs/{name}.md" for name in ("data", "explain", "models", "views"))]
    assert [name_of(page) for page in WITH_PYTHON] == with_python
    assert "README.md" in [name_of(page) for page in WITH_COMMANDS]
    assert {words[0] for words in commands(ROOT / "README.md")} == {
        *("doctor", "fit", "predict", "pretrain", "probe", "ask", "gain", "explain", "harmonize")
    }
    assert len(mentions(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_parse(page: Path) -> None:
    import typer.main

    from eke.cli import app
    from eke.tasks.options import resolve, resolve_pretrain

    group = typer.main.get_command(app)
    top = group.make_context("eke", [], resilient_parsing=True)
    for name, *words in commands(page):
        command = group.get_command(top, name)
        assert command is not None, f"no command {name!r}"
        given = command.make_context(name, words, parent=top).params
        if name in ("fit", "pretrain"):
            flags = {"source": given["data"], "budget": given["budget"], "model": {"name": given["model"]}}
            (resolve if name == "fit" else resolve_pretrain)(given["method"], flags, given["assignments"] or [])


@pytest.mark.parametrize("page", [page for page in PAGES if mentions(page)], ids=name_of)
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    import typer.main

    from eke.cli import app

    group = typer.main.get_command(app)
    top = group.make_context("eke", [], resilient_parsing=True)
    for name, *words in mentions(page):
        command = group.get_command(top, name)
        assert command is not None, f"no command {name!r}"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in words if word.startswith("--")} - known
        assert not unknown, f"eke {name} has no {', '.join(unknown)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_the_text_exist(page: Path) -> None:
    """Everything between backticks that looks like section.name, where the section is one of a run's options."""
    from eke.methods import METHODS
    from eke.tasks.options import FitOptions, PretrainOptions

    sections: dict[str, set[str]] = {}
    for options in (FitOptions, PretrainOptions):
        for name, field in options.model_fields.items():
            sections.setdefault(name, set()).update(getattr(field.annotation, "model_fields", ()))
    sections = {name: known for name, known in sections.items() if known}
    own = METHODS.get(page.stem)
    sections["method"] = (
        set(own.Config.model_fields) if own else {n for m in METHODS.values() for n in m.Config.model_fields}
    )
    text = page.read_text(encoding="utf-8")
    for section, name in re.findall(r"(?:`|--set )([a-z]+)\.([a-z_]+)\b(?=[`= ])", text):
        assert section not in sections or name in sections[section], f"there is no option {section}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path) if path else page
            assert linked.exists(), f"{target} does not exist"
            if anchor:
                assert anchor in anchors(linked), f"{target} has no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_that_the_text_names_exist() -> None:
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for path in re.findall(r"`((?:src|tests|docs|scripts|benchmarks|examples|\.ci)/[\w./-]+)`", text):
            assert (ROOT / path).exists() or "NAME" in path, f"{name_of(page)} names {path}, which does not exist"
        for block in blocks(page, SHELL):
            for path in re.findall(r"^(scripts/\w+|\.ci/\w+)", block, re.MULTILINE):
                assert (ROOT / path).exists(), f"{name_of(page)} calls {path}, which does not exist"
