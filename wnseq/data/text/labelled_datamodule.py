"""Labelled text for classifiers: a set, a tokenizer, and batches of whole texts."""

import contextlib
import io
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from wnseq.data._position import DataPosition, EpochLoader, check_evaluation, rank_and_world_size, settings_of_part
from wnseq.data.text.decoding import check_encoding, utf8_file
from wnseq.data.text.labelled import PARTS, LabelledText, check_labels, check_name, is_known, open_labelled
from wnseq.data.text.labelled_batches import LabelledBatch, LabelledBatches, OrderedBatches, encode_whole
from wnseq.data.text.options import MEASURED, check_integer, check_tokenizer, paths_in_full
from wnseq.data.text.stream import Text
from wnseq.data.text.tables import Row, read_table
from wnseq.data.text.tokenizer import KINDS, Tokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer
from wnseq.data.text.words import Words

WHICH = ("dataset", "text", "label", "val", "test", "root", "encoding")  # options that say which texts they are
STANDARD_INPUT = "-"
SHOWN = 10  # classes on the screen


class LabelledTextDataModule(LightningDataModule):
    """Labelled texts, each whole, in batches of similar lengths.

    Args:
        dataset: python_docs (docstrings of Python's own library, by what their modules are for; no download), sst2,
            sst2-sentences, ag_news, or the path of a table: .csv, .tsv, .jsonl or .ndjson, gzipped or not. A table is
            cut at random 80 : 10 : 10, equal texts into the same part.
        text: Column of the text in a table of yours: its name, or its number, from 1, if the first line is no header.
            Several, separated by commas, are joined.
        label: Column of the label in a table of yours.
        val: Path of a table that is the validation part.
        test: Path of a table that is the test part.
        predict: Path of a file with a text in each line, which predict classifies instead of the test part, or - for
            the lines of standard input.
        tokenizer: word, subword, bpe, char or byte, trained on the training part, or the path of a checkpoint with a
            tokenizer; default subword.
        vocabulary_size: Entries at most, the most frequent; default all words or characters, 2000 subwords.
        words: What a word of the tokenizer word is: what blanks separate; with punctuation, signs are words of their
            own; or as torchtext's tokenizers basic_english, moses, toktok and spacy split.
        min_count: Times that a word or character must be in the training part to be an entry.
        max_tokens: Tokens of a text that are read; a longer one is cut.
        root: Folder of the sets; default $WNSEQ_DATA, else ./data.
        encoding: Encoding of your files, e.g. cp1252, utf-16 or gb18030, or auto to recognise it; default UTF-8.
        batch_size: Texts in a training step, by each process.
        eval_batch_size: Texts at once in validation, test and prediction; it changes the speed alone.
        seed: Seed of the order of the texts.

    Raises:
        ValueError: An argument is out of range, or set or tokenizer are unknown.
        FileNotFoundError: Nothing is at a path.

    Note:
        ``setup`` sets ``tokenizer``, ``classes`` and ``rows``. Batches are ``LabelledBatch``. Each text follows the
        entry that stands before a text in a language model, so that an empty one has a token too.

    Example:
        >>> data = LabelledTextDataModule(tokenizer="byte", batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.tokens.shape[1], batch.labels.shape
        (4, torch.Size([4]))
    """

    tokenizer: Tokenizer | None
    classes: tuple[str, ...]
    rows: dict[str, Sequence[Row]]

    def __init__(
        self,
        dataset: str = "python_docs",
        text: str = "text",
        label: str = "label",
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        tokenizer: str | None = None,
        vocabulary_size: int | None = None,
        words: Words = "blank",
        min_count: int = 1,
        max_tokens: int = 256,
        root: str | None = None,
        encoding: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_tokens": max_tokens}
        for name, value in (sizes | {"min_count": min_count}).items():
            check_integer("LabelledTextDataModule", name, value, 1)
        check_integer("LabelledTextDataModule", "seed", seed, 0)
        self.given = {part: path for part, path in (("val", val), ("test", test)) if path is not None}
        for path in [*self.given.values(), *([predict] if predict not in (None, STANDARD_INPUT) else [])]:
            if not Path(path).expanduser().is_file():
                raise FileNotFoundError(f"There is no file at {path!r} (looked in {Path.cwd()}).")
        check_encoding(encoding)
        missed_later = [FileNotFoundError] if self.given else []  # when it is read, if it is
        with contextlib.suppress(*missed_later):
            check_name(dataset)
        kind = "subword" if tokenizer is None else tokenizer
        check_tokenizer("LabelledTextDataModule", kind, vocabulary_size, words, min_count)
        self.dataset = dataset
        self.text, self.label = text, label
        self.val, self.test, self.predict = val, test, predict
        self.tokenizer_source = kind
        self.vocabulary_size = vocabulary_size
        self.words = words
        self.min_count = min_count
        self.max_tokens = max_tokens
        self.root = root
        self.encoding = encoding
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.tokenizer = None
        self.classes = ()
        self.rows = {}
        self.opened: LabelledText | None = None
        self.position = DataPosition()
        self._batches: dict[str, LabelledBatches] = {}
        self._shortened: dict[str, int] = {}

    # ---- from the set to ids

    def setup(self, stage: str | None = None) -> None:
        """Read the texts, and train or load the tokenizer.

        Args:
            stage: fit, validate, test or predict. Where a path gives the part that is measured or predicted, and the
                tokenizer is a checkpoint's, that part alone is read.
        """
        if stage == "fit":
            if self.predict is not None:
                raise ValueError("--data.predict names lines to be classified: it is for predict, not for training.")
            self.position.reset()  # Lightning loads the position of a resumed run after this
        part = self.predicted_part if stage == "predict" else MEASURED.get(stage or "", "")
        has_tokenizer = self.tokenizer is not None or self.tokenizer_source not in KINDS
        if stage == "predict" and self.predict is not None:
            if self.predict == STANDARD_INPUT and rank_and_world_size(self.trainer)[1] > 1:
                raise ValueError("standard input is read by one process: --trainer.devices 1, or name a file")
            self.rows[part] = read_lines(self.predict, self.encoding)
        elif self.opened is None and part in self.given and has_tokenizer:
            self.rows[part] = read_table(self.given[part], self.text, self.label, self.encoding)
        elif self.opened is None:
            options: dict[str, Any] = {"text": self.text, "label": self.label, "encoding": self.encoding}
            self.opened = open_labelled(self.dataset, self.root, **options, given=self.given)
            self.classes = self.opened.classes
            self.rows |= self.opened.parts
            self._batches.clear()
        if self.opened is not None and stage in (None, "fit"):
            self.opened.check()
        if self.tokenizer is None:
            if self.tokenizer_source in KINDS:
                if self.opened is None:
                    raise ValueError("There is no tokenizer yet: predict needs the path of a checkpoint as tokenizer.")
                text = Text.of("\n".join(row.text for row in self.rows["train"]).encode())
                settings = (self.vocabulary_size, self.words, self.min_count)
                self.tokenizer = train_tokenizer(self.tokenizer_source, text, *settings)
            else:
                self.tokenizer = Tokenizer.from_checkpoint(self.tokenizer_source)

    def match(self, classes: Sequence[str]) -> None:
        """Use the classes of a model, and their numbers, instead of those of the training part.

        Raises:
            ValueError: A text to be measured has no label, or one that the model does not know.
        """
        self.classes = tuple(classes)
        for part in PARTS[1:]:
            check_labels(self.rows.get(part, ()), self.classes)
        self._batches.clear()

    def batches(self, part: str) -> LabelledBatches:
        """Return the batches of a part: ``train``, ``val``, ``test`` or ``predict``."""
        if part not in self._batches:
            if self.tokenizer is None or part not in self.rows:
                raise RuntimeError(
                    "LabelledTextDataModule: there are no batches before setup(); let a Trainer call it."
                )
            numbers = {name: number for number, name in enumerate(self.classes)}
            encoded = [encode_whole(row.text, self.tokenizer) for row in self.rows[part]]
            self._shortened[part] = sum(len(ids) > self.max_tokens for ids in encoded)
            labels = [numbers.get(row.label or "", -1) for row in self.rows[part]]
            self._batches[part] = LabelledBatches([ids[: self.max_tokens] for ids in encoded], labels)
        return self._batches[part]

    def describe(self) -> str:
        """Return a few lines about the texts, for the screen."""
        opened, tokenizer = self._after_setup()
        sizes = ", ".join(f"{len(self.batches(part)):,} {part}" for part in PARTS)
        classes = ", ".join(self.classes[:SHOWN]) + (", …" if len(self.classes) > SHOWN else "")
        empty = sum(not row.text.strip() for part in PARTS for row in self.rows[part])
        shortened = sum(self._shortened[part] for part in PARTS)
        notes = [opened.cut] if opened.cut else []
        notes += [f"{empty:,} texts are empty"] if empty else []
        notes += [f"{shortened:,} texts are cut to {self.max_tokens} tokens (--data.max_tokens)"] if shortened else []
        return "\n".join(
            [
                f"dataset {opened.name} (sha256 {opened.sha256[:12]}): {sizes} texts in {len(self.classes)} classes: "
                f"{classes}",
                f"tokenizer: {tokenizer.kind}, {len(tokenizer):,} entries",
                *notes,
            ]
        )

    def describe_part(self, part: str) -> str:
        """Return one line about the part that an evaluation measured, for the screen."""
        return f"dataset {self.given.get(part, self.dataset)}, {part} part: {len(self.rows[part]):,} texts"

    def provenance(self) -> dict[str, str]:
        """Return which texts these are, for loggers and checkpoints."""
        if self.opened is None:
            return {}
        return {"dataset": self.opened.name, "dataset_sha256": self.opened.sha256}

    def checkpoint_options(self) -> dict[str, Any]:
        """Return the options by which the same batches are found again, paths in full."""
        options = {
            name: getattr(self, name) for name in (*WHICH, "max_tokens", "batch_size", "eval_batch_size", "seed")
        }
        names = {"val", "test", "root"} if is_known(self.dataset) else {"dataset", "val", "test", "root"}
        return paths_in_full(options, names)

    @staticmethod
    def options_from_checkpoint(saved: Mapping[str, Any], given: Collection[str], subcommand: str) -> dict[str, Any]:
        """Return which of a checkpoint's options become the defaults of a command.

        Args:
            saved: What :meth:`checkpoint_options` returned.
            given: Options that the command has by itself: another set brings its own columns, say.
            subcommand: fit, validate, test or predict.

        Raises:
            FileNotFoundError: The checkpoint's table is not there any more.
        """
        alone = {**MEASURED, "predict": "test"}.get(subcommand) in given
        if "dataset" in given or (subcommand == "predict" and "predict" in given):
            own: Collection[str] = WHICH
        else:
            own = ("val", "test", "encoding") if alone else ()
        options = {name: value for name, value in saved.items() if name not in own}
        path = Path(options.get("dataset", ""))
        if not alone and path.is_absolute() and not path.exists():
            raise FileNotFoundError(
                f"the table of the checkpoint, {path}, is not there any more: name another one by --data.dataset PATH, "
                "or one that is measured as a whole by --data.test PATH"
            )
        return options

    # ---- batches

    def train_dataloader(self) -> EpochLoader[LabelledBatch]:
        """Return the training batches, in another order in each epoch."""
        own = rank_and_world_size(self.trainer)
        train, size = self.batches("train"), self._texts_a_step()

        def batches(epoch: int, first: int) -> Iterator[LabelledBatch]:
            return train.shuffled(size, f"{self.seed} {epoch}", first, own)

        return EpochLoader(self.position, -(-len(train) // size), batches, self.trainer)

    def val_dataloader(self) -> OrderedBatches:
        """Return the batches of the validation part, texts of similar lengths together."""
        return self._evaluation("val")

    def test_dataloader(self) -> OrderedBatches:
        """Return the batches of the test part, texts of similar lengths together."""
        return self._evaluation("test")

    def predict_dataloader(self) -> OrderedBatches:
        """Return the batches of the lines to be classified, else of the test part, in their order."""
        return self._evaluation(self.predicted_part, by_length=False)

    @property
    def predicted_part(self) -> str:
        """The part that predict classifies."""
        return "test" if self.predict is None else "predict"

    def _evaluation(self, part: str, by_length: bool = True) -> OrderedBatches:
        own = rank_and_world_size(self.trainer)
        return OrderedBatches(self.batches(part).in_order(self.eval_batch_size, by_length, own))

    # ---- the position of training, in checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next training batch; before ``setup`` nothing."""
        more = settings_of_part(self, "eval_batch_size")
        return self.position.state_dict(self.trainer, self.resume_settings() | more) if self.opened is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a position saved by ``state_dict``.

        Raises:
            ValueError: The batches are other ones now, or the validation is.
        """
        if self.position.load_state_dict(state_dict, self.trainer, self.resume_settings):
            check_evaluation(state_dict, settings_of_part(self, "eval_batch_size"))

    def resume_settings(self) -> dict[str, Any]:
        """Return the settings that must be as before for a run to resume."""
        opened, tokenizer = self._after_setup()
        return {
            "dataset_sha256": opened.sha256,
            "tokenizer_sha256": tokenizer.sha256,
            "batch_size": self._texts_a_step(),
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def _texts_a_step(self) -> int:
        return self.batch_size * rank_and_world_size(self.trainer)[1]

    def _after_setup(self) -> tuple[LabelledText, Tokenizer]:
        if self.opened is None or self.tokenizer is None:
            raise RuntimeError("LabelledTextDataModule: there are no texts before setup(); let a Trainer call it.")
        return self.opened, self.tokenizer


def read_lines(path: str, encoding: str | None = None) -> list[Row]:
    r"""Return the lines of a file, or of standard input (``-``), as texts without labels.

    They end in ``\n``, ``\r\n`` or ``\r``; a form feed or U+2028 is a character of its line.

    Args:
        path: The file.
        encoding: Its encoding; None for UTF-8, ``auto`` for the one that it is most likely in.

    Raises:
        ValueError: It has no line, or is in another encoding.
    """
    if path == STANDARD_INPUT:
        if encoding is not None:
            raise ValueError("--data.encoding is that of files: convert standard input to UTF-8 first, e.g. by iconv.")
        content = sys.stdin.read().removeprefix("\ufeff")  # a byte order mark, as of a file
    else:
        source, start = utf8_file(Path(path).expanduser(), encoding)
        text = Text.of(source)
        text.check()
        content = text.slice(start, text.size).read().decode()
    lines = [line.removesuffix("\n") for line in io.StringIO(content, newline=None)]  # str.splitlines ends more lines
    if not lines:
        raise ValueError(f"There is no line to classify in {'standard input' if path == STANDARD_INPUT else path}.")
    return [Row(line, None, f"{path}: line {number:,}") for number, line in enumerate(lines, 1)]
