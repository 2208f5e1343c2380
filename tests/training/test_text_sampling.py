"""One token after the other: temperature, the likeliest, the nucleus."""

import math
from typing import Any

import pytest
import torch

from wnseq.training.text_sampling import Sampling, draw_token


def test_drawing_obeys_temperature_top_k_and_top_p() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()

    def drawn(**how: Any) -> set[int]:
        generator = torch.Generator().manual_seed(0)
        return {draw_token(logits, Sampling(**{"top_p": 1.0, **how}), generator) for _ in range(300)}

    assert drawn(temperature=1.0) == {0, 1, 2, 3}
    assert drawn(temperature=0) == {3}
    assert drawn(temperature=1.0, top_k=2) == {2, 3}
    assert drawn(temperature=1.0, top_k=9) == {0, 1, 2, 3}
    assert drawn(temperature=1.0, top_p=0.4) == {3}
    assert drawn(temperature=1.0, top_p=0.5) == {2, 3}


@pytest.mark.parametrize("top", [{"top_p": 1.0}, {"top_p": 0.9}, {"top_k": 2}, {"top_p": 1e-300}], ids=str)
@pytest.mark.parametrize("logits", [[-7.0, -5.0, -6.0], [-1.0, 0.0, -2.0], [-math.inf, 2.0, 1.0]], ids=str)
def test_extreme_temperatures_are_their_limits(logits: list[float], top: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(temperature: float) -> set[int]:
        how = Sampling(temperature=temperature, **top)
        return {draw_token(torch.tensor(logits), how, generator) for _ in range(100)}

    for temperature in (1e-38, 1e-40, 5e-324):
        assert drawn(temperature) == {1}
    finite = {place for place, logit in enumerate(logits) if logit > -math.inf}
    found = drawn(1e300)
    assert found <= finite and (len(found) > 1 or top == {"top_p": 1e-300})


@pytest.mark.parametrize("sharpness", [0.1, 3.0], ids=["flat: all sorted", "peaked: the likeliest"])
def test_a_nucleus_is_that_of_the_whole_vocabulary(sharpness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = sharpness * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "multinomial", lambda p, *args, **kwargs: seen.append(p) or torch.tensor([0]))
    assert draw_token(logits, Sampling(temperature=1.0, top_p=0.9), torch.Generator()) == logits.argmax()
    ordered = logits.softmax(0).sort(descending=True).values
    kept = ordered[ordered.cumsum(0) - ordered < 0.9]
    assert (len(kept) > 512) == (sharpness < 1)
    torch.testing.assert_close(seen[0][: len(kept)], kept)
    assert not seen[0][len(kept) :].any()
