"""The version, in the one place from which the package, run folders and reports take it."""

__version__ = "0.1.0"
