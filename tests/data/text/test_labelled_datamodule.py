"""The data module of labelled text: its options, its lines for the screen, predictions and positions."""

import io
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from wnseq.data.text import LabelledTextDataModule
from wnseq.data.text.labelled_datamodule import read_lines


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"word{n} {'good' if n % 2 else 'bad'} {'x ' * n},{'yes' if n % 2 else 'no'}\n" for n in range(30)]
    Path("a.csv").write_text("text,label\n" + "".join(rows) + ",no\n")


def make(**options: object) -> LabelledTextDataModule:
    data = LabelledTextDataModule(**{"dataset": "a.csv", "tokenizer": "byte", "batch_size": 8, **options})
    data.setup("fit")
    return data


def test_the_screen_is_told_what_was_cut() -> None:
    data = make(max_tokens=20)
    lines = data.describe().splitlines()
    assert "25 train, 3 val, 3 test texts in 2 classes: no, yes" in lines[0]
    assert lines[1:3] == ["tokenizer: byte, 256 entries", data.opened.cut] and lines[3] == "1 texts are empty"
    assert lines[4].endswith("texts are cut to 20 tokens (--data.max_tokens)")
    assert max(batch.tokens.shape[0] for batch in data.train_dataloader()) == 20
    assert len(data.train_dataloader()) == 4 and data.provenance()["dataset"] == "a.csv"
    assert data.describe_part("test") == "dataset a.csv, test part: 3 texts"


@pytest.mark.parametrize("kind", ["word", "subword", "char", "byte"])
def test_every_tokenizer_gives_a_text_a_first_token(kind: str) -> None:
    data = make(tokenizer=kind)
    for batch in [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]:
        assert batch.lengths.min() >= 1 and (batch.tokens[0] == data.tokenizer.start).all()


def test_epochs_have_orders_of_their_own_and_a_position_resumes() -> None:
    data, again = make(), make()
    first, second = ([batch.places.tolist() for batch in data.train_dataloader()] for _ in range(2))
    assert first != second and {*chain(*first)} == {*chain(*second)}
    data.position.epoch, data.position.batch = 1, 2
    again.load_state_dict(data.state_dict())
    assert [batch.places.tolist() for batch in again.train_dataloader()] == second[2:]
    other = make(batch_size=4)
    with pytest.raises(ValueError, match="batch_size over all processes 8, this one has 4"):
        other.load_state_dict(data.state_dict())


@pytest.mark.parametrize("source", ["lines.txt", "-"])
def test_lines_to_classify(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lines.txt").write_text("\ufeffone\n\nthree, and\n" if source != "-" else "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffone\n\nthree, and\n"))
    data = LabelledTextDataModule(predict=source, tokenizer="byte")
    data.tokenizer = make().tokenizer
    data.setup("predict")
    assert [row.text for row in data.rows["predict"]] == ["one", "", "three, and"] and data.opened is None
    (batch,) = data.predict_dataloader()
    assert batch.lengths.tolist() == [4, 1, 11] and (batch.labels == -1).all()
    with pytest.raises(ValueError, match="is for predict, not for training"):
        data.setup("fit")


@pytest.mark.parametrize("source", ["lines.txt", "-"])
def test_a_line_to_classify_ends_where_a_line_of_the_file_ends(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "one\u2028still\x0cthe\x85first\nsecond\r\nthird\rfourth\x1c\x0b\u2029"
    Path("lines.txt").write_bytes(content.encode())
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    found = [row.text for row in read_lines(source)]
    assert found == ["one\u2028still\x0cthe\x85first", "second", "third", "fourth\x1c\x0b\u2029"]


def test_lines_in_another_encoding() -> None:
    Path("lines.txt").write_text("café\nü\n", "cp1252")
    for encoding in ("cp1252", "auto"):
        data = LabelledTextDataModule(tokenizer="byte", predict="lines.txt", encoding=encoding)
        with pytest.raises(ValueError, match="predict needs the path of a checkpoint as tokenizer"):
            data.setup("predict")
        assert [row.text for row in data.rows["predict"]] == ["café", "ü"]
    with pytest.raises(ValueError, match="convert standard input to UTF-8 first"):
        read_lines("-", "cp1252")


def test_classes_of_a_model_number_the_labels() -> None:
    data = make()
    before = torch.cat([batch.labels for batch in data.predict_dataloader()])
    data.match(("yes", "maybe", "no"))
    after = torch.cat([batch.labels for batch in data.predict_dataloader()])
    assert torch.equal(after, 2 - 2 * before)
    with pytest.raises(ValueError, match=r"the label '(yes|no)' is none of the classes"):
        data.match(("else", "other"))


def test_a_checkpoint_s_options_find_the_same_texts_again() -> None:
    options = make(val="a.csv").checkpoint_options()
    assert options["dataset"] == options["val"] == str(Path("a.csv").absolute()) and "test" not in options
    find = LabelledTextDataModule.options_from_checkpoint
    assert find(options, (), "test") == options
    assert set(find(options, ("predict",), "predict")) == {"max_tokens", "batch_size", "eval_batch_size", "seed"}
    assert "val" not in find(options, ("dataset",), "test")
    assert set(options) - set(find(options, ("test",), "test")) == {"val"}
    assert set(options) - set(find(options | {"encoding": "cp1252"}, ("val",), "validate")) == {"val"}
    Path("python_docs").mkdir()
    assert LabelledTextDataModule().checkpoint_options()["dataset"] == "python_docs"  # not the folder of that name
    Path("a.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"the table of the checkpoint, .*a\.csv, is not there any more"):
        find(options, (), "test")
    find(options, ("test",), "test")
    with pytest.raises(FileNotFoundError, match="is not there any more"):
        find(options, ("test",), "validate")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tokenizer": "words"}, "LabelledTextDataModule: tokenizer must be .*Did you mean 'word'"),
        ({"words": "punctuation"}, "words does nothing with the tokenizer 'byte'"),
        ({"dataset": "sts2"}, "Did you mean 'sst2'"),
        ({"val": "none.csv"}, "There is no file at 'none.csv'"),
        ({"encoding": "klingon"}, "There is no text encoding 'klingon'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        make(**options)


def test_nothing_before_setup() -> None:
    data = LabelledTextDataModule("a.csv")
    for use in (data.describe, data.train_dataloader, data.resume_settings):
        with pytest.raises(RuntimeError, match=r"no (texts|batches) before setup\(\)"):
            use()
    Path("lines.txt").write_text("a\n")
    data = LabelledTextDataModule(predict="lines.txt")
    with pytest.raises(ValueError, match="predict needs the path of a checkpoint as tokenizer"):
        data.setup("predict")
    Path("lines.txt").write_text("")
    with pytest.raises(ValueError, match=r"There is no line to classify in lines\.txt"):
        data.setup("predict")
