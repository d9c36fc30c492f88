import torch

from eke.randomness import mixed_seed, rng


def test_the_same_arguments_give_the_same_numbers() -> None:
    assert torch.equal(torch.rand(5, generator=rng(1, 2, "a")), torch.rand(5, generator=rng(1, 2, "a")))


def test_neighbors_do_not_collide() -> None:
    seeds = {mixed_seed(s, t, n) for s in range(20) for t in range(50) for n in ("x", "u", "1", "")}
    assert len(seeds) == 20 * 50 * 4
    assert mixed_seed(1, 0, "x") != mixed_seed(0, 1, "x")


def test_first_draws_of_neighboring_steps_are_uncorrelated() -> None:
    draws = torch.stack([torch.rand(1, generator=rng(0, step, "x")) for step in range(4000)]).squeeze(1)
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]) < 0.05


def test_the_global_state_is_untouched() -> None:
    before = torch.get_rng_state()
    rng(0, 0, "x")
    assert torch.equal(before, torch.get_rng_state())
