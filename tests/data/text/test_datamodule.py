import inspect
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from wnseq.data.text import datamodule as module
from wnseq.data.text.bptt import IGNORE, TextBatch, text_batches
from wnseq.data.text.datamodule import TextDataModule
from wnseq.data.text.tokenizer import KINDS, ByteTokenizer, WordTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

EXAMPLES = Path(__file__).parents[3] / "data" / "examples"
TEXT = str(EXAMPLES / "text.txt")


def prepared(corpus: str = TEXT, tokenizer: str | None = "byte", **options: Any) -> TextDataModule:
    data = TextDataModule(corpus, tokenizer, **{"batch_size": 4, "bptt": 16, "eval_batch_size": 3, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def predicted(batches: list[TextBatch]) -> int:
    return sum(int((batch.targets != IGNORE).sum()) for batch in batches)


@pytest.mark.parametrize("tokenizer", [None, *KINDS])
@pytest.mark.parametrize("corpus", ["text.txt", "text"])
def test_batches_of_the_examples(corpus: str, tokenizer: str | None) -> None:
    data = prepared(str(EXAMPLES / corpus), tokenizer, batch_size=2, eval_batch_size=1, eval_bptt=5)
    train, val, test = (list(loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    assert predicted(train) == len(data.splits["train"].tokens) // 2 * 2
    assert predicted(val) == len(data.splits["val"].tokens) == data.splits["val"].counts.tokens
    assert predicted(test) == len(data.splits["test"].tokens)
    assert data.tokenizer is not None
    assert max(int(batch.targets.max()) for batch in train + val + test) < len(data.tokenizer)
    assert train[0].inputs.shape == (16, 2)
    assert train[0].inputs[0, 0] == data.tokenizer.start
    assert [batch.reset_state for batch in train] == [True] + [False] * (len(train) - 1)


def test_documents_are_wanted_of_a_text_that_has_them(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a line\n" * 200)
    with pytest.raises(ValueError, match=r"lines\.txt' has no blank line between documents; leave out documents, or"):
        prepared(str(lines), "char", documents=True)
    lines.write_text("a line\n" * 200 + "\nanother\n\n" + "a line\n" * 200)
    data = prepared(str(lines), "char", documents=True)  # the parts that are measured are a document each
    assert not any(batch.reset[1:].any() for batch in data.test_dataloader() if batch.reset is not None)
    lines.write_text("a line\n\n" * 200)
    data = prepared(str(lines), "char", documents=True)
    assert ", 200 documents\n" in data.describe()
    assert " documents\n" not in prepared(str(lines), "char").describe()
    assert data.checkpoint_options()["documents"] and data.resume_settings()["documents"]
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert all(batch.reset is not None for batch in loader)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_documents_that_end_in_carriage_returns_are_refused(tmp_path: Path, end: str) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_bytes(f"a document{end}of lines{end}{end}".encode() * 400)
    with pytest.raises(ValueError, match=r"The train part of corpus .* has lines that end in a carriage return"):
        prepared(str(lines), "char", documents=True)
    data = TextDataModule(TEXT, "byte", test=str(lines), eval_batch_size=1, documents=True)
    with pytest.raises(ValueError, match=r"The test part of corpus .* has lines that end in a carriage return"):
        data.setup("test")
    with pytest.raises(ValueError, match="a text of documents must have lines that end in"):
        text_batches(f"a{end}{end}b", ByteTokenizer(), documents=True)
    text_batches(f"a{end}{end}b", ByteTokenizer())
    if end == "\r\n":
        assert ", 402 documents\n" in prepared(str(lines), "word", documents=True).describe()


def test_documents_need_the_end_of_a_line_in_whatever_is_measured(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("a single line " * 200)
    (tmp_path / "other.txt").write_text("a document\n\nand one\n" * 20)
    alone = prepared(str(tmp_path / "line.txt"), "char")
    data = TextDataModule(TEXT, test=str(tmp_path / "other.txt"), eval_batch_size=1, documents=True)
    data.tokenizer = alone.tokenizer
    with pytest.raises(ValueError, match=r"the tokenizer has no entry for the end of a line, .*; leave out documents"):
        data.setup("test")


@pytest.mark.parametrize("reset", [False, True])
def test_a_measured_text_without_a_token_is_refused(tmp_path: Path, reset: bool) -> None:
    (tmp_path / "blank.txt").write_text("   ")
    data = TextDataModule(TEXT, test=str(tmp_path / "blank.txt"), eval_reset_state=reset)
    data.tokenizer = prepared(tokenizer="word").tokenizer
    with pytest.raises(ValueError, match=r"The test part of corpus '.*blank\.txt' has 0 tokens, which is shorter than"):
        data.setup("test")


def test_the_text_can_be_read_back_from_the_batches() -> None:
    data = prepared(batch_size=1, eval_batch_size=1)
    targets = [token for batch in data.train_dataloader() for token in batch.targets.flatten().tolist()]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        targets += [token for batch in loader for token in batch.targets.flatten().tolist()]
    assert bytes(targets) == Path(TEXT).read_bytes()


def test_the_default_is_the_embedded_text_in_subwords() -> None:
    data = TextDataModule()
    data.setup("fit")
    assert data.tokenizer is not None
    assert (data.tokenizer.kind, len(data.tokenizer)) == ("subword", 2000)
    counts = data.splits["test"].counts
    assert data.tokenizer.decode(data.splits["test"].tokens) == data.text.parts["test"].read().decode()
    assert counts.tokens < counts.characters <= counts.bytes == data.text.parts["test"].size


@pytest.mark.parametrize(
    ("name", "kind", "tokens", "size"),
    [
        ("ptb", "word", [929_589, 73_760, 82_430], 10_000),
        ("wikitext-2", "word", [2_088_628, 217_646, 245_569], 33_278),
        ("tinyshakespeare", "char", [1_003_854, 111_540, 111_540], 66),
    ],
)
def test_standard_sets_have_their_published_counts(
    real_data: Callable[[str], Path], name: str, kind: str, tokens: list[int], size: int
) -> None:
    data = prepared(name, kind, root=str(real_data(name).parent))
    assert [split.counts.tokens for split in data.splits.values()] == tokens
    assert data.tokenizer is not None
    assert len(data.tokenizer) == size
    assert data.splits["test"].counts.unknown == 0


def test_three_lines_say_what_the_corpus_is() -> None:
    data = prepared(tokenizer="word")
    first, second, third = data.describe().splitlines()
    sizes = "275 train, 11 val, 15 test tokens, 1,433 characters"
    assert first == f"corpus {TEXT} (sha256 {data.corpus_sha256[:12]}): {sizes}"
    assert second == "tokenizer: word, 167 entries, 73.33% of the test tokens unknown"
    assert third.startswith(f"files: {Path(TEXT).name}; cut 90 : 5 : 5 into train, val, test in its order")
    assert data.provenance() == {"corpus": data.corpus, "corpus_sha256": data.corpus_sha256}
    assert "\ntokenizer: byte, 256 entries\n" in prepared().describe()


def test_evaluation_carries_or_resets_the_state() -> None:
    carried, reset = prepared(eval_bptt=8), prepared(eval_bptt=8, eval_reset_state=True)
    assert [batch.reset_state for batch in carried.test_dataloader()] == [True, False, False]
    assert [batch.reset_state for batch in reset.test_dataloader()] == [True, True, True]
    assert predicted(list(carried.test_dataloader())) == predicted(list(reset.test_dataloader())) == 72


def test_each_part_can_be_read_from_its_end() -> None:
    forward, backward = prepared(), prepared(backward=True)
    assert ", read backward\n" in backward.describe() and backward.checkpoint_options()["backward"]
    for part in ("train", "val", "test"):
        assert backward.splits[part].tokens.tolist() == forward.splits[part].tokens.tolist()[::-1]
        assert backward.splits[part].counts == forward.splits[part].counts
    batch = next(iter(prepared(backward=True, batch_size=1).train_dataloader()))
    assert batch.targets.flatten().tolist() == forward.splits["train"].tokens[: -len(batch.targets) - 1 : -1].tolist()


def test_random_lengths_differ_from_epoch_to_epoch_and_are_as_many() -> None:
    data = prepared(random_bptt=True)
    loader = data.train_dataloader()
    lengths = [[len(batch.inputs) for batch in loader] for _ in range(3)]
    assert [len(each) for each in lengths] == [len(loader)] * 3
    assert len({tuple(each) for each in lengths}) == 3
    assert {sum(each) for each in lengths} == {len(data.splits["train"].tokens) // 4}
    assert [[len(batch.inputs) for batch in prepared(random_bptt=True).train_dataloader()]] == lengths[:1]


def test_a_partial_shuffle_turns_the_training_streams_alone() -> None:
    plain, data = prepared(), prepared(partial_shuffle=True)
    loader, straight = data.train_dataloader(), torch.cat([batch.targets for batch in plain.train_dataloader()])
    epochs = [torch.cat([batch.targets for batch in loader]) for _ in range(2)]
    assert not torch.equal(epochs[0], epochs[1]) and len({tuple(each[0].tolist()) for each in epochs}) == 2
    for each in epochs:
        for turned, own in zip(each.t(), straight.t(), strict=True):
            assert any(torch.equal(turned, own.roll(-turn)) for turn in range(len(own)))
    for part in ("val", "test"):
        batches = [[batch.targets for batch in getattr(of, f"{part}_dataloader")()] for of in (plain, data)]
        assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))


def test_training_sequences_are_independent_by_flag() -> None:
    batches = [[*prepared(reset_state=True).train_dataloader()] for _ in range(2)]
    assert len(batches[0]) == len(prepared().splits["train"].tokens) // 64
    assert all(batch.reset_state and batch.inputs.shape == (16, 4) for batch in batches[0])
    assert all(torch.equal(one.targets, other.targets) for one, other in zip(*batches, strict=True))
    evaluation = prepared(reset_state=True, eval_bptt=4).val_dataloader()  # whose state is carried
    assert [batch.reset_state for batch in evaluation][:2] == [True, False]


def test_setup_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared()
    splits = data.splits
    monkeypatch.setattr(module, "open_corpus", None)
    for stage in ("fit", "validate", "test", "predict"):
        data.setup(stage)
    assert data.splits is splits


def test_a_tokenizer_set_before_is_kept() -> None:
    data = TextDataModule(TEXT, batch_size=4, bptt=16, eval_batch_size=1)
    data.tokenizer = WordTokenizer(["<unk>", "<eos>", "the", "river"])
    data.setup("fit")
    assert set(data.splits["train"].tokens.tolist()) == {0, 1, 2, 3}


def test_a_tokenizer_comes_from_a_checkpoint(tmp_path: Path) -> None:
    taught = prepared(tokenizer="bpe").tokenizer
    assert taught is not None
    torch.save({"wnseq": {"tokenizer": taught.state()}}, tmp_path / "lm.ckpt")
    data = prepared(str(EXAMPLES / "text"), str(tmp_path / "lm.ckpt"), batch_size=2, eval_batch_size=1)
    assert data.tokenizer is not None
    assert data.tokenizer.sha256 == taught.sha256


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_bytes_that_are_no_text_are_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_bytes("Größe und Maß\n".encode("cp1252" if name == part else "utf-8"))
    monkeypatch.setattr(module, "train_tokenizer", None)
    data = TextDataModule(str(tmp_path), "word")
    with pytest.raises(ValueError, match=rf"{part}\.txt is not UTF-8 text"):
        data.setup("fit")


def test_a_folder_says_which_files_it_read(tmp_path: Path) -> None:
    for name in ("train.txt", "valid.txt", "test.txt", "notes.md"):
        (tmp_path / name).write_text("one two three four five six seven eight\n" * 9)
    assert prepared(str(tmp_path)).describe().splitlines()[2] == (
        "files: train train.txt; val valid.txt; test test.txt; not read: notes.md (no .txt or .tokens file)"
    )


def test_the_help_names_every_argument() -> None:
    arguments = [name for name in inspect.signature(TextDataModule.__init__).parameters if name != "self"]
    described = inspect.getdoc(TextDataModule) or ""
    assert [name for name in arguments if f"    {name}: " not in described] == []


# ---- under a Trainer


class Uniform(LightningModule):
    """Predicts every byte with the same probability."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(256))
        self.nats, self.batches = 0.0, 0

    def training_step(self, batch: TextBatch) -> torch.Tensor:
        logits = self.weight.expand(batch.targets.numel(), -1)
        return torch.nn.functional.cross_entropy(logits, batch.targets.flatten())

    def validation_step(self, batch: TextBatch) -> None:
        pass

    def test_step(self, batch: TextBatch) -> None:
        logits = torch.zeros(batch.targets.numel(), 256)
        self.nats += float(torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), reduction="sum"))

    def predict_step(self, batch: int) -> int:
        self.batches += 1
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize("reset_state", [False, True])
def test_padding_is_not_counted(reset_state: bool) -> None:
    model = Uniform()
    trainer().test(model, TextDataModule(TEXT, "byte", eval_reset_state=reset_state), verbose=False)
    assert model.nats == pytest.approx(72 * math.log(256))


def test_predict_needs_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = Uniform(), TextDataModule("ptb", root=str(tmp_path / "nowhere"))
    trainer().predict(model, data)
    assert model.batches == 1
    assert data.splits == {}
    assert list(tmp_path.iterdir()) == []


def test_a_fit_fetches_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "fetch_corpus", lambda *arguments: asked.append(arguments))
    trainer(max_steps=1).fit(Uniform(), TextDataModule(TEXT, "byte", root="here", batch_size=4, bptt=16))
    assert asked == [(TEXT, "here")]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "TextDataModule: batch_size must be at least 1, got 0"),
        ({"bptt": 1}, ValueError, "bptt must be at least 2, got 1"),
        ({"bptt": 9, "random_bptt": True}, ValueError, "bptt must be at least 10, got 9"),
        (
            {"reset_state": True, "partial_shuffle": True},
            ValueError,
            "reset_state leaves random_bptt and partial_shuffle",
        ),
        ({"eval_batch_size": -3}, ValueError, "eval_batch_size must be at least 1, got -3"),
        ({"eval_bptt": 0}, ValueError, "eval_bptt must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"encoding": "latin99"}, ValueError, "There is no text encoding 'latin99'"),
        ({"corpus": ""}, ValueError, "The name of the corpus is empty"),
        ({"batch_size": 2.5}, TypeError, r"batch_size must be an integer, got 2\.5"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, got True"),
        ({"corpus": "pyton"}, ValueError, r"no corpus 'pyton'\. Did you mean 'python'\?"),
        ({"tokenizer": "words"}, ValueError, r"tokenizer must be word, .* got 'words'\. Did you mean 'word'\?"),
        ({"tokenizer": "last.ckpt"}, FileNotFoundError, r"no checkpoint at 'last\.ckpt' to take a tokenizer from"),
        ({"vocabulary_size": 299}, ValueError, "vocabulary_size must be at least 300, got 299"),
        ({"vocabulary_size": 2, "tokenizer": "word"}, ValueError, "vocabulary_size must be at least 3, got 2"),
        ({"vocabulary_size": 99, "tokenizer": "byte"}, ValueError, "tokenizer 'byte' has a size of its own"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        TextDataModule(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bptt": 2000}, r"has 1,335 tokens, which is shorter than one batch of bptt 2000"),
        (
            {"batch_size": 84},
            r"too few for batch_size 84 times bptt 16, which is 1,344.*batch_size that fits is 83\.",
        ),
        ({"eval_batch_size": 56}, r"val part .* too few for eval_batch_size 56 .*eval_batch_size that fits is 55\."),
    ],
    ids=str,
)
def test_texts_too_short_are_refused_with_what_fits(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        prepared(**options)


def test_the_largest_batch_size_that_fits_fits() -> None:
    assert len(prepared(batch_size=83).train_dataloader()) == 1
    assert len(list(prepared(eval_batch_size=55).val_dataloader())) == 1


def test_a_short_training_part_can_still_be_tested_on() -> None:
    data = TextDataModule(TEXT, "byte", batch_size=1000)
    data.setup("test")
    assert predicted(list(data.test_dataloader())) == 72


def test_batches_before_setup_are_refused() -> None:
    data = TextDataModule()
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader, data.describe):
        with pytest.raises(RuntimeError, match=r"there are no batches before setup\(\)"):
            loader()
    assert data.state_dict() == {}


def test_a_position_in_other_batches_is_refused() -> None:
    data = prepared()
    next(iter(data.train_dataloader()))
    state = data.state_dict()
    for options, name in (
        ({"batch_size": 5}, "batch_size over all processes 4, this one has 5"),
        ({"bptt": 17}, "bptt 16, this one has 17"),
        ({"random_bptt": True}, "random_bptt False, this one has True"),
        ({"partial_shuffle": True}, "partial_shuffle False, this one has True"),
        ({"reset_state": True}, "reset_state False, this one has True"),
        ({"backward": True}, "backward False, this one has True"),
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"tokenizer": "char"}, "tokenizer_sha256 .*Give the same tokenizer,"),
    ):
        with pytest.raises(ValueError, match=f"The run to be resumed had {name}"):
            prepared(**options).load_state_dict(state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({}, {"eval_reset_state": True}, "eval_reset_state False, this one has True"),
        ({"eval_reset_state": True}, {}, "eval_reset_state True, this one has False"),
        ({"eval_reset_state": True}, {"eval_reset_state": True, "eval_bptt": 8}, "eval_bptt 64, this one has 8"),
        ({}, {"eval_batch_size": 2}, "eval_batch_size 3, this one has 2"),
        ({}, {"eval_bptt": 8}, None),
        ({"eval_reset_state": True}, {"eval_reset_state": True, "eval_batch_size": 2}, None),
    ],
)
def test_losses_that_cannot_be_compared_are_no_resumed_run(
    before: dict[str, Any], now: dict[str, Any], text: str | None
) -> None:
    data, resumed = prepared(**before), prepared(**now)
    resumed.load_state_dict(data.state_dict())  # of a run without a step, which has no loss
    next(iter(data.train_dataloader()))
    state = data.state_dict()
    if text is None:
        resumed.load_state_dict(state)
    else:
        with pytest.raises(ValueError, match=f"was validated with {text}: .*not comparable"):
            resumed.load_state_dict(state)
    older = {name: value for name, value in state.items() if not name.startswith("eval_")}
    resumed.load_state_dict(older)


def test_positions_are_plain_numbers_and_words() -> None:
    assert all(type(value) in (int, str, bool) for value in prepared().state_dict().values())


def test_a_loop_by_hand_goes_on_where_it_broke_off() -> None:
    data = prepared()
    whole = [batch.inputs for batch in data.train_dataloader()]
    data = prepared()
    begun = [batch.inputs for _, batch in zip(range(3), data.train_dataloader(), strict=False)]
    again = prepared()
    again.load_state_dict(data.state_dict())
    rest = [batch.inputs for batch in again.train_dataloader()]
    assert torch.equal(torch.cat(begun + rest), torch.cat(whole))
    assert next(iter(again.train_dataloader())).reset_state  # and then the next epoch begins


def of_two(rank: int, **options: Any) -> TextDataModule:
    """A data module in one of two processes."""
    data = TextDataModule(TEXT, "byte", **options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=2, training=False, state=SimpleNamespace(fn="fit")
    )
    return data


@pytest.mark.parametrize("option", ["partial_shuffle", "reset_state"])
def test_each_process_reads_its_own_block_of_streams(option: str) -> None:
    whole = prepared(batch_size=6, bptt=16, **{option: True})
    halves = [of_two(rank, batch_size=3, bptt=16, **{option: True}) for rank in range(2)]
    for half in halves:
        half.setup("fit")
    assert [len(half.train_dataloader()) for half in halves] == [len(whole.train_dataloader())] * 2
    for batch, *both in zip(whole.train_dataloader(), *(half.train_dataloader() for half in halves), strict=True):
        assert torch.equal(torch.cat([half.inputs for half in both], 1), batch.inputs)
        assert batch.reset_state is both[0].reset_state is both[1].reset_state
    for loader in ("val_dataloader", "test_dataloader"):
        assert sum(predicted(list(getattr(half, loader)())) for half in halves) == predicted(
            list(getattr(whole, loader)())
        )


def test_the_first_process_reads_the_text_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    train_tokenizer = module.train_tokenizer
    monkeypatch.setattr(module, "train_tokenizer", lambda *args: trained.append(args[0]) or train_tokenizer(*args))
    first = of_two(0, batch_size=4, bptt=16)
    first.prepare_data()
    first.setup("fit")
    assert trained == ["byte"]  # once, and setup keeps it


def test_a_text_that_cannot_be_read_is_refused_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a")
    data = of_two(0)
    data.corpus = str(tmp_path / "short.txt")
    data.prepare_data()
    with pytest.raises(ValueError, match="too few to cut into train, val and test parts"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bptt": 700}, r"shorter than one batch of bptt 700 on 2 processes"),
        (
            {"batch_size": 42, "bptt": 16},
            r"too few for batch_size 42 on 2 processes times bptt 16, which is 1,344.*batch_size that fits is 41\.",
        ),
    ],
)
def test_texts_too_short_for_all_processes_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        of_two(0, **options).setup("fit")
