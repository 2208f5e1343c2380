import re
from pathlib import Path

import pytest

from wnseq.data.text.corpora import open_corpus
from wnseq.data.text.folder import find_files


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def found(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    files = find_files(folder)
    read = {part: [path.relative_to(folder).as_posix() for path in paths] for part, paths in files.read.items()}
    return read, [path.relative_to(folder).as_posix() for path in files.left]


def test_all_text_files_are_read_in_sorted_order(tmp_path: Path) -> None:
    names = ["A.TXT", "b.txt.gz", "book/1.txt", "book/part/2.Tokens", "c.txt"]
    made(tmp_path, *reversed(names), "notes.md", "book/cover.png")
    assert found(tmp_path) == ({"": names}, ["book/cover.png", "notes.md"])


def test_a_link_to_a_folder_is_followed_and_one_to_the_folder_itself_is_not(tmp_path: Path) -> None:
    made(tmp_path, "elsewhere/a.txt", "corpus/valid/b.txt", "corpus/test/c.txt")
    corpus = tmp_path / "corpus"
    (corpus / "train").symlink_to(tmp_path / "elsewhere")
    (corpus / "valid" / "up").symlink_to(corpus)
    assert found(corpus) == ({"train": ["train/a.txt"], "val": ["valid/b.txt"], "test": ["test/c.txt"]}, [])


def test_hidden_files_are_not_read(tmp_path: Path) -> None:
    made(tmp_path, "x.txt", "._x.txt", ".hidden.txt", ".git/a.txt", "__MACOSX/._x.txt", "book/.checkpoints/b.txt")
    assert found(tmp_path) == ({"": ["x.txt"]}, [])


@pytest.mark.parametrize(
    "names",
    [
        ["train.txt", "valid.txt", "test.txt"],
        ["ptb.train.txt", "ptb.val.txt", "ptb.test.txt"],
        ["wiki.train.tokens", "wiki.validation.tokens", "wiki.test.tokens"],
        ["Train.txt", "my-val.txt", "the_test.txt"],
        ["train.txt", "dev.txt", "test.txt"],
        ["train/the_test.txt", "valid/train.txt", "test/a.txt"],
        ["en/TRAIN/a.txt", "en/valid1.TXT", "fr/test.txt"],
    ],
)
def test_names_say_the_parts(tmp_path: Path, names: list[str]) -> None:
    made(tmp_path, *names, "README.txt", "other/book.txt", "x.json")
    read, left = found(tmp_path)
    assert read == dict(zip(("train", "val", "test"), ([name] for name in names), strict=True))
    assert left == ["README.txt", "other/book.txt", "x.json"]


@pytest.mark.parametrize("title", ["test-of-time.txt", "train-of-thought.txt", "test-train.txt", "valid/points.txt"])
def test_a_title_is_not_a_part(tmp_path: Path, title: str) -> None:
    made(tmp_path, "chapter-1.txt", "chapter-2.txt", title)
    assert found(tmp_path) == ({"": ["chapter-1.txt", "chapter-2.txt", title]}, [])


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["train.txt", "test.txt", "x.txt"], "has train.txt, test.txt, but no file whose name says val."),
        (["train/a.txt", "valid/a.txt", "x.txt"], "has train/a.txt, valid/a.txt, but no file whose name says test."),
        (["train.txt", "valid.txt", "test_train.txt"], "but no file whose name says test."),
        (["train.txt", "valid.txt", "test.txt", "test_train.txt"], "test_train.txt: its name says train and test;"),
    ],
)
def test_parts_that_are_not_clear_are_refused(tmp_path: Path, names: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        find_files(made(tmp_path, *names))


def test_a_part_of_its_own_in_the_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "all", "a.txt", "b.txt", "sub/c.txt", "sub/d.txt", "test.txt")
    monkeypatch.chdir(tmp_path)
    files = find_files(Path("all"), given={"val": "all/b.txt", "test": str(tmp_path / "all/sub")})
    assert files.read == {"": [Path("all/a.txt"), Path("all/test.txt")]}
    assert files.describe(Path("all")) == (
        "files: a.txt, test.txt; not read: b.txt (the val part); not read: sub/c.txt, sub/d.txt (the test part)"
    )
    for part in (tmp_path / "all", "all/../all"):
        with pytest.raises(ValueError, match=r"all would be trained on and measured: it is in --data\.test .*all, too"):
            open_corpus("all", given={"test": str(part)})
    with pytest.raises(ValueError, match=r"a\.txt would be trained on and measured"):
        open_corpus("all/a.txt", given={"val": "all"})
    found = open_corpus("all", given={"val": "all/b.txt", "test": "all/sub"})
    assert found.parts["train"].read().decode().split() == ["a.txt", "test.txt"]


def test_empty_files_are_not_read(tmp_path: Path) -> None:
    made(tmp_path, "a.txt", "b.txt")
    (tmp_path / "b.txt").write_text("")
    assert found(tmp_path) == ({"": ["a.txt"]}, ["b.txt"])
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"All text files of folder .* are empty"):
        find_files(tmp_path)


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"has no \.txt \(or \.tokens\) files to be a corpus, nor .*subfolders\."
    ):
        find_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"subfolders; it has a\.pdf, b/c\.docx\."):
        find_files(made(tmp_path, "a.pdf", "b/c.docx"))


def test_the_files_are_described(tmp_path: Path) -> None:
    made(tmp_path, *(f"train/{index}.txt" for index in range(9)), "valid.txt", "test.txt", "readme.md")
    expected = "files: train train/0.txt, train/1.txt, train/2.txt, 6 more; val valid.txt; test test.txt"
    assert find_files(tmp_path).describe(tmp_path) == f"{expected}; not read: readme.md (no .txt or .tokens file)"
