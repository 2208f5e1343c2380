"""Checks of hyper-parameters: their types, choices and ranges."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from wnseq.training.hparams import check_arguments, defaults_by


@dataclass
class Sampling:
    number: int = 1


class Model:
    def __init__(
        self,
        norm: Literal["weight", "none"] = "weight",
        size: int = 1,
        rate: float = 1.0,
        tied: bool = True,
        path: str | None = None,
        depth: int | None = None,
        sampling: Sampling | None = None,
        other: Any = None,
    ) -> None: ...


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
        check_arguments(Model, {"rate": value}, rate=expected)
    for value in outside:
        with pytest.raises(ValueError, match=f"model.rate must be {expected}, got {value}"):
            check_arguments(Model, {"rate": value}, "model.", rate=expected)


def test_what_fits_passes() -> None:
    fitting = {"norm": "none", "size": np.int64(3), "rate": 2, "tied": False, "path": None, "depth": None}
    check_arguments(Model, {**fitting, "sampling": Sampling(), "other": "x", "unknown": 3}, depth="at least 1")
    check_arguments(Model, {"path": "a.ckpt", "depth": 1, "rate": np.float32(0.5)})
    check_arguments(Sampling, {"number": 2})


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("norm", "wieght", ValueError, "norm must be one of weight, none, got 'wieght'. Did you mean weight?"),
        ("norm", None, ValueError, "norm must be one of weight, none, got None"),
        ("size", 1.5, TypeError, "size must be an integer, got 1.5"),
        ("size", True, TypeError, "size must be an integer, got True"),
        ("size", "3", TypeError, "size must be an integer, got '3'"),
        ("rate", math.nan, ValueError, "rate must be finite, got nan"),
        ("rate", math.inf, ValueError, "rate must be finite, got inf"),
        ("rate", "fast", TypeError, "rate must be a number, got 'fast'"),
        ("tied", "no", TypeError, "tied must be true or false, got 'no'"),
        ("tied", 1, TypeError, "tied must be true or false, got 1"),
        ("path", 3, TypeError, "path must be a string, got 3"),
        ("depth", "deep", TypeError, "depth must be an integer, got 'deep'"),
        ("sampling", {}, TypeError, "sampling must be a Sampling, got {}"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as found:
        check_arguments(Model, {name: value})
    assert str(found.value) == text and found.type is error


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"^size must be an integer, got 'x'; rate must be at least 1, got 0$"):
        check_arguments(Model, {"size": "x", "rate": 0}, size="at least 1", rate="at least 1")


class Chosen:
    @defaults_by("kind", {"a": {"rate": 0.1, "momentum": 0.9}, "b": {"rate": 0.2, "decay": None}})
    def __init__(
        self,
        kind: str = "a",
        rate: float | None = None,
        momentum: float | None = None,
        decay: float | None = None,
    ) -> None:
        """The constructor."""
        self.found = kind, rate, momentum, decay


def test_a_choice_decides_the_defaults_of_what_is_left_out() -> None:
    assert Chosen().found == ("a", 0.1, 0.9, None)
    assert Chosen("b").found == Chosen(kind="b", momentum=None).found == ("b", 0.2, None, None)
    assert Chosen("b", 0.0, decay=3.0).found == ("b", 0.0, None, 3.0)
    assert Chosen("other", 1.0).found == ("other", 1.0, None, None)  # the constructor's to refuse
    assert Chosen.__init__.__doc__ == "The constructor."


def test_what_another_choice_has_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^momentum must be left out with the kind b, .* is an option of a, got 0\.0$"
    ):
        Chosen("b", momentum=0.0)
    with pytest.raises(ValueError, match=r"^decay must be left out with the kind a, .* is an option of b, got 1\.0$"):
        Chosen(decay=1.0)
