"""What a strategy must know of the images to choose from, computed in shards by a run's network."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eke.acquire.contract import Candidates, Labeled
from eke.acquire.eba import Mistakes
from eke.acquire.passes import Passes
from eke.config import parse
from eke.data.cache import Pixels
from eke.data.images import ImageSet
from eke.engine.journal import RunFolder
from eke.engine.model_files import ModelCard
from eke.engine.predict import BLOCK, embed, predict_probs
from eke.errors import ConfigError
from eke.models.dropout import dropout_on
from eke.models.network import Network
from eke.progress import Progress
from eke.randomness import mixed_seed
from eke.tasks.descriptors import Form, describe, scale_layers
from eke.tasks.options import FitOptions
from eke.tasks.prepare import prepare
from eke.tasks.scoring import View, score


@dataclass(frozen=True)
class Pool:
    """Images that a run's network looks at."""

    run: Path
    network: Network
    """In evaluation mode, with a class head."""
    card: ModelCard
    images: ImageSet
    pixels: Pixels
    rows: Sequence[int]
    """Those that may be asked for."""
    progress: Progress
    apart: Collection[str] = ()
    """Ids of them that a strategy may not choose."""
    ensemble: Sequence[tuple[Path, Network]] = ()
    """Further runs that read the same pixels and know the same classes, and their networks."""

    @property
    def candidates(self) -> list[str]:
        """Ids of those that are left to choose from."""
        ids = (self.images.ids[row] for row in self.rows)
        return [name for name in ids if name not in self.apart]

    def score(self, view: View, run: Path | None = None) -> dict[str, Tensor]:
        """Compute or read a view of the candidates, by default of `self.run`."""
        return score(run or self.run, view, self.images.ids, self.rows, self.progress, self.apart)

    def probs(self, run: Path, network: Network) -> Tensor:
        """Return (N, K) probabilities of the candidates."""
        device = network.mean.device

        def compute(rows: Sequence[int], advance: Callable[[int], object]) -> Mapping[str, Tensor]:
            return {"probs": predict_probs(network, self.pixels.read, rows, device, advance)}

        return self.score(View("probs", {}, compute), run)["probs"]


@dataclass(frozen=True)
class Attention:
    """How explanation-based attention describes images."""

    form: Form
    scale: str | None
    n_steps: int
    oracle: bool
    """Whether the attention is that of the true classes, which only a simulation knows."""


def gather(pool: Pool, needs: frozenset[str], n_passes: int, seed: int, attention: Attention | None) -> Candidates:
    """Compute what a strategy needs of each candidate.

    Args:
        pool: the candidates.
        needs: of "probs", "features", "passes", "draws", "descriptors", "attention".
        n_passes: with dropout, for "passes" of a single run; in an ensemble each network is a pass.
        seed: of the dropout.
        attention: for descriptors and attention.

    Raises:
        ConfigError: passes are needed and the network has no dropout.
    """
    found: dict[str, Any] = {}
    if "probs" in needs:
        found["probs"] = pool.probs(pool.run, pool.network)
    if "features" in needs:
        found |= pool.score(
            View("features", {"dtype": "float16"}, lambda rows, advance: {"features": _features(pool, rows, advance)})
        )
    networks = ((pool.run, pool.network), *pool.ensemble)
    if "draws" in needs:
        found["draws"] = torch.stack([pool.probs(*each) for each in networks], 1)
    if "passes" in needs and pool.ensemble:
        found["passes"] = Passes(len(pool.candidates), len(pool.card.classes))
        for each in networks:
            found["passes"].add(pool.probs(*each))
    elif "passes" in needs:
        options = {"n_passes": n_passes, "seed": seed}
        values = pool.score(View("passes", options, lambda rows, advance: _passes(pool, rows, n_passes, seed, advance)))
        passes = Passes(0, len(pool.card.classes))
        passes.n_passes = n_passes
        passes.mean, passes.squares, passes.votes = values["mean"], values["squares"], values["votes"]
        passes.entropies = values["entropies"]
        found["passes"] = passes
    if attention is not None:
        found |= {name: value for name, value in _described(pool, attention).items() if name in needs}
    return Candidates(pool.candidates, several=pool.card.several, **found)


def _features(pool: Pool, rows: Sequence[int], advance: Callable[[int], object] = lambda n: None) -> Tensor:
    """Return embeddings in half precision: of half a million images they and their probabilities fit into 3 GB."""
    return embed(pool.network, pool.pixels.read, rows, pool.network.mean.device, advance).half()


def _passes(
    pool: Pool, rows: Sequence[int], n_passes: int, seed: int, advance: Callable[[int], object]
) -> Mapping[str, Tensor]:
    """Send a shard through the network several times with dropout on; what is drawn depends on seed, shard and pass."""
    network = pool.network
    passes = Passes(len(rows), len(pool.card.classes))
    shard = blake2b("\n".join(pool.images.ids[row] for row in rows).encode(), digest_size=8).hexdigest()
    with torch.random.fork_rng(), torch.no_grad(), dropout_on(network) as n_layers:
        if n_layers == 0:
            raise ConfigError(
                f"{pool.run} was trained without dropout, so that all passes are equal. Train with "
                "--set model.dropout=0.25, or choose a strategy that needs one pass, such as entropy."
            )
        for number in range(n_passes):
            torch.manual_seed(mixed_seed(seed, number, f"dropout/{shard}"))
            parts = [
                network.kind.probabilities(network(_floats(pool, rows[start : start + BLOCK])).logits).cpu()
                for start in range(0, len(rows), BLOCK)
            ]
            passes.add(torch.cat(parts))
    advance(len(rows))
    return {"mean": passes.mean, "squares": passes.squares, "votes": passes.votes, "entropies": passes.entropies}


def _floats(pool: Pool, rows: Sequence[int]) -> Tensor:
    return pool.pixels.read(list(rows)).to(pool.network.mean.device).float().div_(255)


def _described(pool: Pool, attention: Attention) -> dict[str, Tensor]:
    network = pool.network
    names = scale_layers(network, attention.scale, pool.card.size)
    options = {"layers": names, "form": attention.form, "n_steps": attention.n_steps, "oracle": attention.oracle}

    def compute(rows: Sequence[int], advance: Callable[[int], object]) -> Mapping[str, Tensor]:
        targets = torch.from_numpy(pool.images.labels[list(rows)]) if attention.oracle else None
        found = describe(
            network,
            pool.pixels.read,
            rows,
            names,
            attention.form,
            n_steps=attention.n_steps,
            targets=targets,
            advance=advance,
        )
        values = {"descriptors": found.descriptors}
        return values if found.attention is None else {**values, "attention": found.attention}

    return pool.score(View(f"eba-{attention.form}", options, compute))


class SeenMistakes(NamedTuple):
    """Validation images that a run's network gets wrong, to be resembled and to be shown."""

    mistakes: Mistakes
    places: Sequence[tuple[str, int]]
    """Path of each, and its row of the pixels."""
    pixels: Pixels | None
    """None where nothing is wrong."""


def mistakes_of(pool: Pool, attention: Attention) -> SeenMistakes:
    """Describe the run's validation images that its network gets wrong.

    An image with several labels is wrong where one of its classes is decided wrongly.
    """
    folder = RunFolder(pool.run)
    material = prepare(parse(FitOptions, folder.read(folder.config)), pool.network.mean.device, pool.progress)
    nothing = SeenMistakes(Mistakes((), (), torch.empty(0, 0)), (), None)
    if not material.validation:
        return nothing
    predictions = material.predict(pool.network, "validation", pool.card.thresholds, pool.progress)
    wrong = predictions.predicted != predictions.labels
    places = torch.from_numpy(wrong.any(1) if predictions.several else wrong).nonzero()[:, 0].tolist()
    part = material.part("validation")
    rows = [part.rows[place] for place in places]
    if not rows:
        return nothing
    names = scale_layers(pool.network, attention.scale, pool.card.size)
    targets = torch.from_numpy(part.images.labels[rows]) if attention.oracle else None
    found = describe(
        pool.network, part.pixels.read, rows, names, attention.form, n_steps=attention.n_steps, targets=targets
    )
    mistakes = Mistakes(
        [part.images.ids[row] for row in rows],
        [str(part.images.label_words(row)) for row in rows],
        found.descriptors,
        found.attention,
    )
    return SeenMistakes(mistakes, [(part.images.paths[row], row) for row in rows], part.pixels)


def labeled_features(pool: Pool, ids: Sequence[str]) -> Labeled:
    """Return the features of images that are labeled already, as far as they are in the pool's source."""
    place = {name: row for row, name in enumerate(pool.images.ids)}
    rows = [place[name] for name in ids if name in place]
    if not rows:
        return Labeled()
    features = _features(pool, rows)
    labels = None if pool.images.several else torch.from_numpy(pool.images.labels[rows])
    return Labeled([pool.images.ids[row] for row in rows], features, labels)
