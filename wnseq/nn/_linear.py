"""WNLinear, and what it shares with the convolutions."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from wnseq.errors import raise_as_torch
from wnseq.functional import direction_norm, scale_shape
from wnseq.nn._arguments import check_bool, check_size
from wnseq.nn._fx import record_compose
from wnseq.nn._module import WNModule


class _WNLayer(WNModule):
    """A layer with one weight and a bias."""

    bias: Tensor | None

    def _register(
        self, shape: tuple[int, ...], outputs: int, bias: bool, dim: int | Literal["out"] | None, **factory: Any
    ) -> None:
        """Create v, g and b; the output axis is the first, of a transposed convolution the second."""
        bias = check_bool(type(self).__name__, "bias", bias, lenient=True)
        axis, groups = int(getattr(self, "transposed", False)), getattr(self, "groups", 1)
        g_shape = None
        if not isinstance(dim, str) or dim != "out":
            g_shape = scale_shape(shape, dim, axis, groups)
        self.register_weight("weight", shape, dim=axis, groups=groups, g_shape=g_shape, **factory)
        self.register_parameter("bias", nn.Parameter(torch.empty(outputs, **factory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters as torch does; g is the norm of v."""
        v, g = self.writable_v_and_g("weight")
        nn.init.kaiming_uniform_(v, a=math.sqrt(5))
        with torch.no_grad():
            g.copy_(direction_norm(v, g, *self.layouts["weight"]))
        if self.bias is not None:
            inputs = v.shape[1:].numel()  # also in a transposed convolution, where torch too counts this axis
            bound = 1 / math.sqrt(inputs) if inputs else 0.0
            nn.init.uniform_(self.bias, -bound, bound)
        self.accept_v_and_g()

    def _record(self, tracer: Any, args: tuple[Any, ...]) -> Any:
        if self is not tracer.root or getattr(self, "transposed", False):
            return super()._record(tracer, args)
        return self._with_weights(record_compose(self, tracer, "weight"), *args)

    def _weights(self) -> Tensor:
        return self.compose_weights()["weight"]

    def _check_input(self, x: Tensor, axis: int, size: int, what: str, run: Callable[[], Any]) -> None:
        name = type(self).__name__
        if isinstance(x, Proxy):
            return
        if not isinstance(x, Tensor):
            raise_as_torch(run, f"{name}: input must be a tensor, got {type(x).__name__}", TypeError)
        if x.ndim < -axis or x.shape[axis] != size:
            got = f"{x.shape[axis]} in shape {tuple(x.shape)}" if x.ndim >= -axis else f"shape {tuple(x.shape)}"
            raise_as_torch(run, f"{name}: input must have {size} {what} along axis {axis}, got {got}")


class WNLinear(_WNLayer):
    """A linear map with weight normalisation, a drop-in for ``torch.nn.Linear``.

    y = x Wᵀ + b, each row of W being g·v/‖v‖

    Args:
        in_features: I.
        out_features: H.
        bias: Whether there is b.
        dim: Axis of W along which g lies, as in torch's ``weight_norm``: 0 for a scale of each output, 1 of each input,
            None for one of the whole matrix. g then has torch's shape, ``(1, I)`` or ``()``.

    Shape:
        - input: ``(*, I)``, I being in_features
        - output: ``(*, H)``, H being out_features

    State:
        weight_v ``(H, I)`` and bias ``(H,)`` from U(−1/√I, 1/√I); weight_g ``(H,)``, ‖v‖.

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dim: int | None = 0,
    ) -> None:
        super().__init__()
        self.in_features = check_size("WNLinear", "in_features", in_features)
        self.out_features = check_size("WNLinear", "out_features", out_features)
        self._register((self.out_features, self.in_features), self.out_features, bias, dim, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Map the last axis."""
        output: Tensor = self._run(input)
        return output

    def _with_weights(self, weights: Tensor, input: Tensor) -> Tensor:
        def run() -> Tensor:
            return F.linear(input, weights, self.bias)

        self._check_input(input, -1, self.in_features, "features", run)
        return run()

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text + self._describe_g("weight")
