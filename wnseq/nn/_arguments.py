"""Checks of constructors' arguments, in torch's words where torch has any."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from wnseq.errors import ShapeError


def check_bool(label: str, name: str, value: Any, lenient: bool = False) -> bool:
    """Return True if a bool is; a lenient check takes 0, 1 and None as well, as most modules of torch do."""
    others = value is None or (isinstance(value, Integral) and value in (0, 1))
    if not isinstance(value, bool) and not (lenient and others):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__} in {label}")
    return bool(value)


def check_int(label: str, name: str, value: Any, accepted: type = Integral) -> int:
    """Return an int, numpy's as a plain one; True and False are none."""
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__} in {label}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def check_size(label: str, name: str, value: Any) -> int:
    """Return a length of an axis, which may be 0."""
    size = check_int(label, name, value)
    if size < 0:
        raise ShapeError(f"Trying to create tensor with negative dimension {size}: {name} of {label}")
    return size


def check_sizes(label: str, name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """Return one number for each axis, given as one for all or one for each."""
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    values = tuple(check_int(label, name, each) for each in values)
    values = values * axes if len(values) == 1 else values
    if len(values) != axes or min(values) < least:
        raise ShapeError(
            f"{name} of {label} must be one number or {axes}, each at least {least}, got {value}; torch says at a "
            f"forward that a {'non-positive' if least else 'negative'} {name} is not supported"
        )
    return values


def check_number(label: str, name: str, value: Any, least: float, most: float, phrase: str) -> float:
    """Return a number within a range; the phrase is torch's of one outside."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= float(value) <= most:
        raise ValueError(f"{phrase}, got {name}={value!r} in {label}")
    return float(value)


def check_rate(label: str, name: str, value: Any) -> float:
    """Return a probability of dropping, under which something is kept that can be scaled up."""
    phrase = f"{name} should be a number at least 0 and less than 1"
    if check_number(label, name, value, 0, 1, phrase) == 1:
        raise ValueError(f"{phrase}, got {name}={value!r} in {label}, which would leave nothing to scale up")
    return float(value)


def check_inside(label: str, name: str, value: Any, least: float, most: float, phrase: str) -> float:
    """Return a number within a range without its ends."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least < float(value) < most:
        raise ValueError(f"{label}: {name} must be {phrase}, got {value!r}")
    return float(value)
