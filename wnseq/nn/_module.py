"""A composed weight as its module shows it: readable like any tensor, closed to writes that would be lost, and no
parameter to those who would treat it as one.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wnseq.errors import ShapeError
from wnseq.functional import Layout, compose, decompose_like, direction_norm
from wnseq.state_dict import param_names, to_wnseq

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


class WNModule(nn.Module):
    """A module that keeps each weight ``w`` as two parameters, ``w_v`` and ``w_g``.

    ``module.w`` composes the weight and reads it. Assigning a tensor to ``module.w`` decomposes it into v and g.
    A write in place raises. ``load_state_dict`` takes our keys, those of the plain torch module, and both of
    torch's own weight-normalised forms.

    Raises:
        RuntimeError: A composed weight is written in place, pruned, parametrised, deleted or passed to
            ``torch.func.functional_call``.
        TypeError: What is assigned to a composed weight is no tensor.
        ShapeError: What is assigned to a composed weight has another shape.
        ValueError: What is assigned carries a gradient history, which the assignment would cut off.
    """

    _parameters: Parameters

    def __init__(self) -> None:
        super().__init__()
        self.weight_names: list[str] = []  # of the composed weights, in the order of registration
        self.layouts: dict[str, Layout] = {}  # output axis and groups of each
        self._parameters = Parameters(self.weight_names)

    def register_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        dim: int = 0,
        groups: int = 1,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Create the uninitialised v and g of a weight.

        Args:
            name: Name of the composed weight.
            shape: Shape of the composed weight.
            dim: Its output axis: g has one entry for each output. Where it is not the first, as in a transposed
                convolution, ``load_state_dict`` also takes a g that lies along another axis, with the axes of v as
                torch writes it, and the module keeps it so.
            groups: Parts of the first axis, each with outputs of its own; without effect where dim is 0.
            device: Where to put them.
            dtype: What to keep them in.
        """
        v, g = param_names(name)
        outputs = shape[dim] * (groups if dim else 1)
        self.register_parameter(v, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.register_parameter(g, nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)))
        self.weight_names.append(name)
        self.layouts[name] = (dim, groups)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter; a composed weight, which pruning would add, is refused."""
        if isinstance(param, ComposedWeight):
            self._parameters.refuse(name.removesuffix("_orig"))
        super().register_parameter(name, param)

    def v_and_g(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Look up the two parameters of a composed weight.

        Args:
            name: Name of the composed weight.

        Returns:
            v and g, or the tensors that stand in for them during ``torch.func.functional_call``.
        """
        v, g = param_names(name)
        return getattr(self, v), getattr(self, g)

    def composed(self) -> dict[str, Tensor]:
        """Compose every weight of this module, in one go.

        Returns:
            The weights by name, part of the autograd graph.
        """
        return {name: compose(*self.v_and_g(name), *self.layouts[name]) for name in self.weight_names}

    def watch(self) -> Callable[[], None]:
        """Remember the parameters as they are now, for those who compose once and use the weights many times.

        Returns:
            A function that raises RuntimeError once autograd's version counter shows that a parameter was written, or
            if gradients are enabled now and were not at the time of watching. Under ``torch.compile`` it does nothing.
        """
        label, recording = type(self).__name__, torch.is_grad_enabled()
        watched: list[tuple[str, Tensor, int]] = []
        if not torch.compiler.is_compiling():  # a version is no constant that a graph could hold
            watched = [(name, p, p._version) for name, p in self.named_parameters() if not p.is_inference()]

        def check() -> None:
            if torch.compiler.is_compiling():
                return
            for name, parameter, version in watched:
                if parameter._version != version:
                    raise RuntimeError(
                        f"{label}: {name} was changed after bind(), and the bound weights are still the old ones; "
                        "call bind() again after each change"
                    )
            if not recording and torch.is_grad_enabled() and any(p.requires_grad for _, p, _ in watched):
                raise RuntimeError(
                    f"{label}: bind() was called with gradients disabled, so its weights have no gradient, and it is "
                    "used with gradients enabled; call bind() where gradients are enabled, or use it under no_grad()"
                )

        return check

    def bind(self) -> Callable[..., Any]:
        """Compose the weights once, for a loop.

        Returns:
            A function that does what calling the module does, with the weights as they are now.

        Raises:
            RuntimeError: The returned function is called after a parameter was written, or where gradients are
                enabled while ``bind`` was called where they were not.

        Note:
            Writes are seen by autograd's version counter. It does not see ``parameter.data`` being written or replaced
            (so neither ``.to``, ``.half`` nor ``.double``), the steps of fused optimisers, parameters replaced by
            others (``load_state_dict`` with ``assign=True``), and writes inside a function that is being compiled.
            Bind after these too. With reentrant checkpointing bind inside the checkpointed function: it goes backward
            through the composition once for each call, and the graph of one composition is good for one.
        """
        weights, check = self._weights(), self.watch()

        def call(*args: Any, **kwargs: Any) -> Any:
            check()
            return self._with_weights(weights, *args, **kwargs)

        return call

    def _weights(self) -> Any:
        """Compose the weights, in the form that :meth:`_with_weights` takes them."""
        raise NotImplementedError

    def _with_weights(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """Do what calling the module does, with weights that are composed already."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Store the parameters in a plain dictionary, the only kind that ``weights_only`` loading fills."""
        return {**self.__dict__, "_parameters": dict(self._parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._parameters = Parameters(self.weight_names)
        self._parameters.update(state["_parameters"])

    def __getattr__(self, name: str) -> Any:
        parameter = self.__dict__.get("_parameters", {}).get(name)  # found here in half the time that torch takes
        if parameter is not None:
            return parameter
        if name in self.__dict__.get("weight_names", ()):
            return compose(*self.v_and_g(name), *self.layouts[name]).as_subclass(ComposedWeight)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("weight_names", ()):
            self._assign(name, value)
        else:
            super().__setattr__(name, value)

    def _assign(self, name: str, value: Any) -> None:
        v, g = self.v_and_g(name)
        label = f"{type(self).__name__}.{name}"
        if not isinstance(value, Tensor):
            raise TypeError(f"{label}: assign a tensor of shape {tuple(v.shape)}, got {type(value).__name__}")
        if value.shape != v.shape:
            raise ShapeError(f"{label}: assign a tensor of shape {tuple(v.shape)}, got {tuple(value.shape)}")
        if value.requires_grad and not isinstance(value, nn.Parameter):
            raise ValueError(
                f"{label}: the tensor requires grad, and assigning copies its values into v and g, so its gradient "
                "would be lost; assign w.detach(), or compose the weight yourself and use a cell's step function"
            )
        with torch.no_grad():
            new_v, new_g = decompose_like(value.to(v), g, *self.layouts[name])
            v.copy_(new_v)
            g.copy_(new_g)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        entries = to_wnseq(state_dict, self.layouts, prefix)
        for name in self.weight_names:
            self._follow(name, entries.get(prefix + param_names(name)[1]))
        super()._load_from_state_dict(
            entries, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self.weight_names:
            v, g = self.v_and_g(name)
            loaded = prefix + param_names(name)[0] in entries and v.numel() > 0 and not v.is_meta
            if loaded and bool((direction_norm(v.detach(), g, *self.layouts[name]) == 0).any()):
                warnings.warn(
                    f"{prefix}{param_names(name)[0]} was loaded with a row of zeros, which has no direction: that row of "
                    f"{name} is 0 whatever its g; assign the weight itself to give the row a direction",
                    stacklevel=2,
                )

    def _follow(self, name: str, loaded: Any) -> None:
        """Let g take the axis along which a checkpoint has it, staying the parameter that an optimiser holds."""
        v, g = self.v_and_g(name)
        dim, groups = self.layouts[name]
        if dim == 0 or not isinstance(loaded, Tensor) or loaded.shape == g.shape:
            return
        along_one = loaded.ndim == v.ndim and any(
            loaded.numel() == loaded.shape[axis] == length for axis, length in enumerate(v.shape)
        )
        if along_one or loaded.shape == (groups * v.shape[dim],):
            g.data, g.grad = g.new_empty(loaded.shape), None


def add_safe_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read whole modules of ours, saved with ``torch.save(module, …)``.

    Call it once before loading. A state_dict needs none of this.

    Example:
        >>> import io, torch, wnseq
        >>> file = io.BytesIO()
        >>> torch.save(wnseq.WNLSTM(4, 6), file)
        >>> add_safe_globals()
        >>> _ = file.seek(0)
        >>> torch.load(file, weights_only=True)
        WNLSTM(4, 6)
    """
    classes: list[type] = [WNModule]
    for parent in classes:
        classes += parent.__subclasses__()
    torch.serialization.add_safe_globals([own for own in classes if own.__module__.partition(".")[0] == "wnseq"])
