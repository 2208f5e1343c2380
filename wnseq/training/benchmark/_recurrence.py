"""A forward and backward of recurrent modules: computed, to be compared, and timed."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wnseq.nn import WNModule
from wnseq.training.benchmark._rounds import TimedCall

State = Tensor | tuple[Tensor, Tensor]


class RecurrentTask(NamedTuple):
    """What every variant computes.

    Args:
        x: Input.
        state: Initial states.
        gradient: Gradient of the output, for the backward; None in inference.
        autocast: Whether the forward runs under bfloat16 autocast.

    Shape:
        - x: ``(T, N, H)``, and as many of the gradient; states ``(L, N, H)``
    """

    x: Tensor
    state: State
    gradient: Tensor | None = None
    autocast: bool = False

    def compute(self, call: Callable[..., Any]) -> dict[str, Tensor]:
        """Run once; return output, final states and, in training, the gradients of the input and of the weights.

        In inference ``call`` may be any function of input and state, in training it is a module.
        """
        x = self._input()
        output, final, _ = self._run(call, x)
        found = {"output": output}
        found |= {f"final state {k}": each for k, each in enumerate(final if isinstance(final, tuple) else (final,))}
        if isinstance(call, nn.Module) and x.grad is not None:
            found["gradient of the input"] = x.grad
            found |= {f"gradient of {name}": value for name, value in weight_gradients(call)}
            call.zero_grad()
        return {name: value.detach().float() for name, value in found.items()}

    def timed(self, call: Callable[..., Any]) -> TimedCall:
        """Return a function that runs once and returns the seconds of forward and, in training, backward and both."""
        x = self._input()

        def run() -> tuple[float, ...]:
            *_, seconds = self._run(call, x)
            if isinstance(call, nn.Module) and x.grad is not None:
                x.grad = None
                call.zero_grad()
            return seconds

        return run

    def _input(self) -> Tensor:
        """Copy the input; in training it needs a gradient, as an embedding's output does."""
        return self.x.clone().requires_grad_(self.gradient is not None)

    def _run(self, call: Callable[..., Any], x: Tensor) -> tuple[Tensor, State, tuple[float, ...]]:
        device = x.device.type
        with torch.inference_mode(self.gradient is None), torch.autocast(device, torch.bfloat16, enabled=self.autocast):
            start = _now(x)
            output, final = call(x, self.state)
            forward = _now(x) - start
        if self.gradient is None:
            return output, final, (forward,)
        gradient = self.gradient.to(output.dtype)
        start = _now(x)
        output.backward(gradient)
        backward = _now(x) - start
        return output, final, (forward, backward, forward + backward)


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def weight_gradients(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the gradients of composed weights, made from those of v and g, and of all other parameters.

    ∇w = ‖v‖/g ∇v + ∇g v/‖v‖
    """
    if isinstance(module, WNModule):
        pairs = {name: module.v_and_g(name) for name in module.weight_names}
    else:
        parametrised: Any = getattr(module, "parametrizations", {})
        pairs = {name: (weight.original1, weight.original0) for name, weight in parametrised.items()}
    for name, (v, g) in pairs.items():
        if v.grad is not None and g.grad is not None:
            norm, scale = v.detach().norm(dim=1, keepdim=True), g.detach().view(-1, 1)
            yield name, norm / scale * v.grad + g.grad.view(-1, 1) * v.detach() / norm
    parts = {id(part) for pair in pairs.values() for part in pair}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and id(parameter) not in parts:
            yield name.removeprefix("plain."), parameter.grad
