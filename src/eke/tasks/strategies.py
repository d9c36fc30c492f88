"""What `eke strategies` shows: it reads the same places as `eke ask` does."""

from typing import Any

from eke.acquire.strategies import STRATEGIES
from eke.tasks.asked_strategy import read_strategy
from eke.tasks.descriptors import SCALES

NEEDS = {
    "probs": "class probabilities",
    "features": "embeddings",
    "passes": "passes with dropout, or several networks (--ensemble)",
    "draws": "several networks (--ensemble)",
}
"""What a strategy needs of the images, in words."""
FORMS = {
    "none": "by their features alone",
    "grad": "by features and the gradient of the loss at the image (saliency)",
    "ig": "by features and that gradient over the path from the mean color to the image",
    "random": "by features and that gradient over images of which random pixels are kept",
}
"""The forms of explanation-based attention."""


def describe(name: str | None) -> list[dict[str, Any]]:
    """Describe one strategy, or all of them: what it chooses and what it needs.

    Raises:
        ConfigError: there is no such strategy, or `eke ask` cannot use it.
    """
    if name is not None:
        asked = read_strategy(name, ensemble=True)
        needs = ["features"] if asked.attention else [*STRATEGIES[asked.name].needs]
        return [{"name": name, "sentence": asked.sentence, "needs": sorted(NEEDS[each] for each in needs)}]
    listed = [
        {"name": each, "sentence": strategy.sentence, "needs": sorted(NEEDS[need] for need in strategy.needs)}
        for each, strategy in STRATEGIES.items()
    ]
    listed += [
        {
            "name": f"eba:{form}",
            "sentence": f"images like the run's validation mistakes, {how}",
            "needs": ["embeddings"],
        }
        for form, how in FORMS.items()
    ]
    return listed


def render(described: list[dict[str, Any]]) -> str:
    """Lay descriptions out as text."""
    width = max(len(each["name"]) for each in described)
    lines = [f"{each['name']:<{width}}  {each['sentence']}" for each in described]
    if len(described) == 1:
        needs = described[0]["needs"]
        return "\n".join([*lines, f"{'':<{width}}  needs {', '.join(needs) if needs else 'nothing'}"])
    scales = ", ".join(f"@{name}" for name in SCALES)
    return "\n".join(
        [
            *lines,
            "",
            "auto chooses by the number of labels, and says why. eba:FORM compares embeddings, or what is named behind",
            f"it: @layer,layer (embedding and logits count as layers) or {scales}, the paper's, for lenet and cnn8.",
        ]
    )
