"""The sheet beside a question file: the images that are asked for, why, and of attention the mistakes beside them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eke.acquire.contract import Pick
from eke.acquire.eba import Sides, similarity
from eke.data.cache import Pixels
from eke.models.network import Network
from eke.report.page import Block, Gallery, Page, Picture, Section, Sheet, Text, write_page
from eke.report.pictures import Image, picture_of
from eke.tasks.asked_strategy import Asked
from eke.tasks.attention_maps import as_input, attention_maps, deepest_layer
from eke.tasks.candidates import Pool, SeenMistakes
from eke.tasks.choosing import Chosen
from eke.tasks.side_by_side import heat

N_SHOWN, N_COMPARED, N_MISTAKES = 60, 12, 3
"""Images that are shown; of attention, those that are laid beside mistakes, and mistakes beside each."""


def write_sheet_of_picks(
    path: Path, pool: Pool, asked: Asked, picks: Sequence[tuple[int, Pick]], chosen: Chosen
) -> Path:
    """Write the page and return its path.

    Args:
        path: of the page.
        pool: the candidates.
        asked: the strategy.
        picks: with rows of the source, the most wanted first.
        chosen: what they were chosen by.
    """
    images = pool.images
    gallery = [
        Picture(
            picture_of(pool.pixels.read([row])[0]),
            (str(rank), pick.reason, images.paths[row]),
            f"{images.paths[row]}: {pick.reason}",
        )
        for rank, (row, pick) in enumerate(picks[:N_SHOWN], 1)
    ]
    left = f"; {len(picks) - N_SHOWN:,} more are in the file" if len(picks) > N_SHOWN else ""
    sections = [Section("Asked for", [Gallery(f"The most wanted first{left}", gallery)])]
    if chosen.mistakes is not None:
        beside = [each for each in picks if images.ids[each[0]] not in chosen.controls][:N_COMPARED]
        sections.insert(0, Section("Beside the mistakes", _beside_mistakes(pool, chosen, chosen.mistakes, beside)))
    page = Page(
        title=f"Which images of {images.source} to label next",
        headline=[f"{len(picks):,} images: {asked.sentence}."],
        facts=[("Run", str(pool.run)), ("Strategy", asked.spelled), ("Of", f"{len(pool.rows):,} images")],
        sections=sections,
    )
    write_page(path, page)
    return path


def _beside_mistakes(pool: Pool, chosen: Chosen, seen: SeenMistakes, picks: Sequence[tuple[int, Pick]]) -> list[Block]:
    """Lay each pick beside the mistakes that it resembles most, with where the network looks in each."""
    mistakes, named = seen.mistakes, seen.places
    if seen.pixels is None or not picks:
        return [Text("The network gets no validation image wrong, so that there is nothing to resemble.")]
    ours, theirs = (Sides(each.descriptors, each.attention) for each in (mistakes, chosen.candidates))  # type: ignore[arg-type]
    R = similarity(ours.unit(slice(None)), theirs.unit(torch.tensor([pick.row for _, pick in picks])))
    layer = deepest_layer(pool.network, pool.card.size)
    picked = _looks(pool.network, pool.pixels, [row for row, _ in picks], layer)
    rows = []
    for place, (row, pick) in enumerate(picks):
        nearest = R[:, place].topk(min(N_MISTAKES, len(named))).indices.tolist()
        beside = _looks(pool.network, seen.pixels, [named[m][1] for m in nearest], layer)
        pictures = [
            Picture(picked[place], (pool.images.paths[row], pick.reason), f"asked for: {pool.images.paths[row]}")
        ]
        pictures += [
            Picture(
                image,
                (f"is {mistakes.classes[m]}", f"similar {float(R[m, place]):.2f}", named[m][0]),
                f"a mistake: {named[m][0]}",
            )
            for image, m in zip(beside, nearest, strict=True)
        ]
        rows.append((f"{place + 1}", pictures))
    columns = ("asked for", *(["validation mistake"] * min(N_MISTAKES, len(named))))
    words = (
        "Each row is an image that is asked for, and the validation mistakes that it resembles most. The heat is "
        f"Grad-CAM of {layer} for the predicted class: where the network looks when it decides."
    )
    far = chosen.discrepancies()
    if far is not None:
        words += (
            f" The picks' discrepancy (MMD²) from all mistakes is {far['picked']:.3g}; that of all candidates is "
            f"{far['pool']:.3g}."
        )
    return [Text(words), Sheet("Images that look like mistakes", columns, rows)]


def _looks(network: Network, pixels: Pixels, rows: Sequence[int], layer: str) -> list[Image]:
    """Return images with Grad-CAM of what they are taken for laid over them."""
    images: Tensor = pixels.read(list(rows)).to(network.mean.device)
    with torch.no_grad():
        classes = network(as_input(images)).logits.argmax(1)
    (maps,) = attention_maps(network, images, classes, ("gradcam",), (layer,)).values()
    return [heat(image, map_) for image, map_ in zip(images.cpu(), maps, strict=True)]
