"""Torch's fused kernels, each for a whole stack of layers: oneDNN or MKL on a CPU, cuDNN on CUDA."""

import torch
from torch import Tensor

from wnseq._recurrence.backend import Backend
from wnseq._recurrence.call import Call, States
from wnseq._recurrence.cudnn_weights import one_buffer, uses_cudnn
from wnseq._recurrence.lstm_gradient import WRONG_GRADIENT, is_gradient_wrong
from wnseq._torch_internals import has_vmap_or_jvp, is_autocast


class TorchKernel(Backend):
    """No batching rule in any of them, and in the LSTM of float32 on a CPU no forward-mode derivative."""

    name = "torch"

    def why_not(self, call: Call) -> str | None:
        """Return None if no state is reset, ``torch.func.vmap`` and ``jvp`` are inactive, and its gradient is right."""
        if call.reset is not None:
            return "it resets no state"
        if is_gradient_wrong(call):
            return WRONG_GRADIENT
        return "torch.func.vmap or jvp is active" if has_vmap_or_jvp(call.x, *call.states, *call.flat) else None

    def run(self, call: Call) -> tuple[Tensor, States]:
        """Run all layers."""
        kind, x, batch_sizes, states, flat, config, nonlinearity = call[:7]
        kernel = getattr(torch, f"rnn_{nonlinearity}" if kind == "rnn" else kind)
        hx, flat = (states, flat) if kind == "lstm" else (states[0], _cast_once(flat))
        if uses_cudnn(call):
            places = config.num_layers * (1 + config.bidirectional)
            flat = one_buffer(flat, places, is_autocast(x.device.type))
        if batch_sizes is None:
            output, *final = kernel(x, hx, flat, *config)
        else:
            output, *final = kernel(x, batch_sizes, hx, flat, *config[:-1])
        return output, tuple(final)


def _cast_once(flat: list[Tensor]) -> list[Tensor]:
    """Cast weights for autocast on a CPU, where torch steps through these kinds.

    Autocast keeps the cast of a parameter from step to step, but casts a composed weight at each: half of a GRU's time
    at 35×1×1024.
    """
    if not (flat[0].is_cpu and torch.is_autocast_enabled("cpu")):
        return flat
    dtype = torch.get_autocast_dtype("cpu")
    return [weight.to(dtype) if weight.dtype == torch.float32 else weight for weight in flat]


TORCH_KERNEL = TorchKernel()
