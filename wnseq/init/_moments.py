"""Mean and standard deviation of each unit of a batch, over several calls and over the ranks that share the work."""

import math
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor


class Moments(NamedTuple):
    """Number of samples, mean, and summed squared deviation from the mean of each unit."""

    samples: float
    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, y: Tensor, axis: int) -> Self:
        """Compute them in double precision over all axes but that of the units, and over all ranks."""
        units = y.detach().movedim(axis, 0)
        units = units.reshape(len(units), math.prod(units.shape[1:]))  # (C, …)
        units = units.float() if y.device.type == "mps" else units.double()  # that backend has no double
        mean = units.mean(1) if units.shape[1] else units.new_zeros(len(units))
        own = cls(units.shape[1], mean, (units - mean.unsqueeze(1)).square().sum(1))
        if not (dist.is_available() and dist.is_initialized()):
            return own
        packed = torch.stack([mean.new_full(mean.shape, own.samples), own.mean, own.square])
        parts = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, packed)  # each rank sums the same parts in the same order: equal to the bit
        return cls.union([cls(float(part[0, 0]), part[1], part[2]) for part in parts])

    @classmethod
    def union(cls, parts: list[Self]) -> Self:
        """Compute those of all samples together."""
        samples = sum(part.samples for part in parts)
        mean = torch.stack([part.samples * part.mean for part in parts]).sum(0) / max(samples, 1)
        squares = [part.square + part.samples * (part.mean - mean).square() for part in parts]
        return cls(samples, mean, torch.stack(squares).sum(0))

    @property
    def std(self) -> Tensor:
        """Standard deviation of each unit, with the number of samples in the denominator."""
        return (self.square / max(self.samples, 1)).sqrt()

    @property
    def root_mean_square(self) -> float:
        """Root of the mean square of all units together."""
        return float((self.mean.square() + self.std.square()).mean().sqrt())

    def is_constant(self, dtype: torch.dtype, groups: int = 1) -> Tensor:
        """Return True for each unit whose samples are equal up to the rounding of a dtype.

        Args:
            dtype: That of the layer.
            groups: Parts of the units, each of which has an input of its own, of a size of its own.
        """
        squares = (self.mean.square() + self.std.square()).view(groups, -1)
        size = squares.mean(1, keepdim=True).sqrt().expand_as(squares).flatten()
        return self.std <= rounding(dtype) * size


def rounding(dtype: torch.dtype) -> float:
    """Return a bound of the rounding error of a sum, relative to the size of its terms; half types add in float32."""
    return (2 if dtype in (torch.float16, torch.bfloat16) else 16) * torch.finfo(dtype).eps
