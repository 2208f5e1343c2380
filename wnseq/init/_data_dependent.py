"""Initialisation from one batch: g and bias of each layer are set when the data reaches it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from wnseq.convert._report import parameter_users
from wnseq.init._recurrent import RecurrentInit
from wnseq.init._report import FEEDFORWARD, RECURRENT, InitReport, find_layers
from wnseq.init._sweep import FeedForward, Recurrent, Sweep, restored_on_error, without_noise
from wnseq.nn._arguments import check_inside, check_int
from wnseq.nn._module import WNModule


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
    """Set g and bias of every weight-normalised layer so that each pre-activation has mean 0 and standard deviation s.

    t = v·x/‖v‖; g ← s/σ[t], b ← −s·μ[t]/σ[t], with μ and σ over the batch and the positions of a convolution

    A layer is set when the data reaches it, and from then on its output is that of the set layer, so that the batch
    goes through once. In a plain network the weights are set to those of the weight-normalised one, w = g·v/‖v‖.

    Args:
        model: Any module. v stays as it was drawn: see :func:`draw_directions`.
        batch: The model's input: one argument; a plain tuple of several; or a dictionary of them by name.
        init_scale: s, a number; or numbers by patterns of qualified names, in which ``*`` and ``?`` match any text and
            any character. The first that matches counts; without one s is 1: ``{"*.last": 0.1}``.
        call: Method of the model that is called with the batch, instead of the model.
        input_share: ρ, in recurrent modules the share of the variance s² that comes from the input, the rest coming
            from the state; the larger, the shorter the memory. The gate that keeps the state gets a mean of 1.
        horizon: τ, in recurrent modules the number of steps to remember: ρ is then found so that the gradient of the
            last output with respect to the input τ steps before is 0.4 to 0.75 of that with respect to the last input.
        max_sweeps: How often the batch may go through a model in which a layer is used more than once.

    Returns:
        What was set, what was skipped and why, and the largest error when the batch goes through once more.

    Raises:
        ValueError: The model has no layer to set; a scale is not positive, or a share not between 0 and 1; a pattern
            matches no layer; the parameters are sharded; a pre-activation is not finite; or no ρ gives the horizon.
            The model is then left as it was.
        ShapeError: A recurrent module sees sequences of one step, or none longer than the horizon.

    Note:
        Dropout and other noise of training are off, batch norms use the batch. Training flags, buffers (running
        statistics) and torch's random generators are left as they were, and no gradient is computed.

        - A layer used several times gets the statistics over all its calls. Its first calls change the input of the
          later ones, so the batch goes through again, in small enough steps, until they settle; if they do not within
          ``max_sweeps``, a note gives the error that is left.
        - A unit with a constant input keeps its g; only its mean is removed.
        - A layer without a bias keeps its mean; so does one whose bias is frozen or another layer's too, and one before
          a mean-only batch norm, which removes it.
        - A recurrent module is set at its first call, from the zero state. Cells are skipped, since their steps are not
          known beforehand; :func:`data_free_init` sets them.
        - Layers that are frozen (a recurrent module: any of its parameters) or not reached by the batch are skipped, in
          a plain network also those whose weight is tied or computed.
        - With ``torch.distributed`` the statistics are those of the batches of all ranks, and every rank gets the same
          values; every rank has to call this.

    Example:
        >>> import torch
        >>> from wnseq.nn import WNLinear
        >>> net = nn.Sequential(WNLinear(5, 6), nn.ReLU(), WNLinear(6, 3))
        >>> print(data_init(net, torch.randn(100, 5)).changed)
        ['0', '2']

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 3, equations 5 and 6; section 4 for mean-only batch norm.
    """
    if check_int("data_init", "max_sweeps", max_sweeps) < 1:
        raise ValueError(f"data_init: max_sweeps must be at least 1, got {max_sweeps}")
    input_share = check_inside("data_init", "input_share", input_share, 0, 1, "between 0 and 1")
    if horizon is not None and check_int("data_init", "horizon", horizon) < 1:
        raise ValueError(f"data_init: horizon must be at least 1, got {horizon}")
    groups, skipped = find_layers(model, init_scale, "data_init: init_scale", 1.0)
    users = parameter_users(model)
    layers: list[FeedForward] = []
    recurrent: list[Recurrent] = []
    for group in groups:
        first = group.normalized[0]
        if isinstance(first, FEEDFORWARD):
            layers.append(FeedForward(group, users))
        elif isinstance(first, RECURRENT):
            recurrent.append(Recurrent(group, RecurrentInit(first, group.scale, input_share, horizon)))
        else:
            skipped[group.name] = "a cell, whose steps are not known beforehand; data_free_init sets it"
    written = [
        parameter
        for group in groups
        for module in group.modules
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 1 or not isinstance(module, WNModule)  # v stays
    ]
    sweep = Sweep(model, layers, recurrent, call or model, batch)
    with without_noise(model), restored_on_error(written):
        for _ in range(max_sweeps):
            sweep.run(setting=True)
            if all([layer.settle() for layer in layers if layer.calls > 1]):  # noqa: C419 - each of them
                break
        else:
            sweep.run(setting=True)
        sweep.run(setting=False)
    changed, notes, error = [], {}, 0.0
    parts: list[FeedForward | Recurrent] = [*layers, *recurrent]
    for part in parts:
        if not part.calls:
            skipped[part.name] = "not reached by the batch"
            continue
        changed.append(part.name)
        off, texts = part.outcome()
        error = max(error, off)
        if texts:
            notes[part.name] = "; ".join(texts)
    return InitReport(changed, skipped, notes, error)
