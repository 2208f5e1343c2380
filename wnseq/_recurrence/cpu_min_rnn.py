"""The loop of minGRU and minLSTM on a CPU: one product for all steps, and a step is h' = h + z ⊙ (n − h)."""

from typing import Any

import torch
from torch import Tensor

from wnseq._recurrence import unrolled
from wnseq._recurrence.backend import LayerBackend, widen
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.cpu_loops import (
    as_rows,
    states_before,
    step_sizes,
    steps_of,
    unsaved,
    update_state,
    why_no_loop,
)
from wnseq._recurrence.matmul import linear, weight_grad
from wnseq._recurrence.resets import find_resets, zero, zero_
from wnseq._recurrence.steps import MIN_GATES, open_min_gates_

# Many short steps of few numbers: the calls cost more than the numbers, and the scan makes fewer.
MIN_STEPS_SCAN, MAX_NUMBERS_SCAN = 64, 2**9  # steps, and N·H


class CPUMinRNN(LayerBackend):
    """Runs the loop where nothing records, padded or packed."""

    name = "cpu_loop"
    rule = f"fewer than {MIN_STEPS_SCAN} steps, N·H above {MAX_NUMBERS_SCAN}, packed input"

    def why_not(self, call: Call) -> str | None:
        """Return None if the input is on a CPU and not empty, and nothing records."""
        return why_no_loop(call)

    def is_faster(self, call: Call) -> bool:
        """Return True if there are few steps or many numbers, or if the input is packed."""
        if call.batch_sizes is not None:
            return True
        return call.steps < MIN_STEPS_SCAN or call.states[0][0].numel() > MAX_NUMBERS_SCAN

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; gates and states in float32 at least."""
        (h,), dtype = states, call.product_dtype
        w, b = (weight.to(dtype) for weight in weights) if len(weights) > 1 else (weights[0].to(dtype), None)
        inputs = (x.to(dtype), call.batch_sizes, widen(h), w, b, call.kind, reverse, call.reset)
        output, final = _MinRNN.apply(*inputs)  # type: ignore[no-untyped-call]
        return output.to(h.dtype), (final.to(h.dtype),)


class _MinRNN(torch.autograd.Function):
    """One layer; x, weight and bias in the dtype of the product, the rest in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        batch_sizes: Tensor | None,
        h: Tensor,
        w: Tensor,
        b: Tensor | None,
        kind: str,
        reverse: bool,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        sizes = step_sizes(x, batch_sizes)
        with torch.autocast("cpu", enabled=False):
            total = widen(linear(as_rows(x), w, b))  # (ΣN, G·H)
            z, n = open_min_gates_(kind, total)
            if z is None:
                z = MIN_GATES[kind](widen(linear(as_rows(x), w, b)))[0]
        output, state = total.new_empty(n.shape), h
        for z_t, n_t, h_t, row in steps_of(sizes, reverse, z, n, output, find_resets(reset, sizes, reverse)[0]):
            torch.lerp(zero(state[: len(h_t)], row), n_t, z_t, out=h_t)
            state = update_state(state, h_t)
        output = output.view(*x.shape[:-1], -1)
        ctx.save_for_backward(x, batch_sizes, h, w, b, output, total, z, reset)
        ctx.how = kind, reverse
        return unsaved(ctx, output), state.clone()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_sizes, h, w, b, output, total, z, reset = ctx.saved_tensors
        kind, reverse = ctx.how
        if unrolled.needs_graph(d_output, d_h):
            first, *others = unrolled.differentiable_backward(
                unrolled.STEPS[kind], (d_output, d_h), x, batch_sizes, (h,), [w, b], reverse, reset
            )
            return first, None, *others, None, None, None
        sizes = step_sizes(x, batch_sizes)
        with torch.autocast("cpu", enabled=False):
            d, d_h = _backward_of_steps(as_rows(d_output), d_h, sizes, h, reverse, as_rows(output), total, z, reset)
            d_b = d.sum(0).to(x.dtype) if b is not None else None
            d = d.to(x.dtype)
            d_x = linear(d, w.mT).view(x.shape) if ctx.needs_input_grad[0] else None
            return d_x, None, d_h, weight_grad(d, as_rows(x)), d_b, None, None, None


def _backward_of_steps(
    d_output: Tensor,
    d_h: Tensor,
    sizes: list[int],
    h: Tensor,
    reverse: bool,
    output: Tensor,
    total: Tensor,
    z: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the products ``(ΣN, G·H)`` and of the initial state."""
    d, gates = torch.empty_like(total), total.shape[1] // z.shape[1]
    rows, _ = find_resets(reset, sizes, reverse)
    before = states_before(output, h, sizes, reverse)
    parts: tuple[Any, ...] = (d_output, z, before, rows, *d.chunk(gates, 1), *total.chunk(gates, 1))
    for now, z_t, old, row, *each in reversed(steps_of(sizes, reverse, *parts)):
        now = now + d_h[: len(now)]
        *d_gates, d_n = each[:gates]
        *inner, n = each[gates:]
        torch.mul(now, z_t, out=d_n)
        d_old = now - d_n
        d_logit = torch.sub(n, zero(old, row)).mul_(z_t)  # of z = σ(·)
        if gates == 2:
            torch.mul(d_logit, d_old, out=d_gates[0])
        else:  # that is log σ(i) − log σ(f)
            d_logit.mul_(d_old)
            torch.addcmul(d_logit, d_logit, inner[0], value=-1, out=d_gates[0])
            torch.addcmul(d_logit, d_logit, inner[1], value=-1, out=d_gates[1]).neg_()
        d_h = update_state(d_h, zero_(d_old, row))
    return d, d_h


CPU_MIN_RNN = CPUMinRNN()
