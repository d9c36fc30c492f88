from pathlib import Path

import pytest
from pydantic import Field

from eke.config import Options, fingerprint, from_assignments, merge, parse, read_file
from eke.errors import ConfigError


class Inner(Options):
    rate: float = Field(0.5, gt=0, le=1)
    """A rate."""


class Outer(Options):
    inner: Inner = Inner()
    name: str = "x"
    """A name."""


def test_unknown_names_get_a_suggestion_with_their_path() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'inner.rat'. Did you mean 'rate'\?"):
        parse(Outer, {"inner": {"rat": 1}})
    with pytest.raises(ConfigError, match=r"Unknown option 'run.zzzz'. Known: inner, name."):
        parse(Outer, {"zzzz": 1}, where="run")


def test_values_out_of_range_are_named_with_path_and_value() -> None:
    with pytest.raises(ConfigError, match=r"Option inner.rate = 2: .*less than or equal to 1"):
        parse(Outer, {"inner": {"rate": 2}})
    with pytest.raises(ConfigError, match=r"Option inner.rate = nan"):
        parse(Outer, {"inner": {"rate": float("nan")}})


def test_whole_numbers_are_accepted_for_floats_and_fields_know_their_help() -> None:
    assert parse(Outer, {"inner": {"rate": 1}}).inner.rate == 1.0
    assert Outer.model_fields["name"].description == "A name."


def test_assignments_nest_and_read_values() -> None:
    words = ["a.b=3e-2", "a.c=null", "d=[1, 2]", "e=layer3", "f=true", "g=1e", "h=x=y"]
    expected = {"a": {"b": 0.03, "c": None}, "d": [1, 2], "e": "layer3", "f": True, "g": "1e", "h": "x=y"}
    assert from_assignments(words) == expected


@pytest.mark.parametrize("word", ["novalue", "=3", ""])
def test_a_word_without_name_or_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="section.name=value"):
        from_assignments([word])


def test_merge_lays_sections_over_each_other() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}) == {"a": {"x": 1, "y": 3}, "b": 1}


def test_files_are_read_and_their_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_text("batch:\n  mu: 4\n")
    assert read_file(path) == {"batch": {"mu": 4}}
    path.write_text('{"batch": {"mu": 4}}')
    assert read_file(path) == {"batch": {"mu": 4}}
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold sections"):
        read_file(path)
    path.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_file(path)
    with pytest.raises(ConfigError, match="Cannot read"):
        read_file(tmp_path / "missing.yaml")


def test_a_fingerprint_depends_on_values_and_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
