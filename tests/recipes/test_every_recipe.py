"""What holds for every recipe: evaluation, sampling, and the checks of what a user gives, on tiny models."""

import dataclasses
import functools
import importlib
import inspect
import math
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from wnseq.data.environments import EnvironmentDataModule
from wnseq.data.images import ImageDataModule
from wnseq.data.text import LabelledBatch, LabelledTextDataModule, TextBatch, TextDataModule
from wnseq.recipes import (
    compare,
    draw,
    image_classifier,
    language_model,
    pixelcnn,
    q_learning,
    sequential_images,
    text_classifier,
    vae,
)
from wnseq.training.evaluation import evaluation_mode

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@dataclass
class Recipe:
    """A recipe in small: its model, the options of its data, and a function that draws from the model."""

    model: Callable[..., LightningModule]
    options: dict[str, Any]
    data: dict[str, Any]
    data_class: type[LightningDataModule] = ImageDataModule
    sample: Callable[[LightningModule], Any] | None = None

    def make(self, **options: Any) -> tuple[LightningModule, LightningDataModule]:
        """Return a model, its network made, and its data."""
        data = self.data_class(**self.data)
        model = self.model(**{**self.options, **options})
        Trainer(limit_train_batches=0, max_epochs=1, **QUIET).fit(model, data)
        return model, data


RECIPES = {
    "draw": Recipe(
        draw.Draw,
        {"glimpses": 2, "hidden_size": 4, "latent_size": 2, "binarize": "sample"},
        {"normalize": "unit"},
        sample=lambda model: draw.write_samples(model, "drawn"),
    ),
    "image_classifier": Recipe(image_classifier.ImageClassifier, {"width": 0.02}, {"size": 12}),
    "language_model": Recipe(
        language_model.LanguageModel,
        {"hidden_size": 8},
        {"corpus": "text.txt", "tokenizer": "byte", "eval_reset_state": True, "eval_bptt": 16},
        TextDataModule,
        lambda model: list(language_model.sample(model, language_model.Sampling(max_new_tokens=2))),
    ),
    "pixelcnn": Recipe(
        pixelcnn.PixelCNN,
        {"channels": 2, "blocks": 1, "mixtures": 1},
        {},
        sample=lambda model: pixelcnn.sample(model, pixelcnn.Sampling(number=1)),
    ),
    "q_learning": Recipe(
        q_learning.QLearning, {"hidden_size": 4}, {"num_envs": 2, "val_episodes": 100}, EnvironmentDataModule
    ),
    "sequential_images": Recipe(sequential_images.SequentialImages, {"hidden_size": 4}, {"normalize": "unit"}),
    "text_classifier": Recipe(
        text_classifier.TextClassifier,
        {"hidden_size": 4, "head_size": 4},
        {"dataset": "texts.csv", "tokenizer": "byte", "max_tokens": 8},
        LabelledTextDataModule,
    ),
    "vae": Recipe(
        vae.VAE,
        {"width": 0.2, "hidden_size": 8, "latent_size": 3, "iaf_size": 4, "importance_samples": 2},
        {},
        sample=lambda model: vae.sample(model, vae.Sampling(number=2)),
    ),
}
each_recipe = pytest.mark.parametrize("name", RECIPES)
each_sampler = pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.sample])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("the weight of a word is its scale times its direction\n" * 400)
    rows = "".join(
        f"{number % 7} texts of class,{number % 3}\n{number} is a number,{number % 3}\n" for number in range(900)
    )
    (tmp_path / "texts.csv").write_text(f"text,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Interrupt(Callback):
    """Stop in the middle of an evaluation."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_):
        if batch_idx == 1:
            raise KeyError("interrupted")

    on_test_batch_end = on_validation_batch_end


# ---- evaluation


@each_recipe
def test_an_evaluation_depends_neither_on_its_batches_nor_on_an_interrupted_one(name):
    model, data = RECIPES[name].make()
    for evaluate in (Trainer(**QUIET).validate, Trainer(**QUIET).test):
        data.eval_batch_size = 100
        (expected,) = evaluate(model, data, verbose=False)
        data.eval_batch_size = 37
        with pytest.raises(KeyError, match="interrupted"):
            getattr(Trainer(callbacks=[Interrupt()], **QUIET), evaluate.__name__)(model, data, verbose=False)
        (found,) = evaluate(model, data, verbose=False)
        assert found == pytest.approx(expected, rel=1e-5)
        assert expected


@pytest.mark.filterwarnings("ignore:predict returned None")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@each_recipe
def test_every_precision_trains_tests_and_predicts(name, precision):
    recipe = RECIPES[name]
    model, data = recipe.model(**recipe.options), recipe.data_class(**recipe.data)
    limits = {f"limit_{stage}_batches": 1 for stage in ("train", "val", "test", "predict")}
    trainer = Trainer(precision=precision, max_epochs=1, accelerator="cpu", **limits, **QUIET)
    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)
    assert found and all(math.isfinite(value) for value in found.values())
    if recipe.sample is None:
        trainer.predict(model, data)
        return
    small = {"number": 2, "output": "drawn", "max_new_tokens": 2}
    model.sampling = replace(model.sampling, **{k: v for k, v in small.items() if hasattr(model.sampling, k)})
    trainer.predict(model, range(1))


# ---- sampling


@each_sampler
def test_sampling_leaves_the_model_in_the_mode_it_had(name):
    model, _ = RECIPES[name].make()
    model.train()
    frozen = next(iter(model.network.children())).eval()
    before = {path: part.training for path, part in model.named_modules()}
    RECIPES[name].sample(model)
    assert {path: part.training for path, part in model.named_modules()} == before and not frozen.training
    assert torch.is_grad_enabled()


@each_sampler
def test_each_model_has_options_of_its_own(name):
    one, other = RECIPES[name].model(), RECIPES[name].model()
    for options in {"sampling", "evaluation"} & vars(one).keys():
        before = dataclasses.asdict(getattr(other, options))
        for field in before:
            setattr(getattr(one, options), field, "changed")
        assert dataclasses.asdict(getattr(other, options)) == before
        assert dataclasses.asdict(getattr(RECIPES[name].model(), options)) == before


@pytest.mark.parametrize("how", ["break", "raise", "kept", "from within"])
def test_leaving_a_sample_half_way_leaves_the_model_training(how, monkeypatch):
    model, _ = RECIPES["language_model"].make()
    model.train()
    drawn = language_model.sample(model, language_model.Sampling(max_new_tokens=9))
    if how == "break":
        for _ in drawn:
            break
    elif how == "raise":
        with pytest.raises(KeyError):
            for _ in drawn:
                raise KeyError
    elif how == "kept":
        next(drawn)
    else:
        monkeypatch.setattr(model.network, "bind", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(drawn)
    assert all(part.training for part in model.modules()) and torch.is_grad_enabled()


def test_a_sample_of_words_keeps_them_apart_from_the_prompt(capsys):
    data = {**RECIPES["language_model"].data, "tokenizer": "word"}
    model, _ = dataclasses.replace(RECIPES["language_model"], data=data).make()
    capsys.readouterr()
    how = language_model.Sampling(prompt="the weight", max_new_tokens=5, seed=1)
    draw = functools.partial(language_model.sample, model)
    (text,) = language_model.print_texts(draw, model.tokenizer, how)
    assert text.startswith(("the weight ", "the weight\n")) and capsys.readouterr().out == f"{text}\n"
    assert set(text.split()) <= set(model.tokenizer.tokens)


def test_evaluation_mode_restores_every_submodule():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    with pytest.raises(KeyError), evaluation_mode(network):
        assert not network[0].training and not torch.is_grad_enabled()
        raise KeyError
    assert [part.training for part in network.modules()] == [True, True, False]


# ---- what a user gives


@each_sampler
def test_a_model_that_diverged_draws_nothing(name):
    model, _ = RECIPES[name].make()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match=r"are not finite: the model has diverged\. Draw from an earlier checkpoint"):
        RECIPES[name].sample(model)


def test_a_long_prompt_has_the_logits_of_its_last_position_alone(monkeypatch):
    model, _ = RECIPES["language_model"].make()
    shapes, drawn = [], language_model.Sampling(prompt="word " * 100, max_new_tokens=3, temperature=0)
    network = model.network.eval()
    with torch.no_grad():
        tokens = torch.tensor([[model.tokenizer.start, *model.tokenizer.encode(drawn.prompt)]]).T
        expected = network(tokens)[0][-1, 0].argmax()
    product = language_model.memory_bound_linear
    monkeypatch.setattr(
        language_model, "memory_bound_linear", lambda x, *args: shapes.append(len(x)) or product(x, *args)
    )
    assert next(language_model.sample(model, drawn)) == [expected]
    assert shapes == [1]


@pytest.mark.parametrize("kind", ["word", "char"])
def test_what_is_unknown_can_be_kept_out_of_a_sample(kind):
    data = {**RECIPES["language_model"].data, "tokenizer": kind}
    model, _ = dataclasses.replace(RECIPES["language_model"], data=data).make()
    unknown = model.tokenizer.unknown
    with torch.no_grad():
        model.network.decoder.bias[unknown] = 9.0
    for allowed in (True, False):
        how = language_model.Sampling(allow_unknown=allowed, max_new_tokens=30)
        drawn = {ids[0] for ids in language_model.sample(model, how)}
        assert (unknown in drawn) == allowed


def test_home_is_expanded_in_every_path(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    small = ["--model.hidden_size=4", "--data.corpus=~/text.txt", "--data.bptt=8", "--trainer.default_root_dir=~/runs",
             "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]  # fmt: skip
    language_model.main(["fit", *small, "--data.tokenizer=word", "--model.embedding_norm=none"])
    best = "~/runs/language_model/1/checkpoints/last.ckpt"
    found = torch.load(folder / best[2:], weights_only=True)
    torch.save({name.removeprefix("network."): value for name, value in found["state_dict"].items()}, folder / "a.pt")
    torch.save(found["wnseq"]["tokenizer"]["tokens"], folder / "words.pt")
    language_model.main(["test", f"--ckpt_path={best}", "--data.corpus=~/text.txt", "--trainer.limit_test_batches=1"])
    start = ["--model.init_from=~/a.pt", "--model.init_vocabulary=~/words.pt", f"--data.tokenizer={best}"]
    language_model.main(["validate", *small[:3], "--trainer.limit_val_batches=1", *start])
    language_model.generate(best, max_new_tokens=1)
    model, _ = RECIPES["vae"].make()
    assert vae.write_samples(model, "~/to/x")[-1] == folder / "to/x.npz"
    model, _ = RECIPES["draw"].make()
    assert draw.write_samples(model, "~/to/y")[-1] == folder / "to/y.npz"
    plan = compare.Plan("~/own.py", "loss", "~/out", {"one": ""})
    assert (plan.recipe, plan.out) == (f"{folder}/own.py", f"{folder}/out")
    assert not [*Path().iterdir()]


@each_recipe
def test_a_network_that_is_built_first_starts_from_a_checkpoint_once(name):
    source, _ = RECIPES[name].make()
    source.trainer.save_checkpoint("a.ckpt")
    model = RECIPES[name].model(**RECIPES[name].options, init_from="a.ckpt")
    model.build(*(getattr(source, part) for part in inspect.signature(model.build).parameters))
    data = RECIPES[name].data_class(**RECIPES[name].data)
    expected = dict(source.named_parameters())
    for _ in range(2):
        Trainer(limit_train_batches=0, max_epochs=1, **QUIET).fit(model, data)
        for weight, value in model.named_parameters():
            assert torch.equal(value, expected[weight])
            expected[weight] = value.data.add_(0.01).clone()  # as a training would
    model = RECIPES[name].model.load_from_checkpoint("a.ckpt", init_from="a.ckpt")
    assert model.init_from is None


class Loader:
    """Batches that Lightning does not take for loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


IMAGES = torch.rand(4, 1, 12, 12)
TOKENS = torch.zeros(3, 2, dtype=torch.long)
LENGTHS = torch.full((2,), 3)
WRONG_BATCHES = {
    "a class too many": ("image_classifier", [(IMAGES, torch.tensor([0, 1, 2, 10]))], "from 0 to 9, got 0 to 10"),
    "torch's ignored class": ("image_classifier", [(IMAGES, torch.full((4,), -100))], "from 0 to 9, got -100 to -100"),
    "a negative class": ("sequential_images", [(IMAGES, torch.tensor([0, 1, -1, 2]))], "from 0 to 9, got -1 to 2"),
    "fractions": (
        "sequential_images",
        [(IMAGES, torch.rand(4))],
        "labels must be a tensor of integers, got torch.float",
    ),
    "a token too many": ("language_model", [TextBatch(TOKENS + 256, TOKENS, True)], "tokens must be from 0 to 255"),
    "a negative target": ("language_model", [TextBatch(TOKENS, TOKENS - 1, True)], "targets must be from 0 to 255"),
    "a class of no text": (
        "text_classifier",
        [LabelledBatch(TOKENS, LENGTHS, LENGTHS, LENGTHS)],
        "from 0 to 2, got 3 to",
    ),
    "a token of no text": ("text_classifier", [(TOKENS + 256, LENGTHS, LENGTHS - 3)], "tokens must be from 0 to 255"),
    "nothing counts": ("language_model", [TextBatch(TOKENS, TOKENS - 100, True)], "must have a target that counts"),
}


@pytest.mark.parametrize(("name", "batches", "text"), WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_labels_that_are_none_are_refused(name, batches, text):
    model, _ = RECIPES[name].make()
    batches = Loader(batches)
    with pytest.raises((ValueError, TypeError), match=text):
        Trainer(max_steps=1, num_sanity_val_steps=0, **QUIET).fit(model, batches, batches)
    with pytest.raises((ValueError, TypeError), match=text):
        Trainer(**QUIET).validate(model, batches, verbose=False)


@pytest.mark.parametrize("recipe", [image_classifier, sequential_images], ids=["image_classifier", "sequential_images"])
@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (torch.full((2, 1, 8, 8), 255), "whole numbers from 0 to 16, unscaled, got 255 to 255"),
        (torch.full((2, 1, 8, 8), math.nan), "whole numbers from 0 to 16, unscaled, got nan to nan"),
        (torch.full((2, 1, 8, 8), 0.5), "whole numbers from 0 to 16, unscaled, got 0.5 to 0.5"),
        (torch.zeros(2, 3, 8, 8), r"pixels must have shape \(N, 1, H, W\), got \(2, 3, 8, 8\)"),
        (torch.zeros(8, 8), r"pixels must have shape \(N, 1, H, W\), got \(8, 8\)"),
    ],
    ids=["bytes", "nan", "scaled", "in colour", "one image"],
)
def test_classify_refuses_what_are_no_pixels(recipe, pixels, text, monkeypatch):
    name = recipe.__name__.rpartition(".")[2]
    model, _ = RECIPES[name].make()
    monkeypatch.setattr(RECIPES[name].model, "load_from_checkpoint", lambda *_, **__: model)
    with pytest.raises(ValueError, match=text):
        recipe.classify("some.ckpt", pixels)
    assert recipe.classify("some.ckpt", torch.full((2, 1, 8, 8), 16)).shape == (2, 10)
    model.images = replace(model.images, preprocess=None)  # of a loader of one's own
    with pytest.raises(ValueError, match="the checkpoint has no preprocessing, as after a loader of your own: give"):
        recipe.classify("some.ckpt", torch.full((2, 1, 8, 8), 16))
    assert recipe.classify("some.ckpt", torch.rand(2, 1, 12, 12)).shape == (2, 10)


def wrong_arguments():
    """Yield every argument of every recipe's model and of its samples with a value of the wrong kind."""
    for name, recipe in RECIPES.items():
        for owner in (recipe.model, getattr(sys.modules[recipe.model.__module__], "Sampling", None)):
            for argument, hint in typing.get_type_hints(owner.__init__).items() if owner else ():
                kinds = [hint, *typing.get_args(hint)]
                if argument == "return" or argument.startswith("init_"):
                    continue
                if typing.get_origin(hint) is typing.Literal:
                    yield name, owner, argument, "foo"
                elif bool in kinds:
                    yield name, owner, argument, "no"
                elif float in kinds:
                    yield name, owner, argument, math.nan
                else:
                    yield name, owner, argument, "3" if int in kinds else 3


@pytest.mark.parametrize(("name", "owner", "argument", "value"), [*wrong_arguments()])
def test_constructors_check_every_argument(name, owner, argument, value):
    with pytest.raises((ValueError, TypeError), match=rf"^(sampling\.)?{argument} must be .*, got '?{value}'?$"):
        owner(**{argument: value})


@pytest.mark.parametrize(
    ("data", "argument", "value"),
    [
        *((ImageDataModule, name, "foo") for name in ("normalize", "whiten", "flip", "batch_size", "seed")),
        *((EnvironmentDataModule, name, "foo") for name in ("num_envs", "passes", "batch_size", "seed")),
        *((LabelledTextDataModule, name, "foo") for name in ("batch_size", "max_tokens", "seed")),
        *((TextDataModule, name, "foo") for name in ("batch_size", "bptt", "seed")),
        *((TextDataModule, name, "foo") for name in ("random_bptt", "reset_state", "eval_reset_state", "backward")),
    ],
)
def test_data_modules_check_their_arguments(data, argument, value):
    with pytest.raises((ValueError, TypeError), match=f"{argument} must be .*, got 'foo'"):
        data(**{argument: value})


def test_all_wrong_arguments_are_reported_at_once():
    with pytest.raises(ValueError, match=r"cell must be one of lstm, .*, got 'x'; dropout must be at least 0"):
        language_model.LanguageModel(cell="x", dropout=2)


STEP = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
EARLY = {
    "a label that is none": (
        pixelcnn,
        ["--model.sampling.label=10", "--model.conditional=true"],
        "from 0 to 9, got 10",
    ),
    "a label of no class": (pixelcnn, ["--model.sampling.label=0"], "left out: the model is not conditional, got 0"),
    "an image that vanishes": (
        image_classifier,
        ["--data.size=8"],
        "at least 12 high and wide, got 8 x 8: --data.size 12",
    ),
    "a prompt of bytes": (
        language_model,
        ["--model.sampling.prompt=\udcff"],
        "sampling.prompt must be text, which '\\udcff' is not in UTF-8",
    ),
    "a plateau of nothing": (
        language_model,
        ["--model.schedule=plateau", "--trainer.limit_val_batches=0"],
        "the schedule plateau needs a validation: loaders, and limit_val_batches not 0",
    ),
    "a misspelt monitor": (
        sequential_images,
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/eror_percent"],
        "EarlyStopping monitors 'val/eror_percent', which a validation does not log: it logs val/nats_per_image, "
        "val/error_percent. Did you mean val/error_percent?",
    ),
}


@pytest.mark.parametrize(("recipe", "words", "text"), EARLY.values(), ids=EARLY)
def test_a_mistake_is_found_before_the_first_step(recipe, words, text, capsys, monkeypatch):
    model = RECIPES[recipe.__name__.rpartition(".")[2]].model
    monkeypatch.setattr(model, "training_step", lambda *_: pytest.fail("the work has begun"))
    data = ["--data.corpus=text.txt"] if recipe is language_model else []
    with pytest.raises(SystemExit) as stop:
        recipe.main([*STEP, *data, *words])
    assert stop.value.code == 1 and text in capsys.readouterr().err
    assert not list(Path("runs").glob("*/*"))


UNTESTED = {
    "q_learning": [
        "--data.epoch_frames=64",
        "--data.num_envs=4",
        "--data.rollout_steps=16",
        "--data.val_episodes=1",
        "--data.batch_size=16",
    ],
    "image_classifier": ["--data.size=12", "--model.width=0.02", "--model.init_images=20"],
    "text_classifier": ["--data.dataset=labelled.csv", "--data.tokenizer=word", "--model.hidden_size=8"],
}


@pytest.mark.parametrize("name", UNTESTED)
def test_a_run_that_tests_nothing_reports_nothing_of_a_test(name, capsys):
    rows = [f"{'good' if number % 2 else 'bad'} film {number},{number % 2}" for number in range(80)]
    Path("labelled.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    metrics = importlib.import_module(f"wnseq.recipes.{name}").main(
        [*UNTESTED[name], "--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=0"]
    )
    assert not any(key.startswith("test/") for key in metrics)
    assert not re.search("test images|accuracy|returns of", capsys.readouterr().out)
    assert list(Path("runs").glob("*/1/metrics.csv"))


@pytest.mark.parametrize("recipe", [language_model, image_classifier, sequential_images, vae, draw, pixelcnn,
                                    q_learning],
                         ids=lambda recipe: recipe.__name__.rpartition(".")[2])  # fmt: skip
def test_the_problems_of_trainer_model_and_data_are_reported_at_once(recipe, capsys):
    data = ["--data.corpus=text.txt"] if recipe is language_model else []
    wrong = ["--trainer.accumulate_grad_batches=0", "--model.learning_rate=-1", "--data.batch_size=0"]
    with pytest.raises(SystemExit) as stop:
        recipe.main([*data, *wrong])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    for text in ("--trainer.accumulate_grad_batches must be at least 1, got 0", "learning_rate must be greater than 0",
                 "batch_size must be"):  # fmt: skip
        assert error.count(text) == 1
