"""Ranges of hyper-parameters."""

import pytest

from wnseq.training.hparams import check_ranges


@pytest.mark.parametrize(
    ("expected", "inside", "outside"),
    [
        ("at least 1", [1, 5], [0, -1, 0.5]),
        ("at most 1", [1, -5], [2, 1.5]),
        ("greater than 0", [1e-9, 3], [0, -1]),
        ("less than 2.5", [2.4], [2.5]),
        ("at least 0 and less than 1", [0, 0.99], [1, -0.1]),
    ],
)
def test_ranges(expected: str, inside: list[float], outside: list[float]) -> None:
    for value in inside:
        check_ranges({"x": value}, x=expected)
    for value in [*outside, float("nan")]:
        with pytest.raises(ValueError, match=f"model.x must be {expected}, got {value}"):
            check_ranges({"x": value}, "model.", x=expected)


def test_none_passes_and_what_is_not_named_is_not_checked() -> None:
    check_ranges({"x": None, "y": -1}, x="at least 1")
