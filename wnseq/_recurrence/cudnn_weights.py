"""The weights of a call in one buffer, where cuDNN looks for them: others torch packs at each call, and warns.

cuDNN keeps the matrices of all layers and directions first and their biases after them, as ``flatten_parameters`` lays
out the parameters of torch's modules; it has room for biases in a layer without any.
"""

import torch
from torch import Tensor

from wnseq._recurrence.call import Call
from wnseq._torch_internals import is_recording, storage_id


def uses_cudnn(call: Call) -> bool:
    """Return True if torch runs the layers by cuDNN, outside of graphs and transforms."""
    if not call.x.is_cuda or is_recording(*call.flat):  # before what torch.compile cannot follow
        return False
    return torch.backends.cudnn.enabled and bool(torch.backends.cudnn.is_available())  # type: ignore[no-untyped-call]


def one_buffer(flat: list[Tensor], places: int, autocast: bool = False) -> list[Tensor]:
    """Return the weights as views of one new buffer, or as they are if they lie in one already.

    Args:
        flat: Weights and biases in torch's order.
        places: Layers times directions.
        autocast: Whether to cast them for autocast, in which torch runs cuDNN's layers in float16 whatever its dtype.

    Note:
        The views come from one split, whose backward is one concatenation.
    """
    dtype = torch.float16 if autocast and flat[0].dtype == torch.float32 else flat[0].dtype
    mixed = any(weight.dtype != flat[0].dtype for weight in flat)  # torch's own error says more than a promotion
    if mixed or (flat[0].dtype == dtype and len({storage_id(weight.untyped_storage()) for weight in flat}) == 1):
        return flat
    order = _order(len(flat), places)
    parts = [flat[k].flatten() for k in order]
    if len(flat) // places < 4:
        parts.append(flat[0].new_zeros(2 * places * flat[0].shape[0]))
    buffer = torch.cat(parts).to(dtype)
    views: tuple[Tensor, ...] = torch.split(buffer, [len(part) for part in parts])
    return [view.view(flat[k].shape) for k, view in sorted(zip(order, views, strict=False), key=lambda pair: pair[0])]


def _order(count: int, places: int) -> list[int]:
    """Return the indices of matrices and then biases; with an odd number of weights the last one is the projection."""
    size = count // places
    matrices = [0, 1, size - 1] if size % 2 else [0, 1]
    biases = [k for k in range(size) if k not in matrices]
    return [first + k for part in (matrices, biases) for first in range(0, count, size) for k in part]
