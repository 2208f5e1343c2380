"""Checks of hyper-parameters, in the words of their error messages."""

import operator
from collections.abc import Mapping
from typing import Any

__all__ = ["check_ranges"]

COMPARE = {
    "at least": operator.ge,
    "at most": operator.le,
    "greater than": operator.gt,
    "less than": operator.lt,
}


def check_ranges(values: Mapping[str, Any], prefix: str = "", /, **ranges: str) -> None:
    """Check that numbers are in their ranges; None passes.

    Args:
        values: Numbers by name, for example ``self.hparams``.
        prefix: What the error message writes before a name.
        ranges: For each name ``at least``, ``at most``, ``greater than`` or ``less than`` and a number; two of them
            are joined by ``and``.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> check_ranges({"dropout": 0.5, "width": 3}, dropout="at least 0 and less than 1", width="at least 1")
        >>> check_ranges({"dropout": 1.0}, "model.", dropout="at least 0 and less than 1")
        Traceback (most recent call last):
        ...
        ValueError: model.dropout must be at least 0 and less than 1, got 1.0
    """
    for name, expected in ranges.items():
        value = values[name]
        for bound in expected.split(" and "):
            words, _, limit = bound.rpartition(" ")
            if value is not None and not COMPARE[words](value, float(limit)):
                raise ValueError(f"{prefix}{name} must be {expected}, got {value}")
