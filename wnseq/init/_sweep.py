"""The batch going through a model, and what is set of each layer when it reaches it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from wnseq._torch_internals import BatchNormBase
from wnseq.init._moments import Moments, rounding
from wnseq.init._recurrent import RecurrentInit
from wnseq.init._report import LayerGroup
from wnseq.nn._batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d
from wnseq.nn._module import WNModule

_TOLERANCE = 2e-6  # at which a shared layer counts as settled: a few roundings of float32
_MEAN_ONLY = (MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d)


class FeedForward:
    """A feed-forward layer, or several that share one g: its values, and the moments of its calls in one sweep.

    Args:
        group: The layer.
        users: Names of each parameter of the model, by its id. A bias that is another layer's too is not moved.
    """

    def __init__(self, group: LayerGroup, users: Mapping[int, Sequence[str]]) -> None:
        self.group, self.name, self.scale = group, group.name, group.scale
        self.g = group.normalized[0].weight_g
        biases = {id(layer.bias): layer.bias for layer in group.normalized if layer.bias is not None}
        own = Counter(id(layer.bias) for layer in {*group.modules})
        movable = [bias for key, bias in biases.items() if bias.requires_grad and len(users[key]) == own[key]]
        self.parameters = [self.g, *movable]
        self.fixed: Tensor | float = 0.0  # a bias that is frozen, or another layer's too
        self.start = [parameter.clone() for parameter in self.parameters]
        self.values: list[Tensor] = []  # the parameters from this call on
        self.seen: list[Moments] = []  # of t, one a call
        self.shared = False
        self.centred_later = False  # by a mean-only batch norm

    @property
    def calls(self) -> int:
        return len(self.seen)

    @property
    def centred(self) -> bool:
        """Return True if the layer itself removes the mean."""
        return len(self.parameters) > 1 and not self.centred_later

    def is_constant(self, t: Moments) -> Tensor:
        """Return True for each unit of which t does not vary."""
        return t.is_constant(self.g.dtype, getattr(self.group.normalized[0], "groups", 1))

    def moments(self, normalized: Any, output: Tensor) -> Moments:
        """Compute the moments of t from the output with g = 1 and without the bias."""
        t, bias = Moments.of(output, 1 - normalized.weight_v.ndim), normalized.bias
        if bias is None or any(bias is parameter for parameter in self.parameters):
            return t
        self.fixed = bias.to(t.mean)
        return t._replace(mean=t.mean - self.fixed)

    def target(self, t: Moments) -> list[Tensor]:
        """Compute g and the biases with which the layer's output has mean 0 and standard deviation s."""
        g = torch.where(self.is_constant(t), self.start[0].to(t.mean), self.scale / t.std)
        biases = [-g * t.mean if self.centred else start for start in self.start[1:]]
        return [value.to(self.g) for value in (g, *biases)]

    def assign(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        self.group.write_back()

    def assign_unit(self) -> None:
        """Set g = 1 and b = 0, with which the layer's output is t."""
        self.assign([torch.ones_like(self.g), *map(torch.zeros_like, self.parameters[1:])])

    def error(self) -> float:
        """Compute how far the calls of the last sweep are from the target, in units of s."""
        t = Moments.union(self.seen)
        g = self.values[0].to(t.mean)
        off = (g * t.std / self.scale - 1).abs().masked_fill(self.is_constant(t), 0)
        if self.centred:
            off = torch.maximum(off, (g * t.mean + self.values[1].to(g)).abs() / self.scale)
        return float(off.max())

    def settle(self) -> bool:
        """Move a layer of several calls nearer to its target after a sweep; return True if it was there."""
        self.shared = True
        if self.error() <= _TOLERANCE:
            return True
        t = Moments.union(self.seen)
        # Where k calls feed each other linearly, d log σ/d log g = (k−1)/2; this is Newton's step then, and a shorter
        # one where the calls do not feed each other.
        step = 2 / (len(self.seen) + 1)
        g, *biases = self.target(t)
        damped = torch.where(self.is_constant(t), g, self.values[0].abs() ** (1 - step) * g.abs() ** step)
        self.values = [damped, *(now.lerp(new, step) for now, new in zip(self.values[1:], biases, strict=True))]
        return False

    def outcome(self) -> tuple[float, list[str]]:
        """Return how far the layer is from its target, and notes of what could not be brought there."""
        t, off = Moments.union(self.seen), self.error()
        notes = []
        if constant := int(self.is_constant(t).sum()):
            notes.append(f"{constant} of {len(t.mean)} units see a constant: their g is kept")
        if len(self.parameters) == 1 and not self.centred_later:
            mean = float((self.values[0].to(t.mean) * t.mean + self.fixed).abs().max()) / self.scale
            notes.append(f"no bias to move: means up to {mean:.2g} standard deviations stay")
        if self.shared and off > 5 * _TOLERANCE:
            notes.append(f"used {self.calls} times, and not settled: still {off:.1e} off")
            off = 0.0
        return off, notes


class Recurrent:
    """A recurrent module and its initialisation."""

    def __init__(self, group: LayerGroup, init: RecurrentInit) -> None:
        self.group, self.name, self.init = group, group.name, init
        self.calls = 0  # in one sweep
        self.measured = (0.0, 0.0, 0)

    def outcome(self) -> tuple[float, list[str]]:
        """Return how far the module is from its target, and notes of how it came there."""
        off, of_hidden, constant = self.measured
        notes = [f"recurrent parts within {of_hidden:.1e} of their size"]
        if self.init.horizon is not None:
            ratio = f"{self.init.ratio:.2f} at {self.init.horizon} steps"
            notes.append(f"input share {self.init.share:.3f}: gradient ratio {ratio}")
        if constant:
            notes.append(f"{constant} units see a constant: their g is kept")
        if not self.init.module.bias:
            notes.append("no bias to move: the means stay")
        if self.calls > 1:
            notes.append(f"used {self.calls} times: set at the first")
        return off, notes


class Sweep:
    """The batch going through the model, with a hook on every layer to set."""

    def __init__(
        self,
        model: nn.Module,
        layers: list[FeedForward],
        recurrent: list[Recurrent],
        call: Callable[..., object],
        batch: Any,
    ) -> None:
        self.model, self.layers, self.recurrent = model, layers, recurrent
        self.call, self.batch = call, batch
        self.setting = True
        self.made = WeakTensorKeyDictionary()  # which layer made a tensor

    def run(self, setting: bool) -> None:
        """Call the model with the batch once; if ``setting``, each layer is set at its first call."""
        self.setting = setting
        for layer in self.layers:
            layer.seen = []
        for part in self.recurrent:
            part.calls = 0
        devices = {p.device.index for p in self.model.parameters() if p.device.type == "cuda"}
        with self._hooks(), torch.random.fork_rng(sorted(devices)):
            if type(self.batch) is tuple:
                self.call(*self.batch)
            elif isinstance(self.batch, dict):
                self.call(**self.batch)
            else:
                self.call(self.batch)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Set a hook on every layer; ``bind`` returns the module itself meanwhile, since the hooks change g."""
        handles: list[RemovableHandle] = []
        bound = [module for module in self.model.modules() if isinstance(module, WNModule) and hasattr(module, "bind")]
        try:
            for layer in self.layers:
                for module, normalized in zip(layer.group.modules, layer.group.normalized, strict=True):
                    hook = self._after(layer, normalized)
                    handles.append(module.register_forward_pre_hook(self._before(layer), prepend=True))
                    handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            for part in self.recurrent:
                hook = self._after_recurrence(part)
                handles.append(part.group.modules[0].register_forward_hook(hook, prepend=True, with_kwargs=True))
            for module in self.model.modules():
                if isinstance(module, _MEAN_ONLY):
                    handles.append(module.register_forward_pre_hook(self._before_mean_only, with_kwargs=True))
            for module in bound:
                module.__dict__["bind"] = partial(_itself, module)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in bound:
                module.__dict__.pop("bind", None)

    def _before(self, layer: FeedForward) -> Callable[..., None]:
        return lambda module, args: layer.assign_unit()

    def _after(self, layer: FeedForward, normalized: Any) -> Callable[..., Tensor]:
        def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            t = layer.moments(normalized, output)
            if not bool((t.mean + t.square).isfinite().all()):
                raise ValueError(f"data_init: the output of the layer {layer.name!r} for this batch is not finite")
            if self.setting and not layer.shared and not layer.seen:
                layer.values = layer.target(t)
            layer.seen.append(t)
            layer.assign(layer.values)
            made = module.forward(*args, **kwargs)  # the layer's output from now on, to the last bit
            made = _without_rounding(normalized, made, t, layer.is_constant(t))
            self.made[made] = layer
            return made

        return hook

    def _after_recurrence(self, part: Recurrent) -> Callable[..., Any]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            part.calls += 1
            if part.calls > 1:
                return output
            x = args[0] if args else kwargs["input"]
            if not self.setting:
                part.measured = part.init.measure(x)
                return output
            part.init.set(x)
            part.group.write_back()
            return module.forward(*args, **kwargs)

        return hook

    def _before_mean_only(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Set the biases of the layer before a mean-only batch norm back to their start: the norm removes the mean."""
        layer: FeedForward | None = self.made.get(args[0] if args else kwargs["input"])  # type: ignore[no-untyped-call]
        if layer is not None and not layer.centred_later:
            layer.centred_later = True
            layer.values[1:] = layer.start[1:]
            layer.assign(layer.values)


def _without_rounding(layer: Any, y: Tensor, t: Moments, constant: Tensor) -> Tensor:
    """Return y with one value for each constant unit, whose rounding later layers would otherwise scale up."""
    if not bool(constant.any()):
        return y
    value = scaled = layer.weight_g.to(t.mean) * t.mean
    if layer.bias is not None:
        value = scaled + layer.bias.to(t.mean)
        value = torch.where(value.abs() > rounding(layer.bias.dtype) * scaled.abs(), value, 0)
    shape = (-1,) + (1,) * (layer.weight_v.ndim - 2)
    return torch.where(constant.view(shape), value.to(y).view(shape), y)


def _itself(module: nn.Module) -> nn.Module:
    return module


@contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Run a model with dropout off and with batch norms that use their batch; restore training flags and buffers."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for module, _ in flags:
        module.training = isinstance(module, (*_MEAN_ONLY, BatchNormBase))
    try:
        # a compiled model would not see the hooks
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer
            buffer.copy_(value)


@contextmanager
def restored_on_error(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Restore the parameters if there is an error."""
    before = [(parameter, parameter.clone()) for parameter in parameters]
    try:
        yield
    except BaseException:
        for parameter, value in before:
            parameter.copy_(value)
        raise
