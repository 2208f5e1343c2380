"""A network that starts from the weights of a file."""

from pathlib import Path

import pytest
import torch
from torch import nn

from wnseq.training.fine_tuning import load_initial_weights


@pytest.fixture
def saved(tmp_path: Path) -> str:
    weights = {f"network.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": {"width": 2}}, tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")


def test_the_weights_are_loaded(saved: str) -> None:
    network = nn.Linear(3, 2)
    load_initial_weights(network, saved, ["width"])
    assert torch.equal(network.weight, torch.load(saved)["state_dict"]["network.weight"])


def test_weights_of_another_size_are_refused(saved: str) -> None:
    with pytest.raises(ValueError, match=r"a.ckpt does not fit this network: it was made with --model.width 2"):
        load_initial_weights(nn.Linear(3, 4), saved, ["width"])


def test_a_check_sees_the_file_before_the_network_is_changed(saved: str) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()

    def refuse(loaded: object) -> None:
        raise ValueError(f"of width {loaded['hyper_parameters']['width']}")  # type: ignore[index]

    with pytest.raises(ValueError, match="of width 2"):
        load_initial_weights(network, saved, [], check=refuse)
    assert torch.equal(network.weight, before)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at nowhere\.ckpt"):
        load_initial_weights(nn.Linear(3, 2), "nowhere.ckpt", [])
