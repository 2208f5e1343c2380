"""A weight as a WNModule shows it, which does not store it: a tensor that refuses writes, and no parameter."""

import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wnseq.state_dict import param_names


class _Attribute:
    """Counts the references to a value as it is assigned, as :func:`is_held` does."""

    references: int

    def __setattr__(self, name: str, value: Any) -> None:
        self._assign(name, value)

    def _assign(self, name: str, value: Any) -> None:
        self.__dict__["references"] = references(value)


def references(value: Any) -> int:
    """Return how many references to a value Python counts; 0 where it does not count them."""
    return sys.getrefcount(value) if hasattr(sys, "getrefcount") else 0


_probe = _Attribute()


def is_held(value: Any) -> bool:
    """Return True if something else than the assignment, whose ``_assign`` calls this, refers to its value."""
    _probe.value = object()  # each time, since torch.compile changes what a call itself refers to
    return hasattr(sys, "getrefcount") and sys.getrefcount(value) > _probe.references


class Parameters(dict[str, nn.Parameter | None]):
    """The parameters of a WNModule; looking up or deleting a composed weight raises RuntimeError.

    Pruning, parametrising, torch's weight and spectral norm and ``torch.func.functional_call`` all look a name up here
    first. What they do to a composed weight would be lost, or its gradient would.
    """

    def __init__(self, weight_names: list[str]) -> None:
        super().__init__()
        self.weight_names = weight_names  # the module's own list

    def refuse(self, name: str) -> NoReturn:
        """Raise the RuntimeError."""
        v, g = param_names(name)
        raise RuntimeError(
            f"{name} is no parameter: it is composed from {v} and {g} at each forward, so pruning or parametrising it, "
            f"or passing it to functional_call, would be lost or lose its gradient. Do it to {v} and {g}, assign a "
            f"changed copy to {name}, or convert the layer to torch.nn with wnseq.remove_weight_norm"
        )

    def __contains__(self, name: object) -> bool:
        if name in self.weight_names:
            self.refuse(str(name))
        return super().__contains__(name)

    def __missing__(self, name: str) -> NoReturn:
        if name in self.weight_names:
            self.refuse(name)
        raise KeyError(name)

    def __delitem__(self, name: str) -> None:
        if name in self.weight_names:
            self.refuse(name)
        super().__delitem__(name)


_WRITES = frozenset({"__set__", "__setitem__"})
_EXPORTS = frozenset({"numpy", "__array__", "__dlpack__"})  # hand the memory to an object that cannot guard it


class ComposedWeight(Tensor):
    """The value of ``module.w``: a tensor, composed at each reading, in which every write in place raises RuntimeError.

    A write would change a temporary and be lost; so would one into a view of it. ``numpy()`` returns a read-only copy.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or name in _WRITES or _is_augmented(name)
        if (in_place and args and _contains_composed(args[0])) or _contains_composed(kwargs.get("out")):
            raise RuntimeError(
                f"{name} would write into a composed weight, which is computed from v and g at each reading: the "
                "write would be lost. Change a copy and assign it, as in `w = rnn.weight_hh_l0.detach().clone(); "
                "torch.nn.init.orthogonal_(w); rnn.weight_hh_l0 = w`, or change weight_hh_l0_v and weight_hh_l0_g."
            )
        if name in _EXPORTS:
            copy = func(args[0].clone(), *args[1:], **kwargs)
            if hasattr(copy, "setflags"):
                copy.setflags(write=False)
            return copy
        result = Tensor.__torch_function__(func, (Tensor,), args, kwargs)  # type: ignore[no-untyped-call]
        return _guard_views(result, args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a plain tensor."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def _is_augmented(name: str) -> bool:
    """Return True if a name is ``__iadd__`` or the like, not ``__invert__`` or ``__index__``."""
    return name.startswith("__i") and name.endswith("__") and hasattr(Tensor, f"__{name[3:]}")


def _contains_composed(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_contains_composed(item) for item in value)
    return isinstance(value, ComposedWeight)


def _guard_views(result: Any, args: Iterable[Any]) -> Any:
    """Return as a composed weight what shares memory with one."""
    if isinstance(result, list | tuple) and any(isinstance(item, Tensor) for item in result):
        items = [_guard_views(item, args) for item in result]
        return type(result)(items) if type(result) in (list, tuple) else type(result)(*items)
    if type(result) is not Tensor or result.layout != torch.strided:
        return result
    storage = result.untyped_storage()._cdata
    shared = any(isinstance(arg, ComposedWeight) and arg.untyped_storage()._cdata == storage for arg in args)
    return result.as_subclass(ComposedWeight) if shared else result
