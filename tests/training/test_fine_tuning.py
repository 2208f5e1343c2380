"""A network that starts from the weights of a file."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import wnseq
from wnseq.training.fine_tuning import fill_from_checkpoint, lent_arguments, load_encoder, load_initial_weights


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


class Model:
    @fill_from_checkpoint
    def __init__(self, width: int = 1, rate: float = 0.1, init_from: str | None = None) -> None:
        self.given = (width, rate)


def test_a_constructor_takes_what_it_is_not_given_from_the_checkpoint(saved: str, tmp_path: Path) -> None:
    loaded = torch.load(saved)
    torch.save(
        {**loaded, "hyper_parameters": {"width": 2, "rate": 0.5, "other": 1}, "wnseq": {}}, tmp_path / "own.ckpt"
    )
    own = str(tmp_path / "own.ckpt")
    assert Model(init_from=own).given == (2, 0.5)
    assert Model(init_from=own, rate=0.3).given == Model(2, 0.3, own).given == (2, 0.3)
    assert Model(1, init_from=own).given == (1, 0.5)
    assert Model().given == Model(init_from=saved).given == (1, 0.1)  # no checkpoint, or one of another program
    assert Model(3, 0.4, "nowhere.ckpt").given == (3, 0.4)  # nothing is left open
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at nowhere\.ckpt"):
        Model(init_from="nowhere.ckpt")


def test_the_constructor_keeps_its_signature() -> None:
    assert [*inspect.signature(Model).parameters] == ["width", "rate", "init_from"]


def test_an_encoder_is_loaded_and_the_rest_stays(tmp_path: Path) -> None:
    network = nn.ModuleDict({"encoder": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
    other = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 7)})
    weights = {f"network.{name}": value for name, value in other.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": {"width": 2}}, tmp_path / "a.ckpt")
    head = network["head"].weight.detach().clone()
    seen: list[object] = []
    load_encoder(network, str(tmp_path / "a.ckpt"), ["width"], ("encoder.",), check=seen.append)
    assert torch.equal(network["encoder"].weight, other["encoder"].weight) and len(seen) == 1
    assert torch.equal(network["head"].weight, head)
    other["encoder"] = wnseq.weight_normalize(other["encoder"])
    weights = {f"network.{name}": value for name, value in other.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "wn.ckpt")
    nn.init.zeros_(network["encoder"].weight)
    load_encoder(network, str(tmp_path / "wn.ckpt"), ["width"], ("encoder.",), check=seen.append)
    torch.testing.assert_close(network["encoder"].weight, other["encoder"].compose_weights()["weight"])
    network["encoder"] = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"a\.ckpt does not fit this network: it was made with --model\.width 2"):
        load_encoder(network, str(tmp_path / "a.ckpt"), ["width"], ("encoder.",), check=seen.append)


def test_another_recipe_lends_what_a_model_lists() -> None:
    class Model:
        lent_by = {"other": ("width", "depth")}  # noqa: RUF012

    loaded = {"wnseq": {"recipe": "other"}, "hyper_parameters": {"width": 2, "rate": 0.1}}
    assert lent_arguments(Model, loaded, {}) == {"width": 2}
    own = {**loaded, "wnseq": {"recipe": "own"}}
    assert lent_arguments(Model, own, {}) == {"width": 2, "rate": 0.1}
    assert lent_arguments(Model, {"hyper_parameters": {"width": 2}}, {}) == {}
    Model.lent_with = {"width": ("rate",)}
    assert lent_arguments(Model, own, {"width": 2}) == lent_arguments(Model, own, {}) == {"width": 2, "rate": 0.1}
    assert lent_arguments(Model, own, {"width": 3}) == {"width": 2}
    assert lent_arguments(Model, own, {"width": 3}, resumed=True) == {"width": 2, "rate": 0.1}
