"""A single step of few rows on a CPU by the cell's own operations: torch's kernel prepares itself at each call."""

import torch
from torch import Tensor

from wnseq._recurrence.backend import autocast
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.matmul import MIN_FLOPS_ONEDNN
from wnseq._recurrence.unrolled import Unrolled
from wnseq._torch_internals import IS_MKL_FAST, has_vmap_or_jvp, is_tracing, needs_grad

# By the dtype of the products and whether there may be a backward: most rows, fewest entries of w_hh. Beyond them
# torch's kernel is the faster (docs/speed.md, "Single steps").
LSTM_LIMITS = {
    (torch.float32, False): (64, 0),
    (torch.float32, True): (32, 0),
    (torch.bfloat16, False): (16, 2**20),
    (torch.bfloat16, True): (64, 2**16),
}
MAX_ROWS_GRU = 64  # in inference; the weight large enough for oneDNN's product, the step's gain


class SingleStep(Unrolled):
    """Runs a padded input of one step."""

    name = "single_step"
    rule = (
        f"few rows: of a GRU {MAX_ROWS_GRU} at most, in float32 inference; of an LSTM by dtype, as docs/speed.md lists"
    )

    def why_not(self, call: Call) -> str | None:
        """Return None if it is one padded step on a CPU, outside of graphs and transforms."""
        if call.batch_sizes is not None or not call.x.is_cpu:
            return "it is packed, or not on a CPU"
        if is_tracing() or has_vmap_or_jvp(call.x, *call.states, *call.flat):  # before what torch.compile cannot follow
            return "a graph is captured, or a transform of torch.func is active"
        return None if call.steps == 1 else "it has not one step"

    def is_faster(self, call: Call) -> bool:
        """Return True if there are few rows; of a GRU in float32 inference only."""
        batch, entries = call.batch, call.flat[1].numel()
        if call.kind == "gru":
            is_large = batch <= MAX_ROWS_GRU and batch * entries >= MIN_FLOPS_ONEDNN and not IS_MKL_FAST
            return is_large and call.product_dtype == torch.float32 and not needs_grad(call.x, *call.states, *call.flat)
        dtype = call.product_dtype
        if batch == 0 or (call.projected and dtype != torch.float32):  # torch's own lowers a projection less
            return False
        max_rows, min_entries = LSTM_LIMITS.get((dtype, needs_grad(call.x, *call.states, *call.flat)), (0, 0))
        return batch <= max_rows and entries >= min_entries

    def layer(
        self, call: Call, x: Tensor, states: States, weights: list[Tensor], reverse: bool
    ) -> tuple[Tensor, States]:
        """Run one layer in one direction."""
        return super().layer(call, *autocast(x, states, weights), reverse)


SINGLE_STEP = SingleStep()
