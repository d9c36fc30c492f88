"""Make a few labels go far: train, look, ask, label, report."""

__version__ = "0.1.0"
