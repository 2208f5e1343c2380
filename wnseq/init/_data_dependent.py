"""The start of a weight-normalised model: each g and bias set from one batch, layer by layer, as data reaches them."""

from collections.abc import Callable, Iterator, Mapping
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
from wnseq.init._report import FEEDFORWARD, RECURRENT, InitReport, find_layers
from wnseq.nn._batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d
from wnseq.nn._module import WNModule

_TOLERANCE = 2e-6  # at which a shared layer counts as settled: a few roundings of float32
_MEAN_ONLY = (MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d)


@torch.no_grad()
def data_init(
    model: nn.Module,
    batch: Any,
    init_scale: float | Mapping[str, float] = 1.0,
    *,
    call: Callable[..., object] | None = None,
    input_share: float = 0.8,
    horizon: int | None = None,
    max_sweeps: int = 100,
) -> InitReport:
    """Set g and bias of every weight-normalised layer so that each pre-activation starts with mean 0 and deviation s.

    t = v·x/‖v‖; g ← s/σ[t], b ← −s·μ[t]/σ[t]; recurrent modules as :class:`wnseq.init._recurrent.RecurrentInit` says

    μ and σ run over the batch and over the positions of a convolution. The batch goes through the model once: a layer
    is set when data reaches it, and passes on what it gives from then on.

    Args:
        model: Any module. v stays as it was drawn: see :func:`draw_directions`.
        batch: What the model is called with: one argument; a plain tuple of several; or a dictionary of them by name.
        init_scale: s, a number; or numbers by patterns of qualified names, ``*`` and ``?`` standing for any text and
            any letter, the first that fits counting and 1 where none does: ``{"*.last": 0.1}``.
        call: What to call in the place of the model: its method that takes a batch.
        input_share: ρ, in recurrent modules the share of the variance s² that comes from the input, the rest coming
            from the state; the larger, the shorter the memory. The gate that keeps the state gets a mean of 1.
        horizon: τ, in recurrent modules the number of steps to remember: ρ is then found so that the gradient of the
            last output with respect to the input τ steps before is 0.4 to 0.75 of that with respect to the last input.
        max_sweeps: How often the batch may go through a model in which a layer is used more than once.

    Returns:
        What was set, what was not, and why; and the largest error when the batch goes through once more.

    Raises:
        ValueError: The model has no weight-normalised layer; a scale is not positive, or a share not between 0 and 1;
            a pattern fits no layer; the parameters are sharded; a pre-activation is not finite; or a horizon cannot be
            had. The model is then left as it was.
        ShapeError: A recurrent module sees sequences of one step, or none longer than the horizon.

    Note:
        Dropout and other noise of training are off, batch norms use the batch. Training flags, buffers (so the running
        statistics too) and torch's random generators are left as they were, and no gradient is taken.

        - A layer used several times gets the statistics over all its calls. Its first calls change what reaches the
          later ones, so the batch goes through again, in small enough steps, until they settle; where they do not
          within ``max_sweeps`` a note says how far they are.
        - A unit that sees a constant keeps its g; only its mean is removed.
        - A layer without a bias keeps its mean. So does one that feeds a mean-only batch norm, which removes it.
        - A recurrent module is set at its first call, from the zero state. A cell is left alone: its steps are not
          known beforehand. :func:`data_free_init` sets it.
        - Frozen layers, and those that the batch does not reach, are left alone. A recurrent module is frozen if any
          of its parameters is.
        - Where ``torch.distributed`` runs, the statistics are those of the batches of all ranks, and every rank ends
          with the same values; every rank has to call this.
        - A net without weight normalisation starts the same way: initialise its weight-normalised form, then
          :func:`wnseq.fold` it.

    Example:
        >>> import torch
        >>> from wnseq.nn import WNLinear
        >>> net = nn.Sequential(WNLinear(5, 6), nn.ReLU(), WNLinear(6, 3))
        >>> print(data_init(net, torch.randn(100, 5)).changed)
        ['0', '2']

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3, equations 5 and 6; section 4 for mean-only batch norm.
    """
    if max_sweeps < 1:
        raise ValueError(f"data_init: max_sweeps must be at least 1, got {max_sweeps}")
    if not 0 < input_share < 1:
        raise ValueError(f"data_init: input_share must be between 0 and 1, got {input_share}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"data_init: horizon must be at least 1, got {horizon}")
    found, kept = find_layers(model, init_scale)
    layers: list[_Layer] = []
    recurrent: list[_Recurrent] = []
    for name, modules, scale in found:
        if isinstance(modules[0], FEEDFORWARD):
            layers.append(_Layer(name, modules, scale))
        elif isinstance(modules[0], RECURRENT):
            recurrent.append(_Recurrent(name, modules[0], RecurrentInit(modules[0], scale, input_share, horizon)))
        else:
            kept[name] = "a cell, whose steps are not known beforehand; data_free_init sets it"
    sweep = _Pass(model, layers, recurrent, call or model, batch)
    with _unchanged(model), _all_or_nothing(model):
        for _ in range(max_sweeps):
            sweep.run(setting=True)
            if all([layer.settle() for layer in layers if len(layer.seen) > 1]):  # noqa: C419 - each of them
                break
        else:
            sweep.run(setting=True)
        sweep.run(setting=False)
    done, notes, error = [], {}, 0.0
    parts: list[_Layer | _Recurrent] = [*layers, *recurrent]
    for part in parts:
        if not part.calls:
            kept[part.name] = "not reached by the batch"
            continue
        done.append(part.name)
        off, told = part.outcome()
        error = max(error, off)
        if told:
            notes[part.name] = "; ".join(told)
    return InitReport(done, kept, notes, error)


class _Layer:
    """A weight-normalised layer, or several that share one g: its values, and what its calls in one sweep saw."""

    def __init__(self, name: str, modules: list[Any], scale: float) -> None:
        self.name = name
        self.modules = modules
        self.scale = scale
        self.g = modules[0].weight_g
        biases = {id(module.bias): module.bias for module in modules if module.bias is not None}
        self.parameters = [self.g, *(bias for bias in biases.values() if bias.requires_grad)]
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
        """Whether the mean is this layer's to move."""
        return len(self.parameters) > 1 and not self.centred_later

    def target(self, t: Moments) -> list[Tensor]:
        """Take g and the biases that give t the deviation s and the mean 0."""
        g = torch.where(t.constant(self.g.dtype), self.start[0].to(t.mean), self.scale / t.deviation)
        biases = [-g * t.mean if self.centred else start for start in self.start[1:]]
        return [value.to(self.g) for value in (g, *biases)]

    def put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def bare(self) -> None:
        """Let the layer give t itself."""
        self.put([torch.ones_like(self.g), *map(torch.zeros_like, self.parameters[1:])])

    def error(self) -> float:
        """Measure how far the calls of the last sweep are from the target, in units of s."""
        t = Moments.union(self.seen)
        g = self.values[0].to(t.mean)
        off = (g * t.deviation / self.scale - 1).abs().masked_fill(t.constant(self.g.dtype), 0)
        if self.centred:
            off = torch.maximum(off, (g * t.mean + self.values[1].to(g)).abs() / self.scale)
        return float(off.max())

    def settle(self) -> bool:
        """After a sweep, take a layer of several calls nearer to its target; tell whether it was there."""
        self.shared = True
        if self.error() <= _TOLERANCE:
            return True
        t = Moments.union(self.seen)
        # Where k calls feed each other linearly, d log σ/d log g = (k−1)/2; this is Newton's step then, and a shorter
        # one where the calls do not feed each other.
        step = 2 / (len(self.seen) + 1)
        g, *biases = self.target(t)
        damped = torch.where(t.constant(self.g.dtype), g, self.values[0].abs() ** (1 - step) * g.abs() ** step)
        self.values = [damped, *(now.lerp(new, step) for now, new in zip(self.values[1:], biases, strict=True))]
        return False

    def outcome(self) -> tuple[float, list[str]]:
        """Tell how far the layer is from its target, and what could not be brought there."""
        t, off = Moments.union(self.seen), self.error()
        notes = []
        if constant := int(t.constant(self.g.dtype).sum()):
            notes.append(f"{constant} of {len(t.mean)} units see a constant: their g is kept")
        if len(self.parameters) == 1 and not self.centred_later:
            mean = float((self.values[0].to(t.mean) * t.mean).abs().max()) / self.scale
            notes.append(f"no bias to move: means up to {mean:.2g} deviations stay")
        if self.shared and off > 5 * _TOLERANCE:
            notes.append(f"used {self.calls} times, and not settled: still {off:.1e} off")
            off = 0.0
        return off, notes


class _Recurrent:
    """A recurrent module and its start."""

    def __init__(self, name: str, module: Any, start: RecurrentInit) -> None:
        self.name = name
        self.module = module
        self.start = start
        self.calls = 0  # in one sweep
        self.measured = (0.0, 0.0, 0)

    def outcome(self) -> tuple[float, list[str]]:
        """Tell how far the module is from its target, and how it came there."""
        off, of_hidden, constant = self.measured
        notes = [f"recurrent parts within {of_hidden:.1e} of their size"]
        if self.start.horizon is not None:
            told = f"{self.start.ratio:.2f} at {self.start.horizon} steps"
            notes.append(f"input share {self.start.share:.3f}: gradient ratio {told}")
        if constant:
            notes.append(f"{constant} units see a constant: their g is kept")
        if not self.module.bias:
            notes.append("no bias to move: the means stay")
        if self.calls > 1:
            notes.append(f"used {self.calls} times: set at the first")
        return off, notes


class _Pass:
    """The batch going through the model, a hook on every layer."""

    def __init__(
        self,
        model: nn.Module,
        layers: list[_Layer],
        recurrent: list[_Recurrent],
        call: Callable[..., object],
        batch: Any,
    ) -> None:
        self.model, self.layers, self.recurrent = model, layers, recurrent
        self.call, self.batch = call, batch
        self.setting = True
        self.made = WeakTensorKeyDictionary()  # which layer made a tensor

    def run(self, setting: bool) -> None:
        """Send the batch through once; a layer is set at its first call."""
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
        """Hook every part; a bound one is the module itself, since a bound function would pass the hooks by."""
        handles: list[RemovableHandle] = []
        bound = [module for module in self.model.modules() if isinstance(module, WNModule) and hasattr(module, "bind")]
        try:
            for layer in self.layers:
                for module in layer.modules:
                    handles.append(module.register_forward_pre_hook(self._before(layer), prepend=True))
                    handles.append(module.register_forward_hook(self._after(layer), prepend=True, with_kwargs=True))
            for part in self.recurrent:
                hook = self._after_recurrence(part)
                handles.append(part.module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            for module in self.model.modules():
                if isinstance(module, _MEAN_ONLY):
                    handles.append(module.register_forward_pre_hook(self._centring))
            for module in bound:
                module.__dict__["bind"] = partial(_itself, module)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in bound:
                module.__dict__.pop("bind", None)

    def _before(self, layer: _Layer) -> Callable[..., None]:
        return lambda module, args: layer.bare()

    def _after(self, layer: _Layer) -> Callable[..., Tensor]:
        def hook(module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            t = Moments.of(output, 1 - module.weight_v.ndim)
            if not bool((t.mean + t.square).isfinite().all()):
                raise ValueError(f"data_init: what the layer {layer.name!r} gives for this batch is not finite")
            if self.setting and not layer.shared and not layer.seen:
                layer.values = layer.target(t)
            layer.seen.append(t)
            layer.put(layer.values)
            made = module.forward(*args, **kwargs)  # what the layer will give from now on, to the last bit
            made = _without_rounding(module, made, t)
            self.made[made] = layer
            return made

        return hook

    def _after_recurrence(self, part: _Recurrent) -> Callable[..., Any]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            part.calls += 1
            if part.calls > 1:
                return output
            x = args[0] if args else kwargs["input"]
            if not self.setting:
                part.measured = part.start.measure(x)
                return output
            part.start.set(x)
            return module.forward(*args, **kwargs)

        return hook

    def _centring(self, module: nn.Module, args: Any) -> None:
        layer: _Layer | None = self.made.get(args[0])  # type: ignore[no-untyped-call]
        if layer is not None and not layer.centred_later:
            layer.centred_later = True
            layer.values[1:] = layer.start[1:]
            layer.put(layer.values)


def _without_rounding(layer: Any, y: Tensor, t: Moments) -> Tensor:
    """Give the units that see a constant one value everywhere, since later layers would take its rounding for data.

    Args:
        layer: The layer.
        y: What it gives.
        t: The moments of v·x/‖v‖.
    """
    constant = t.constant(layer.weight_g.dtype)
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
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Run a model with dropout off and with batch norms that use their batch; put back flags and buffers."""
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
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put every g and bias back if there is an error."""
    before = [(parameter, parameter.clone()) for parameter in model.parameters() if parameter.ndim == 1]
    try:
        yield
    except BaseException:
        for parameter, value in before:
            parameter.copy_(value)
        raise
