"""Text for recurrent language models: a corpus, a vocabulary, and windows in reading order."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from wnseq.data.text.bptt import ColdLoader, Cuts, StreamLoader, Streams, TextBatch, fixed_cuts, random_cuts
from wnseq.data.text.corpora import PARTS, Corpus, check_name, fetch_corpus, open_corpus
from wnseq.data.text.encoding import Split, encode
from wnseq.data.text.tokenizer import KINDS, Tokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer

SHORTEST_RANDOM = 10  # tokens; half of it is the least that random lengths are drawn around


class TextDataModule(LightningDataModule):
    """Text in windows for truncated back-propagation through time.

    The training part is laid out as ``batch_size`` contiguous columns, read side by side, window by window, in order; a
    model that keeps its state from one window to the next reads each column as one long text.

    Several processes of a Trainer read ``batch_size`` neighbouring columns each, of as many as all read together.
    Validation and test have ``eval_batch_size`` columns however many processes deal them out among themselves, so that
    their figures do not depend on that number.

    Args:
        corpus: python (the language reference inside Python, no download), ptb, wikitext-2, wikitext-103,
            tinyshakespeare, enwik8, text8, or the path of a UTF-8 text file or of a folder of them.
        vocabulary: word, subword, bpe, char or byte, learned from the training part, or the path of a checkpoint to
            take its vocabulary; default subword.
        vocabulary_size: entries at most, the most frequent; default all words or characters, 2000 subwords.
        root: folder of the standard corpora; default $WNSEQ_DATA, else ./data.
        batch_size: columns read side by side in training, by each process.
        window: tokens of each column that a training step sees; gradients reach no further back.
        random_windows: draw each window's length around ``window`` (AWD-LSTM), else all are equal.
        eval_batch_size: columns in validation and test, each but the first begins with the zero state; with eval_fresh
            the number of windows at once, which changes nothing but the speed.
        eval_window: tokens of each column at once in validation and test.
        eval_fresh: evaluate on independent windows of eval_window tokens, each from the zero state, as some published
            figures are measured, else with an unbroken state.
        seed: of the random windows.

    Raises:
        ValueError: an argument that can't be, or a corpus or vocabulary unknown.
        FileNotFoundError: a path where nothing is.

    Note:
        After ``setup``: ``vocabulary``, ``corpus_sha256`` and ``splits`` ("train", "val", "test" → ``Split``). A
        ``vocabulary`` that is set before (``Vocabulary.from_torchtext``) is kept. Batches are ``Window``.

    Example:
        >>> data = TextDataModule(vocabulary="byte", batch_size=4, window=16)
        >>> data.setup("fit")
        >>> window = next(iter(data.train_dataloader()))
        >>> window.inputs.shape, window.fresh
        (torch.Size([16, 4]), True)
    """

    vocabulary: Tokenizer | None
    corpus_sha256: str
    splits: dict[str, Split]

    def __init__(
        self,
        corpus: str = "python",
        vocabulary: str | None = None,
        vocabulary_size: int | None = None,
        root: str | None = None,
        batch_size: int = 32,
        window: int = 64,
        random_windows: bool = False,
        eval_batch_size: int = 10,
        eval_window: int = 64,
        eval_fresh: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("window", window, SHORTEST_RANDOM if random_windows else 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("eval_window", eval_window, 1),
            ("seed", seed, 0),
        ):
            _check_integer(name, value, least)
        check_name(corpus)
        kind = "subword" if vocabulary is None else vocabulary
        _check_vocabulary(kind, vocabulary_size)
        self.corpus = corpus
        self.vocabulary_source = kind
        self.vocabulary_size = vocabulary_size
        self.root = root
        self.batch_size = batch_size
        self.window = window
        self.random_windows = random_windows
        self.eval_batch_size = eval_batch_size
        self.eval_window = eval_window
        self.eval_fresh = eval_fresh
        self.seed = seed
        self.vocabulary = None
        self.splits = {}
        self.epoch = 0  # of the training windows handed out
        self.position = 0  # windows of that epoch handed out

    # ---- from the corpus to ids

    def prepare_data(self) -> None:
        """Download the corpus if it is a standard one that is not there yet.

        With several processes the first also learns the vocabulary and encodes the text, and the others wait and find
        both in the cache.
        """
        if self._predicting:
            return
        fetch_corpus(self.corpus, self.root)
        if self._part[1] > 1 and not self.splits:
            with contextlib.suppress(ValueError, OSError):  # setup raises it again, in every process
                self._read()

    def setup(self, stage: str | None = None) -> None:
        """Learn or load the vocabulary and encode the three parts, or find both in the cache.

        Args:
            stage: fit, validate, test or predict; for predict no corpus is touched.
        """
        if stage == "fit":
            self.epoch = self.position = 0  # Lightning restores a resumed run's position after this
        if stage == "predict" or self.splits:
            return
        splits = self._read()
        if stage in (None, "fit"):
            self._check_length("train", splits["train"], self.batch_size * self._part[1], self.window)
        if not self.eval_fresh:
            for part in ("val", "test"):
                self._check_length(part, splits[part], self.eval_batch_size, 1)
        self.splits = splits

    def _read(self) -> dict[str, Split]:
        self.text = open_corpus(self.corpus, self.root)
        self.corpus_sha256 = self.text.sha256
        if self.vocabulary is None:
            self.vocabulary = self._make_vocabulary(self.text)
        return {
            part: encode(self.text.parts[part], self.vocabulary, self.text.part_sha256(part), part) for part in PARTS
        }

    def describe(self) -> str:
        """Return what the corpus is, in two lines for the screen."""
        vocabulary = self._after_setup()
        sizes = ", ".join(f"{self.splits[part].counts.tokens:,} {part}" for part in PARTS)
        test = self.splits["test"].counts
        unknown = f", {test.unknown / test.tokens:.2%} of the test tokens unknown" if test.unknown else ""
        return (
            f"corpus {self.corpus} (sha256 {self.corpus_sha256[:12]}): {sizes} tokens\n"
            f"vocabulary: {vocabulary.kind}, {len(vocabulary):,} entries{unknown}"
        )

    # ---- windows

    def train_dataloader(self) -> "TrainLoader":
        """Return the training windows; see ``TrainLoader``."""
        return TrainLoader(self)

    def val_dataloader(self) -> Iterable[TextBatch]:
        """Return the validation part's windows; each token is a target once."""
        return self._evaluation("val")

    def test_dataloader(self) -> Iterable[TextBatch]:
        """Return the test part's windows; each token is a target once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> Iterable[int]:
        """Return one batch that holds nothing: sampling needs a prompt, not a corpus."""
        return range(1)

    def _evaluation(self, part: str) -> Iterable[TextBatch]:
        start = self._after_setup().start
        tokens = self.splits[part].tokens
        if self.eval_fresh:
            return ColdLoader(tokens, self.eval_window, self.eval_batch_size, start, part=self._part)
        return StreamLoader(Streams(tokens, self.eval_batch_size, start, part=self._part), self.eval_window)

    # ---- where training is

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position of the next training window, and what they count; before ``setup`` nothing."""
        if not self.splits:
            return {}
        position = self.position
        if self.trainer is not None:  # interrupted inside a step: its window is not trained on yet
            batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
            position -= batches.ready - batches.processed  # type: ignore[attr-defined]
        return {"epoch": self.epoch, "position": position, **self._layout()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a position saved by ``state_dict``.

        Raises:
            ValueError: the windows are cut differently now, so that a position means another place.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        for name, now in self._layout().items():
            if (before := state_dict.get(name, now)) != now:
                what = {"batch_size": "batch_size over all processes"}.get(name, name)
                raise ValueError(
                    f"The run to be resumed had {what} {before}, this one has {now}: it can't go on with the next "
                    f"window. Give the same {what.removesuffix('_sha256')}, or start a new run from the checkpoint's "
                    "weights."
                )
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]

    def _layout(self) -> dict[str, Any]:
        vocabulary = self._after_setup()
        return {
            "corpus_sha256": self.corpus_sha256,
            "vocabulary_sha256": vocabulary.sha256,
            "batch_size": self.batch_size * self._part[1],
            "window": self.window,
            "random_windows": self.random_windows,
            "seed": self.seed,
        }

    # ---- checks

    def _after_setup(self) -> Tokenizer:
        if self.vocabulary is None or not self.splits:
            raise RuntimeError("TextDataModule: there are no windows before setup(); call it, or let a Trainer do so.")
        return self.vocabulary

    @property
    def _part(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def _predicting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING

    def _make_vocabulary(self, text: Corpus) -> Tokenizer:
        if self.vocabulary_source in KINDS:
            return train_tokenizer(self.vocabulary_source, text.parts["train"], self.vocabulary_size)
        return Tokenizer.from_checkpoint(self.vocabulary_source)

    def _check_length(self, part: str, split: Split, columns: int, rows: int) -> None:
        tokens = split.counts.tokens
        if tokens >= columns * rows:
            return
        processes = self._part[1] if part == "train" else 1
        option = "batch_size" if part == "train" else "eval_batch_size"
        of_each = f" on {processes} processes" if processes > 1 else ""
        if tokens < rows * processes:
            raise ValueError(
                f"The {part} part of corpus {self.corpus!r} has {tokens:,} tokens, which is shorter than one window of "
                f"{rows}{of_each}. Give a longer text or a smaller window."
            )
        raise ValueError(
            f"The {part} part of corpus {self.corpus!r} has {tokens:,} tokens, too few for {option} "
            f"{columns // processes}{of_each} times window {rows}, which is {columns * rows:,}. The largest {option} "
            f"that fits is {tokens // rows // processes}."
        )


class TrainLoader:
    """The training windows of one epoch after the other, from the position that the data module holds.

    Each iteration is one epoch, or the rest of one that was broken off; the length is always that of a whole epoch, as
    Lightning counts the windows trained on before a restart as well.

    Args:
        data: the data module, after ``setup``.
    """

    def __init__(self, data: TextDataModule) -> None:
        self.data = data
        start = data._after_setup().start
        columns = data.batch_size * data._part[1]
        self.columns = Streams(data.splits["train"].tokens, columns, start, trim=True, part=data._part)
        self.length = len(self._cuts(0)) - 1

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TextBatch]:
        # A generator, so that nothing moves before the first window: Lightning calls iter() without starting an epoch.
        data = self.data
        ended = data.position >= self.length
        if data.trainer is not None and data.trainer.training:
            done = data.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            if done >= data.trainer.num_training_batches:
                return  # resumed from the very end of an epoch, Lightning may ask for a window more than it has
            ended = data.position > 0 and done == 0  # limit_train_batches may have ended it before its last window
        if ended:
            data.epoch, data.position = data.epoch + 1, 0
        for window in self.columns.windows(self._cuts(data.epoch), data.position):
            data.position += 1
            yield window

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is in the data module's state. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, as the data module has gone on already."""

    def _cuts(self, epoch: int) -> Cuts:
        if self.data.random_windows:
            return random_cuts(self.columns.rows, self.data.window, self.data.seed, epoch)
        return fixed_cuts(self.columns.rows, self.data.window)


def _check_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"TextDataModule: {name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"TextDataModule: {name} must be at least {least}, got {value}.")


def _check_vocabulary(source: str, size: int | None) -> None:
    if source not in KINDS and not Path(source).expanduser().is_file():
        if "/" in source or Path(source).suffix:
            raise FileNotFoundError(f"TextDataModule: there is no checkpoint at {source!r} to take a vocabulary from.")
        guess = difflib.get_close_matches(source.lower(), KINDS, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(
            f"TextDataModule: vocabulary must be {', '.join(KINDS)} or the path of a checkpoint, got {source!r}.{hint}"
        )
    if size is None:
        return
    least = {"word": 3, "char": 2, "subword": 300, "bpe": 300}.get(source)
    if least is None:
        raise ValueError(f"TextDataModule: vocabulary {source!r} has a size of its own. Leave vocabulary_size out.")
    _check_integer("vocabulary_size", size, least)
