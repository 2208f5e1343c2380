import gzip
import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wnseq.data.text import corpora
from wnseq.data.text.corpora import CORPORA, PARTS, check_name, fetch_corpus, open_corpus

EXAMPLES = Path(__file__).parents[3] / "data" / "examples"
LINES = "".join(f"line number {number}\n" for number in range(1000))


def read(name: str | Path, root: str | Path | None = None) -> dict[str, str]:
    corpus = open_corpus(str(name), None if root is None else str(root))
    return {part: "".join(corpus.parts[part].chunks()) for part in PARTS}


def sizes(parts: dict[str, str]) -> list[float]:
    whole = sum(map(len, parts.values()))
    return [len(parts[part]) / whole for part in PARTS]


def test_the_embedded_text_has_each_paragraph_once() -> None:
    parts = read("python")
    paragraphs = [paragraph for part in PARTS for paragraph in re.split(r"\n\s*\n", parts[part]) if paragraph.strip()]
    assert len(paragraphs) > 1000
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(text.endswith("\n\n") for text in parts.values())
    assert sizes(parts) == pytest.approx([0.9, 0.05, 0.05], abs=0.01)


def test_the_embedded_text_keeps_its_order() -> None:
    from pydoc_data.topics import topics

    text = "".join(read("python").values())
    first = [topic.strip("\n").split("\n\n")[0] for topic in topics.values()]
    places = [text.index(f"{paragraph}\n\n") for paragraph in dict.fromkeys(first)]
    assert places == sorted(places)


def test_a_python_without_its_documentation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match=r"ships without its documentation.*Name another corpus"):
        open_corpus("python")


def test_a_file_is_cut_at_line_starts(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    parts = read(path)
    assert "".join(parts.values()) == LINES
    assert all(text.endswith("\n") for text in parts.values())
    assert sizes(parts) == pytest.approx([0.9, 0.05, 0.05], abs=0.002)
    assert open_corpus(str(path)).sha256 == hashlib.sha256(LINES.encode()).hexdigest()


def test_one_long_line_is_cut_between_words_or_characters(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("word " * 100)
    assert [part[:4] for part in read(tmp_path / "words.txt").values()] == ["word"] * 3
    (tmp_path / "characters.txt").write_text("漢" * 100)
    assert set("".join(read(tmp_path / "characters.txt").values())) == {"漢"}


def test_a_folder_is_its_files_each_ending_in_a_line(tmp_path: Path) -> None:
    for name, text in (("b.txt", LINES), ("a.txt", "no newline at the end"), ("contest.txt", LINES), ("x.py", "no")):
        (tmp_path / name).write_text(text)
    assert "".join(read(tmp_path).values()) == "no newline at the end\n" + LINES + LINES
    assert open_corpus(str(tmp_path)).files == (
        "files: a.txt, b.txt, contest.txt; not read: x.py (no .txt or .tokens file); "
        "cut 90 : 5 : 5 into train, val, test in its order, so that the last part is its end"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_files_of_a_folder_have_one_encoding(tmp_path: Path, encoding: str) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_bytes(f"naïve {name}\n".encode(encoding))
    parts = open_corpus(str(tmp_path), encoding=encoding).parts
    assert [parts[part].read().decode() for part in PARTS] == ["naïve train\n", "naïve valid\n", "naïve test\n"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "shift_jis"])
def test_a_corpus_is_the_same_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    (tmp_path / "b.txt").write_bytes(gzip.compress(LINES.encode(encoding)))
    given = None if encoding == "utf-8-sig" else encoding
    one, two = open_corpus(str(tmp_path / "a.txt")), open_corpus(str(tmp_path / "b.txt"), encoding=given)
    assert one.sha256 == two.sha256
    assert two.part_sha256("val") == one.part_sha256("val")


def test_the_examples_are_corpora() -> None:
    assert "ferry" in read(EXAMPLES / "text.txt")["train"]
    assert [text.count("\n") for text in read(EXAMPLES / "text").values()] == [8, 1, 1]
    assert read(EXAMPLES / "text.txt.gz") == read(EXAMPLES / "text.txt")
    french = open_corpus(str(EXAMPLES / "text-cp1252.txt"), encoding="cp1252").parts["train"].read().decode()
    assert "Le café est fermé jusqu\N{RIGHT SINGLE QUOTATION MARK}à midi." in french
    with pytest.raises(ValueError, match=r"It is probably cp1252, .*--data\.encoding cp1252"):
        list(open_corpus(str(EXAMPLES / "text-cp1252.txt")).parts["train"].chunks())


def test_a_part_has_a_key_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for name, text in (("train", "a\nb\n"), ("valid", "c\n"), ("test", "d\n")):
        (tmp_path / "one" / f"{name}.txt").write_text(text)
    for name, text in (("train", "a\n"), ("valid", "b\nc\n"), ("test", "d\n")):
        (tmp_path / "two" / f"{name}.txt").write_text(text)
    one, two = (open_corpus(str(tmp_path / name)) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert len({corpus.part_sha256(part) for corpus in (one, two) for part in PARTS}) == 6


@pytest.mark.parametrize("name", ["ptb", "wikitext-2", "wikitext-103"])
def test_word_level_sets_are_read_as_published(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    texts = {part: f" = {part} =\n" for part in PARTS}
    for part, file in CORPORA[name].parts.items():
        (tmp_path / name / file).write_text(texts[part])
    assert read(name, tmp_path) == texts


def test_the_characters_of_ptb_lack_the_blanks_at_the_ends_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "ptb").mkdir()
    for file in CORPORA["ptb"].parts.values():
        (tmp_path / "ptb" / file).write_text(f" {file} of  <unk> \n n \n")
    assert read("ptb-char", tmp_path) == {part: f"{file} of  <unk>\nn\n" for part, file in CORPORA["ptb"].parts.items()}


def test_ptb_has_the_characters_that_published_figures_are_of(real_data: Callable[[str], Path]) -> None:
    parts = read("ptb-char", real_data("ptb").parent)
    assert [len(text) for text in parts.values()] == [5017482, 393042, 442423]


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_large_sets_are_cut_at_the_usual_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    text = "abcdefghi " * 1000
    (tmp_path / name / name).write_text(text)
    assert read(name, tmp_path) == {"train": text[:9000], "val": text[9000:9500], "test": text[9500:]}


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("writable", [True, False])
def test_large_sets_are_read_from_their_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, writable: bool
) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora.os, "access", lambda *_: writable)  # a test that runs as root can write anywhere
    (tmp_path / name).mkdir()
    with zipfile.ZipFile(tmp_path / name / f"{name}.zip", "w") as archive:
        archive.writestr(name, LINES)
    fetch_corpus(name, str(tmp_path))
    assert "".join(read(name, tmp_path).values()) == LINES
    assert (tmp_path / name / name).exists() is writable
    (tmp_path / name / f"{name}.zip").unlink()
    fetch_corpus(name, str(tmp_path))  # what is unpacked is not fetched again


def test_tiny_shakespeare_ends_with_the_part_that_nanogpt_validates_on(real_data: Callable[[str], Path]) -> None:
    folder = real_data("tinyshakespeare")
    text = (folder / "input.txt").read_text("utf-8")
    parts = read("tinyshakespeare", folder.parent)
    cut = int(0.9 * len(text))
    assert parts == {"train": text[:cut], "val": text[cut:], "test": text[cut:]}
    assert open_corpus("tinyshakespeare").sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_files_that_are_there_are_not_fetched(real_data: Callable[[str], Path]) -> None:
    root = real_data("ptb").parent
    for name in ("ptb", "ptb-char", "wikitext-2", "tinyshakespeare"):
        real_data(CORPORA[name].folder or name)
        fetch_corpus(name, str(root))
    fetch_corpus("python")


def test_the_pinned_hashes_are_those_of_the_files(real_data: Callable[[str], Path]) -> None:
    for name in ("ptb", "tinyshakespeare"):
        folder = real_data(name)
        for download in CORPORA[name].downloads:
            digest = hashlib.sha256((folder / download.name).read_bytes()).hexdigest()
            assert download.known_hash == f"sha256:{digest}"


def test_an_archive_is_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def deliver(urls: tuple[str, ...], path: Path, known_hash: str) -> None:
        asked.append((urls, known_hash))
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for part in ("train", "valid", "test"):
                archive.writestr(f"wikitext-2/wiki.{part}.tokens", f" = {part} =\n")

    monkeypatch.setattr(corpora, "fetch", deliver)
    for _ in range(2):
        fetch_corpus("wikitext-2", str(tmp_path))
    assert read("wikitext-2", tmp_path)["val"] == " = valid =\n"
    ((urls, known_hash),) = asked
    assert urls == ("https://wikitext.smerity.com/wikitext-2-v1.zip",)
    assert known_hash.startswith("sha256:")


def test_every_download_has_a_whole_hash_and_asks_https_first() -> None:
    for source in CORPORA.values():
        for download in source.downloads:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", download.known_hash)
            assert download.urls[0].startswith("https://")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "tinyshakespear",
            r"no corpus 'tinyshakespear'\. Did you mean 'tinyshakespeare'\? Known are python, ptb, ptb-char, ",
        ),
        ("PTB", "Did you mean 'ptb'"),
        ("zzz", r"no corpus 'zzz'\. Known are"),
    ],
)
def test_a_misspelt_name_is_guessed(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "encoding", "text"),
    [
        ("", None, "The name of the corpus is empty"),
        (" ", None, "The name of the corpus is empty"),
        ("python", "cp1252", r"Corpus 'python' is UTF-8\. Leave encoding out"),
        (".", "rot13", "There is no text encoding 'rot13'"),
    ],
)
def test_names_and_encodings_are_checked(name: str, encoding: str | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_name(name, encoding)


@pytest.mark.parametrize("name", ["my_book.txt", "books/mine"])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no text file or folder at '{name}'"):
        check_name(name)


def test_a_missing_standard_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'ptb' is not complete: .*ptb\.train\.txt is missing.*--data\.root"):
        open_corpus("ptb", str(tmp_path))
    (tmp_path / "ptb" / "ptb.train.txt").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"ptb\.train\.txt is not a file"):
        open_corpus("ptb", str(tmp_path))


def test_texts_without_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt is empty; a corpus needs text"):
        open_corpus(str(tmp_path / "empty.txt"))
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(ValueError, match=r"short\.txt has 2 bytes, too few to cut into train, val and test parts"):
        open_corpus(str(tmp_path / "short.txt"))


# ---- parts from elsewhere, and other cuts


def lines(number: int) -> str:
    return "".join(f"line {index}\n" for index in range(number))


def test_a_given_part_is_not_cut_from_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(lines(1000))
    (tmp_path / "t.txt").write_text("the test\n")
    given = {"test": str(tmp_path / "t.txt")}
    corpus = open_corpus(str(tmp_path / "a.txt"), given=given)
    parts = {part: text.read().decode() for part, text in corpus.parts.items()}
    assert parts["test"] == "the test\n" and parts["train"] + parts["val"] == lines(1000)
    assert len(parts["val"]) == pytest.approx(0.05 * len(lines(1000)), abs=20)
    assert corpus.files == (
        "files: a.txt; cut 95 : 5 into train, val in its order, so that the last part is its end\ntest part: t.txt"
    )
    both = open_corpus(str(tmp_path / "a.txt"), given={"val": str(tmp_path / "t.txt"), **given})
    assert both.parts["train"].read().decode() == lines(1000) and both.files.startswith("files: a.txt\nval part: ")
    assert "test" in open_corpus("python", given=given).parts
    latin = tmp_path / "latin.txt"
    latin.write_bytes("naïve\n".encode("cp1252"))
    mixed = open_corpus("python", encoding="cp1252", given={"test": str(latin)})  # the encoding is that of the file
    assert mixed.parts["test"].read().decode() == "naïve\n"


def test_a_given_part_alone_reads_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x")
    corpus = open_corpus("nowhere", given={"test": str(tmp_path / "t.txt")}, only=("test",))
    assert set(corpus.parts) == {"test"} and corpus.name == str(tmp_path / "t.txt")
    assert len(corpus.sha256) == len(corpus.part_sha256("test")) == 64


def test_a_folder_need_not_name_a_given_part(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "in" / f"{name}.txt").write_text(f"{name}\n")
    with pytest.raises(ValueError, match=r"no file whose name says test\. .* --data\.test PATH"):
        open_corpus(str(tmp_path / "in"))
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("test", "train"):  # the whole folder is the part, whatever the names say
        (folder / f"{name}.txt").write_text(f"own {name}\n")
    corpus = open_corpus(str(tmp_path / "in"), given={"test": str(folder)})
    assert [text.read() for text in corpus.parts.values()] == [b"train\n", b"valid\n", b"own test\nown train\n"]
    (tmp_path / "in" / "test.txt").write_text("not this\n")
    assert (
        "not read: test.txt (--data.test is given)"
        in open_corpus(str(tmp_path / "in"), given={"test": str(folder)}).files
    )


def test_blocks_spread_every_part_over_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(lines(2000))
    order, blocks = (open_corpus(str(tmp_path / "a.txt"), cut=cut) for cut in ("order", "blocks"))
    read = {part: text.read().decode().splitlines() for part, text in blocks.parts.items()}
    assert sorted(line for part in read.values() for line in part) == sorted(lines(2000).splitlines())
    numbers = [int(line.split()[1]) for line in read["test"]]
    assert numbers == sorted(numbers) and numbers[0] < 220 and numbers[-1] == 1999
    assert blocks.sha256 != order.sha256 and "in each of 10 stretches" in blocks.files


def test_an_encoding_is_recognised_and_said(tmp_path: Path) -> None:
    text = "Größe und Maß, Übermut tut selten gut: äöü ÄÖÜ ß\n" * 200
    for name, encoding in (("a", "cp1252"), ("b", "utf-8")):
        (tmp_path / f"{name}.txt").write_bytes(text.encode(encoding))
    corpus = open_corpus(str(tmp_path), encoding="auto")
    assert "".join(part.read().decode() for part in corpus.parts.values()) == text * 2
    assert "(recognised as cp1252, utf-8)" in corpus.files
    assert "(recognised as cp1252)" in open_corpus(str(tmp_path / "a.txt"), encoding="auto").files
    (tmp_path / "c.txt").write_bytes(bytes(range(128, 256)) * 99)
    with pytest.raises(ValueError, match=r"c\.txt: no encoding was recognised\. Name it by --data\.encoding"):
        open_corpus(str(tmp_path / "c.txt"), encoding="auto")
