"""Several strategies for one request: a share of the picks from each, such as nine parts BADGE and one at random."""

from collections.abc import Mapping
from fractions import Fraction

from eke.acquire.contract import Pick, Pool, Strategy
from eke.errors import ConfigError


def hybrid(shares: Mapping[str, float], strategies: Mapping[str, Strategy]) -> Strategy:
    """Return a strategy whose every prefix holds each part in proportion, as far as whole images allow.

    An image that two parts want counts for the one that is served first.

    Args:
        shares: name -> share of the picks, above 0; they need not sum to 1.
        strategies: those that are named.

    Raises:
        ConfigError: nothing is named, or a share is not above 0.
    """
    if not shares or min(shares.values()) <= 0:
        raise ConfigError(f"Shares of {dict(shares)} are not possible: give at least one, each above 0.")
    exact = {name: Fraction(share) for name, share in shares.items()}

    def choose(pool: Pool, k: int) -> list[Pick]:
        wanted = {name: iter(strategies[name].choose(pool, k)) for name in shares}
        served = dict.fromkeys(shares, 0)
        taken: set[int] = set()
        picks: list[Pick] = []
        while len(picks) < k:
            # every part ranks k images and less than k are taken, so each always has one more
            name = max(shares, key=lambda part: exact[part] * (len(picks) + 1) / sum(exact.values()) - served[part])
            pick = next(pick for pick in wanted[name] if pick.row not in taken)
            served[name] += 1
            taken.add(pick.row)
            picks.append(pick._replace(reason=f"{name}: {pick.reason}"))
        return picks

    needs = frozenset().union(*(strategies[name].needs for name in shares))
    sentence = " and ".join(f"{share:g} parts {name}" for name, share in shares.items())
    return Strategy(sentence, choose, needs, all(strategies[name].several for name in shares))
