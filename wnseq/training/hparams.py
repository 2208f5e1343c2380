"""Checks of hyper-parameters, in the words of their error messages, and defaults that one of them decides."""

import functools
import inspect
import math
import operator
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from wnseq.training.cli.errors import suggest

__all__ = ["check_arguments", "defaults_by"]

Constructor = TypeVar("Constructor", bound=Callable[..., None])

COMPARE = {
    "at least": operator.ge,
    "at most": operator.le,
    "greater than": operator.gt,
    "less than": operator.lt,
}
KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: ((str, os.PathLike), "a string"),
}


def check_arguments(of: type, values: Mapping[str, Any], prefix: str = "", /, **ranges: str) -> None:
    """Check arguments against the annotations of their constructor, and numbers against ranges; None passes a range.

    Checked are ``Literal``, ``bool``, ``int``, ``float`` (which must be finite), ``str``, dataclasses, and these or
    None. All problems are reported at once.

    Args:
        of: The class whose constructor, or whose fields in a dataclass, have the annotations.
        values: Arguments by name, for example ``self.hparams``.
        prefix: What the error message writes before a name.
        ranges: For each name ``at least``, ``at most``, ``greater than`` or ``less than`` and a number; two of them
            are joined by ``and``.

    Raises:
        TypeError: An argument is of another type.
        ValueError: It is none of the choices, not finite, or out of its range.

    Example:
        >>> class Model:
        ...     def __init__(self, norm: Literal["weight", "none"] = "weight", dropout: float = 0.5): ...
        >>> check_arguments(Model, {"norm": "none", "dropout": 0}, dropout="at least 0 and less than 1")
        >>> check_arguments(Model, {"norm": "batch", "dropout": 1}, dropout="less than 1")
        Traceback (most recent call last):
        ...
        ValueError: norm must be one of weight, none, got 'batch'; dropout must be less than 1, got 1
    """
    problems: list[tuple[type[Exception], str]] = []
    hints = get_type_hints(of if is_dataclass(of) else of.__init__)  # type: ignore[misc]
    for name, value in values.items():
        found = _mismatch(value, hints[name]) if name in hints else None
        if found is None and name in ranges:
            found = _out_of_range(value, ranges[name])
        if found is not None:
            problems.append((found[0], f"{prefix}{name} must be {found[1]}"))
    if problems:
        kinds, texts = zip(*problems, strict=True)
        raise (TypeError if set(kinds) == {TypeError} else ValueError)("; ".join(texts))


def defaults_by(option: str, defaults: Mapping[str, Mapping[str, Any]]) -> Callable[[Constructor], Constructor]:
    """Return a decorator of a constructor in which a choice decides the defaults of other arguments, which are None.

    An argument that another choice has and this one lacks would do nothing, and is refused.

    Args:
        option: Name of the argument that chooses.
        defaults: For each of its values the arguments that it has, and what they are where they are None.

    Example:
        >>> class Model:
        ...     @defaults_by("kind", {"sgd": {"momentum": 0.9}, "adam": {"beta": 0.999}})
        ...     def __init__(self, kind: str = "sgd", momentum: float | None = None, beta: float | None = None) -> None:
        ...         self.momentum, self.beta = momentum, beta
        >>> Model().momentum, Model("adam").beta
        (0.9, 0.999)
        >>> Model("adam", momentum=0.5)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: momentum must be left out with the kind adam, in which it would do nothing: ...
    """

    def decorate(init: Constructor) -> Constructor:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def filled(*args: Any, **kwargs: Any) -> None:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            chosen = bound.arguments[option]
            own = defaults.get(chosen, {})  # a wrong choice is the constructor's to refuse
            for owner, names in defaults.items():
                for name in names if chosen in defaults else ():
                    if name not in own and (value := bound.arguments[name]) is not None:
                        raise ValueError(
                            f"{name} must be left out with the {option} {chosen}, in which it would do nothing: it is "
                            f"an option of {owner}, got {value}"
                        )
            unset = {name: value for name, value in own.items() if bound.arguments[name] is None}
            bound.arguments.update(unset)
            init(*bound.args, **bound.kwargs)

        return cast("Constructor", filled)

    return decorate


def _mismatch(value: Any, hint: Any) -> tuple[type[Exception], str] | None:
    """Return what is wrong with a value: the kind of error, and what is expected; None if it is right."""
    if get_origin(hint) in (Union, types.UnionType):
        found = [_mismatch(value, each) for each in get_args(hint) if each is not type(None)]
        if value is None or None in found:
            return None
        return next((each for each in found if each and each[0] is ValueError), found[0])
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if isinstance(value, str) and value in choices:
            return None
        near = suggest(value, choices) if isinstance(value, str) else ""
        return ValueError, f"one of {', '.join(choices)}, got {value!r}{'.' if near else ''}{near}"
    if is_dataclass(hint):
        return None if isinstance(value, hint) else (TypeError, f"a {hint.__name__}, got {value!r}")  # type: ignore
    if hint not in KINDS:
        return None
    kind, words = KINDS[hint]
    if not isinstance(value, kind) or (isinstance(value, bool) and hint is not bool):
        return TypeError, f"{words}, got {value!r}"
    return (ValueError, f"finite, got {value}") if hint is float and not math.isfinite(value) else None


def _out_of_range(value: Any, expected: str) -> tuple[type[Exception], str] | None:
    for bound in expected.split(" and "):
        words, _, limit = bound.rpartition(" ")
        if value is not None and not COMPARE[words](value, float(limit)):
            return ValueError, f"{expected}, got {value}"
    return None
