"""How faithful attention maps are: insertion and deletion curves of each, beside random maps of the same size.

The functions are those of `eke.explain.faithfulness` (Petsiuk et al. 2018); here they are measured for a run's maps of
several images and put on the page of `eke explain`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eke.explain.faithfulness import Curve, blurred, deletion, insertion
from eke.explain.places import random_maps
from eke.metrics.statistics import t_interval
from eke.models.network import Network
from eke.report.charts import Curve as Line
from eke.report.charts import learning_curves
from eke.report.page import Block, Section, Table, Text
from eke.tasks.attention_maps import as_input
from eke.tasks.measure import plain

MEASURES: Mapping[str, Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor], Curve]] = {
    "deletion": deletion,
    "insertion": insertion,
}
IN_WORDS = (
    "Deletion blurs the hottest places of each image first; insertion begins with a blurred image and puts them back "
    "first. The probability of the explained class should fall early in the one and rise early in the other, so that a "
    "faithful map has a small area under the first curve and a large one under the second. Both are judged beside "
    "random maps of the same size. A blurred place is not an absent one, and a network may answer to the blur."
)


class Faithfulness(NamedTuple):
    """Curves of maps and of random maps, on the same images."""

    curves: dict[str, dict[str, Curve]]
    """Measure -> name of a map, or of random maps -> curves of the images."""
    chance: dict[str, str]
    """Name of a map -> that of the random maps of its size."""

    def then(self, other: "Faithfulness") -> "Faithfulness":
        """Return the curves of both, of further images."""
        joined = {
            measure: {name: _joined(curve, other.curves[measure][name]) for name, curve in curves.items()}
            for measure, curves in self.curves.items()
        }
        return self._replace(curves=joined)

    def figures(self) -> dict[str, Any]:
        """Return of each map and measure the mean area, and less that of random maps, over images with t intervals."""
        areas = {
            measure: {name: curve.area.cpu().numpy() for name, curve in curves.items()}
            for measure, curves in self.curves.items()
        }
        return {
            name: {
                measure: {
                    "area": plain(t_interval(each[name])),
                    "less_random": plain(t_interval(each[name] - each[random])),
                }
                for measure, each in areas.items()
            }
            for name, random in self.chance.items()
        }


def _joined(a: Curve, b: Curve) -> Curve:
    return Curve(a.painted, torch.cat([a.probs, b.probs]), torch.cat([a.area, b.area]))


def faithfulness(
    network: Network, pixels: Tensor, classes: Sequence[int], maps: Mapping[str, Tensor], seed: int
) -> Faithfulness:
    """Measure maps of some images.

    Args:
        network: in evaluation mode, with a class head.
        pixels: (N, C, H, W) uint8.
        classes: N, what each image's maps explain.
        maps: name -> (N, h, w).
        seed: of the random maps.
    """
    images = as_input(pixels.to(network.mean.device))
    wanted, fill = torch.tensor(classes, device=images.device)[:, None], blurred(images)

    def model(x: Tensor) -> Tensor:
        return network.kind.probabilities(network(x).logits).gather(1, wanted)[:, 0]

    chance = {name: "random {}x{}".format(*each.shape[1:]) for name, each in maps.items()}
    random = {chance[name]: random_maps(len(each), (each.shape[1], each.shape[2]), seed) for name, each in maps.items()}
    measured = {
        measure: {name: curve(model, images, each, fill) for name, each in {**maps, **random}.items()}
        for measure, curve in MEASURES.items()
    }
    return Faithfulness(measured, chance)


def faithfulness_section(found: Faithfulness) -> Section:
    """Lay the curves out, and the areas with their intervals."""
    shown: list[Block] = [Text(IN_WORDS)]
    for measure, curves in found.curves.items():
        lines = [Line(n, (100 * c.painted).tolist(), c.probs.mean(0).tolist()) for n, c in curves.items()]
        title = f"{measure.capitalize()}: mean probability of the explained class"
        shown.append(learning_curves(title, lines, rate=True, x="% of the pixels"))
    figures = found.figures()
    rows = [
        [name, *(_words(each[measure][key]) for measure in MEASURES for key in ("area", "less_random"))]
        for name, each in figures.items()
    ]
    columns = ["Map", *(f"{measure.capitalize()}{less}" for measure in MEASURES for less in ("", ", less random"))]
    table = Table("Areas under the curves: means over images with 95 % t intervals", columns, rows)
    return Section("Faithfulness", [*shown, table])


def in_words(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each map: its areas, less those of random maps."""
    return [
        f"{name}: " + ", ".join(f"{measure} {_words(each[measure]['less_random'])}" for measure in MEASURES)
        for name, each in figures.items()
    ]


def _words(interval: Mapping[str, float]) -> str:
    return "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**interval)
