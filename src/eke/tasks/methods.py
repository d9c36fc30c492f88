"""What `eke methods` shows: it reads the same places as the code does."""

import sys
from typing import Any

from eke.config import Options
from eke.errors import ConfigError, did_you_mean
from eke.methods import METHODS
from eke.methods.contract import is_self_supervised, presets_of
from eke.tasks.options import FitOptions, PretrainOptions


def describe(name: str | None) -> list[dict[str, Any]]:
    """Describe one method, or all of them: paper, views, recipe and options with their sentences.

    Raises:
        ConfigError: there is no such method.
    """
    if name is not None and name not in METHODS:
        raise ConfigError(f"Unknown method {name!r}. {did_you_mean(name, METHODS)}")
    return [_describe(each) for each in ([name] if name else sorted(METHODS))]


def _describe(name: str) -> dict[str, Any]:
    method = METHODS[name]
    page = (sys.modules[method.__module__].__doc__ or "").strip()
    return {
        "name": name,
        "command": "pretrain" if is_self_supervised(method) else "fit",
        "summary": page.splitlines()[0],
        "page": page,
        "views": {"labeled": dict(method.views.labeled), "unlabeled": dict(method.views.unlabeled)},
        "recipe": dict(method.recipe),
        "presets": {preset: dict(values) for preset, values in presets_of(method).items()},
        "options": list_options(method.Config, "method."),
    }


def list_options(options: type[Options], prefix: str = "") -> list[dict[str, Any]]:
    """List the options of a section, and of the sections in it: path, default and sentence of each."""
    listed: list[dict[str, Any]] = []
    for name, info in options.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Options):
            listed += list_options(info.annotation, f"{prefix}{name}.")
        else:
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            listed.append({"path": prefix + name, "default": default, "help": info.description})
    return listed


def render(described: list[dict[str, Any]]) -> str:
    """Lay descriptions out as text: a list, or one whole."""
    if len(described) > 1:
        width = max(len(each["name"]) for each in described)
        lines = []
        for command, title in (("fit", "With a few labels: eke fit DATA --method NAME"), ("pretrain", _PRETRAIN)):
            lines += [title, *(_line(each, width) for each in described if each["command"] == command), ""]
        return "\n".join([*lines, "eke methods NAME shows a method's options and deviations from its paper."])
    (one,) = described
    lines = [one["page"], "", "Views"]
    lines += [f"  {kind}.{view} = {preset}" for kind, views in one["views"].items() for view, preset in views.items()]
    lines += ["", "Recipe (defaults of shared options)"]
    lines += [f"  {section}.{k} = {v}" for section, values in one["recipe"].items() for k, v in values.items()]
    for preset, laid in one["presets"].items():
        lines += ["", f"Preset --method {one['name']}/{preset}"]
        lines += [f"  {section}.{k} = {v}" for section, values in laid.items() for k, v in values.items()]
    lines += ["", "Options of the method (--set PATH=VALUE)", *map(_option, one["options"])]
    kind = PretrainOptions if one["command"] == "pretrain" else FitOptions
    shared = [option for option in list_options(kind) if "." in option["path"]]
    lines += ["", "Options of every method, before the recipe (--set PATH=VALUE)", *map(_option, shared)]
    return "\n".join(lines)


_PRETRAIN = "Without labels: eke pretrain DATA --method NAME, then eke fit DATA --init RUN"


def _line(one: dict[str, Any], width: int) -> str:
    presets = f" ({', '.join(one['presets'])})" if one["presets"] else ""
    return f"  {one['name']:<{width}}  {one['summary']}{presets}"


def _option(option: dict[str, Any]) -> str:
    sentence = " ".join((option["help"] or "").split())
    return f"  {option['path']} = {option['default']}\n      {sentence}"
