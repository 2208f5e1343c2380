"""A composed weight as its module shows it: readable like any tensor, closed to writes that would be lost, and no
parameter to those who would treat it as one.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

__all__ = ["ComposedWeight", "Parameters"]

_WRITES = frozenset({"__set__", "__setitem__"})
_LEAVES = frozenset({"numpy", "__array__", "__dlpack__"})  # hand the memory to something that cannot guard it


class ComposedWeight(Tensor):
    """The product of a v and a g, made anew at each reading.

    Reading, slicing and arithmetic are a tensor's. A write in place would land in a temporary and be lost, so it
    raises and says what to do instead; so does a write into a view of it.

    Raises:
        RuntimeError: On any write in place, such as ``init.orthogonal_(rnn.weight_hh_l0)``.

    Note:
        ``numpy()`` gives a read-only copy.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or name in _WRITES or _is_augmented(name)
        if (in_place and args and _holds(args[0])) or _holds(kwargs.get("out")):
            raise RuntimeError(
                f"{name} would write into a composed weight, which is made anew from v and g at each reading: the "
                "write would be lost. Change a copy and assign it, as in `w = rnn.weight_hh_l0.detach().clone(); "
                "torch.nn.init.orthogonal_(w); rnn.weight_hh_l0 = w`, or change weight_hh_l0_v and weight_hh_l0_g."
            )
        with torch._C.DisableTorchFunctionSubclass():
            if name in _LEAVES:
                copy = func(args[0].clone(), *args[1:], **kwargs)
                if hasattr(copy, "setflags"):
                    copy.setflags(write=False)
                return copy
            result = func(*args, **kwargs)
            return _guard_views(result, args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the plain tensor that it is."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


class Parameters(dict[str, nn.Parameter | None]):
    """The parameters of a module with composed weights, closed to those who take such a weight for one of them.

    Pruning, parametrising, torch's own weight and spectral norm and ``torch.func.functional_call`` all look a name up
    here before they touch it. What they would do to a composed weight would be lost, or its gradient would, so the
    question itself raises.

    Raises:
        RuntimeError: A composed weight is looked up or deleted.
    """

    def __init__(self, composed: list[str]) -> None:
        super().__init__()
        self.composed = composed  # names, the module's own list

    def refuse(self, name: str) -> NoReturn:
        """Say why a composed weight is no parameter, and what to do instead."""
        raise RuntimeError(
            f"{name} is no parameter: it is composed from {name}_v and {name}_g at each forward, so pruning or "
            f"parametrising it, or passing it to functional_call, would be lost or lose its gradient. Do it to "
            f"{name}_v and {name}_g, assign a changed copy to {name}, or fold the layer into torch.nn with wnseq.fold"
        )

    def __contains__(self, name: object) -> bool:
        if name in self.composed:
            self.refuse(str(name))
        return super().__contains__(name)

    def __missing__(self, name: str) -> NoReturn:
        if name in self.composed:
            self.refuse(name)
        raise KeyError(name)

    def __delitem__(self, name: str) -> None:
        if name in self.composed:
            self.refuse(name)
        super().__delitem__(name)


def _is_augmented(name: str) -> bool:
    """Tell ``__iadd__`` and its kin from ``__invert__`` and ``__index__``."""
    return name.startswith("__i") and name.endswith("__") and hasattr(Tensor, f"__{name[3:]}")


def _holds(value: Any) -> bool:
    """Tell whether a value is a composed weight or a sequence with one in it."""
    if isinstance(value, list | tuple):
        return any(_holds(item) for item in value)
    return isinstance(value, ComposedWeight)


def _guard_views(result: Any, args: Iterable[Any]) -> Any:
    """Make what shares memory with a composed weight a composed weight too."""
    if isinstance(result, list | tuple) and any(isinstance(item, Tensor) for item in result):
        items = [_guard_views(item, args) for item in result]
        return type(result)(items) if type(result) in (list, tuple) else type(result)(*items)
    if type(result) is not Tensor or result.layout != torch.strided:
        return result
    storage = result.untyped_storage()._cdata
    shared = any(isinstance(arg, ComposedWeight) and arg.untyped_storage()._cdata == storage for arg in args)
    return result.as_subclass(ComposedWeight) if shared else result
