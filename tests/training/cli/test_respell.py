"""``wnseq checkpoint``: the keys of a file in every form, what is left out, and what is refused."""

import json
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from wnseq import WNConv1d, WNConvTranspose1d, WNLinear, state_dict_as, weight_normalize
from wnseq.state_dict import FORMS
from wnseq.training.benchmark._memory import process_memory
from wnseq.training.cli import respell as module
from wnseq.training.cli.command import main
from wnseq.training.cli.respell import respell

normalise = parametrizations.weight_norm
DTYPES = {dtype: name for name, dtype in module.DTYPES.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "conv": normalise(nn.Conv1d(4, 4, 3), dim=2),
            "up": normalise(nn.ConvTranspose1d(4, 6, 3)),
            "one": normalise(nn.Linear(3, 2), dim=None),
            "rnn": normalise(nn.GRU(3, 4), "weight_hh_l0"),
            "norm": nn.BatchNorm1d(3),
        }
    )


def save(entries, path: Path) -> Path:
    """Save a state dict in the format of the path's ending; safetensors as its specification has it."""
    if path.suffix != ".safetensors":
        torch.save(entries, path, _use_new_zipfile_serialization=path.suffix != ".old")
        return path
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for key, value in entries.items():
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[key] = {
            "dtype": DTYPES[value.dtype],
            "shape": [*value.shape],
            "data_offsets": [len(data), len(data + raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def load(path: Path):
    if path.suffix != ".safetensors":
        loaded = torch.load(path, weights_only=True)
        if path.suffix != ".old":  # mapped into memory, and every checksum right
            mapped = torch.load(path, weights_only=True, mmap=True)
            assert list(mapped) == list(loaded) and zipfile.ZipFile(path).testzip() is None
            assert all(value.data_ptr() % 64 == 0 for value in mapped.values() if isinstance(value, torch.Tensor))
        return loaded
    file = module._Safetensors(path)
    return {key: file.get((key,)) for key in file.tree()}


@pytest.mark.parametrize("ending", [".pt", ".old", ".safetensors"])
@pytest.mark.parametrize("resident", [0, module.RESIDENT])
def test_every_form_and_back(tmp_path, monkeypatch, ending, resident):
    monkeypatch.setattr(module, "RESIDENT", resident)
    monkeypatch.setattr(module, "SMALL", 8 if resident == 0 else module.SMALL)
    model = network()
    source, state = save(model.state_dict(), tmp_path / f"in{ending}"), model.state_dict()
    for form in FORMS:
        target, back = tmp_path / f"{form}{ending}", tmp_path / f"back_{form}{ending}"
        result = respell(source, target, form)
        assert [len(old) for old, _ in result.renamed] == [2] * 4 and result.left_out == []
        made, expected = load(target), state_dict_as(model, form)
        assert made.keys() == expected.keys()
        weight_normalize(model).load_state_dict(made)
        if form == "plain":
            torch.testing.assert_close(made, dict(expected), rtol=0, atol=0)
            continue
        respell(target, back, "torch_parametrizations")
        again = load(back)
        assert all(torch.equal(again[key], value) for key, value in state.items()) and again.keys() == state.keys()


def test_an_old_file_is_never_in_memory_as_a_whole(tmp_path):
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("needs Linux's peak of a process, which can be set back")
    entries = {f"{k}.{name}": torch.ones(4, 1 << 19) for k in range(8) for name in ("weight_v", "weight")}  # 128 MiB
    entries |= {f"{k}.weight_g": torch.ones(4, 1) for k in range(8)}
    source = save(entries, tmp_path / "in.old")
    del entries
    before = process_memory("VmRSS")
    peak.write_text("5")
    respell(source, tmp_path / "out.pt", "torch_parametrizations")
    assert process_memory("VmHWM") - before < 0.8 * source.stat().st_size


@pytest.mark.parametrize("small", [8, 4096])
def test_an_old_file_keeps_its_views_and_a_cut_one_is_refused(tmp_path, monkeypatch, small):
    monkeypatch.setattr(module, "SMALL", small)
    monkeypatch.setattr(module, "RESIDENT", 0)  # what was read is forgotten, as after many tensors
    shared, first, cut = torch.randn(8, 6), torch.randn(3, 4), tmp_path / "cut.old"
    entries = {
        "first.weight_v": first,
        "first.weight_g": first[:, :1].clone(),
        "a.weight_v": shared[:4],
        "a.weight_g": shared[4:, :1],
        "b": shared.T[1:3],
        "c": torch.ones(()),
    }
    source = save(entries | {"none": torch.empty(0, 3)}, tmp_path / "in.old")
    respell(source, tmp_path / "out.pt", "torch_parametrizations")
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(made["first.parametrizations.weight.original1"], first)
    assert torch.equal(made["a.parametrizations.weight.original0"], shared[4:, :1])
    assert torch.equal(made["a.parametrizations.weight.original1"], shared[:4])
    assert torch.equal(made["b"], shared.T[1:3]) and made["c"] == 1 and made["none"].shape == (0, 3)
    cut.write_bytes(source.read_bytes()[:-8])
    with pytest.raises(ValueError, match="can't be read as a checkpoint"):
        respell(cut, tmp_path / "other.pt", "plain")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_parts_of_a_flat_buffer_are_written_alone(tmp_path, form, old):
    flat = torch.randn(100)
    entries = {"weight_g": flat[40:48].view(8, 1), "weight_v": flat[:40].view(8, 5), "bias": flat[48:56]}
    torch.save(entries, tmp_path / "in.pt", _use_new_zipfile_serialization=not old)
    main(["checkpoint", str(tmp_path / "in.pt"), str(tmp_path / "out.pt"), "--form", form])
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    layer = WNLinear(5, 8)
    layer.load_state_dict(found)
    expected = torch._weight_norm(entries["weight_v"], entries["weight_g"], 0)
    torch.testing.assert_close(layer.compose_weights()["weight"], expected)
    assert torch.equal(layer.bias, entries["bias"])


def test_state_dicts_at_any_depth_and_what_no_longer_fits(tmp_path, capsys):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    shared = torch.randn(6)
    checkpoint = {
        "models": [{"generator": model.state_dict()}], "optim": optimizer.state_dict(), "steps": 7,
        "optimizer_states": [optimizer.state_dict()], "views": (shared[:2], shared[2:]), "half": shared.bfloat16(),
        "hyper_parameters": {"rate": 0.1}, "none": torch.empty(0),
    }  # fmt: skip
    source = save(checkpoint, tmp_path / "in.pt")
    assert main(["checkpoint", str(source), "--fold", "--dry-run"]) == 0
    listed = capsys.readouterr().out
    key = "models.0.generator.up.parametrizations.weight.original"
    assert (
        f"{key}1, {key}0 -> models.0.generator.up.weight\n" in listed and "4 weights in the form plain would" in listed
    )
    assert list(tmp_path.iterdir()) == [source]
    assert main(["checkpoint", str(source), str(tmp_path / "out.pt"), "--fold"]) == 0
    said = capsys.readouterr().out
    assert "left out: optim, the state of an optimiser" in said and "left out: optimizer_states" in said
    made = load(tmp_path / "out.pt")
    assert made.keys() == checkpoint.keys() - {"optim", "optimizer_states"}
    torch.testing.assert_close(made["models"][0]["generator"], dict(state_dict_as(model, "plain")), rtol=0, atol=0)
    one, other = made["views"]
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert torch.equal(torch.cat([one, other]), shared) and torch.equal(made["half"], checkpoint["half"])
    assert made["steps"] == 7 and made["hyper_parameters"] == {"rate": 0.1} and made["none"].shape == (0,)


def test_plain_weights_are_split_where_they_are_named(tmp_path):
    plain = nn.GRU(3, 4)
    source = save(plain.state_dict(), tmp_path / "in.pt")
    respell(source, tmp_path / "out.pt", "torch_hooks", weights=["weight_hh*"])
    made = load(tmp_path / "out.pt")
    assert list(made) == ["weight_ih_l0", "weight_hh_l0_v", "weight_hh_l0_g", "bias_ih_l0", "bias_hh_l0"]
    torch.testing.assert_close(made["weight_hh_l0_g"], plain.weight_hh_l0.detach().norm(dim=1, keepdim=True))


def test_the_axis_of_a_flat_scale_is_never_guessed(tmp_path):
    model = nn.ModuleDict(
        {
            "up": WNConvTranspose1d(4, 4, 3),
            "conv": WNConv1d(4, 4, 3),
            "out": WNLinear(4, 4),
            "only": WNConvTranspose1d(2, 6, 1),
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter))
    source, expected = save(model.state_dict(), tmp_path / "in.pt"), state_dict_as(model, "plain")
    with pytest.raises(ValueError, match=r"up\.weight may be of a convolution .* --transposed"):
        respell(source, None, "plain")
    respell(source, tmp_path / "out.pt", "plain", transposed=["up*"])
    torch.testing.assert_close(load(tmp_path / "out.pt"), dict(expected), rtol=0, atol=0)
    assert len(respell(source, None, "plain", transposed=[]).renamed) == 4
    respell(source, tmp_path / "same.pt", "wnseq")
    torch.testing.assert_close(load(tmp_path / "same.pt"), dict(model.state_dict()), rtol=0, atol=0)


def test_values_of_a_callback_by_the_names_of_weights_are_no_halves_of_pairs(tmp_path):
    norms = {"encoder.weight_v": torch.ones(2)}
    weights = {"encoder.weight_v": torch.ones(2, 2), "encoder.weight_g": torch.full((2,), 3.0)}
    save({"state_dict": weights, "callbacks": {"Renormalize": {"norms": norms}}}, tmp_path / "in.pt")
    respell(tmp_path / "in.pt", tmp_path / "out.pt", "plain")
    made = load(tmp_path / "out.pt")
    assert [*made["state_dict"]] == ["encoder.weight"]
    assert torch.equal(made["callbacks"]["Renormalize"]["norms"]["encoder.weight_v"], torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.pt", "out.pt", "--fold"], "No such file"),
        (["in.pt", "--fold"], "name the file to write after the one to read, or list the keys with --dry-run"),
        (["in.pt", "in.pt", "--fold"], "in.pt is there already and is left alone"),
        (["in.pt", "out.safetensors", "--fold"], "is of another format than"),
        (["in.pt", "out.pt", "--form", "wnseq"], "holds no weight-normalised weight; name the plain ones"),
        (["in.pt", "out.pt", "--form", "wnseq", "--weights", "x*"], "--weights 'x\\*' fits no plain weight"),
        (["in.pt", "out.pt", "--fold", "--weights", "w*"], "the form plain splits none"),
        (["half.pt", "out.pt", "--fold"], r"a\.weight_g has no other half of its pair in this file: join its shards"),
        (["text.pt", "out.pt", "--fold"], "can't be read as a checkpoint"),
        (["whole.pt", "out.pt", "--fold"], "Python objects are never loaded: save the weights alone"),
        (["text.safetensors", "out.safetensors", "--fold"], "can't be read as a checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    save({"weight": torch.ones(2, 2)}, Path("in.pt"))
    save({"a.weight_g": torch.ones(2), "weight_v": torch.ones(2, 2), "weight_g": torch.ones(2)}, Path("half.pt"))
    torch.save(nn.Linear(1, 1), "whole.pt")
    for name in ("text.pt", "text.safetensors"):
        Path(name).write_text("no checkpoint at all", "utf-8")
    before = sorted(tmp_path.iterdir())
    assert main(["checkpoint", *arguments]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("wnseq: error: ") and errors.count("\n") == 1
    assert re.search(text, errors)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_of_safetensors_own_library(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    library.save_file(dict(network().state_dict()), tmp_path / "in.safetensors", metadata={"format": "pt"})
    respell(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "plain")
    made = library.load_file(tmp_path / "out.safetensors")
    torch.testing.assert_close(made, dict(state_dict_as(network(), "plain")), rtol=0, atol=0)
