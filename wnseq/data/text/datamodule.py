"""Text for recurrent language models: a corpus, a tokenizer, and batches in reading order."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from wnseq.data._position import DataPosition, EpochLoader, check_evaluation, rank_and_world_size
from wnseq.data.text.bptt import (
    Cuts,
    ResetLoader,
    StreamLoader,
    Streams,
    TextBatch,
    Windows,
    count_documents,
    fixed_cuts,
    random_cuts,
)
from wnseq.data.text.corpora import PARTS, check_name, fetch_corpus, open_corpus
from wnseq.data.text.decoding import check_encoding
from wnseq.data.text.encoding import Split, encode
from wnseq.data.text.options import (
    MEASURED,
    check_documents,
    check_flags,
    check_integer,
    check_tokenizer,
    estimate_tokens,
    evaluation_settings,
    options_from_checkpoint,
    saved_options,
    training_options,
)
from wnseq.data.text.tokenizer import KINDS, Tokenizer
from wnseq.data.text.tokenizer_training import train_tokenizer
from wnseq.data.text.words import Words

MIN_RANDOM_BPTT = 10  # tokens; random_cuts draws around half of it, and no length below 5


class TextDataModule(LightningDataModule):
    """Text in batches for truncated back-propagation through time.

    The training part is laid out as ``batch_size`` contiguous streams, read side by side, ``bptt`` tokens at a time: a
    model that carries its state from batch to batch reads each stream as one long text.

    With several processes each reads ``batch_size`` neighbouring streams of its own in training; in validation and test
    they divide ``eval_batch_size`` streams among themselves, so that the figures do not depend on their number.

    Args:
        corpus: python (the language reference inside Python, no download), ptb, ptb-char (without the blanks at the
            ends of lines), wikitext-2, wikitext-103, tinyshakespeare, enwik8, text8, the texts of a labelled set
            (python_docs, sst2, sst2-sentences, ag_news), or the path of a text file or of a folder of them, gzipped or
            not. A folder is all its .txt and .tokens files and those of its subfolders, hidden ones left out, in sorted
            order: the parts if names of files or subfolders say train, valid and test, else cut 90 : 5 : 5.
        val: Path of a text file or folder that is the validation part; the corpus is not cut for it then.
        test: Path of a text file or folder that is the test part; the corpus is not cut for it then.
        cut: How a path's text is cut: in order, so that the test part is its end; or in blocks, ten stretches of it
            that are each cut.
        backward: Whether to read each part from its last token to its first, for a model whose encoder reads a text to
            its beginning.
        tokenizer: word, subword, bpe, char or byte, trained on the training part, or the path of a checkpoint with a
            tokenizer; default subword.
        vocabulary_size: Entries at most, the most frequent; default all words or characters, 2000 subwords.
        words: What a word of the tokenizer word is: what blanks separate; with punctuation, signs are words of their
            own; or as torchtext's tokenizers basic_english, moses, toktok and spacy split.
        min_count: Times that a word or character must be in the training part to be an entry.
        root: Folder of the standard corpora; default $WNSEQ_DATA, else ./data.
        encoding: Encoding of the text files of a path, e.g. cp1252, utf-16 or gb18030, or auto to recognise it; default
            UTF-8.
        field: Key of the text in files of JSON lines (.jsonl, .ndjson), each of whose records ends in a blank line;
            column of the text in a .csv or .tsv file, each of whose rows then is a line.
        batch_size: Streams read side by side in training, by each process.
        bptt: Tokens of each stream in a training step; gradients reach no further back.
        reset_state: Whether to train on independent sequences of bptt tokens, each from the zero state, in an order of
            its own in each epoch; else the state is carried through each stream.
        random_bptt: Whether to draw each batch's length around bptt (AWD-LSTM); else all are equal.
        partial_shuffle: Whether each epoch turns each training stream by a random number of tokens, so that it begins
            elsewhere and goes on from its end at its beginning (Press 2019).
        eval_batch_size: Streams in validation and test, each of which starts from the zero state; with
            eval_reset_state sequences at once, which changes the speed alone.
        eval_bptt: Tokens of each stream at once in validation and test.
        eval_reset_state: Whether to evaluate on independent sequences of eval_bptt tokens, each from the zero state, as
            some published figures are measured; else the state is carried through each stream.
        documents: Whether blank lines end documents, so that the state is zero where the next one begins, in training
            and evaluation. A record of JSON lines ends in one; one inside it ends a document too.
        seed: Seed of the random lengths and turns.

    Raises:
        ValueError: An argument is out of range, or corpus or tokenizer are unknown.
        FileNotFoundError: Nothing is at a path.

    Note:
        ``setup`` sets ``tokenizer``, ``corpus_sha256`` and ``splits`` ("train", "val", "test" → ``Split``). It keeps a
        ``tokenizer`` that was assigned before (``Tokenizer.from_torchtext``). Batches are ``TextBatch``.

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
        words: Words = "blank",
        min_count: int = 1,
        root: str | None = None,
        encoding: str | None = None,
        field: str | None = None,
        val: str | None = None,
        test: str | None = None,
        cut: Literal["order", "blocks"] = "order",
        backward: bool = False,
        batch_size: int = 32,
        bptt: int = 64,
        reset_state: bool = False,
        random_bptt: bool = False,
        partial_shuffle: bool = False,
        eval_batch_size: int = 10,
        eval_bptt: int = 64,
        eval_reset_state: bool = False,
        documents: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("bptt", bptt, MIN_RANDOM_BPTT if random_bptt else 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("eval_bptt", eval_bptt, 1),
            ("seed", seed, 0),
            ("min_count", min_count, 1),
        ):
            check_integer("TextDataModule", name, value, least)
        draws = {"random_bptt": random_bptt, "partial_shuffle": partial_shuffle}
        flags = {"eval_reset_state": eval_reset_state, "documents": documents, "backward": backward}
        check_flags("TextDataModule", reset_state=reset_state, **draws, **flags)
        if reset_state and any(draws.values()):
            raise ValueError("TextDataModule: reset_state leaves random_bptt and partial_shuffle nothing to do.")
        for name, choice, choices in (("cut", cut, ("order", "blocks")), ("words", words, get_args(Words))):
            if choice not in choices:
                raise ValueError(f"TextDataModule: {name} must be one of {', '.join(choices)}, got {choice!r}.")
        self.given = {part: path for part, path in (("val", val), ("test", test)) if path is not None}
        for path in self.given.values():
            if not Path(path).expanduser().exists():
                raise FileNotFoundError(f"There is no text file or folder at {path!r} (looked in {Path.cwd()}).")
        if self.given:
            check_encoding(encoding)  # a standard corpus beside them has its own
            with contextlib.suppress(FileNotFoundError):  # it is missed when it is read, if it is
                check_name(corpus)
        else:
            check_name(corpus, encoding)
        kind = "subword" if tokenizer is None else tokenizer
        check_tokenizer("TextDataModule", kind, vocabulary_size, words, min_count)
        self.corpus = corpus
        self.val, self.test = val, test
        self.cut = cut
        self.backward = backward
        self.words = words
        self.min_count = min_count
        self.field = field
        self.tokenizer_source = kind
        self.vocabulary_size = vocabulary_size
        self.root = root
        self.encoding = encoding
        self.batch_size, self.bptt = batch_size, bptt
        self.reset_state = reset_state
        self.random_bptt = random_bptt
        self.partial_shuffle = partial_shuffle
        self.eval_batch_size, self.eval_bptt = eval_batch_size, eval_bptt
        self.eval_reset_state = eval_reset_state
        self.documents = documents
        self.seed = seed
        self.tokenizer = None
        self.splits = {}
        self.position = DataPosition()

    # ---- from the corpus to ids

    def prepare_data(self) -> None:
        """Download a standard corpus that is missing.

        With several processes the first also trains the tokenizer and encodes the text; the others find both in the
        cache.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING:
            return
        if self._wanted() == PARTS:
            fetch_corpus(self.corpus, self.root)
        if rank_and_world_size(self.trainer)[1] > 1 and not self.splits:
            with contextlib.suppress(ValueError, OSError):  # setup raises it again, in every process
                self._read()

    def setup(self, stage: str | None = None) -> None:
        """Train or load the tokenizer and encode the three parts, or find both in the cache.

        Args:
            stage: fit, validate, test or predict; predict reads no corpus.
        """
        if stage == "fit":
            self.position.reset()  # Lightning loads the position of a resumed run after this
        if stage == "predict" or set(wanted := self._wanted(stage)) <= set(self.splits):
            return
        splits = self._read(wanted)
        train = splits["train"] if stage in (None, "fit") else None
        if train is not None:
            self._check_length("train", train, self._num_streams(), self.bptt)
        if self.documents and self.tokenizer is not None:
            check_documents(self.corpus, self.tokenizer, None if train is None else train.tokens, self.text.parts)
        for part in wanted[-2:]:
            self._check_length(part, splits[part], 1 if self.eval_reset_state else self.eval_batch_size, 1)
        self.splits = splits

    def _wanted(self, stage: str | None = None) -> Sequence[str]:
        """Return the parts that a stage needs: all, or the one that it measures, where a path gives it."""
        if stage is None and self.trainer is not None:
            stage = self.trainer.state.fn
        part = MEASURED.get(stage or "", "")
        has_tokenizer = self.tokenizer is not None or self.tokenizer_source not in KINDS
        return (part,) if part in self.given and has_tokenizer else PARTS

    def _read(self, wanted: Sequence[str] = PARTS) -> dict[str, Split]:
        options: dict[str, Any] = {"field": self.field, "cut": self.cut, "given": self.given, "only": wanted}
        text = self.text = open_corpus(self.corpus, self.root, self.encoding, **options)
        for part in text.parts.values():
            part.check()
        self.corpus_sha256 = text.sha256
        if self.tokenizer is None:
            if self.tokenizer_source in KINDS:
                settings = (self.vocabulary_size, self.words, self.min_count)
                self.tokenizer = train_tokenizer(self.tokenizer_source, text.parts["train"], *settings)
            else:
                self.tokenizer = Tokenizer.from_checkpoint(self.tokenizer_source)
        read = {part: encode(text.parts[part], self.tokenizer, text.part_sha256(part), part) for part in wanted}
        if self.backward:
            read = {part: replace(split, tokens=split.tokens[::-1]) for part, split in read.items()}
        return read

    def describe(self) -> str:
        """Return a few lines about the corpus, for the screen; those of a path name its files."""
        tokenizer = self._after_setup()
        sizes = ", ".join(f"{split.counts.tokens:,} {part}" for part, split in self.splits.items())
        characters = sum(split.counts.characters for split in self.splits.values())
        words = f" ({self.words})" if tokenizer.kind == "word" and self.words != "blank" else ""
        files = f"\n{self.text.files}" if self.text.files else ""
        documents = ""
        if self.documents:
            number = sum(count_documents(split.tokens, tokenizer.start) for split in self.splits.values())
            documents = f", {number:,} documents"
        return (
            f"corpus {self.text.name} (sha256 {self.corpus_sha256[:12]}): {sizes} tokens, {characters:,} characters"
            f"{documents}{', read backward' if self.backward else ''}\n"
            f"tokenizer: {tokenizer.kind}{words}, {len(tokenizer):,} entries{self._unknown('test')}{files}"
        )

    def describe_part(self, part: str) -> str:
        """Return one line about the part that an evaluation measured, for the screen."""
        counts = self.splits[part].counts
        return (
            f"corpus {self.text.name} (sha256 {self.corpus_sha256[:12]}), {part} part: {counts.tokens:,} tokens, "
            f"{counts.characters:,} characters{self._unknown(part)}"
        )

    def _unknown(self, part: str) -> str:
        """Return the shares of a part that are no entries of the tokenizer, where there can be any."""
        counts = self.splits[part].counts if part in self.splits else None
        if self._after_setup().unknown is None or not counts:
            return ""
        written = f", {counts.written / counts.tokens:.2%} written as <unk>" if counts.written else ""
        return f", {counts.unknown / counts.tokens:.2%} of the {part} tokens unknown{written}"

    def provenance(self) -> dict[str, str]:
        """Return which corpus this is, for loggers and checkpoints."""
        return {"corpus": self.text.name, "corpus_sha256": self.corpus_sha256}

    checkpoint_options = saved_options
    training_options = training_options
    estimate_tokens = estimate_tokens
    options_from_checkpoint = staticmethod(options_from_checkpoint)

    # ---- batches

    def train_dataloader(self) -> EpochLoader[TextBatch]:
        """Return the training batches; each epoch with an option that draws them has batches of its own."""
        options, tokens = self._batch_options(), self.splits["train"].tokens
        if self.reset_state:
            windows = Windows(tokens, self.bptt, self._num_streams(), **options)
            return EpochLoader(self.position, len(windows), partial(windows.batches, self.seed), self.trainer)
        streams = Streams(tokens, self._num_streams(), trim=True, **options)

        def cuts(epoch: int) -> Cuts:
            if self.random_bptt:
                return random_cuts(streams.rows, self.bptt, self.seed, epoch)
            return fixed_cuts(streams.rows, self.bptt)

        def batches(epoch: int, first: int) -> Iterator[TextBatch]:
            turns = streams.draw_turns(self.seed, epoch) if self.partial_shuffle else None
            return streams.batches(cuts(epoch), first, turns)

        return EpochLoader(self.position, len(cuts(0)) - 1, batches, self.trainer)

    def val_dataloader(self) -> Iterable[TextBatch]:
        """Return the validation part's batches; each token is a target once."""
        return self._evaluation("val")

    def test_dataloader(self) -> Iterable[TextBatch]:
        """Return the test part's batches; each token is a target once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> Iterable[int]:
        """Return one empty batch: sampling needs a prompt, not a corpus."""
        return range(1)

    def _evaluation(self, part: str) -> Iterable[TextBatch]:
        options, tokens = self._batch_options(), self.splits[part].tokens
        if self.eval_reset_state:
            return ResetLoader(tokens, self.eval_bptt, self.eval_batch_size, **options)
        return StreamLoader(Streams(tokens, self.eval_batch_size, **options), self.eval_bptt)

    def _batch_options(self) -> dict[str, Any]:
        start, own = self._after_setup().start, rank_and_world_size(self.trainer)
        return {"start": start, "documents": self.documents, "rank_and_world_size": own}

    # ---- the position of training, in checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next training batch; before ``setup`` nothing."""
        if not self.splits:
            return {}
        return self.position.state_dict(self.trainer, self.resume_settings() | evaluation_settings(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a position saved by ``state_dict``.

        Raises:
            ValueError: The batches are other ones now, or the validation is.
        """
        if self.position.load_state_dict(state_dict, self.trainer, self.resume_settings):
            check_evaluation(state_dict, evaluation_settings(self))

    def resume_settings(self) -> dict[str, Any]:
        """Return the settings that must be as before for a run to resume."""
        tokenizer = self._after_setup()
        return {
            "corpus_sha256": self.corpus_sha256,
            "tokenizer_sha256": tokenizer.sha256,
            "batch_size": self._num_streams(),
            "bptt": self.bptt,
            "reset_state": self.reset_state,
            "random_bptt": self.random_bptt,
            "partial_shuffle": self.partial_shuffle,
            "documents": self.documents,
            "backward": self.backward,
            "seed": self.seed,
        }

    # ---- checks

    def _num_streams(self) -> int:
        return self.batch_size * rank_and_world_size(self.trainer)[1]

    def _after_setup(self) -> Tokenizer:
        if self.tokenizer is None or not self.splits:
            raise RuntimeError("TextDataModule: there are no batches before setup(); call it, or let a Trainer do so.")
        return self.tokenizer

    def _check_length(self, part: str, split: Split, num_streams: int, rows: int) -> None:
        tokens = split.counts.tokens
        if tokens >= num_streams * rows:
            return
        corpus = self.given.get(part, self.corpus)
        processes = rank_and_world_size(self.trainer)[1] if part == "train" else 1
        option = "batch_size" if part == "train" else "eval_batch_size"
        of_each = f" on {processes} processes" if processes > 1 else ""
        if tokens < rows * processes:
            raise ValueError(
                f"The {part} part of corpus {corpus!r} has {tokens:,} tokens, which is shorter than one batch of "
                f"bptt {rows}{of_each}. Give a longer text or a smaller bptt."
            )
        raise ValueError(
            f"The {part} part of corpus {corpus!r} has {tokens:,} tokens, too few for {option} "
            f"{num_streams // processes}{of_each} times bptt {rows}, which is {num_streams * rows:,}. The largest "
            f"{option} that fits is {tokens // rows // processes}."
        )
