"""Labelled texts by name and by path: their parts, their classes, and what is refused."""

from pathlib import Path

import pytest

from wnseq.data.text import open_corpus, open_labelled
from wnseq.data.text.labelled import check_labels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WNSEQ_DATA", str(tmp_path / "data"))
    return tmp_path


def write(name: str, rows: list[tuple[str, object]], header: str = "text,label\n") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(header + "".join(f"{text},{label}\n" for text, label in rows))
    return name


def test_a_table_is_cut_at_random_and_equal_texts_stay_together() -> None:
    write("a.csv", [(f"text {number // 2}", number // 2 % 3) for number in range(100)])
    found = open_labelled("a.csv")
    texts = {part: {row.text for row in rows} for part, rows in found.parts.items()}
    assert {part: len(each) for part, each in texts.items()} == {"train": 40, "val": 5, "test": 5}
    assert all(len(rows) == 2 * len(texts[part]) for part, rows in found.parts.items())
    assert found.classes == ("0", "1", "2") and "equal texts into the same part" in found.cut
    assert open_labelled("a.csv") == found
    write("b.csv", [("one of its kind", "rare")])
    given = open_labelled("a.csv", given={"test": "b.csv"})
    assert given.parts["test"][0].label == "rare" and set(given.parts) == {"train", "val", "test"}
    with pytest.raises(ValueError, match=r"b\.csv: line 2: the label 'rare' is none of the classes .*: 0, 1, 2\. Corr"):
        given.check()


def test_every_class_is_in_the_training_part() -> None:
    write("a.csv", [*((f"text {n}", "many") for n in range(60)), *((f"rare {n}", f"r{n}") for n in range(9))])
    found = open_labelled("a.csv")
    found.check()
    assert len(found.classes) == 10
    write("few.csv", [("a", 1), ("b", 2), ("c", 1)])
    with pytest.raises(
        ValueError, match=r"few\.csv has 3 different texts in 2 classes, too few to cut into train, val"
    ):
        open_labelled("few.csv")


def test_classes_of_numbers_are_in_their_order_and_words_alphabetical() -> None:
    for labels, classes in ((["10", "9", "-1", "9.0"], ("-1", "9", "10")), (["b", "10", "a"], ("10", "a", "b")),
                            (["2", "1", "01", "02", "001"], ("001", "01", "1", "02", "2"))):  # fmt: skip
        rows = [(f"{label} {number}", label) for label in labels for number in range(9)]
        assert open_labelled(write("a.csv", rows)).classes == classes


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([(f"text {n}", "only") for n in range(9)], "has one class only, 'only': a classifier needs texts of two"),
        ([(f"text {n}", n % 2 or "") for n in range(9)], r"line \d+ has no label.* predict --data\.predict"),
    ],
    ids=["one class", "no label"],
)  # fmt: skip
def test_what_no_classifier_can_be_trained_on_is_refused(rows: list[tuple[str, object]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        open_labelled(write("a.csv", rows)).check()


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("sst", ValueError, "There is no set 'sst'. Did you mean 'sst2'"),
        ("nowhere.csv", FileNotFoundError, "There is no table at 'nowhere.csv'"),
        (
            "sst2",
            FileNotFoundError,
            "'sst2' is not complete: .*train.tsv is missing. It is not downloaded",
        ),
    ],
)
def test_an_unknown_set_is_refused(name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        open_labelled(name)


def test_published_sets_are_read_in_their_forms() -> None:
    Path("data/sst2").mkdir(parents=True)
    for part, table in (
        ("train", 'sentence\tlabel\na "good\t1\na bad\t0\n'),
        ("dev", "label\tcontent\n1\tfine\n"),
        ("test", "label\tcontent\n0\tdull\n"),
    ):
        Path(f"data/sst2/{part}.tsv").write_text(table)
    found = open_labelled("sst2")
    assert found.classes == ("negative", "positive") and found.parts["train"][0].text == 'a "good'
    write("data/ag_news/train.csv", [(f'"{n % 4 + 1}","title {n}"', '"a ""quoted"" text"') for n in range(40)], "")
    write("data/ag_news/test.csv", [('"3","Stocks"', '"fell, again"')], "")
    found = open_labelled("ag_news")
    assert found.classes == ("Business", "Sci/Tech", "Sports", "World") and len(found.parts["val"]) == 4
    assert found.parts["test"][0][:2] == ("Stocks fell, again", "Business")
    found.check()
    # its texts are a corpus for a language model, in the same parts
    corpus = open_corpus("sst2")
    assert {part: text.read() for part, text in corpus.parts.items()} == {
        "train": b'a "good\na bad\n', "val": b"fine\n", "test": b"dull\n"
    }  # fmt: skip


def test_labels_are_checked_with_their_place() -> None:
    rows = open_labelled(write("a.csv", [(f"text {n}", n % 2) for n in range(20)])).parts["train"]
    check_labels(rows, ("0", "1"))
    with pytest.raises(ValueError, match=r"a\.csv: line \d+: the label '0' is none of the classes"):
        check_labels(rows, ("1", "2"))
