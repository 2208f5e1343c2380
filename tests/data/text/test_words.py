import sys
import unicodedata
from typing import get_args

import pytest

from wnseq.data.text.tokenizer import Tokenizer, WordTokenizer
from wnseq.data.text.words import Words, word_splitter

LINE = "Der Text, «größer» — don't <unk> end."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("blank", ["Der", "Text,", "«größer»", "—", "don't", "<unk>", "end."]),
        ("punctuation", ["Der", "Text", ",", "«", "größer", "»", "—", "don't", "<unk>", "end", "."]),
        ("basic_english", ["der", "text", ",", "«größer»", "—", "don", "'", "t", "<unk>", "end", "."]),
    ],
)
def test_a_line_is_split(words: str, expected: list[str]) -> None:
    assert word_splitter(words)(LINE) == expected


@pytest.mark.parametrize(
    "line",
    [
        "हिन्दी भाषा में लिखा है ।",
        "בְּרֵאשִׁית בָּרָא",
        unicodedata.normalize("NFD", "déjà größer Việt l'été"),
        "می\u200cخواهم کتاب‌ها",  # noqa: RUF001 - Persian
        "தமிழ் মাতৃভাষা กำลัง",
        "⚠\ufe0f 1\ufe0f\u20e3",
    ],
)
def test_a_sign_that_combines_stays_with_what_it_follows(line: str) -> None:
    assert word_splitter("punctuation")(line) == line.split()


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"words must be one of blank, punctuation, basic_english, .*, got 'revtok'"):
        word_splitter("revtok")


@pytest.mark.parametrize(
    ("words", "module"), [("moses", "sacremoses"), ("toktok", "nltk.tokenize"), ("spacy", "spacy")]
)
def test_a_missing_package_is_named(
    words: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.toktok", None)
    with pytest.raises(ImportError, match=rf"words '{words}' need a package .*pip install {module.partition('.')[0]}"):
        word_splitter(words)
    assert capsys.readouterr().out == ""  # torchtext prints


def test_a_word_tokenizer_keeps_what_its_words_are() -> None:
    entries = ["<unk>", "<eos>", "Text", ",", "der"]
    tokenizer = WordTokenizer(entries, "punctuation")
    again = Tokenizer.from_state(tokenizer.state())
    assert again.encode("Text, der\n") == [2, 3, 4, 1] != WordTokenizer(entries).encode("Text, der\n")
    assert again.sha256 == tokenizer.sha256 != WordTokenizer(entries).sha256
    assert not again.keeps_text and WordTokenizer(entries).keeps_text
    assert "words" not in WordTokenizer(entries).state()
    assert len(get_args(Words)) == 6
