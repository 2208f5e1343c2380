"""The lengths of an embedding's rows, and what is written of them."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import wnseq
from wnseq.data.text import TextDataModule
from wnseq.training.callbacks.row_lengths import RowLengths, row_lengths


def test_a_length_is_the_root_of_the_squares() -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(5, 3).double()
    expected = [sum(entry**2 for entry in row) ** 0.5 for row in plain.weight.tolist()]
    assert row_lengths(plain).tolist() == pytest.approx(expected, rel=1e-12)
    normalised = wnseq.WNEmbedding.from_pretrained(plain.weight.detach())
    with torch.no_grad():
        normalised.weight_g[2] *= -1
    assert row_lengths(normalised).tolist() == pytest.approx(expected, rel=1e-12)
    assert row_lengths(plain.bfloat16()).dtype == torch.float32


def test_each_token_has_its_count_and_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text("abracadabra, said the crab\n" * 40)
    data = TextDataModule(str(text), "char", batch_size=2, bptt=4, eval_batch_size=1)
    data.setup("fit")
    entries = len(data.tokenizer or ())
    model: Any = nn.ModuleDict({"other": nn.Embedding(entries + 1, 2), "encoder": nn.Embedding(entries, 2)})
    trainer: Any = SimpleNamespace(
        log_dir=str(tmp_path), default_root_dir="", datamodule=data, is_global_zero=True, fast_dev_run=False
    )
    RowLengths().on_fit_end(trainer, model)
    with (tmp_path / "embedding.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read = "".join(data.tokenizer.decode([int(k)]) for k in data.splits["train"].tokens)  # type: ignore[union-attr]
    assert {row["token"]: int(row["count"]) for row in rows}["a"] == read.count("a") > 100
    lengths = [float(row["length"]) for row in rows]
    assert lengths == pytest.approx(model["encoder"].weight.norm(dim=1).tolist(), rel=1e-6)
    (tmp_path / "embedding.csv").unlink()
    for changed in ({"datamodule": None}, {"is_global_zero": False}, {"fast_dev_run": 1}):
        RowLengths().on_fit_end(SimpleNamespace(**{**vars(trainer), **changed}), model)  # type: ignore[arg-type]
    RowLengths().on_fit_end(trainer, nn.ModuleDict({"other": nn.Embedding(entries + 1, 2)}))  # type: ignore[arg-type]
    assert not (tmp_path / "embedding.csv").exists()
