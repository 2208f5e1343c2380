"""Starts of an embedding and of a softmax from how often each token occurs."""

import torch
from torch import Tensor

from wnseq.errors import ShapeError
from wnseq.nn._embedding import WNEmbedding
from wnseq.nn._linear import WNLinear


@torch.no_grad()
def g_from_counts_(layer: WNEmbedding | WNLinear, counts: Tensor) -> None:
    """Set the g of an embedding or of a softmax in proportion to the log of how often each row's token occurs.

    g[j] = s·log(1 + c[j]), with the s that keeps the mean of g² over the rows

    Args:
        layer: An embedding, or the linear map in front of a softmax. v, and so each direction, stays as it is.
        counts: c, the number of times that each token occurs in the training text.

    Shape:
        - counts: ``(V,)``

    Raises:
        ShapeError: There is not one count for each row of the layer, or its g is not one for each row.
        ValueError: A count is negative or not finite, or all are 0.

    Note:
        The paper sets the lengths of the rows of plain matrices to scaled log counts at the start, which other code can
        grow out of. Here g is that length, and stays one number of each row to train, decay and read.

    Example:
        >>> embedding = WNEmbedding(3, 4)
        >>> g_from_counts_(embedding, torch.tensor([1, 3, 7]))
        >>> [round(ratio, 4) for ratio in (embedding.weight_g / embedding.weight_g[0]).tolist()]
        [1.0, 2.0, 3.0]

    Source:
        Herold, Gao & Ney 2018, Improving neural language models with weight norm initialization and regularization,
        https://aclanthology.org/W18-6310, section 4.
    """
    g = layer.writable_v_and_g("weight")[1]
    length = _check_counts("g_from_counts_", counts, g).log1p()
    g.copy_(length * (g.double().square().mean() / length.square().mean()).sqrt())


@torch.no_grad()
def bias_from_counts_(bias: Tensor, counts: Tensor) -> None:
    """Set the bias of a softmax to the log frequencies of its classes, in place.

    b[j] = log((1 + c[j])/Σ(1 + c)): without features the softmax predicts each class as often as it occurs

    Args:
        bias: b, which is overwritten.
        counts: c, the number of times that each class occurs in the training data.

    Shape:
        - bias, counts: ``(V,)``

    Raises:
        ShapeError: There is not one count for each entry.
        ValueError: A count is negative or not finite, or all are 0.

    Example:
        >>> output = torch.nn.Linear(4, 2)
        >>> bias_from_counts_(output.bias, torch.tensor([2, 0]))
        >>> [round(share, 4) for share in output.bias.softmax(0).tolist()]
        [0.75, 0.25]
    """
    bias.copy_((1 + _check_counts("bias_from_counts_", counts, bias)).log().log_softmax(0))


def _check_counts(label: str, counts: Tensor, rows: Tensor) -> Tensor:
    """Return the counts in float64 on the device of the rows."""
    if not isinstance(counts, Tensor) or counts.shape != rows.shape or rows.ndim != 1:
        got = tuple(counts.shape) if isinstance(counts, Tensor) else f"a {type(counts).__name__}"
        raise ShapeError(f"{label}: counts must be a tensor with one for each of {tuple(rows.shape)} rows, got {got}")
    values = counts.to(rows.device, torch.float64)
    if not bool((values.isfinite() & (values >= 0)).all()) or not bool(values.any()):
        raise ValueError(f"{label}: each count must be finite and at least 0, and one greater than 0")
    return values
