"""What `eke methods` shows: it reads the same places as the code does."""

from typing import Any

from eke.errors import ConfigError, did_you_mean
from eke.methods import METHODS


def describe(name: str | None) -> list[dict[str, Any]]:
    """Describe one method, or all of them: paper, views, recipe and options with their sentences.

    Raises:
        ConfigError: there is no such method.
    """
    if name is not None and name not in METHODS:
        raise ConfigError(f"Unknown method {name!r}. {did_you_mean(name, METHODS)}")
    return [_describe(each) for each in ([name] if name else sorted(METHODS))]


def _describe(name: str) -> dict[str, Any]:
    import sys

    method = METHODS[name]
    page = (sys.modules[method.__module__].__doc__ or "").strip()
    options = [
        {"path": f"method.{field}", "default": info.default, "help": info.description}
        for field, info in method.Config.model_fields.items()
    ]
    return {
        "name": name,
        "summary": page.splitlines()[0],
        "page": page,
        "views": {"labeled": dict(method.views.labeled), "unlabeled": dict(method.views.unlabeled)},
        "recipe": dict(method.recipe),
        "options": options,
    }


def render(described: list[dict[str, Any]]) -> str:
    """Lay descriptions out as text: a list, or one whole."""
    if len(described) > 1:
        width = max(len(each["name"]) for each in described)
        lines = [f"  {each['name']:<{width}}  {each['summary']}" for each in described]
        return "\n".join([*lines, "", "eke methods NAME shows a method's options and deviations from its paper."])
    (one,) = described
    lines = [one["page"], "", "Views"]
    lines += [f"  {kind}.{view} = {preset}" for kind, views in one["views"].items() for view, preset in views.items()]
    lines += ["", "Recipe (defaults of shared options)"]
    lines += [f"  {section}.{k} = {v}" for section, values in one["recipe"].items() for k, v in values.items()]
    lines += ["", "Options (--set PATH=VALUE)"]
    lines += [f"  {option['path']} = {option['default']}  {option['help']}" for option in one["options"]]
    return "\n".join(lines)
