"""What holds for every strategy: one form, and nothing that depends on the order of files."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from eke.acquire.batch_bald import batch_bald
from eke.acquire.contract import Candidates, Labeled, Pick, Strategy
from eke.acquire.eba import Mistakes, eba
from eke.acquire.hybrid import hybrid
from eke.acquire.scores import entropy, margin, random_scores
from eke.acquire.strategies import STRATEGIES
from eke.errors import ConfigError, DataError

from .conftest import D, K, full_pool, generator, ids_of, passes_of, random_draws, random_features, some_labeled

MISTAKES = Mistakes(
    ids_of(9, "mistake"), ["0"] * 9, random_features(9, 5, seed=20).abs(), random_features(9, 5, seed=21)
)
ALL = {
    **STRATEGIES,
    "eba": eba(MISTAKES),
    "hybrid": hybrid({"badge": 0.9, "random": 0.1}, STRATEGIES),
}
N = 83
every = pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
TENSORS = ("probs", "features", "draws", "descriptors", "attention")


@pytest.fixture(autouse=True)
def few_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that BatchBALD takes less than seconds for all of a pool."""
    monkeypatch.setattr("eke.acquire.strategies.batch_bald", partial(batch_bald, max_states=64, n_samples=30))


def names(pool: Candidates, picks: list[Pick]) -> list[str]:
    return [pool.ids[pick.row] for pick in picks]


@every
@pytest.mark.parametrize("labeled", [Labeled(), some_labeled()], ids=["L=0", "L=7"])
@pytest.mark.parametrize("budget", [0, 1, 10, N, N + 50])
def test_as_many_different_images_as_asked_for_or_left(strategy: Strategy, labeled: Labeled, budget: int) -> None:
    pool = full_pool(N)
    picks = strategy.select(pool, labeled, budget, 0)
    assert len(picks) == len({pick.row for pick in picks}) == min(budget, N)
    assert all(0 <= pick.row < N and pick.score == pick.score and abs(pick.score) < 1e9 for pick in picks)
    assert all(pick.reason for pick in picks)


@every
def test_a_pool_of_one_and_of_none(strategy: Strategy) -> None:
    one = full_pool(N).rows(torch.tensor([4]))
    assert [pick.row for pick in strategy.select(one, some_labeled(), 3, 0)] == [0]
    assert strategy.select(one.rows(torch.tensor([], dtype=torch.int64)), some_labeled(), 3, 0) == []


@every
def test_labeled_and_excluded_images_are_never_picked_and_rows_are_those_of_the_pool(strategy: Strategy) -> None:
    pool = replace(full_pool(N), excluded={"image-5", "image-6", "elsewhere"})
    labeled = replace(some_labeled(), ids=[f"image-{row}" for row in (0, 3, 9, 11, 30, 50, 82)])
    picks = strategy.select(pool, labeled, N, 0)
    assert set(names(pool, picks)) == set(pool.ids) - set(labeled.ids) - {"image-5", "image-6"}
    spent = {*labeled.ids, *pool.excluded}
    bare = replace(pool, excluded=()).rows(torch.tensor([r for r in range(N) if pool.ids[r] not in spent]))
    few = strategy.select(pool, labeled, 20, 0)
    assert names(bare, strategy.select(bare, labeled, 20, 0)) == names(pool, few)


@every
def test_shuffled_rows_give_the_same_images_in_the_same_order(strategy: Strategy) -> None:
    pool, labeled = full_pool(N), some_labeled(60)
    rows = torch.randperm(N, generator=generator(8))
    turned = pool.rows(rows)
    backwards = Labeled(labeled.ids[::-1], labeled.features.flip(0), labeled.labels.flip(0))  # type: ignore[union-attr]
    a, b = strategy.select(pool, labeled, 30, 0), strategy.select(turned, backwards, 30, 0)
    assert names(pool, a) == names(turned, b)
    assert [pick.reason for pick in a] == [pick.reason for pick in b]


@every
def test_images_that_are_all_alike_are_chosen_by_seed_and_not_by_place(strategy: Strategy) -> None:
    alike = full_pool(N).rows(torch.zeros(N, dtype=torch.int64))
    alike = replace(alike, ids=ids_of(N))
    chosen = [names(alike, strategy.select(alike, Labeled(), 10, seed)) for seed in (0, 0, 1)]
    assert len(set(chosen[0])) == 10
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) != set(chosen[2])
    rows = torch.randperm(N, generator=generator(8))
    assert names(alike.rows(rows), strategy.select(alike.rows(rows), Labeled(), 10, 0)) == chosen[0]


@every
@pytest.mark.parametrize("kind", ["sure", "equal"])
def test_sure_and_equal_probabilities(strategy: Strategy, kind: str) -> None:
    probs = torch.eye(K)[torch.arange(N) % K] if kind == "sure" else torch.full((N, K), 1 / K)
    draws = probs[:, None].repeat(1, 5, 1)
    pool = replace(full_pool(N), probs=probs, draws=draws, passes=passes_of(draws))
    chosen = [names(pool, strategy.select(pool, Labeled(), 10, seed)) for seed in (0, 0, 1)]
    assert len(set(chosen[0])) == 10
    assert chosen[0] == chosen[1]
    if strategy.needs & {"probs", "passes", "draws"}:
        assert chosen[0] != chosen[2]
    assert len(strategy.select(pool, Labeled(), N, 0)) == N


@every
def test_inputs_are_not_changed(strategy: Strategy) -> None:
    pool, labeled = full_pool(N), some_labeled()
    copies = {name: getattr(pool, name).clone() for name in TENSORS}
    statistics = [getattr(pool.passes, name).clone() for name in ("mean", "squares", "votes", "entropies")]
    mine = labeled.features.clone()  # type: ignore[union-attr]
    strategy.select(pool, labeled, 30, 0)
    assert all(torch.equal(getattr(pool, name), copy) for name, copy in copies.items())
    assert all(
        torch.equal(getattr(pool.passes, name), copy)
        for name, copy in zip(("mean", "squares", "votes", "entropies"), statistics, strict=True)
    )
    assert torch.equal(labeled.features, mine)  # type: ignore[arg-type]


@every
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_name_the_image(strategy: Strategy, value: float) -> None:
    for name in strategy.needs - {"passes"}:
        pool = full_pool(N)
        getattr(pool, name)[17].view(-1)[2] = value
        with pytest.raises(DataError, match=f"Of image image-17, {name} are not finite"):
            strategy.select(pool, Labeled(), 5, 0)
    if "passes" in strategy.needs:
        draws = random_draws(N)
        draws[17, 3, 1] = value
        with pytest.raises(DataError, match=r"image-17, .* of stochastic passes are not finite"):
            strategy.select(replace(full_pool(N), passes=passes_of(draws)), Labeled(), 5, 0)


@every
def test_what_is_missing_or_of_another_shape_is_named(strategy: Strategy) -> None:
    for name in strategy.needs - {"passes"}:
        for wrong in (None, getattr(full_pool(N), name)[:-1], getattr(full_pool(N), name)[:, 0]):
            with pytest.raises(DataError, match=f"{name} of {N} images are needed"):
                strategy.select(replace(full_pool(N), **{name: wrong}), Labeled(), 5, 0)
        with pytest.raises(DataError, match=f"{name} are torch.int64"):
            strategy.select(replace(full_pool(N), **{name: getattr(full_pool(N), name).long()}), Labeled(), 5, 0)
    if "passes" in strategy.needs:
        with pytest.raises(DataError, match=f"passes over {N} candidates are needed, and there are none"):
            strategy.select(replace(full_pool(N), passes=None), Labeled(), 5, 0)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES.values() if s.needs & {"probs", "draws"}])
def test_logits_are_refused(strategy: Strategy) -> None:
    pool = full_pool(N)
    logits = {name: getattr(pool, name).log() for name in strategy.needs & {"probs", "draws"}}
    with pytest.raises(DataError, match=r"image-0 are not probabilities\. Are they logits"):
        strategy.select(replace(pool, **logits), Labeled(), 5, 0)


def test_an_image_given_twice_a_negative_budget_and_missing_features_of_labeled_images_are_refused() -> None:
    pool = full_pool(N)
    twice = replace(pool, ids=[*pool.ids[:-1], "image-3"])
    with pytest.raises(DataError, match="image-3 is in the pool twice"):
        STRATEGIES["random"].select(twice, Labeled(), 1, 0)
    with pytest.raises(ConfigError, match="-1 images"):
        STRATEGIES["random"].select(pool, Labeled(), -1, 0)
    for name in ("k_center", "typiclust", "prob_cover"):
        with pytest.raises(DataError, match=rf"7 labeled images need features of shape \(7, {D}\)"):
            STRATEGIES[name].select(pool, replace(some_labeled(), features=None), 1, 0)
    with pytest.raises(ConfigError, match="number of classes"):
        STRATEGIES["prob_cover"].select(replace(pool, probs=None), Labeled(), 1, 0)
    assert STRATEGIES["prob_cover"].select(replace(pool, probs=None), some_labeled(), 1, 0)


def test_scores_and_their_order_are_what_the_names_say() -> None:
    pool = full_pool(N)
    probs, passes = pool.probs, pool.passes
    assert probs is not None
    assert passes is not None
    oracle: dict[str, Tensor] = {
        "entropy": entropy(probs),
        "margin": margin(probs),
        "least_confidence": 1 - probs.amax(1),
        "random": random_scores(pool.ids, 3),
        "bald": passes.bald(),
        "entropy_mc": passes.predictive_entropy(),
        "mean_std": passes.mean_std(),
    }
    for name, scores in oracle.items():
        picks = STRATEGIES[name].select(pool, Labeled(), 25, 3)
        assert [pick.row for pick in picks] == scores.argsort(descending=True)[:25].tolist(), name
        assert [pick.score for pick in picks] == scores[[pick.row for pick in picks]].tolist()


def test_votes_are_ranked_by_the_entropy_of_the_mean_where_they_are_equal() -> None:
    pool = full_pool(N)
    assert pool.passes is not None
    keys = list(zip(pool.passes.varratio_mc().tolist(), pool.passes.predictive_entropy().tolist(), strict=True))
    picks = STRATEGIES["varratio_mc"].select(pool, Labeled(), N, 0)
    assert all(keys[a.row] >= keys[b.row] for a, b in pairwise(picks))


def test_strategies_for_several_labels_average_over_classes_and_others_refuse() -> None:
    probs = torch.rand(N, K, generator=generator(1))
    pool = Candidates(ids_of(N), probs=probs, several=True)
    expected = torch.stack([entropy(torch.stack([p, 1 - p], 1)) for p in probs.unbind(1)]).mean(0)
    picks = STRATEGIES["entropy"].select(pool, Labeled(), 10, 0)
    assert [pick.row for pick in picks] == expected.argsort(descending=True)[:10].tolist()
    with pytest.raises(ConfigError, match="one label per image"):
        STRATEGIES["balanced_margin"].select(pool, Labeled(), 10, 0)


def test_batch_bald_chooses_from_a_shortlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eke.acquire.strategies.SHORTLIST", 20)
    pool = full_pool(N)
    assert pool.draws is not None
    bald = passes_of(pool.draws).bald()
    picks = STRATEGIES["batch_bald"].select(pool, Labeled(), 8, 0)
    assert picks[0].row == int(bald.argmax())
    assert {pick.row for pick in picks} <= set(bald.argsort(descending=True)[:20].tolist())


def test_a_hybrid_serves_its_parts_in_proportion() -> None:
    pool = full_pool(N)
    picks = hybrid({"entropy": 3, "random": 1}, STRATEGIES).select(pool, Labeled(), 40, 0)
    for n in range(1, 41):
        n_random = sum(pick.reason.startswith("random: ") for pick in picks[:n])
        assert abs(n_random - n / 4) < 1
    for name in ("entropy", "random"):
        alone = [pick.row for pick in STRATEGIES[name].select(pool, Labeled(), N, 0)]
        places = [alone.index(pick.row) for pick in picks if pick.reason.startswith(name)]
        assert places == sorted(places), "each part in its own order"
    with pytest.raises(ConfigError, match="above 0"):
        hybrid({"entropy": 0}, STRATEGIES)
