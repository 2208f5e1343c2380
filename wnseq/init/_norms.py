"""The start in which v is the weight."""

from torch import nn

from wnseq.nn._module import WNModule


def g_from_v_(model: nn.Module) -> None:
    """Set every g to the norm of its v, so that each weight is what v holds: w = v.

    Call it after code that initialises a model's ``parameters()`` as those of torch.nn, g among them. A row of zeros
    stays 0, with a direction to train from.

    Args:
        model: Any module. Only its weight-normalised layers of wnseq are changed.

    Raises:
        ValueError: The model has none.

    Example:
        >>> import torch
        >>> from wnseq.nn import WNLinear
        >>> net = WNLinear(2, 1)
        >>> for parameter in net.parameters():
        ...     _ = torch.nn.init.constant_(parameter, 3.0)
        >>> g_from_v_(net)
        >>> net.weight.tolist()
        [[3.0, 3.0]]
    """
    modules = [module for module in model.modules() if isinstance(module, WNModule)]
    if not modules:
        raise ValueError(f"g_from_v_: {type(model).__name__} has no weight-normalised layer of wnseq")
    for module in modules:
        for name in module.weight_names:
            setattr(module, name, module.v_and_g(name)[0].detach())
