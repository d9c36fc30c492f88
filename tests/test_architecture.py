"""The plan of the house: imports go down the floors only, and floors 1 and 2 have separate rooms."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "eke"
FLOORS = [
    {"version", "errors", "config", "files", "progress", "randomness", "collectives"},
    {"losses", "explain", "augment", "metrics", "acquire"},
    {"data", "models"},
    {"methods"},
    {"engine"},
    {"report"},
    {"tasks"},
    {"tables", "web", "api", "estimator", "cli", "__init__", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Return the full names of eke's modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.startswith("eke.")}


def violations(path: Path, room: str, imported: set[str]) -> list[str]:
    """Return the imports that go up, or sideways into another room of floors 1 and 2."""
    found = []
    for name in sorted(imported):
        other = name.split(".")[1]
        if other not in FLOOR:  # a name of the package's face, such as eke.__version__
            continue
        sideways = other != room and FLOOR[other] == FLOOR[room] and FLOOR[room] in {1, 2}
        if FLOOR[other] > FLOOR[room] or sideways:
            found.append(f"{path.relative_to(SOURCE)} imports {name}")
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_floors(path: Path) -> None:
    assert violations(path, room_of(path), imports(path)) == []


def test_every_file_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} <= set(FLOOR)


def test_an_upward_and_a_sideways_import_are_seen() -> None:
    path = SOURCE / "losses" / "classification.py"
    assert violations(path, "losses", {"eke.methods.fixmatch"})
    assert violations(path, "losses", {"eke.augment.presets"})
    assert not violations(path, "losses", {"eke.errors"})


def test_methods_do_not_import_each_other() -> None:
    methods = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "contract", "recipes", "terms"}
    for name in methods:
        others = {f"eke.methods.{other}" for other in methods - {name}}
        assert not imports(SOURCE / "methods" / f"{name}.py") & others, name
