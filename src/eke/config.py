"""Typed options: pydantic models <-> YAML or JSON files <-> `--set a.b=c`, with a did-you-mean for every name.

Each section of a run's options lives beside the code that uses it and derives from `Options`; the sentence
under a field is its help text everywhere: in `eke methods`, in errors and in the report.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from eke.errors import ConfigError, did_you_mean


class Options(BaseModel):
    """A frozen section of options: unknown names are refused, sentences under fields are their help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse(options: type[AnyOptions], values: Mapping[str, Any], where: str = "") -> AnyOptions:
    """Make `options` from plain values.

    Args:
        options: the section's class.
        values: nested plain values, as read from YAML or JSON.
        where: dotted path of the section, for messages ("method").

    Raises:
        ConfigError: a name is unknown or a value has the wrong type or range; the message names path and value.
    """
    try:
        return options.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(options, item, where) for item in error.errors())) from None


def _explain(options: type[Options], item: Any, where: str) -> str:
    names = [str(part) for part in item["loc"]]
    path = ".".join([where, *names] if where else names)
    if item["type"] == "extra_forbidden":
        section: Any = options
        for name in names[:-1]:
            section = section.model_fields[name].annotation
        return f"Unknown option {path!r}. {did_you_mean(names[-1], section.model_fields)}"
    return f"Option {path} = {item['input']!r}: {item['msg']}."


def read_file(path: Path) -> dict[str, Any]:
    """Read nested options from a YAML or JSON file (JSON is YAML)."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the options file {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The options file {path} is not valid YAML or JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"The options file {path} must hold sections (name: value), not {type(values).__name__}.")
    return values


def from_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `a.b=c` words into nested plain values; each value is read as YAML (so 3, 0.5, true, [1, 2], null).

    Example:
        >>> from_assignments(["batch.mu=4", "optim.lr=3e-2"])
        {'batch': {'mu': 4}, 'optim': {'lr': 0.03}}
    """
    nested: dict[str, Any] = {}
    for word in assignments:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {word!r} is not of the form section.name=value, for example batch.mu=4.")
        nested = merge(nested, _nest(path.split("."), _value(text)))
    return nested


def _value(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)  # YAML 1.1 reads 3e-2 as a word
    except ValueError:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _nest(names: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(names):
        value = {name: value}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested values `over` over `base`; sections are merged, everything else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that name a set of plain values, whatever the order of their names."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
