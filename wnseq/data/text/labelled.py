"""Labelled texts by name or by path, each as a training, a validation and a test part. A new set is a row of SETS."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np

from wnseq.data._files import data_root
from wnseq.data.text.python_docs import python_docs
from wnseq.data.text.tables import ENDINGS, Row, read_table

EMBEDDED = "python_docs"
PARTS = ("train", "val", "test")
HELD_OUT = 0.1  # share of the texts for each part that is not given


@dataclass(frozen=True)
class LabelledSource:
    """The files of a published set, which are never downloaded: no hash of them is published.

    Args:
        folder: Where they are, in the folder of the data.
        parts: train, val, test → file; without val, a tenth of the training texts is that.
        text: Column of the text, as ``read_table`` takes it.
        label: Column of the label.
        source: Where to get them.
        names: Label in the files → class.
    """

    folder: str
    parts: Mapping[str, str]
    text: str
    label: str
    source: str
    names: Mapping[str, str] = field(default_factory=dict)


SETS: Mapping[str, LabelledSource] = {
    "sst2": LabelledSource(
        "sst2",
        {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"},
        "sentence|content",
        "label",
        "the phrases of GLUE's SST-2; test.tsv with the labels of the Stanford Sentiment Treebank",
        {"0": "negative", "1": "positive"},
    ),
    "sst2-sentences": LabelledSource(
        "sst2/sst2-sentences",
        {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"},
        "1",
        "2",
        "the 6,920, 872 and 1,821 whole sentences of SST-2, each with a tab and its label",
        {"0": "negative", "1": "positive"},
    ),
    "ag_news": LabelledSource(
        "ag_news",
        {"train": "train.csv", "test": "test.csv"},
        "2,3",
        "1",
        "the CSV files of Zhang et al. 2015, without a header: class, title, description",
        {"1": "World", "2": "Sports", "3": "Business", "4": "Sci/Tech"},
    ),
}


@dataclass(frozen=True)
class LabelledText:
    """Labelled texts in three parts.

    Args:
        name: As the user gave it.
        parts: ``train``, ``val``, ``test`` → rows.
        cut: A line about how a table was cut; empty where its parts were given.
    """

    name: str
    parts: Mapping[str, Sequence[Row]]
    cut: str = ""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: the labels of the training part, numbers by size, words in alphabetical order."""
        labels = {row.label for row in self.parts["train"] if row.label is not None}
        numbers = all(label.removeprefix("-").isdecimal() for label in labels)
        return tuple(sorted(labels, key=lambda label: (int(label) if numbers else 0, label)))  # 01 beside 1

    @cached_property
    def sha256(self) -> str:
        """Hash of all texts and labels."""
        digest = sha256()
        for part in PARTS:
            for text, label, _ in self.parts[part]:
                digest.update(f"{part}\0{label}\0{text}\0".encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Check that a classifier can be trained on this, and measured.

        Raises:
            ValueError: There is one class only; or a text has no label, or one that is no class of the training part.
        """
        check_labels(self.parts["train"], self.classes)
        if len(self.classes) < 2:
            raise ValueError(
                f"{self.name} has one class only, {self.classes[0]!r}: a classifier needs texts of two or more."
            )
        for part in PARTS[1:]:
            check_labels(self.parts[part], self.classes)


def check_labels(rows: Iterable[Row], classes: Sequence[str]) -> None:
    """Check that every row has a label that is one of the classes.

    Raises:
        ValueError: One has not; with its place.
    """
    known = set(classes)
    for row in rows:
        if row.label is None:
            raise ValueError(f"{row.origin} has no label. Texts without labels are for predict --data.predict PATH.")
        if row.label not in known:
            raise ValueError(
                f"{row.origin}: the label {row.label!r} is none of the classes of the training part: "
                f"{', '.join(classes)}. Correct it, leave the row out, or add texts of that class to the training part."
            )


def is_known(name: str) -> bool:
    """Return True if it is the name of a set, which has priority over a file of that name."""
    return name == EMBEDDED or name in SETS


def check_name(name: str) -> None:
    """Check that a set is a known name or the path of a table.

    Raises:
        ValueError: A misspelt name.
        FileNotFoundError: A path where no file is.
    """
    if is_known(name) or Path(name).expanduser().is_file():
        return
    if "/" in name or Path(name).suffix:
        raise FileNotFoundError(f"There is no table at {name!r} (looked in {Path.cwd()}). Check the path of dataset.")
    known = [EMBEDDED, *SETS]
    guess = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    raise ValueError(
        f"There is no set {name!r}.{hint} Known are {', '.join(known)}; the path of a table of labelled texts "
        f"({', '.join(ENDINGS)}) works too."
    )


def open_labelled(
    name: str,
    root: str | None = None,
    *,
    text: str = "text",
    label: str = "label",
    encoding: str | None = None,
    given: Mapping[str, str] | None = None,
) -> LabelledText:
    """Return labelled texts in their three parts, none of them empty.

    Args:
        name: ``python_docs`` (embedded), the name of a set, or the path of a table.
        root: Folder of the sets; default ``$WNSEQ_DATA``, else ``./data``.
        text: Column of the text in tables of the user's, see ``read_table``.
        label: Column of the label in them.
        encoding: Their encoding.
        given: ``val`` or ``test`` → a table that is this part.

    Raises:
        ValueError: An unknown name, or a table that is none.
        FileNotFoundError: A file is missing.
    """
    check_name(name)
    parts = {part: read_table(path, text, label, encoding) for part, path in (given or {}).items()}
    if name == EMBEDDED:
        return LabelledText(name, python_docs() | parts)
    if name in SETS:
        parts = _published(name, data_root(root)) | parts
    else:
        parts = {"train": read_table(name, text, label, encoding)} | parts
    missing = [part for part in PARTS if part not in parts]
    if not missing:
        return LabelledText(name, parts)
    cut = _cut(parts["train"], missing, name)
    return LabelledText(name, parts | cut, f"cut at random into {', '.join(cut)}, equal texts into the same part")


def _published(name: str, root: Path) -> dict[str, list[Row]]:
    source = SETS[name]
    parts = {}
    for part, file in source.parts.items():
        path = root / source.folder / file
        if not path.is_file():
            raise FileNotFoundError(
                f"The set {name!r} is not complete: {path} is missing. It is not downloaded. Put it there: "
                f"{source.source}. --data.root or WNSEQ_DATA name the folder above."
            )
        rows = read_table(path, source.text, source.label)
        parts[part] = [row._replace(label=source.names.get(row.label or "", row.label)) for row in rows]
    return parts


def _cut(rows: Sequence[Row], missing: Sequence[str], name: str) -> dict[str, list[Row]]:
    """Cut a table at random, the same in every run; the training part has each class."""
    texts = list(dict.fromkeys(row.text for row in rows))
    kept = set({row.label: row.text for row in reversed(rows)}.values())  # the first text of each class
    order = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]
    order.sort(key=lambda text: text not in kept)  # the others stay in their order
    size = min(max(1, round(HELD_OUT * len(order))), (len(order) - len(kept)) // len(missing))
    if not size:
        raise ValueError(
            f"{name} has {len(order):,} different texts in {len(kept):,} classes, too few to cut into "
            f"{', '.join(['train', *missing])}. Give more, or --data.val and --data.test."
        )
    part_of = dict.fromkeys(order, "train")
    for number, part in enumerate(missing):
        part_of |= dict.fromkeys(order[len(order) - (number + 1) * size : len(order) - number * size], part)
    return {part: [row for row in rows if part_of[row.text] == part] for part in ("train", *missing)}
