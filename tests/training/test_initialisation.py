"""Whether a network is initialised, in its state dict."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from wnseq.training.initialisation import BatchInitialised, start_from_counts


class Network(BatchInitialised):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 1)


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()


def test_a_state_dict_restores_what_it_was_saved_with() -> None:
    network = Network()
    before = copy.deepcopy(network.state_dict())
    network.mark_initialised()
    other = Network()
    other.load_state_dict(network.state_dict())
    assert other.is_initialised
    other.load_state_dict(before)
    assert not other.is_initialised


def test_weights_without_it_set_it() -> None:
    plain = {"map.weight": torch.ones(1, 2), "map.bias": torch.ones(1)}
    network, owner = Network(), Owner()
    network.load_state_dict(plain)
    owner.load_state_dict({f"network.{name}": value for name, value in plain.items()})
    assert network.is_initialised and owner.network.is_initialised
    assert "initialised" not in plain
    empty = Owner()
    empty.load_state_dict({"other": torch.ones(1)}, strict=False)
    assert not empty.network.is_initialised


def test_it_is_no_parameter_and_keeps_its_dtype() -> None:
    network = Network()
    network.mark_initialised()
    assert [name for name, _ in network.named_parameters()] == ["map.weight", "map.bias"]
    assert network.half().initialised.dtype == torch.uint8 and copy.deepcopy(network).is_initialised


class Start(LightningModule):
    network = None


def test_without_a_training_text_there_are_no_counts() -> None:
    with pytest.raises(ValueError, match="a start from counts needs the training text of a TextDataModule"):
        start_from_counts(Start(), "g")
