"""What an evaluation accumulates over its batches and ranks, and the random numbers of its examples."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from wnseq.training.ranks import all_gather_object

__all__ = ["EvaluationTotals", "ExampleGenerators", "ReturnTotals", "evaluation_mode", "evaluation_stage", "is_fitting"]


def evaluation_stage(trainer: Trainer) -> str:
    """Return the stage that metrics are named after: ``test`` in a test, ``val`` in a validation."""
    return "test" if trainer.testing else "val"


def is_fitting(trainer: Trainer) -> bool:
    """Return True if a fit is under way, in its validations too, but not in the check before it."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode without gradients; then every submodule has the mode that it had before.

    In a generator the block must end before each ``yield``: a generator that is left unfinished may never go on.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class EvaluationTotals:
    """Named sums over the batches of an evaluation, in float64.

    Call :meth:`reset` when an evaluation starts: one that was interrupted leaves its sums behind.

    Example:
        >>> totals = EvaluationTotals()
        >>> totals.add(nats=torch.tensor(3.0), images=2)
        >>> totals.add(nats=torch.tensor(1.0), images=2)
        >>> from lightning.pytorch import Trainer
        >>> sums = totals.reduce(Trainer(logger=False, accelerator="cpu"))
        >>> sums["nats"] / sums["images"]
        1.0
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Forget all sums."""
        self._sums = {}

    def add(self, **values: Tensor | float) -> None:
        """Add the sums of one batch: numbers, or tensors whose shape stays the same."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().cpu().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def reduce(self, trainer: Trainer) -> dict[str, Any]:
        """Sum over the ranks of a Trainer; all of them must call this.

        Returns:
            The same on every rank: a float for each number, a list of floats for each vector.
        """
        ranks = all_gather_object(trainer, self._sums) or [self._sums]
        names = dict.fromkeys(name for sums in ranks for name in sums)  # a rank without a batch has none
        return {name: sum(sums[name] for sums in ranks if name in sums).tolist() for name in names}


class ReturnTotals(EvaluationTotals):
    """Totals of episodes that were played, as metrics.

    Example:
        >>> totals = ReturnTotals()
        >>> import numpy as np
        >>> totals.add_episodes(np.array([1.0, 3.0]), np.array([10, 20]))
        >>> from lightning.pytorch import Trainer
        >>> totals.metrics(Trainer(logger=False, accelerator="cpu"))
        {'val/mean_return': 2.0, 'val/return_deviation': 1.0, 'val/mean_steps': 15.0}
    """

    def add_episodes(self, returns: npt.NDArray[Any], steps: npt.NDArray[Any]) -> None:
        """Add episodes by their returns and lengths."""
        self.add(returns=returns.sum(), squares=(returns**2).sum(), steps=steps.sum(), episodes=len(returns))

    def metrics(self, trainer: Trainer) -> dict[str, float]:
        """Return mean and deviation of the returns, and the mean length, named after the stage of a Trainer."""
        stage, totals = evaluation_stage(trainer), self.reduce(trainer)
        returns, squares, steps = (totals[name] / totals["episodes"] for name in ("returns", "squares", "steps"))
        deviation = max(0.0, squares - returns**2) ** 0.5
        return {f"{stage}/mean_return": returns, f"{stage}/return_deviation": deviation, f"{stage}/mean_steps": steps}


class ExampleGenerators:
    """One random generator for each example of an evaluation.

    An example draws the same numbers in every epoch and in batches of any size. On several ranks no two examples share
    a generator.
    """

    def __init__(self) -> None:
        self._seen = 0

    def reset(self) -> None:
        """Start again at the first example."""
        self._seen = 0

    def take(self, number: int, trainer: Trainer | None = None) -> list[torch.Generator]:
        """Return the generators of the next examples, on the CPU: a seed means the same draw on every device.

        Args:
            number: Examples in the batch.
            trainer: Trainer whose rank evaluates; None for a single process.
        """
        rank, ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        seeds = [(self._seen + place) * ranks + rank for place in range(number)]
        self._seen += number
        return [torch.Generator().manual_seed(seed) for seed in seeds]
