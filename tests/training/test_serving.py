"""The smaller checkpoint and the ONNX file of a language model, from the command line."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from wnseq.data.text import Tokenizer
from wnseq.recipes.language_model import LanguageModel, generate, main, score
from wnseq.training.checkpoint_files import load_run_checkpoint

PAGE = Path(__file__).parents[2] / "docs/serving.md"
TEXT = "the weight of a word is its scale times its direction, and no more\n" * 200


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run whose units 2 and 5 are idle in both layers, as those of a longer one would be."""
    folder, before = tmp_path_factory.mktemp("serving"), Path.cwd()
    os.chdir(folder)
    Path("text.txt").write_text(TEXT)
    sizes = ["--model.hidden_size=8", "--model.num_layers=2", "--data.bptt=8", "--data.batch_size=2"]
    options = ["--model.embedding_norm=none", "--model.slim_penalty=1", "--trainer.max_steps=3"]
    main(["--data.corpus=text.txt", *sizes, *options])
    (path,) = Path("runs").glob("*/1/checkpoints/last.ckpt")
    checkpoint = load_run_checkpoint(path)
    for name, value in checkpoint["state_dict"].items():
        if name.endswith("_g") or "rnn.bias" in name:
            value.view(4, 8)[2, [2, 5]] = 0
    torch.save(checkpoint, path)
    yield folder
    os.chdir(before)


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/language_model/1/checkpoints/last.ckpt"


def fails(capsys, *words):
    with pytest.raises(SystemExit) as raised:
        main(list(words))
    assert raised.value.code == 1
    return capsys.readouterr().err


def test_a_slim_checkpoint_is_the_same_model_and_can_be_trained_on(here, capsys):
    main(["slim", "--ckpt_path=last", "--output=small.ckpt"])
    assert "written to small.ckpt: 6 of 8 units a layer" in capsys.readouterr().out
    large, small = (LanguageModel.load_from_checkpoint(path) for path in (here, "small.ckpt"))
    assert (small.network.rnn.hidden_size, small.hparams.embedding_size, small.hparams.tied) == (6, 8, False)
    assert (large.hparams.slim_penalty, small.hparams.slim_penalty) == (1, 0)
    assert small.network.rnn.weight_ih_l0_v.shape == (24, 8)
    text = TEXT[:400]
    assert score(small, text)["nats_per_token"] == pytest.approx(score(large, text)["nats_per_token"], rel=1e-5)
    assert generate("small.ckpt", "the", max_new_tokens=20, temperature=0) == generate(
        large, "the", max_new_tokens=20, temperature=0
    )
    metrics = main(["test", "--ckpt_path=small.ckpt"])
    assert metrics == pytest.approx(main(["test", f"--ckpt_path={here}"]), rel=1e-4)
    error = fails(capsys, "fit", "--ckpt_path=small.ckpt")
    assert "has no state of an optimiser, so that no run goes on from it. Start a new run from its weights" in error
    tuned = main(["--model.init_from=small.ckpt", "--data.corpus=text.txt", "--trainer.max_steps=2"])
    assert math.isfinite(tuned["test/perplexity"])
    assert (
        load_run_checkpoint(Path("runs/language_model/2/checkpoints/last.ckpt"))["hyper_parameters"]["hidden_size"] == 6
    )


def test_units_that_all_work_are_no_smaller_model(here, capsys):
    main(["slim", "--ckpt_path=last", "--output=small.ckpt"])
    error = fails(capsys, "slim", "--ckpt_path=small.ckpt", "--output=smaller.ckpt")
    assert "each of the 6 units is stronger than --tolerance 0: train with --model.slim_penalty" in error
    main(["slim", "--ckpt_path=small.ckpt", "--output=smaller.ckpt", "--tolerance=1e9"])
    assert "1 of 6 units a layer" in capsys.readouterr().out


def test_an_exported_model_streams_text_by_the_code_of_the_page(here, capsys):
    pytest.importorskip("onnxruntime", reason="pip install 'wnseq[export]'")
    pytest.importorskip("onnxscript", reason="pip install 'wnseq[export]'")
    main(["export", "--ckpt_path=last", "--output=model.onnx"])
    told = capsys.readouterr().out
    assert "logits differ from torch's by" in told and "documents" not in told
    model = LanguageModel.load_from_checkpoint(here).eval()
    assert Tokenizer.from_file("model.tokenizer.json").sha256 == model.tokenizer.sha256
    (source,) = (block.partition("```")[0] for block in PAGE.read_text("utf-8").split("```python\n")[1:])
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 15
    names = {}
    exec(source, names)
    assert capsys.readouterr().out
    for name, part in names["state"].items():
        names["state"][name] = part * 0
    likeliest = [*names["draw"]([model.tokenizer.start], 12, temperature=1e-6)]
    assert generate(model, max_new_tokens=12, temperature=0) == [model.tokenizer.decode(likeliest)]


def test_an_export_makes_folders_expands_the_home_folder_and_refuses_a_cell_at_once(here, capsys, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'wnseq[export]'")
    pytest.importorskip("onnxscript", reason="pip install 'wnseq[export]'")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    checkpoint = load_run_checkpoint(here)
    checkpoint["wnseq"]["data"]["documents"] = True
    torch.save(checkpoint, here)
    main(["export", "--ckpt_path=last", "--output=~/a/b/model.onnx"])
    told = capsys.readouterr().out
    assert "a/b/model.tokenizer.json" in told and "set the state to zeros before the line end that ends a" in told
    assert Path("a/b/model.onnx").is_file() and Path("a/b/model.tokenizer.json").is_file() and not Path("~").exists()
    checkpoint["wnseq"]["data"]["backward"] = True
    torch.save(checkpoint, here)
    error = fails(capsys, "export", "--ckpt_path=last", "--output=back.onnx")
    assert "the model reads from the end of a text to its beginning" in error and not Path("back.onnx").exists()
    assert "--output: a is a folder" in fails(capsys, "export", "--ckpt_path=last", "--output=a")


def test_a_file_that_is_no_tokenizer_is_refused(here):
    Path("a.json").write_text(json.dumps({"kind": "char"}))
    with pytest.raises(ValueError, match=r"a\.json can't be read as a file of a tokenizer"):
        Tokenizer.from_file("a.json")
