"""WNModule, the base of every weight-normalised module: two parameters for each weight, composed once a forward."""

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.weight_norm import WeightNorm

from wnseq._torch_internals import constant_in_graph, has_hooks, is_recording
from wnseq.errors import ShapeError
from wnseq.functional import Layout, compose, decompose_like, direction_norm
from wnseq.nn._composed_weight import ComposedWeight, Parameters, is_held
from wnseq.nn._fresh import Origin, fingerprint, guard, warn_if_redrawn
from wnseq.nn._fx import record_call, tracer_of
from wnseq.nn._reused_weight import Memory, compose_in
from wnseq.state_dict import param_names, to_wnseq


def refresh_computed(module: nn.Module) -> None:
    """Compute what pruning and torch's older weight norm compute in a hook before each forward."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod | WeightNorm):
            hook(module, ())


def call_with(module: Any, bound: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a module and its hooks with bound weights, which other threads that call it do not see."""
    thread = threading.get_ident()
    before = module._bound.get(thread)
    module._bound[thread] = bound
    try:
        return module(*args, **kwargs)
    finally:
        module._bound.pop(thread)
        if before is not None:
            module._bound[thread] = before


def bound_of(module: Any) -> Any:
    """Return the weights that a module is called with by :func:`call_with` in this thread, or None."""
    return module._bound.get(threading.get_ident()) if module._bound else None


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
        self._g_shapes: dict[str, tuple[int, ...]] = {}  # of those along another axis by the constructor
        self._parameters = Parameters(self.weight_names)
        self._memory: dict[str, Memory] = {}  # of each composed weight
        self._bound: dict[int, Any] = {}  # weights of the bound step that is calling, by its thread
        self._origin = Origin()
        self._drawn: dict[str, list[float]] | None = {}  # fingerprint of each v, until the first forward with gradients

    def register_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        dim: int = 0,
        groups: int = 1,
        g_shape: tuple[int, ...] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the uninitialised v and g of a weight.

        Args:
            dim: Its output axis. ``load_state_dict`` also takes torch's g of another axis or of the whole weight, and
                the module keeps that g's shape; an optimiser that has stepped must be made again after that.
            groups: Parts of the first axis, each with outputs of its own; no effect if dim is 0.
            g_shape: Shape of g, if it is not one entry for each output: that of the weight with all axes but one of
                length 1; or ``()``, one scale for the whole weight. A plain checkpoint is split along it.
        """
        v, g = param_names(name)
        outputs = (shape[dim] * (groups if dim else 1),) if g_shape is None else g_shape
        if len(outputs) != 1:
            self._g_shapes[name] = outputs
        self.register_parameter(v, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.register_parameter(g, nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)))
        self.weight_names.append(name)
        self.layouts[name] = (dim, groups)
        self._memory[name] = Memory()

    def v_and_g(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Return v and g of a weight, or the tensors that ``torch.func.functional_call`` has put in their place."""
        own = self._parameters  # where they are but for replicas and parametrised ones; attributes cost more
        v, g = (own.get(part) for part in param_names(name))
        if v is None or g is None:
            v, g = (getattr(self, part) for part in param_names(name))
        return v, g

    def computed_v_and_g(self) -> list[str]:
        """Return the names of v's and g's that are no parameters, but computed by pruning or a parametrisation."""
        parts = (part for name in self.weight_names for part in param_names(name))
        return [part for part in parts if self._parameters.get(part) is None]

    def refuse_computed(self, *parts: str) -> None:
        """Raise RuntimeError if one of the named v's and g's is computed: what is written into it would be lost."""
        for part in (part for part in parts if self._parameters.get(part) is None):
            raise RuntimeError(
                f"{type(self).__name__}.{part} is computed, by pruning or a parametrisation, and what is written into "
                "it would be lost: remove that first, or write into its original"
            )

    def writable_v_and_g(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Return v and g of a weight, to write into; raise RuntimeError if one is computed."""
        self.refuse_computed(*param_names(name))
        return self.v_and_g(name)

    def _describe_g(self, name: str) -> str:
        """Return the axis along which g lies, for ``extra_repr``; nothing where it has an entry for each output."""
        v, g = self.v_and_g(name)
        if g.ndim == 1:
            return ""
        return f", dim={next((axis for axis, n in enumerate(g.shape) if n == g.numel() == v.shape[axis]), None)}"

    def compose_weights(self) -> dict[str, Tensor]:
        """Compose every weight of this module, differentiably; return them by name."""
        self._check_before_use()
        memory = self._memory
        return {name: compose_in(memory[name], *self.v_and_g(name), *self.layouts[name]) for name in self.weight_names}

    def accept_v_and_g(self) -> None:
        """Accept v and g as they are: the first forward warns only of a v that is overwritten after this."""
        self._mark(self.weight_names)

    def _mark(self, names: Iterable[str]) -> None:
        if self._drawn is not None:
            for name in names:
                v, g = self.v_and_g(name)
                self._drawn[name] = fingerprint(v)
                guard(g)

    def _check_before_use(self) -> None:
        if torch.compiler.is_compiling() or (self._drawn and torch.is_grad_enabled() and not is_recording()):
            self._check_drawn()

    @constant_in_graph
    def _check_drawn(self) -> None:
        """Warn if the parameters were initialised as if g were a weight, once, where they are about to be trained."""
        drawn, own = self._drawn or {}, self._parameters
        pairs: dict[str, Any] = {name: [own.get(part) for part in param_names(name)] for name in drawn}
        # not where they are replaced, pruned, sharded, without values, or frozen
        values = all(type(v) is nn.Parameter and g is not None and not v.is_meta for v, g in pairs.values())
        if values and any(v.requires_grad for v, _ in pairs.values()):
            self._drawn, self._origin.is_trained = None, True
            drawn = {} if self._origin.follows_trained() else drawn  # an average, whose v and g moved together
            warn_if_redrawn(type(self).__name__, drawn, pairs, self.layouts)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compose the weights and apply the module."""
        return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args)
        if tracer is not None:
            return self._record(tracer, args)
        bound = bound_of(self)
        return self._with_weights(self._weights() if bound is None else bound, *args, **kwargs)

    def _record(self, tracer: Any, args: tuple[Any, ...]) -> Any:
        """Record a call in a graph of torch.fx."""
        return record_call(self, tracer, args)

    def _weights(self) -> Any:
        """Compose the weights, in the form that :meth:`_with_weights` takes."""
        return self.compose_weights()

    def _with_weights(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply the module with composed weights."""
        raise NotImplementedError

    def bind(self) -> Callable[..., Any]:
        """Compose the weights once, for a loop; return a function that calls the module with them.

        It calls the module's hooks as a call of the module does, and raises once it is out of date, as
        :meth:`version_guard` says: call ``bind`` again after each change of a parameter. Not every change is seen: not
        ``parameter.data = …`` (``.to``, ``.half``, ``.double``), writes into ``parameter.data``, fused optimisers,
        writes in a compiled function, or into a parameter that was made in ``torch.inference_mode()``.
        With reentrant checkpointing, bind inside the checkpointed function.
        """
        refresh_computed(self)
        weights, check = self._weights(), self.version_guard()

        def call(*args: Any, **kwargs: Any) -> Any:
            check()
            if not has_hooks(self):
                return self._with_weights(weights, *args, **kwargs)
            return call_with(self, weights, *args, **kwargs)

        return call

    def version_guard(self) -> Callable[[], None]:
        """Return a function that raises RuntimeError once weights composed now are out of date.

        That is, if a parameter or a mask of pruning was replaced, if autograd's version counter of one has changed, or
        if gradients are enabled and were not when the guard was made. Under ``torch.compile`` it is a no-op.
        """
        label, recording = type(self).__name__, torch.is_grad_enabled()
        watched: list[tuple[Mapping[str, Any], str, Tensor, int]] = []
        if not torch.compiler.is_compiling():  # a version is no constant that a graph could hold
            masks = {name: mask for name, mask in self._buffers.items() if name.endswith("_mask")}
            owners: list[tuple[Any, Any]] = [(self._buffers, masks)]
            owners += [(module._parameters, module._parameters) for module in self.modules()]
            for own, values in owners:
                for name, value in values.items():
                    if value is not None and not value.is_inference():
                        watched.append((own, name, value, value._version))

        def check() -> None:
            if torch.compiler.is_compiling():
                return
            for own, name, value, version in watched:
                if own.get(name) is not value or value._version != version:
                    raise RuntimeError(
                        f"{label}: {name} was changed after bind(), and the bound weights are still the old ones; "
                        "call bind() again after each change"
                    )
            if not recording and torch.is_grad_enabled() and any(value.requires_grad for _, _, value, _ in watched):
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
        v, g = self.writable_v_and_g(name)
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
        if isinstance(value, nn.Parameter) and is_held(value):
            warnings.warn(
                f"{label}: the values of the parameter are copied into v and g, so that it is not tied to this weight "
                "as in torch.nn, and training changes one of them alone. For a copy, assign w.detach(); to share a "
                "weight, keep its layers plain or share v and g between two weight-normalised ones",
                stacklevel=4,
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
                value = value if assign else value.to(v.dtype)  # rounded first, then split: as exact as torch
                entries[key] = value
                if name in self._g_shapes:
                    parts = decompose_like(entries.pop(key), value.new_empty(self._g_shapes[name]), *self.layouts[name])
                    entries.update(zip((prefix + part for part in param_names(name)), parts, strict=True))
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

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast the parameters; the memory of composed weights is of the device and dtype before."""
        self._memory = {name: Memory() for name in self.weight_names}
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Store the parameters in a plain dictionary, the only kind that ``weights_only`` loading fills."""
        return {**self.__dict__, "_parameters": dict(self._parameters), "_memory": None, "_bound": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._parameters = Parameters(self.weight_names)
        self._parameters.update(state["_parameters"])
        self._memory = {name: Memory() for name in self.weight_names}
        self._bound, self._origin = {}, state.get("_origin") or Origin()  # a module stored by an older release has none


def add_safe_globals() -> None:
    """Allow ``torch.load(weights_only=True)`` to read whole wnseq modules; a state dict does not need it."""
    classes: list[type] = [nn.Module]
    for parent in classes:
        classes += set(parent.__subclasses__()).difference(classes)
    torch.serialization.add_safe_globals(
        [Origin, *(cls for cls in classes if cls.__module__.partition(".")[0] == "wnseq")]
    )
