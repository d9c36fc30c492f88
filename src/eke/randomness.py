"""Randomness as a pure function of (seed, step, stream): nothing to save, nothing to restore.

The tuple is mixed by a hash, because sums such as seed + step collide (seed 0, step 1 = seed 1, step 0).
"""

import hashlib

import torch


def mixed_seed(seed: int, step: int, stream: str) -> int:
    """Mix (seed, step, stream) into one 63-bit seed."""
    digest = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(seed: int, step: int, stream: str) -> torch.Generator:
    """Return a CPU generator that depends on nothing but its arguments.

    Args:
        seed: the run's seed.
        step: the training step, epoch or shard that draws.
        stream: what the numbers are for ("labeled", "u_strong", "dropout" ...): streams are independent.

    Example:
        >>> a = torch.rand(2, generator=rng(0, 7, "views"))
        >>> bool((a == torch.rand(2, generator=rng(0, 7, "views"))).all())
        True
    """
    return torch.Generator().manual_seed(mixed_seed(seed, step, stream))
