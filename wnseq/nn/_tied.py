"""One weight for an embedding and a softmax, with weight normalisation or without."""

from typing import cast

from torch import Tensor, nn

from wnseq.errors import ShapeError
from wnseq.nn._module import WNModule
from wnseq.state_dict import param_names


def tie_weights(output: nn.Module, embedding: nn.Module) -> None:
    """Make a layer share the weight of another: both v and g, if they are weight-normalised.

    Args:
        output: Layer whose ``weight`` is replaced, as the linear map in front of a softmax.
        embedding: Layer of the same shape, weight-normalised if ``output`` is.

    Raises:
        TypeError: One of them is weight-normalised, the other is not.
        ShapeError: Their weights have other shapes.

    Example:
        >>> from wnseq.nn import WNEmbedding, WNLinear
        >>> embedding, output = WNEmbedding(10, 3), WNLinear(3, 10)
        >>> tie_weights(output, embedding)
        >>> is_tied(output, embedding)
        True
    """
    if isinstance(output, WNModule) != isinstance(embedding, WNModule):
        raise TypeError(
            "tie_weights: both layers must be weight-normalised or neither, got "
            f"{type(output).__name__} and {type(embedding).__name__}"
        )
    for name in _stored(embedding):
        given, wanted = (tuple(getattr(layer, name).shape) for layer in (output, embedding))
        if given != wanted:
            raise ShapeError(f"tie_weights: {name} must have the shape {wanted} of the embedding's, got {given}")
    for name in _stored(embedding):
        setattr(output, name, getattr(embedding, name))
    if isinstance(output, WNModule):
        output.accept_v_and_g()


def is_tied(output: nn.Module, embedding: nn.Module) -> bool:
    """Return True if two layers share one weight, as after :func:`tie_weights`."""
    return all(getattr(output, name, None) is getattr(embedding, name) for name in _stored(embedding))


def composed_weight(layer: nn.Module) -> Tensor:
    """Return the ``weight`` of a layer, differentiably: composed of v and g, if it is weight-normalised."""
    return layer.compose_weights()["weight"] if isinstance(layer, WNModule) else cast(Tensor, layer.weight)


def _stored(layer: nn.Module) -> tuple[str, ...]:
    return param_names("weight") if isinstance(layer, WNModule) else ("weight",)
