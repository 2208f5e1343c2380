from pathlib import Path

import pytest

from wnseq.data.text.datamodule import TextDataModule
from wnseq.data.text.options import options_from_checkpoint

PROSE = (Path(__file__).parents[3] / "data" / "examples" / "text.txt").read_text("utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(PROSE, "utf-8")
    return tmp_path


def test_a_checkpoint_has_paths_in_full_and_nothing_that_was_left_open(folder: Path) -> None:
    saved = TextDataModule("a.txt", "byte", batch_size=3, cut="blocks").checkpoint_options()
    assert saved["corpus"] == str(folder / "a.txt") and saved["batch_size"] == 3 and saved["cut"] == "blocks"
    assert not {"encoding", "test", "val", "field", "root", "tokenizer", "vocabulary_size"} & set(saved)
    assert TextDataModule(**saved).checkpoint_options() == saved
    assert TextDataModule("python").checkpoint_options()["corpus"] == "python"


@pytest.mark.parametrize(
    ("given", "subcommand", "left_out"),
    [
        (set(), "test", set()),
        (set(), "fit", set()),
        ({"batch_size"}, "fit", set()),
        ({"corpus"}, "test", {"corpus", "cut", "encoding", "test"}),  # another text has its own encoding and parts
        ({"test"}, "test", {"cut", "encoding", "test"}),  # it is all that is measured, and the corpus what adapts
        ({"val"}, "validate", {"cut", "encoding", "test"}),
        ({"val"}, "test", set()),
        ({"test"}, "fit", {"encoding"}),
        (set(), "predict", {"corpus", "cut", "encoding", "test", "eval_bptt"}),
    ],
)
def test_what_a_checkpoint_decides(folder: Path, given: set[str], subcommand: str, left_out: set[str]) -> None:
    saved = {"corpus": str(folder / "a.txt"), "cut": "order", "encoding": "cp1252", "test": "t.txt", "eval_bptt": 9}
    assert set(options_from_checkpoint(saved, given, subcommand)) == set(saved) - left_out


def test_a_corpus_that_is_gone_is_named(folder: Path) -> None:
    saved = {"corpus": str(folder / "gone.txt")}
    with pytest.raises(
        FileNotFoundError, match=r"gone\.txt, is not there any more: name a text by --data\.corpus PATH"
    ):
        options_from_checkpoint(saved, set(), "test")
    options = options_from_checkpoint(saved, {"test"}, "test")  # which does not read it
    data = TextDataModule(**options, test="a.txt", tokenizer="byte", eval_batch_size=1)
    with pytest.raises(FileNotFoundError, match=r"no text file or folder at .*gone\.txt"):
        data.setup("fit")
    with pytest.raises(FileNotFoundError, match=r"gone\.txt, is not there any more: dynamic evaluation and"):
        data.training_options(saved, "test")


def test_a_known_name_is_no_path_of_that_name(folder: Path) -> None:
    for name in ("python", "tinyshakespeare", "sst2"):
        (folder / name).mkdir()
        assert TextDataModule(name).checkpoint_options()["corpus"] == name


def test_what_adapts_to_another_text_is_of_the_text_that_was_trained_on(folder: Path) -> None:
    for name in ("other.txt", "mine.txt"):
        (folder / name).write_text("another text\n" * 30)
    (folder / "latin.txt").write_text("naïve prose\n" * 200, "cp1252")
    trained = TextDataModule("latin.txt", "byte", encoding="cp1252", cut="blocks", bptt=16, documents=True)
    saved = trained.checkpoint_options()
    measured = TextDataModule(tokenizer="byte", test="other.txt", eval_batch_size=3, corpus=saved["corpus"])
    found = measured.training_options(saved, "test")
    own = {"eval_batch_size": 3, "bptt": 64, "documents": False}  # options of batches are the command's
    assert found == {**saved, **own}
    again = TextDataModule(**found, tokenizer="byte")
    trained.documents = False
    for data in (trained, again):
        data.setup("fit")
    assert again.corpus_sha256 == trained.corpus_sha256
    chosen = TextDataModule(saved["corpus"], "byte", test="other.txt", val="mine.txt")
    found = chosen.training_options(saved, "test")
    assert found["val"] == str(folder / "mine.txt") and found["cut"] == "blocks" and "test" not in found
    another = TextDataModule("a.txt", "byte", test="other.txt")  # a corpus of the command's own, in all parts
    assert another.training_options(saved, "test") == another.checkpoint_options()
    assert measured.training_options({}, "test") == measured.checkpoint_options()
    assert trained.training_options(saved | {"cut": "order"}, "test") == trained.checkpoint_options()


@pytest.mark.parametrize("tokenizer", ["word", "subword", "bpe", "char", "byte"])
def test_the_estimate_is_near_the_tokens_of_the_training_part(folder: Path, tokenizer: str) -> None:
    (folder / "b.txt").write_text(PROSE * 60, "utf-8")
    data = TextDataModule("b.txt", tokenizer)
    tokens, entries = data.estimate_tokens()
    data.setup("fit")
    exact = data.splits["train"].counts.tokens
    assert data.tokenizer is not None
    if tokenizer in ("subword", "bpe"):  # a text of one repeated page has longer pieces than others
        assert exact / 8 < tokens < exact * 8 and entries == 2000
    else:
        assert tokens == pytest.approx(exact, rel=0.02)
        assert entries == pytest.approx(len(data.tokenizer), abs=3)
