"""The base of every module that stores its weights as v and g: storing, reading, assigning, loading."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wnseq.composed import ComposedWeight, Parameters
from wnseq.names import Layout, lengths, plain_weight, split, stored, to_wnseq
from wnseq.weight_norm import ShapeError

__all__ = ["WNModule", "add_safe_globals"]


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
        v, g = stored(name)
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
        v, g = stored(name)
        return getattr(self, v), getattr(self, g)

    def composed(self) -> dict[str, Tensor]:
        """Compose every weight of this module, in one go.

        Returns:
            The weights by name, part of the autograd graph.
        """
        return {name: plain_weight(*self.v_and_g(name), *self.layouts[name]) for name in self.weight_names}

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
            return plain_weight(*self.v_and_g(name), *self.layouts[name]).as_subclass(ComposedWeight)
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
            new_v, new_g = split(value.to(v), g, *self.layouts[name])
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
            self._follow(name, entries.get(prefix + stored(name)[1]))
        super()._load_from_state_dict(
            entries, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self.weight_names:
            v, g = self.v_and_g(name)
            loaded = prefix + stored(name)[0] in entries and v.numel() > 0 and not v.is_meta
            if loaded and bool((lengths(v.detach(), g, *self.layouts[name]) == 0).any()):
                warnings.warn(
                    f"{prefix}{stored(name)[0]} was loaded with a row of zeros, which has no direction: that row of "
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
