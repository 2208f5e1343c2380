"""Rows of weights for other entries or classes."""

import torch

from wnseq._rows import carry_normalized_rows, carry_rows, carry_weights
from wnseq.functional import compose


def test_rows_are_means_and_the_rest_starts_with_the_mean_row() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    assert carry_rows(rows, [[2], [0, 1], []]).tolist() == [[5, 9], [2, 3], [3, 5]]
    assert carry_rows(rows[:, 0], [[], [1]]).tolist() == [3, 3]


def test_normalized_rows_are_means_of_what_they_compose_to() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(5, 3, generator=generator, dtype=torch.float64) * torch.tensor([[9.0], [1], [3], [2], [5]])
    g = torch.tensor([0.5, 2, 1, 3, 1], dtype=torch.float64)
    sources = [[2], [0, 1], [], [1, 3, 4]]
    new_v, new_g = carry_normalized_rows(v, g, sources)
    assert torch.equal(new_v[0], v[2]) and torch.equal(new_g[0], g[2])
    composed = [compose(direction, scale) for direction, scale in ((v, g), (new_v, new_g))]
    torch.testing.assert_close(composed[1], carry_rows(composed[0], sources))
    torch.testing.assert_close(new_v.norm(dim=1), carry_rows(v.norm(dim=1), sources))


def test_rows_that_cancel_keep_a_direction() -> None:
    v, g = carry_normalized_rows(torch.tensor([[1.0, 0], [-3, 0], [0, 2]]), torch.ones(3), [[0, 1]])
    assert v.tolist() == [[-1, 0]] and g.tolist() == [1]


def test_the_v_and_g_of_a_weight_are_carried_together_and_the_rest_stays() -> None:
    v, g, bias = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([1.0, 2]), torch.tensor([5.0, 7])
    weights = {"a.weight_v": v, "a.weight_g": g, "a.bias": bias, "b.bias": bias}
    carry_weights(weights, ["a.weight_v", "a.weight_g", "a.bias"], [[1], [], [0]])
    torch.testing.assert_close(
        compose(weights["a.weight_v"], weights["a.weight_g"]), carry_rows(compose(v, g), [[1], [], [0]])
    )
    assert weights["a.bias"].tolist() == [7, 6, 5] and weights["b.bias"] is bias
