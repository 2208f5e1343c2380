"""Returns that action values are trained to reach."""

import torch
from torch import Tensor

__all__ = ["q_lambda_returns"]


def q_lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, resets: Tensor, discount: float, trace: float
) -> Tensor:
    """Compute the returns of Q(λ).

    G_t = r_t + γ·((1 − λ)·V_(t+1) + λ·G_(t+1)), without what follows where the episode ends; and G_t = V_t where the
    step is a reset, so that an episode that was cut goes on with the value of its last observation

    Args:
        rewards: r.
        values: V, the largest action values.
        terminated: Whether the episode ends with the step.
        resets: Whether the step has no effect but to begin the next episode.
        discount: γ.
        trace: λ.

    Shape:
        - values: ``(T + 1, N)``; the others, and the returns, ``(T, N)``

    Source:
        Gallici et al. 2025, arXiv 2407.04811, section 3.2; Daley & Amato 2019, arXiv 1810.09967.
    """
    returns, ahead = torch.empty_like(rewards), values[-1]
    for step in reversed(range(len(rewards))):
        mixed = (1 - trace) * values[step + 1] + trace * ahead
        ahead = rewards[step] + discount * mixed * ~terminated[step]
        returns[step] = ahead = torch.where(resets[step], values[step], ahead)
    return returns
