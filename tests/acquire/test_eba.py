import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eke.acquire import eba as module
from eke.acquire.contract import Candidates, Labeled, Pick
from eke.acquire.descriptors import quantize
from eke.acquire.eba import Mistakes, eba
from eke.acquire.sampling import seeded_order
from eke.errors import ConfigError, DataError

from .conftest import N, ids_of, random_features

L = 5
MODES = ["round_robin", "sum", "max"]


@pytest.fixture(autouse=True)
def blocks_that_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_MISTAKES", 16)
    monkeypatch.setattr(module, "BLOCK_POOL", 30)


def mistakes_of(m: int, attention: bool = True) -> Mistakes:
    names = [f"c{row % 3}" for row in range(m)]
    given = random_features(m, L, seed=11) if attention else None
    return Mistakes(ids_of(m, "mistake"), names, random_features(m, L, seed=10).abs(), given)


def pool_of(n: int = N) -> Candidates:
    return Candidates(
        ids_of(n), descriptors=random_features(n, L, seed=12).abs(), attention=random_features(n, L, seed=13)
    )


def dense(mistakes: Mistakes, pool: Candidates) -> Tensor:
    """R, whole."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).T

    assert pool.descriptors is not None
    R = cosine(mistakes.descriptors, pool.descriptors)
    if mistakes.attention is not None:
        assert pool.attention is not None
        R = R * cosine(mistakes.attention, pool.attention)
    return R


def slow_round_robin(mistakes: Mistakes, pool: Candidates, k: int, seed: int) -> list[int]:
    R = dense(mistakes, pool)
    m = len(mistakes.ids)
    if m > k:
        own = dense(mistakes, Candidates(mistakes.ids, descriptors=mistakes.descriptors, attention=mistakes.attention))
        centers = [int(seeded_order(mistakes.ids, seed)[0])]
        while len(centers) < k:
            centers.append(min((r for r in range(m) if r not in centers), key=lambda r: float(own[r, centers].max())))
        R = R[centers]
    ranked = [sorted(range(len(pool)), key=lambda n: -float(row[n])) for row in R]
    chosen: list[int] = []
    for rank in range(len(pool)):
        for row in sorted(range(len(R)), key=lambda r: -float(R[r, ranked[r][rank]])):
            if ranked[row][rank] not in chosen:
                chosen.append(ranked[row][rank])
    return chosen[:k]


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("m", "k"), [(37, 10), (37, 50), (5, N), (1, 3), (40, 40)])
def test_round_robin_is_the_slow_walk_over_the_whole_matrix(m: int, k: int, attention: bool) -> None:
    mistakes, pool = mistakes_of(m, attention), pool_of()
    picks = eba(mistakes).select(pool, Labeled(), k, 0)
    assert [pick.row for pick in picks] == slow_round_robin(mistakes, pool, k, 0)
    best = dense(mistakes, pool).amax(0)
    torch.testing.assert_close(
        torch.tensor([pick.score for pick in picks]), best[[pick.row for pick in picks]].float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("how", ["sum", "max"])
def test_sum_and_maximum_are_those_of_the_whole_matrix(how: str) -> None:
    mistakes, pool = mistakes_of(37), pool_of()
    R = dense(mistakes, pool)
    expected = R.sum(0) if how == "sum" else R.amax(0)
    picks = eba(mistakes, how).select(pool, Labeled(), 60, 0)  # type: ignore[arg-type]
    assert [pick.row for pick in picks] == expected.argsort(descending=True)[:60].tolist()
    assert picks[0].score == pytest.approx(float(expected.max()), rel=1e-4)


def test_lists_grow_until_enough_different_images_are_found() -> None:
    mistakes = mistakes_of(6)
    alike = Mistakes(
        mistakes.ids,
        mistakes.classes,
        mistakes.descriptors[:1] + 1e-3 * mistakes.descriptors,
        mistakes.attention[:1] + 1e-3 * mistakes.attention,  # type: ignore[index]
    )
    picks = eba(alike).select(pool_of(), Labeled(), 150, 0)
    assert [pick.row for pick in picks] == slow_round_robin(alike, pool_of(), 150, 0)


@pytest.mark.parametrize("how", MODES)
def test_without_mistakes_images_are_drawn_and_the_reason_says_so(how: str) -> None:
    picks = eba(mistakes_of(0), how).select(pool_of(), Labeled(), 9, 0)  # type: ignore[arg-type]
    assert len({pick.row for pick in picks}) == 9
    assert {pick.reason for pick in picks} == {"no validation mistakes: drawn at random"}
    others = eba(mistakes_of(0), how).select(pool_of(), Labeled(), 9, 1)  # type: ignore[arg-type]
    assert picks != others


def test_reasons_name_the_mistakes_that_a_pick_resembles() -> None:
    descriptors = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [1, 0, 0.1]])
    mistakes = Mistakes(ids_of(4, "m"), ["3", "3", "8", "3"], descriptors)
    pool = Candidates(ids_of(3), descriptors=torch.tensor([[1.0, 0, 0.05], [0, 1.0, 0.1], [-1, -1, 0]]))
    picks = eba(mistakes, "max").select(pool, Labeled(), 3, 0)
    reasons = {pick.row: pick.reason for pick in picks}
    assert reasons[0] == "like 3 validation mistakes of class 3"
    assert reasons[1] == "like 1 validation mistake of class 8"
    assert picks[2] == Pick(2, picks[2].score, "like no validation mistake")


@pytest.mark.parametrize("how", MODES)
def test_picks_depend_neither_on_the_order_of_the_pool_nor_of_the_mistakes(how: str) -> None:
    mistakes, pool = mistakes_of(37), pool_of()
    turned = Mistakes(
        mistakes.ids[::-1], mistakes.classes[::-1], mistakes.descriptors.flip(0), mistakes.attention.flip(0)  # type: ignore[union-attr]
    )  # fmt: skip
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    a = eba(mistakes, how).select(pool, Labeled(), 20, 0)  # type: ignore[arg-type]
    b = eba(turned, how).select(pool.rows(rows), Labeled(), 20, 0)  # type: ignore[arg-type]
    assert [pool.ids[pick.row] for pick in a] == [pool.rows(rows).ids[pick.row] for pick in b]
    assert [pick.reason for pick in a] == [pick.reason for pick in b]


def test_equal_images_are_chosen_by_seed_and_an_attention_of_0_resembles_nothing() -> None:
    pool = Candidates(ids_of(40), descriptors=torch.ones(40, L), attention=torch.ones(40, L))
    chosen = [{pick.row for pick in eba(mistakes_of(3)).select(pool, Labeled(), 5, seed)} for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    silent = Candidates(ids_of(40), descriptors=torch.ones(40, L), attention=torch.zeros(40, L))
    picks = eba(mistakes_of(3)).select(silent, Labeled(), 5, 0)
    assert {(pick.score, pick.reason) for pick in picks} == {(0.0, "like no validation mistake")}


def test_int8_codes_are_taken_as_they_are_and_choose_nearly_the_same() -> None:
    mistakes, pool = mistakes_of(20), pool_of()
    assert pool.descriptors is not None
    assert pool.attention is not None
    small = Candidates(pool.ids, descriptors=quantize(pool.descriptors)[0], attention=quantize(pool.attention)[0])
    full = {pick.row: pick.score for pick in eba(mistakes, "max").select(pool, Labeled(), 40, 0)}
    codes = {pick.row: pick.score for pick in eba(mistakes, "max").select(small, Labeled(), 40, 0)}
    assert len(set(full) & set(codes)) >= 38
    assert max(abs(full[row] - codes[row]) for row in set(full) & set(codes)) < 0.02


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="round_robin, sum, max"):
        eba(mistakes_of(3), "mean")  # type: ignore[arg-type]
    broken = mistakes_of(3)
    broken.descriptors[1, 2] = torch.inf
    with pytest.raises(DataError, match="Of image mistake-1, descriptors are not finite"):
        eba(broken)
    narrow = Candidates(ids_of(4), descriptors=torch.ones(4, 2), attention=torch.ones(4, L))
    with pytest.raises(DataError, match="have 5 numbers, those of candidates 2"):
        eba(mistakes_of(3)).select(narrow, Labeled(), 2, 0)
    bare = Candidates(ids_of(4), descriptors=torch.ones(4, L))
    with pytest.raises(DataError, match="attention of 4 images are needed"):
        eba(mistakes_of(3)).select(bare, Labeled(), 2, 0)
    assert len(eba(mistakes_of(3, attention=False)).select(bare, Labeled(), 2, 0)) == 2
