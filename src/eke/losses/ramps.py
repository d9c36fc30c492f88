"""Weights that grow with the training step."""


def linear_ramp(step: int, ramp_steps: float) -> float:
    """Rise from 0 at step 0 to 1 at `ramp_steps` and stay there; without ramp steps it is always 1."""
    return min(1.0, step / ramp_steps) if ramp_steps > 0 else 1.0
