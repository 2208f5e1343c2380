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
from wnseq.data.text.bptt import IGNORE, TextBatch
from wnseq.data.text.datamodule import TextDataModule
from wnseq.data.text.tokenizer import KINDS, WordTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

EXAMPLES = Path(__file__).parents[3] / "data" / "examples"
TEXT = str(EXAMPLES / "text.txt")


def prepared(corpus: str = TEXT, vocabulary: str | None = "byte", **options: Any) -> TextDataModule:
    data = TextDataModule(corpus, vocabulary, **{"batch_size": 4, "window": 16, "eval_batch_size": 3, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def predicted(windows: list[TextBatch]) -> int:
    return sum(int((window.targets != IGNORE).sum()) for window in windows)


@pytest.mark.parametrize("vocabulary", [None, *KINDS])
@pytest.mark.parametrize("corpus", ["text.txt", "text"])
def test_windows_of_the_examples(corpus: str, vocabulary: str | None) -> None:
    data = prepared(str(EXAMPLES / corpus), vocabulary, batch_size=2, eval_batch_size=1, eval_window=5)
    train, val, test = (list(loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    assert predicted(train) == len(data.splits["train"].tokens) // 2 * 2
    assert predicted(val) == len(data.splits["val"].tokens) == data.splits["val"].counts.tokens
    assert predicted(test) == len(data.splits["test"].tokens)
    assert data.vocabulary is not None
    assert max(int(window.targets.max()) for window in train + val + test) < len(data.vocabulary)
    assert train[0].inputs.shape == (16, 2)
    assert train[0].inputs[0, 0] == data.vocabulary.start
    assert [window.fresh for window in train] == [True] + [False] * (len(train) - 1)


def test_the_text_can_be_read_back_from_the_windows() -> None:
    data = prepared(batch_size=1, eval_batch_size=1)
    targets = [token for window in data.train_dataloader() for token in window.targets.flatten().tolist()]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        targets += [token for window in loader for token in window.targets.flatten().tolist()]
    assert bytes(targets) == Path(TEXT).read_bytes()


def test_the_default_is_the_embedded_text_in_subwords() -> None:
    data = TextDataModule()
    data.setup("fit")
    assert data.vocabulary is not None
    assert (data.vocabulary.kind, len(data.vocabulary)) == ("subword", 2000)
    counts = data.splits["test"].counts
    assert data.vocabulary.decode(data.splits["test"].tokens) == data.text.parts["test"].read().decode()
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
    assert data.vocabulary is not None
    assert len(data.vocabulary) == size
    assert data.splits["test"].counts.unknown == 0


def test_two_lines_say_what_the_corpus_is() -> None:
    data = prepared(vocabulary="word")
    first, second = data.describe().splitlines()
    assert first == f"corpus {TEXT} (sha256 {data.corpus_sha256[:12]}): 275 train, 11 val, 15 test tokens"
    assert second == "vocabulary: word, 167 entries, 73.33% of the test tokens unknown"
    assert prepared().describe().endswith("\nvocabulary: byte, 256 entries")


def test_evaluation_is_unbroken_or_cold() -> None:
    warm, cold = prepared(eval_window=8), prepared(eval_window=8, eval_fresh=True)
    assert [window.fresh for window in warm.test_dataloader()] == [True, False, False]
    assert [window.fresh for window in cold.test_dataloader()] == [True, True, True]
    assert predicted(list(warm.test_dataloader())) == predicted(list(cold.test_dataloader())) == 72


def test_random_windows_differ_from_epoch_to_epoch_and_are_as_many() -> None:
    data = prepared(random_windows=True)
    loader = data.train_dataloader()
    lengths = [[len(window.inputs) for window in loader] for _ in range(3)]
    assert [len(each) for each in lengths] == [len(loader)] * 3
    assert len({tuple(each) for each in lengths}) == 3
    assert {sum(each) for each in lengths} == {len(data.splits["train"].tokens) // 4}
    assert [[len(window.inputs) for window in prepared(random_windows=True).train_dataloader()]] == lengths[:1]


def test_setup_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared()
    splits = data.splits
    monkeypatch.setattr(module, "open_corpus", None)
    for stage in ("fit", "validate", "test", "predict"):
        data.setup(stage)
    assert data.splits is splits


def test_a_vocabulary_set_before_is_kept() -> None:
    data = TextDataModule(TEXT, batch_size=4, window=16, eval_batch_size=1)
    data.vocabulary = WordTokenizer(["<unk>", "<eos>", "the", "river"])
    data.setup("fit")
    assert set(data.splits["train"].tokens.tolist()) == {0, 1, 2, 3}


def test_a_vocabulary_comes_from_a_checkpoint(tmp_path: Path) -> None:
    taught = prepared(vocabulary="bpe").vocabulary
    assert taught is not None
    torch.save({"wnseq": {"vocabulary": taught.state()}}, tmp_path / "lm.ckpt")
    data = prepared(str(EXAMPLES / "text"), str(tmp_path / "lm.ckpt"), batch_size=2, eval_batch_size=1)
    assert data.vocabulary is not None
    assert data.vocabulary.sha256 == taught.sha256


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


@pytest.mark.parametrize("fresh", [False, True])
def test_padding_is_not_counted(fresh: bool) -> None:
    model = Uniform()
    trainer().test(model, TextDataModule(TEXT, "byte", eval_fresh=fresh), verbose=False)
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
    trainer(max_steps=1).fit(Uniform(), TextDataModule(TEXT, "byte", root="here", batch_size=4, window=16))
    assert asked == [(TEXT, "here")]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "TextDataModule: batch_size must be at least 1, got 0"),
        ({"window": 1}, ValueError, "window must be at least 2, got 1"),
        ({"window": 9, "random_windows": True}, ValueError, "window must be at least 10, got 9"),
        ({"eval_batch_size": -3}, ValueError, "eval_batch_size must be at least 1, got -3"),
        ({"eval_window": 0}, ValueError, "eval_window must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"batch_size": 2.5}, TypeError, r"batch_size must be an integer, got 2\.5"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, got True"),
        ({"corpus": "pyton"}, ValueError, r"no corpus 'pyton'\. Did you mean 'python'\?"),
        ({"vocabulary": "words"}, ValueError, r"vocabulary must be word, .* got 'words'\. Did you mean 'word'\?"),
        ({"vocabulary": "last.ckpt"}, FileNotFoundError, r"no checkpoint at 'last\.ckpt' to take a vocabulary from"),
        ({"vocabulary_size": 299}, ValueError, "vocabulary_size must be at least 300, got 299"),
        ({"vocabulary_size": 2, "vocabulary": "word"}, ValueError, "vocabulary_size must be at least 3, got 2"),
        ({"vocabulary_size": 99, "vocabulary": "byte"}, ValueError, "vocabulary 'byte' has a size of its own"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        TextDataModule(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 2000}, r"has 1,335 tokens, which is shorter than one window of 2000"),
        (
            {"batch_size": 84},
            r"too few for batch_size 84 times window 16, which is 1,344.*batch_size that fits is 83\.",
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


def test_windows_before_setup_are_refused() -> None:
    data = TextDataModule()
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader, data.describe):
        with pytest.raises(RuntimeError, match=r"there are no windows before setup\(\)"):
            loader()
    assert data.state_dict() == {}


def test_a_position_in_other_windows_is_refused() -> None:
    state = prepared().state_dict()
    for options, name in (
        ({"batch_size": 5}, "batch_size over all processes 4, this one has 5"),
        ({"window": 17}, "window 16, this one has 17"),
        ({"random_windows": True}, "random_windows False, this one has True"),
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"vocabulary": "char"}, "vocabulary_sha256 .*Give the same vocabulary,"),
    ):
        with pytest.raises(ValueError, match=f"The run to be resumed had {name}"):
            prepared(**options).load_state_dict(state)  # type: ignore[arg-type]


def test_positions_are_plain_numbers_and_words() -> None:
    assert all(type(value) in (int, str, bool) for value in prepared().state_dict().values())


def test_a_loop_by_hand_goes_on_where_it_broke_off() -> None:
    data = prepared()
    whole = [window.inputs for window in data.train_dataloader()]
    data = prepared()
    begun = [window.inputs for _, window in zip(range(3), data.train_dataloader(), strict=False)]
    again = prepared()
    again.load_state_dict(data.state_dict())
    rest = [window.inputs for window in again.train_dataloader()]
    assert torch.equal(torch.cat(begun + rest), torch.cat(whole))
    assert next(iter(again.train_dataloader())).fresh  # and then the next epoch begins


def of_two(rank: int, **options: Any) -> TextDataModule:
    """A data module in one of two processes."""
    data = TextDataModule(TEXT, "byte", **options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=2, training=False, state=SimpleNamespace(fn="fit")
    )
    return data


def test_each_process_reads_its_own_block_of_columns() -> None:
    whole = prepared(batch_size=6, window=16)
    halves = [of_two(rank, batch_size=3, window=16) for rank in range(2)]
    for half in halves:
        half.setup("fit")
    assert [len(half.train_dataloader()) for half in halves] == [len(whole.train_dataloader())] * 2
    for window, *both in zip(whole.train_dataloader(), *(half.train_dataloader() for half in halves), strict=True):
        assert torch.equal(torch.cat([half.inputs for half in both], 1), window.inputs)
        assert window.fresh is both[0].fresh is both[1].fresh
    for loader in ("val_dataloader", "test_dataloader"):
        assert sum(predicted(list(getattr(half, loader)())) for half in halves) == predicted(
            list(getattr(whole, loader)())
        )


def test_the_first_process_reads_the_text_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[str] = []
    learn = module.learn_vocabulary
    monkeypatch.setattr(module, "train_tokenizer", lambda *args: learned.append(args[0]) or learn(*args))
    first = of_two(0, batch_size=4, window=16)
    first.prepare_data()
    first.setup("fit")
    assert learned == ["byte"]  # once, and setup keeps it


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
        ({"window": 700}, r"shorter than one window of 700 on 2 processes"),
        (
            {"batch_size": 42, "window": 16},
            r"too few for batch_size 42 on 2 processes times window 16, which is 1,344.*batch_size that fits is 41\.",
        ),
    ],
)
def test_texts_too_short_for_all_processes_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        of_two(0, **options).setup("fit")
