"""minGRU and minLSTM over all steps at once, in operators that have every rule of torch's.

Their state depends on the one before by a product and a sum alone, h_t = a_t ⊙ h_(t−1) + b_t, and two such steps are
one of the same form: half as many steps, then half of those, until one is left.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wnseq._recurrence.backend import widen
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.steps import MIN_GATES
from wnseq._recurrence.unrolled import Unrolled
from wnseq._torch_internals import is_tracing
from wnseq.errors import ShapeError


class ParallelScan(Unrolled):
    """Runs a padded input in 2·log₂ T rounds, a packed one step by step."""

    name = "parallel_scan"

    def run(self, call: Call) -> tuple[Tensor, States]:
        """Run all layers."""
        strict = torch.compiler.is_dynamo_compiling()  # where a length does not show whether it is dynamic
        exported = torch.compiler.is_exporting() and (strict or isinstance(call.steps, torch.SymInt))
        if exported or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                f"a {call.kind} is exported for one length, by which the rounds of its scan are fixed: leave the "
                "length out of dynamic_shapes, in torch.export that is not strict, or take an LSTM, a GRU or an RNN"
            )
        if call.steps == 0:
            raise ShapeError(f"Expected sequence length to be larger than 0 in RNN; this {call.kind} got no step")
        if call.batch_sizes is not None and is_tracing():
            raise RuntimeError(
                f"a {call.kind} takes no PackedSequence in a graph, whose steps are fixed when it is captured: pad the "
                "input there, and reset the state where a sequence begins"
            )
        return super().run(call)

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction; gates and states in float32 at least."""
        if call.batch_sizes is not None:
            return super().layer(call, x, states, weights, reverse)
        (h,) = states
        z, n = MIN_GATES[call.kind](widen(F.linear(x, *weights)))  # (T, N, H)
        reset = call.reset
        if reverse:
            z, n = z.flip(0), n.flip(0)
            reset = None if reset is None else F.pad(reset.flip(0)[:-1], (0, 0, 1, 0))
        keep, drive, before = 1 - z, z * n, widen(h)
        border = None if reset is None else reset.unsqueeze(-1)  # (T, N, 1)
        if border is not None:
            keep, before = keep.masked_fill(border, 0), before.masked_fill(border[0], 0)
        first = torch.addcmul(drive[:1], keep[:1], before)
        output = linear_scan(keep, torch.cat([first, drive[1:]]), border).to(h.dtype)
        final = output[-1]
        return output.flip(0) if reverse else output, (final,)


def linear_scan(keep: Tensor, drive: Tensor, border: Tensor | None = None) -> Tensor:
    """Return h_t = keep_t ⊙ h_(t−1) + drive_t for every t along the first axis, from a state of zero.

    Where ``border`` is true, keep_t must be 0, and h_(t−1) may be NaN: 0 takes its place.
    """
    steps = keep.shape[0]
    if steps == 1:
        return drive
    even = steps // 2 * 2
    first, second, before = keep[:even:2], keep[1::2], drive[:even:2]
    borders = None
    if border is not None:
        first, before = first.masked_fill(border[1::2], 0), before.masked_fill(border[1::2], 0)
        borders = border[:even:2] | border[1::2]
    odd = linear_scan(first * second, torch.addcmul(drive[1::2], second, before), borders)  # h_1, h_3, …
    previous = odd[: (steps - 1) // 2]
    if border is not None:
        previous = previous.masked_fill(border[2::2], 0)
    others = torch.addcmul(drive[2::2], keep[2::2], previous)  # h_2, h_4, …
    others = torch.cat([drive[:1], others])
    h = torch.stack([others[: steps // 2], odd], 1).flatten(0, 1)
    return h if even == steps else torch.cat([h, others[-1:]])


PARALLEL_SCAN = ParallelScan()
