"""Text for recurrent language models: a corpus, a tokenizer, and batches in reading order."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from wnseq.data.text.bptt import Cuts, ResetLoader, StreamLoader, Streams, TextBatch, fixed_cuts, random_cuts
from wnseq.data.text.corpora import PARTS, Corpus, check_name, fetch_corpus, open_corpus
from wnseq.data.text.encoding import Split, encode
from wnseq.data.text.tokenizer import KINDS, Tokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer

SHORTEST_RANDOM = 10  # tokens; half of it is the least that random lengths are drawn around


class TextDataModule(LightningDataModule):
    """Text in batches for truncated back-propagation through time.

    The training part is laid out as ``batch_size`` contiguous streams, read side by side, batch by batch, in order; a
    model that keeps its state from one batch to the next reads each stream as one long text.

    Several processes of a Trainer read ``batch_size`` neighbouring streams each, of as many as all read together.
    Validation and test have ``eval_batch_size`` streams however many processes deal them out among themselves, so that
    their figures do not depend on that number.

    Args:
        corpus: python (the language reference inside Python, no download), ptb, wikitext-2, wikitext-103,
            tinyshakespeare, enwik8, text8, or the path of a UTF-8 text file or of a folder of them.
        tokenizer: word, subword, bpe, char or byte, trained on the training part, or the path of a checkpoint to take
            its tokenizer from; default subword.
        vocabulary_size: entries at most, the most frequent; default all words or characters, 2000 subwords.
        root: folder of the standard corpora; default $WNSEQ_DATA, else ./data.
        batch_size: streams read side by side in training, by each process.
        bptt: tokens of each stream that a training step sees; gradients reach no further back.
        random_bptt: draw each batch's length around ``bptt`` (AWD-LSTM), else all are equal.
        eval_batch_size: streams in validation and test, each but the first begins with the zero state; with
            eval_reset_state the number of sequences at once, which changes nothing but the speed.
        eval_bptt: tokens of each stream at once in validation and test.
        eval_reset_state: evaluate on independent sequences of eval_bptt tokens, each from the zero state, as some
            published figures are measured, else with an unbroken state.
        seed: of the random lengths.

    Raises:
        ValueError: an argument that can't be, or a corpus or tokenizer unknown.
        FileNotFoundError: a path where nothing is.

    Note:
        After ``setup``: ``tokenizer``, ``corpus_sha256`` and ``splits`` ("train", "val", "test" → ``Split``). A
        ``tokenizer`` that is set before (``Tokenizer.from_torchtext``) is kept. Batches are ``TextBatch``.

    Example:
        >>> data = TextDataModule(tokenizer="byte", batch_size=4, bptt=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.inputs.shape, batch.reset_state
        (torch.Size([16, 4]), True)
    """

    tokenizer: Tokenizer | None
    corpus_sha256: str
    splits: dict[str, Split]

    def __init__(
        self,
        corpus: str = "python",
        tokenizer: str | None = None,
        vocabulary_size: int | None = None,
        root: str | None = None,
        batch_size: int = 32,
        bptt: int = 64,
        random_bptt: bool = False,
        eval_batch_size: int = 10,
        eval_bptt: int = 64,
        eval_reset_state: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("bptt", bptt, SHORTEST_RANDOM if random_bptt else 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("eval_bptt", eval_bptt, 1),
            ("seed", seed, 0),
        ):
            _check_integer(name, value, least)
        check_name(corpus)
        kind = "subword" if tokenizer is None else tokenizer
        _check_tokenizer(kind, vocabulary_size)
        self.corpus = corpus
        self.tokenizer_source = kind
        self.vocabulary_size = vocabulary_size
        self.root = root
        self.batch_size = batch_size
        self.bptt = bptt
        self.random_bptt = random_bptt
        self.eval_batch_size = eval_batch_size
        self.eval_bptt = eval_bptt
        self.eval_reset_state = eval_reset_state
        self.seed = seed
        self.tokenizer = None
        self.splits = {}
        self.epoch = 0  # of the training batches handed out
        self.position = 0  # batches of that epoch handed out

    # ---- from the corpus to ids

    def prepare_data(self) -> None:
        """Download the corpus if it is a standard one that is not there yet.

        With several processes the first also trains the tokenizer and encodes the text, and the others wait and find
        both in the cache.
        """
        if self._predicting:
            return
        fetch_corpus(self.corpus, self.root)
        if self._rank_and_world_size[1] > 1 and not self.splits:
            with contextlib.suppress(ValueError, OSError):  # setup raises it again, in every process
                self._read()

    def setup(self, stage: str | None = None) -> None:
        """Train or load the tokenizer and encode the three parts, or find both in the cache.

        Args:
            stage: fit, validate, test or predict; for predict no corpus is touched.
        """
        if stage == "fit":
            self.epoch = self.position = 0  # Lightning restores a resumed run's position after this
        if stage == "predict" or self.splits:
            return
        splits = self._read()
        if stage in (None, "fit"):
            self._check_length("train", splits["train"], self.batch_size * self._rank_and_world_size[1], self.bptt)
        if not self.eval_reset_state:
            for part in ("val", "test"):
                self._check_length(part, splits[part], self.eval_batch_size, 1)
        self.splits = splits

    def _read(self) -> dict[str, Split]:
        self.text = open_corpus(self.corpus, self.root)
        self.corpus_sha256 = self.text.sha256
        if self.tokenizer is None:
            self.tokenizer = self._make_tokenizer(self.text)
        return {
            part: encode(self.text.parts[part], self.tokenizer, self.text.part_sha256(part), part) for part in PARTS
        }

    def describe(self) -> str:
        """Return what the corpus is, in two lines for the screen."""
        tokenizer = self._after_setup()
        sizes = ", ".join(f"{self.splits[part].counts.tokens:,} {part}" for part in PARTS)
        test = self.splits["test"].counts
        unknown = f", {test.unknown / test.tokens:.2%} of the test tokens unknown" if test.unknown else ""
        return (
            f"corpus {self.corpus} (sha256 {self.corpus_sha256[:12]}): {sizes} tokens\n"
            f"tokenizer: {tokenizer.kind}, {len(tokenizer):,} entries{unknown}"
        )

    # ---- batches

    def train_dataloader(self) -> "TrainLoader":
        """Return the training batches; see ``TrainLoader``."""
        return TrainLoader(self)

    def val_dataloader(self) -> Iterable[TextBatch]:
        """Return the validation part's batches; each token is a target once."""
        return self._evaluation("val")

    def test_dataloader(self) -> Iterable[TextBatch]:
        """Return the test part's batches; each token is a target once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> Iterable[int]:
        """Return one batch that holds nothing: sampling needs a prompt, not a corpus."""
        return range(1)

    def _evaluation(self, part: str) -> Iterable[TextBatch]:
        start = self._after_setup().start
        tokens = self.splits[part].tokens
        if self.eval_reset_state:
            return ResetLoader(
                tokens, self.eval_bptt, self.eval_batch_size, start, rank_and_world_size=self._rank_and_world_size
            )
        return StreamLoader(
            Streams(tokens, self.eval_batch_size, start, rank_and_world_size=self._rank_and_world_size), self.eval_bptt
        )

    # ---- where training is

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position of the next training batch, and what they count; before ``setup`` nothing."""
        if not self.splits:
            return {}
        position = self.position
        if self.trainer is not None:  # interrupted inside a step: its batch is not trained on yet
            batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
            position -= batches.ready - batches.processed  # type: ignore[attr-defined]
        return {"epoch": self.epoch, "position": position, **self.resume_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a position saved by ``state_dict``.

        Raises:
            ValueError: the batches are cut differently now, so that a position means another place.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        for name, now in self.resume_settings().items():
            if (before := state_dict.get(name, now)) != now:
                what = {"batch_size": "batch_size over all processes"}.get(name, name)
                raise ValueError(
                    f"The run to be resumed had {what} {before}, this one has {now}: it can't go on with the next "
                    f"batch. Give the same {what.removesuffix('_sha256')}, or start a new run from the checkpoint's "
                    "weights."
                )
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]

    def resume_settings(self) -> dict[str, Any]:
        """Return what must be as before for a run to be resumed at its position."""
        tokenizer = self._after_setup()
        return {
            "corpus_sha256": self.corpus_sha256,
            "tokenizer_sha256": tokenizer.sha256,
            "batch_size": self.batch_size * self._rank_and_world_size[1],
            "bptt": self.bptt,
            "random_bptt": self.random_bptt,
            "seed": self.seed,
        }

    # ---- checks

    def _after_setup(self) -> Tokenizer:
        if self.tokenizer is None or not self.splits:
            raise RuntimeError("TextDataModule: there are no batches before setup(); call it, or let a Trainer do so.")
        return self.tokenizer

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def _predicting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING

    def _make_tokenizer(self, text: Corpus) -> Tokenizer:
        if self.tokenizer_source in KINDS:
            return train_tokenizer(self.tokenizer_source, text.parts["train"], self.vocabulary_size)
        return Tokenizer.from_checkpoint(self.tokenizer_source)

    def _check_length(self, part: str, split: Split, streams: int, rows: int) -> None:
        tokens = split.counts.tokens
        if tokens >= streams * rows:
            return
        processes = self._rank_and_world_size[1] if part == "train" else 1
        option = "batch_size" if part == "train" else "eval_batch_size"
        of_each = f" on {processes} processes" if processes > 1 else ""
        if tokens < rows * processes:
            raise ValueError(
                f"The {part} part of corpus {self.corpus!r} has {tokens:,} tokens, which is shorter than one batch of "
                f"bptt {rows}{of_each}. Give a longer text or a smaller bptt."
            )
        raise ValueError(
            f"The {part} part of corpus {self.corpus!r} has {tokens:,} tokens, too few for {option} "
            f"{streams // processes}{of_each} times bptt {rows}, which is {streams * rows:,}. The largest {option} "
            f"that fits is {tokens // rows // processes}."
        )


class TrainLoader:
    """The training batches of one epoch after the other, from the position that the data module holds.

    Each iteration is one epoch, or the rest of one that was broken off; the length is always that of a whole epoch, as
    Lightning counts the batches trained on before a restart as well.

    Args:
        data: the data module, after ``setup``.
    """

    def __init__(self, data: TextDataModule) -> None:
        self.data = data
        start = data._after_setup().start
        num_streams = data.batch_size * data._rank_and_world_size[1]
        self.streams = Streams(
            data.splits["train"].tokens, num_streams, start, trim=True, rank_and_world_size=data._rank_and_world_size
        )
        self.length = len(self._cuts(0)) - 1

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[TextBatch]:
        # A generator, so that nothing moves before the first batch: Lightning calls iter() without starting an epoch.
        data = self.data
        ended = data.position >= self.length
        if data.trainer is not None and data.trainer.training:
            done = data.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            if done >= data.trainer.num_training_batches:
                return  # resumed from the very end of an epoch, Lightning may ask for a batch more than it has
            ended = data.position > 0 and done == 0  # limit_train_batches may have ended it before its last batch
        if ended:
            data.epoch, data.position = data.epoch + 1, 0
        for batch in self.streams.batches(self._cuts(data.epoch), data.position):
            data.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is in the data module's state. Lightning warns of a loader without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, as the data module has gone on already."""

    def _cuts(self, epoch: int) -> Cuts:
        if self.data.random_bptt:
            return random_cuts(self.streams.rows, self.data.bptt, self.data.seed, epoch)
        return fixed_cuts(self.streams.rows, self.data.bptt)


def _check_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"TextDataModule: {name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"TextDataModule: {name} must be at least {least}, got {value}.")


def _check_tokenizer(source: str, size: int | None) -> None:
    if source not in KINDS and not Path(source).expanduser().is_file():
        if "/" in source or Path(source).suffix:
            raise FileNotFoundError(f"TextDataModule: there is no checkpoint at {source!r} to take a tokenizer from.")
        guess = difflib.get_close_matches(source.lower(), KINDS, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(
            f"TextDataModule: tokenizer must be {', '.join(KINDS)} or the path of a checkpoint, got {source!r}.{hint}"
        )
    if size is None:
        return
    least = {"word": 3, "char": 2, "subword": 300, "bpe": 300}.get(source)
    if least is None:
        raise ValueError(f"TextDataModule: tokenizer {source!r} has a size of its own. Leave vocabulary_size out.")
    _check_integer("vocabulary_size", size, least)
