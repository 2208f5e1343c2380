"""A composed weight as its module shows it: readable like any tensor, and closed to writes that would be lost."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["ComposedWeight"]

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
