"""Which checkpoint is meant, what is taken from it, and what may be wrong with one."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import wnseq
from wnseq.nn import tie_weights
from wnseq.training.checkpoint_files import load_weights

Main = Callable[..., dict[str, float]]
Fails = Callable[..., str]


def test_test_and_validate_measure_a_checkpoint(
    after: dict[str, float], main: Main, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("test", "--ckpt_path", "best") == {"test/loss": after["test/loss"]}
    assert "test/loss" in capsys.readouterr().out
    assert main("validate", "--ckpt_path", "runs/toy/1/checkpoints/best.ckpt") == {"val/loss": after["val/loss"]}
    assert [path.name for path in Path("runs/toy").iterdir()] == ["1"]


def test_predict_keeps_the_checkpoints_hyper_parameters_and_takes_new_ones(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    main("--trainer.max_epochs", "1", "--model.width", "3")
    capsys.readouterr()
    assert main("predict", "--ckpt_path", "last", "--model.sampling.temperature", "0.5") == {}
    assert capsys.readouterr().out == "sample at temperature 0.5 from width 3\n"
    assert [path.name for path in Path("runs/toy").iterdir()] == ["1"]


def test_a_flag_overrules_the_checkpoint(after: dict[str, float], main: Main) -> None:
    main("--ckpt_path", "last", "--trainer.max_epochs", "4", "--model.dropout", "0.25")
    assert [path.name for path in Path("runs/toy").iterdir()] == ["1"]
    hparams = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert (hparams["dropout"], hparams["width"]) == (0.25, 4)


def test_a_flag_that_would_do_nothing_in_a_resumed_run_is_refused(after: dict[str, float], fails: Fails) -> None:
    error = fails(1, "--ckpt_path", "last", "--model.lr", "0.5", "--model.width=4", "--model.dropout=0.25")
    assert "the run to be resumed has lr 0.05, and goes on with it: --model.lr 0.5 would do nothing." in error
    assert "--model.init_from runs/toy/1/checkpoints/last.ckpt --model.lr 0.5, without --ckpt_path" in error
    assert [path.name for path in Path("runs/toy").iterdir()] == ["1"]


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_a_checkpoint_is_examined_before_it_is_used(
    after: dict[str, float], fails: Fails, command: str, main: Main
) -> None:
    path = Path("runs/toy/1/checkpoints/last.ckpt")
    whole = torch.load(path, weights_only=True)
    for changes, expected in (
        ({"wnseq": {"recipe": "vae"}}, "last.ckpt is of the recipe vae, this one is toy: use it with wnseq run vae"),
        ({"wnseq": {"version": "99.0.1"}}, "last.ckpt was written by wnseq 99.0.1, this is "),
        (
            {"state_dict": {**whole["state_dict"], "net.2.bias": torch.tensor([0, 1, torch.nan, 1])}},
            "last.ckpt holds weights that are not finite, the first in net.2.bias: the run that wrote it diverged.",
        ),
    ):
        torch.save({**whole, **changes}, path)
        assert expected in fails(1, command, f"--ckpt_path={path}", "--data.corpus=missing")


def test_a_resumed_run_remembers_the_best_of_the_first(after: dict[str, float], main: Main) -> None:
    old = Path("runs/toy/1/checkpoints/best.ckpt").read_bytes()
    Path("runs").rename("moved")
    metrics = main("--ckpt_path", "moved/toy/1/checkpoints/last.ckpt", "--trainer.max_epochs", "4")
    assert metrics["val/loss"] <= after["val/loss"]
    assert Path("moved/toy/1/checkpoints/best.ckpt").read_bytes() == old
    assert sorted(path.name for path in Path("runs/toy/1/checkpoints").iterdir())[-1:] == ["last.ckpt"]


def test_a_fork_does_not_take_what_its_origin_has_become(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    main()
    best = Path("runs/toy/1/checkpoints/best.ckpt")
    shutil.copy(best.with_name("last.ckpt"), "copy.ckpt")
    later = torch.load(best, weights_only=True)
    later["metrics"]["val/loss"] /= 2
    torch.save(later, best)
    capsys.readouterr()
    metrics = main("--ckpt_path", "copy.ckpt", "--trainer.max_epochs", "4", "--trainer.default_root_dir", "fork")
    assert "that run went on. The best is looked for from here on" in capsys.readouterr().out
    own = torch.load("fork/toy/1/checkpoints/best.ckpt", weights_only=True)
    assert metrics["val/loss"] == pytest.approx(own["metrics"]["val/loss"])


def test_a_checkpoint_of_another_model_is_refused(after: dict[str, float], here: Path, fails: Fails) -> None:
    path = Path("runs/toy/1/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["widht"] = 3
    torch.save(checkpoint, "other.ckpt")
    error = fails(1, "test", "--ckpt_path", "other.ckpt")
    assert "other.ckpt has the hyper-parameter widht, which this recipe does not. Did you mean width?" in error


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\x80\x04K\x05."], ids=["empty", "text", "pickle"])
def test_a_file_that_is_no_checkpoint_is_named(here: Path, fails: Fails, content: bytes) -> None:
    Path("bad.ckpt").write_bytes(content)
    assert "bad.ckpt can't be read as a checkpoint" in fails(1, "test", "--ckpt_path", "bad.ckpt")


def test_a_truncated_checkpoint_is_named(after: dict[str, float], fails: Fails) -> None:
    whole = Path("runs/toy/1/checkpoints/last.ckpt").read_bytes()
    Path("bad.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "bad.ckpt can't be read as a checkpoint" in fails(1, "test", "--ckpt_path", "bad.ckpt")


def test_a_lightning_checkpoint_of_another_program_is_named(after: dict[str, float], fails: Fails) -> None:
    checkpoint = torch.load("runs/toy/1/checkpoints/last.ckpt", weights_only=True)
    del checkpoint["wnseq"]
    torch.save(checkpoint, "other.ckpt")
    error = fails(1, "test", "--ckpt_path", "other.ckpt")
    assert "other.ckpt is a checkpoint of another program: it has no entry wnseq. Its weights alone" in error


@pytest.mark.parametrize("other", [{}, {"state_dict": {}}], ids=["empty", "weights"])
def test_a_checkpoint_of_another_kind_is_named(here: Path, fails: Fails, other: object) -> None:
    torch.save(other, "other.pt")
    assert "other.pt is not a checkpoint of a run" in fails(1, "--ckpt_path=other.pt")


def test_weights_of_another_size_are_a_users_mistake(after: dict[str, float], fails: Fails) -> None:
    error = fails(1, "test", "--ckpt_path", "best", "--model.width", "5", "--data.corpus=missing")
    assert "best.ckpt was made with width 4: --model.width 5 would not fit its weights, or do nothing." in error


def test_weights_that_do_not_fit_are_refused_with_the_flags_that_made_them() -> None:
    network, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 4)
    plain = other.state_dict()
    saved = {
        "state_dict": {f"network.{name}": value for name, value in plain.items()},
        "hyper_parameters": {"width": 4, "seed": 1},
    }
    for loaded, hint in ((saved, "it was made with --model.width 4"), (plain, r"set --model.\* to what")):
        with pytest.raises(ValueError, match=rf"a.ckpt does not fit this network: {hint}.*size mismatch for weight"):
            load_weights(network, Path("a.ckpt"), loaded, ("width", "depth"))
    for loaded in (saved, plain):
        load_weights(third := torch.nn.Linear(3, 4), Path("a.ckpt"), loaded, ())
        assert torch.equal(third.weight, other.weight)


@pytest.mark.parametrize("entry", ["", "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "network.", "module.network.", "model._orig_mod.module."]
)
def test_weights_of_other_programs_are_found(entry: str, prefix: str) -> None:
    network, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    weights = {f"{prefix}{name}": value for name, value in other.state_dict().items()}
    load_weights(network, Path("a.pt"), {entry: weights, "epoch": 3} if entry else weights, ())
    assert torch.equal(network.weight, other.weight)


class Tied(torch.nn.Module):
    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3)
        if normalised:
            self.encoder, self.decoder = wnseq.WNEmbedding(3, 2), wnseq.WNLinear(2, 3)
        tie_weights(self.decoder, self.encoder)


@pytest.mark.parametrize("normalised", [False, True])
def test_weights_of_which_one_would_be_lost_are_refused(normalised: bool) -> None:
    network = Tied(normalised)
    weights = {name: torch.rand(3, 2) for name in ("encoder.weight", "decoder.weight")} | {
        "decoder.bias": torch.rand(3)
    }
    with pytest.raises(ValueError, match=r"tied False \(encoder.weight and decoder.weight differ, and are tied in"):
        load_weights(network, Path("a.pt"), {"state_dict": weights, "hyper_parameters": {"tied": False}}, ["tied"])
    assert not torch.equal(network.decoder.bias, weights["decoder.bias"])
    weights["decoder.weight"] = weights["encoder.weight"].clone()
    load_weights(network, Path("a.pt"), {"state_dict": weights}, ["tied"])
    found = network.encoder.compose_weights()["weight"] if normalised else network.encoder.weight
    torch.testing.assert_close(found, weights["encoder.weight"])


def test_a_prefix_that_is_the_networks_own_stays() -> None:
    network = torch.nn.ModuleDict({"model": torch.nn.Linear(3, 2)})
    other = torch.nn.ModuleDict({"model": torch.nn.Linear(3, 2)})
    load_weights(network, Path("a.pt"), {f"module.{name}": value for name, value in other.state_dict().items()}, ())
    assert torch.equal(network["model"].weight, other["model"].weight)


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (
            {"epoch": 3, "optimizer": {}},
            "a.pt holds no weights where they are looked for: it has the entries epoch, opt",
        ),
        ({"model": {"weight": 3}}, "it has the entries model. Expected tensors by name, or these under state_dict or"),
        ({}, "holds no weights"),
        ({0: torch.ones(1)}, "it has the entries 0"),
        (
            {"model": {f"encoder.{n}.weight": torch.ones(1) for n in range(9)}},
            "a.pt holds the weights of another program or model: they are called encoder.0.weight, encoder.1.weight, "
            "encoder.2.weight and 6 more; those of this network bias, weight. Rename them.",
        ),
        ({"weight": torch.ones(2, 3), "hyper_parameters": 3}, "holds no weights"),
        (
            {"state_dict": {"weight": torch.ones(2, 3)}, "hyper_parameters": 3},
            "does not fit this network: set --model.*",
        ),
    ],
)
def test_a_file_without_the_networks_weights_is_described(loaded: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        load_weights(torch.nn.Linear(3, 2), Path("a.pt"), loaded, ("width",))
