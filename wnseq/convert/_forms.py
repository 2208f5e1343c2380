"""The state dict of a model in the forms in which others spell its weights."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from wnseq.functional import Layout
from wnseq.nn._module import WNModule
from wnseq.nn._weight_pairs import find_weight_norm, qualified_name
from wnseq.state_dict import Form, convert_keys, convert_keys_like


def state_dict_as(
    model: nn.Module, form: Form | None = None, *, like: Mapping[str, Any] | nn.Module | None = None
) -> dict[str, Any]:
    """Return the state dict of a model with its weight-normalised weights, wnseq's and torch's, in a given form.

    Args:
        model: Any module.
        form: ``plain``, ``wnseq``, ``torch_hooks`` or ``torch_parametrizations``. ``plain`` loads into the model that
            was never weight-normalised.
        like: Instead of a form, a state dict or a module of the same model: each weight gets the form and the axis of
            g that it has there, also a plain weight of this model.

    Raises:
        TypeError: ``like`` is no state dict.
        ValueError: Both or neither of ``form`` and ``like`` are given; there is no such form, or torch's cannot hold a
            scale for each output of each group; a weight is missing from ``like`` or has another shape there.

    Note:
        The other way needs no function: wnseq's modules load every form.

    Example:
        >>> import torch
        >>> from wnseq import WNLSTM, remove_weight_norm
        >>> torch.nn.LSTM(3, 4).load_state_dict(state_dict_as(WNLSTM(3, 4), "plain"))
        <All keys matched successfully>
        >>> original = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 4)))
        >>> model = remove_weight_norm(original)
        >>> original.load_state_dict(state_dict_as(model, like=original))
        <All keys matched successfully>
    """
    if (form is None) == (like is None):
        raise ValueError("state_dict_as: give either a form, as 'plain', or like, a state dict or a module")
    entries = model.state_dict()
    if like is not None:
        layouts = _layouts(like) | _layouts(model) if isinstance(like, nn.Module) else _layouts(model)
        return convert_keys_like(entries, _state_dict_of(like), layouts)
    for path, module in model.named_modules(remove_duplicate=False):  # a shared module has keys at each of its places
        own = {name: params.layout for name, params in find_weight_norm(module).items()}
        entries = convert_keys(entries, own, form, qualified_name(path, ""))  # type: ignore[arg-type]  # not None here
    return entries


def _layouts(model: nn.Module) -> dict[str, Layout]:
    """Return the layout of each weight by its key in the state dict, where it is not the usual one."""
    layouts: dict[str, Layout] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WNModule):
            layouts.update({qualified_name(path, name): layout for name, layout in module.layouts.items()})
        elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            layouts[qualified_name(path, "weight")] = 1, module.groups
    return layouts


def _state_dict_of(like: Any) -> Mapping[str, Any]:
    entries = like.state_dict() if isinstance(like, nn.Module) else like
    if not isinstance(entries, Mapping):
        raise TypeError(f"state_dict_as: like must be a state dict or a module, got {type(like).__name__}")
    nested = [key for key, value in entries.items() if isinstance(value, Mapping)]
    if nested:
        raise TypeError(
            f"state_dict_as: like must be a state dict, whose values are tensors, and holds others in {nested[0]!r}; "
            f"give that entry, as checkpoint[{nested[0]!r}]"
        )
    return entries
