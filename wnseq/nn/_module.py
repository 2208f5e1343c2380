"""WNModule, the base of every weight-normalised module: two parameters for each weight, composed once a forward."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from wnseq._torch_internals import is_recording
from wnseq.errors import ShapeError
from wnseq.functional import Layout, compose, decompose_like, direction_norm
from wnseq.nn._fresh import fingerprint, guard, warn_if_redrawn
from wnseq.state_dict import param_names, to_wnseq


class WNModule(nn.Module):
    """A module that stores each weight ``w`` as two parameters, ``w_v`` and ``w_g``.

    Reading ``module.w`` composes the weight. Assigning a tensor to it decomposes the tensor into v and g. Writing into
    it in place, deleting, pruning or parametrising it, or passing it to ``torch.func.functional_call``, raises.
    ``load_state_dict`` also accepts the keys of the plain torch module and of torch's weight norm in both its forms.

    A subclass calls :meth:`register_weight` in its constructor, assigns each weight its initial value, and implements
    ``_with_weights(weights, …)``: the forward, given the result of ``_weights()``, by default :meth:`compose_weights`.

    Example:
        >>> class Residual(WNModule):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.register_weight("weight", (size, size))
        ...         self.weight = nn.init.orthogonal_(torch.empty(size, size))
        ...     def _with_weights(self, weights, x):
        ...         return x + x @ weights["weight"].T
        >>> Residual(3)(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    _parameters: "Parameters"

    def __init__(self) -> None:
        super().__init__()
        self.weight_names: list[str] = []  # in the order of registration
        self.layouts: dict[str, Layout] = {}  # output axis and groups of each
        self._parameters = Parameters(self.weight_names)
        self._drawn: dict[str, list[float]] | None = {}  # fingerprint of each v, until the first forward with gradients

    def register_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        dim: int = 0,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the uninitialised v and g of a weight.

        Args:
            dim: Its output axis. ``load_state_dict`` also takes torch's g of another axis or of the whole weight, and
                the module keeps that g's shape.
            groups: Parts of the first axis, each with outputs of its own; no effect if dim is 0.
        """
        v, g = param_names(name)
        outputs = shape[dim] * (groups if dim else 1)
        self.register_parameter(v, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.register_parameter(g, nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)))
        self.weight_names.append(name)
        self.layouts[name] = (dim, groups)

    def v_and_g(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Return v and g of a weight, or the tensors that ``torch.func.functional_call`` has put in their place."""
        v, g = param_names(name)
        return getattr(self, v), getattr(self, g)

    def compose_weights(self) -> dict[str, Tensor]:
        """Compose every weight of this module, differentiably; return them by name."""
        if torch.compiler.is_compiling() or (self._drawn and torch.is_grad_enabled() and not is_recording()):
            self._check_drawn()
        return {name: compose(*self.v_and_g(name), *self.layouts[name]) for name in self.weight_names}

    def mark_initialized(self) -> None:
        """Accept v and g as they are: the first forward warns only of a v that is overwritten after this."""
        self._mark(self.weight_names)

    def _mark(self, names: Iterable[str]) -> None:
        if self._drawn is not None:
            for name in names:
                v, g = self.v_and_g(name)
                self._drawn[name] = fingerprint(v)
                guard(g)

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # in a graph it runs once, at its capture
    def _check_drawn(self) -> None:
        """Warn if the parameters were initialised as if g were a weight, once, where they are about to be trained."""
        drawn, own = self._drawn or {}, self._parameters
        pairs: dict[str, Any] = {name: [own.get(part) for part in param_names(name)] for name in drawn}
        # not where they are replaced, pruned, sharded, without values, or frozen
        values = all(type(v) is nn.Parameter and g is not None and not v.is_meta for v, g in pairs.values())
        if values and any(v.requires_grad for v, _ in pairs.values()):
            self._drawn = None
            warn_if_redrawn(type(self).__name__, drawn, pairs, self.layouts)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compose the weights and apply the module."""
        return self._with_weights(self._weights(), *args, **kwargs)

    def _weights(self) -> Any:
        """Compose the weights, in the form that :meth:`_with_weights` takes."""
        return self.compose_weights()

    def _with_weights(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply the module with composed weights."""
        raise NotImplementedError

    def bind(self) -> Callable[..., Any]:
        """Compose the weights once, for a loop; return a function that applies the module with them.

        It raises once it is out of date, as :meth:`version_guard` says: call ``bind`` again after each change of a
        parameter. Not every change is seen: not ``parameter.data = …`` (``.to``, ``.half``, ``.double``), fused
        optimisers, ``load_state_dict(…, assign=True)``, or writes in a compiled function. With reentrant checkpointing,
        bind inside the checkpointed function.
        """
        weights, check = self._weights(), self.version_guard()

        def call(*args: Any, **kwargs: Any) -> Any:
            check()
            return self._with_weights(weights, *args, **kwargs)

        return call

    def version_guard(self) -> Callable[[], None]:
        """Return a function that raises RuntimeError once weights composed now are out of date.

        That is, if autograd's version counter of a parameter has changed, or if gradients are enabled and were not when
        the guard was made. Under ``torch.compile`` it is a no-op.
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

    def __getattr__(self, name: str) -> Any:
        parameter = self.__dict__.get("_parameters", {}).get(name)  # found here in half the time that torch takes
        if parameter is not None:
            return parameter
        if name in self.__dict__.get("weight_names", ()):
            w = compose(*self.v_and_g(name), *self.layouts[name])
            return w if is_recording(w) else w.as_subclass(ComposedWeight)  # a graph holds no subclass
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
        self._mark([name])

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter. A composed weight, which pruning would add, raises RuntimeError."""
        if isinstance(param, ComposedWeight):
            self._parameters.refuse(name.removesuffix("_orig"))
        super().register_parameter(name, param)
        if name.removesuffix("_v") in self.weight_names:
            self._mark([name.removesuffix("_v")])

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
        assign = local_metadata.get("assign_to_params_buffers", False)
        entries = to_wnseq(self._checked_plain(state_dict, prefix, assign, error_msgs), self.layouts, prefix)
        for name in self.weight_names:
            self._reshape_g(name, entries.get(prefix + param_names(name)[1]))
        super()._load_from_state_dict(
            entries, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self.weight_names:
            v, g = self.v_and_g(name)
            v_key = prefix + param_names(name)[0]
            if v_key in entries:
                self._mark([name])
            loaded = v_key in entries and v.numel() > 0 and not v.is_meta
            if loaded and bool((direction_norm(v.detach(), g, *self.layouts[name]) == 0).any()):
                warnings.warn(
                    f"{v_key} was loaded with a row of zeros, which has no direction: that row of {name} is 0 for any "
                    "g; assign the weight itself to give the row a direction",
                    stacklevel=2,
                )

    def _checked_plain(
        self, state_dict: Mapping[str, Any], prefix: str, assign: bool, error_msgs: list[str]
    ) -> dict[str, Any]:
        """Return a checkpoint's entries, its plain weights in this module's dtype; report those of a wrong shape."""
        entries = dict(state_dict)
        for name in self.weight_names:
            v, key = self.v_and_g(name)[0], prefix + name
            value = entries.get(key, v)
            if value is v:
                continue
            if isinstance(value, Tensor) and value.shape == v.shape:
                entries[key] = value if assign else value.to(v.dtype)  # rounded first, then split: as exact as torch
                continue
            if isinstance(value, Tensor):
                shapes = f"{value.shape} from checkpoint, the shape in current model is {v.shape}."
                error_msgs.append(f"size mismatch for {key}: copying a param with shape {shapes}")
            else:
                kind = f"expected torch.Tensor or Tensor-like object from checkpoint but received {type(value)}"
                error_msgs.append(f'While copying the parameter named "{key}", {kind}')
            del entries[key]
            entries.update(
                {prefix + part: getattr(self, part).detach() for part in param_names(name)}
            )  # none is missing
        return entries

    def _reshape_g(self, name: str, loaded: Any) -> None:
        """Resize g to its shape in a checkpoint; it stays the parameter that an optimiser holds."""
        v, g = self.v_and_g(name)
        dim, groups = self.layouts[name]
        if not isinstance(loaded, Tensor) or loaded.shape == g.shape:
            return
        along_one = loaded.ndim == v.ndim and any(
            loaded.numel() == loaded.shape[axis] == length for axis, length in enumerate(v.shape)
        )
        if along_one or loaded.shape in ((), (v.shape[dim] * (groups if dim else 1),)):
            g.data, g.grad = g.new_empty(loaded.shape), None

    def __getstate__(self) -> dict[str, Any]:
        """Store the parameters in a plain dictionary, the only kind that ``weights_only`` loading fills."""
        return {**self.__dict__, "_parameters": dict(self._parameters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._parameters = Parameters(self.weight_names)
        self._parameters.update(state["_parameters"])


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


def add_safe_globals() -> None:
    """Allow ``torch.load(weights_only=True)`` to read whole wnseq modules; a state dict does not need it."""
    classes: list[type] = [WNModule]
    for parent in classes:
        classes += parent.__subclasses__()
    torch.serialization.add_safe_globals([own for own in classes if own.__module__.partition(".")[0] == "wnseq"])
