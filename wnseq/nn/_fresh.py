"""The check that a new module's v and g still agree once code written for torch.nn has initialised its parameters."""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wnseq.functional import Layout, direction_norm

_REMEDY = (
    "initialise a torch.nn model and convert it with wnseq.weight_normalize(model); or assign each weight, as in "
    "module.{name} = w; or initialise v and call wnseq.init.g_from_v_(model) after it"
)
_PHRASES = {  # what torch.nn.init says of a tensor with one axis, by its function that asks for the number of axes
    "_calculate_fan_in_and_fan_out": "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions",
    "dirac_": "Only tensors with 3, 4, or 5 dimensions are supported",
    "eye_": "Only tensors with 2 dimensions are supported",
    "orthogonal_": "Only tensors with 2 or more dimensions are supported",
    "sparse_": "Only tensors with 2 dimensions are supported",
}


def _dim(tensor: Tensor) -> int:
    """Return 1; raise ValueError with the remedy if a function of torch.nn.init that draws matrices asks."""
    caller = sys._getframe(2)
    phrase = _PHRASES.get(caller.f_code.co_name)
    if phrase and caller.f_globals.get("__name__") == "torch.nn.init" and not torch.compiler.is_compiling():
        raise ValueError(
            f"{phrase}, and this is g, the scales of a weight-normalised layer of wnseq, one for each row of v: "
            + _REMEDY.format(name="weight_hh_l0")
        )
    return tensor.ndim


def _detach(tensor: Tensor) -> Tensor:
    """Return a detached tensor; for ``nn.Parameter(tensor)`` make both plain parameters, whose type must be one."""
    detached = Tensor.detach(tensor)
    if torch.compiler.is_compiling() or sys._getframe(2).f_code is not nn.Parameter.__new__.__code__:
        return detached
    tensor.__class__ = nn.Parameter
    return detached.as_subclass(nn.Parameter)


class FreshScale(nn.Parameter):
    """A g before the first forward, in which torch.nn.init's functions for matrices raise with the remedy.

    The first forward turns it into a plain parameter: :func:`release`.
    """

    def dim(self) -> int:
        """Return the number of axes."""
        return _dim(self)

    def ndimension(self) -> int:
        """Return the number of axes."""
        return _dim(self)

    def detach(self) -> Tensor:
        """Return the same values, of which no derivative is recorded."""
        return _detach(self)

    @property
    def data(self) -> Tensor:
        """The values, in which those functions raise as well."""
        data: Tensor = Tensor.data.__get__(self)  # type: ignore[attr-defined]
        return data.as_subclass(_FreshData)

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]


class _FreshData(Tensor):
    """The ``data`` of a FreshScale; results of operations, copies and pickles are plain tensors."""

    __torch_function__ = nn.Parameter.__torch_function__

    def dim(self) -> int:
        return _dim(self)

    def ndimension(self) -> int:
        return _dim(self)

    def detach(self) -> Tensor:
        return _detach(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


class Origin:
    """Whether a module has run with gradients, and of which module it is a copy.

    An average or a target network is a copy whose v and g follow those of a trained module, and were not drawn.
    """

    def __init__(self, parent: "Origin | None" = None, follows: bool = False) -> None:
        self.parent, self.is_trained, self._follows = parent, False, follows

    def follows_trained(self) -> bool:
        """Return True if a module has been trained of which this one is a copy, or the copy of a copy."""
        before = self.parent
        return self._follows or (before is not None and (before.is_trained or before.follows_trained()))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Origin":
        return Origin(self)

    def __reduce__(self) -> Any:
        return Origin, (None, self.follows_trained())


def guard(g: Tensor) -> None:
    """Turn a plain g into a FreshScale."""
    if type(g) is nn.Parameter:
        g.__class__ = FreshScale


def release(g: Tensor) -> None:
    """Turn a FreshScale into a plain parameter, the only kind that an optimiser's fast loops take."""
    if type(g) is FreshScale:
        g.__class__ = nn.Parameter  # type: ignore[assignment]


def fingerprint(v: Tensor) -> list[float]:
    """Return a few entries of v, by which to see whether it was drawn again; none where v has no values to read."""
    if type(v) is not nn.Parameter or v.is_meta or torch.compiler.is_compiling() or not v.numel():
        return []
    entries: list[float] = v.detach().reshape(-1)[:: max(1, (v.numel() - 1) // 2)].tolist()
    return entries


@torch.no_grad()
def warn_if_redrawn(
    label: str,
    drawn: Mapping[str, list[float]],
    pairs: Mapping[str, Any],
    layouts: Mapping[str, Layout],
) -> None:
    """Warn once if a v is not as it was drawn and its g is not its norm; release every g.

    Args:
        label: The module, for the warning.
        drawn: :func:`fingerprint` of each v, by the name of its weight.
        pairs: v and g, by name.
        layouts: Output axis and groups, by name.
    """
    for _, g in pairs.values():
        release(g)
    for name, entries in drawn.items():
        v, g = pairs[name]
        now = fingerprint(v)
        same = len(now) == len(entries) and all(
            abs(a - b) <= 0.01 * abs(b) + 1e-6 for a, b in zip(now, entries, strict=True)
        )
        if same:  # but for a cast to another dtype
            continue
        norms = direction_norm(v, g, *layouts[name])
        if bool(((g - norms).abs() > 0.01 * norms).any()) or bool((norms == 0).any()):
            size, length = float(g.abs().float().mean()), float(norms.float().mean())
            if dist.is_available() and dist.is_initialized() and dist.get_rank():
                return  # what another process draws is not in doubt here: rank 0 sends its parameters to all
            warnings.warn(
                f"{label}: {name}_v was overwritten after it was drawn, and {name}_g is not its norm: "
                f"the rows of {name} have norm {size:.3g}, those of {name}_v {length:.3g}. Code for torch.nn that "
                "initialises over parameters() does so, since g is one of them. To get what it means, "
                f"{_REMEDY.format(name=name)}. If g is as you want it, call module.accept_v_and_g()",
                stacklevel=2,
            )
            return
