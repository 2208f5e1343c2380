"""The life of a model, over all recipes: its start, weights from elsewhere, tuners and Lightning's callbacks."""

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from wnseq.data.environments import EnvironmentDataModule
from wnseq.data.images import ImageDataModule
from wnseq.data.text import LabelledTextDataModule, TextDataModule
from wnseq.recipes import (
    draw,
    image_classifier,
    language_model,
    pixelcnn,
    q_learning,
    sequential_images,
    text_classifier,
    vae,
)
from wnseq.training.callbacks import PlainProgress
from wnseq.training.run_info import describe_progress

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),  # Lightning's
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]

TRAINER = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 2, "num_sanity_val_steps": 0,
    "max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1,
}  # fmt: skip


def text() -> TextDataModule:
    Path("corpus.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return TextDataModule(corpus="corpus.txt", tokenizer="char", batch_size=4, bptt=8)


def labelled() -> LabelledTextDataModule:
    rows = "".join(f"number {number} of class,{number % 3}\n" for number in range(60))
    Path("texts.csv").write_text(f"text,label\n{rows}")
    return LabelledTextDataModule("texts.csv", tokenizer="char", batch_size=8, max_tokens=8)


def environments() -> EnvironmentDataModule:
    return EnvironmentDataModule(num_envs=4, rollout_steps=2, batch_size=4, passes=2, val_episodes=2)


def images(size: int | None = None, **options: Any) -> Callable[[], ImageDataModule]:
    return lambda: ImageDataModule(batch_size=8, eval_batch_size=8, size=size, **options)


SMALL = {"width": 0.1, "hidden_size": 6, "latent_size": 2, "iaf_size": 4, "importance_samples": 2, "polyak_epochs": 0}
RECIPES: dict[str, tuple[Callable[..., LightningModule], dict[str, Any], Callable[[], LightningDataModule], str]] = {
    "language_model": (language_model.LanguageModel, {"hidden_size": 8}, text, "val/nats_per_token"),
    "image_classifier": (image_classifier.ImageClassifier, {"width": 0.02}, images(12), "val/error_percent"),
    "sequential_images": (sequential_images.SequentialImages, {"hidden_size": 4}, images(), "val/error_percent"),
    "text_classifier": (
        text_classifier.TextClassifier,
        {"hidden_size": 4, "head_size": 4, "schedule": "constant"},
        labelled,
        "val/error_percent",
    ),
    "vae": (vae.VAE, SMALL, images(), "val/bound_nats_per_image"),
    "draw": (
        draw.Draw,
        {"glimpses": 2, "hidden_size": 6, "latent_size": 2},
        images(normalize="unit"),
        "val/nats_per_image",
    ),
    "pixelcnn": (pixelcnn.PixelCNN, {"channels": 4, "blocks": 1, "polyak_steps": 0}, images(), "val/bits_per_dim"),
    "q_learning": (q_learning.QLearning, {"hidden_size": 4, "norm": "weight"}, environments, "val/mean_return"),
}
STARTED = {  # modules of the recipes that are initialised from a batch
    "image_classifier": image_classifier,
    "sequential_images": sequential_images,
    "vae": vae,
    "pixelcnn": pixelcnn,
    "q_learning": q_learning,
}
LR_FINDER = "lightning.pytorch.tuner.lr_finder._LRFinder.suggestion"
COSINE = ("language_model", "sequential_images", "draw")  # recipes whose step size falls along one
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_started = pytest.mark.parametrize("recipe", STARTED)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(recipe: str, **options: Any) -> tuple[LightningModule, LightningDataModule]:
    kind, sizes, data, _ = RECIPES[recipe]
    return kind(**sizes | options), data()


def fit(model: LightningModule, data: LightningDataModule, *callbacks: Callback, **options: Any) -> Trainer:
    trainer = Trainer(**{**TRAINER, **options}, callbacks=list(callbacks))
    trainer.fit(model, data)
    return trainer


class Rates(Callback):
    """The step size of each batch."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class Starts:
    """What a recipe's initialise_from_batch was called with: the weights before it, in turn."""

    def __init__(self, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: list[dict[str, torch.Tensor]] = []
        real = STARTED[recipe].initialise_from_batch

        def spy(network: Any, *rest: Any) -> None:
            self.before.append({name: value.clone() for name, value in network.state_dict().items()})
            real(network, *rest)

        monkeypatch.setattr(STARTED[recipe], "initialise_from_batch", spy)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@every_started
def test_loaded_weights_are_not_initialised_again(recipe, monkeypatch):
    starts = Starts(recipe, monkeypatch)
    trained, data = make(recipe)
    fit(trained, data, max_steps=1)
    assert len(starts.before) == 1 and not starts.before[0]["initialised"] and trained.network.is_initialised
    fit(trained, data, max_steps=1)  # a second fit goes on from the first

    whole, part, plain = (make(recipe)[0] for _ in range(3))
    for model in (whole, part, plain):
        model._trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn="fit"))
        model.build_from_data()
        assert not model.network.is_initialised
    weights = trained.network.state_dict()
    whole.load_state_dict(trained.state_dict())
    part.network.load_state_dict(weights)
    plain.network.load_state_dict({name: value for name, value in weights.items() if name != "initialised"})
    for model in (whole, part, plain):
        assert equal(model.network.state_dict(), weights)
    fit(plain, data, max_steps=1)
    assert len(starts.before) == 1


@every_started
def test_a_tuner_s_steps_leave_the_start_to_the_run(recipe, monkeypatch):
    starts = Starts(recipe, monkeypatch)
    model, data = make(recipe)
    finder = LearningRateFinder(num_training_steps=3, update_attr=False)
    fit(model, data, finder, PlainProgress("val/loss"), enable_progress_bar=True, max_steps=1)
    assert len(finder.optimal_lr.results["loss"]) > 0
    assert len(starts.before) == 2 and equal(*starts.before)
    assert model.network.is_initialised


@every_recipe
def test_callbacks_that_average_or_stop(recipe):
    model, data = make(recipe)
    callbacks = [
        EMAWeightAveraging(decay=0.5, update_starting_at_step=0),
        DeviceStatsMonitor(cpu_stats=False),
        EarlyStopping(RECIPES[recipe][3], patience=0, min_delta=1e9),
        GradientAccumulationScheduler({0: 2}),
    ]
    trainer = fit(model, data, *callbacks, max_epochs=3, limit_train_batches=4, logger=CSVLogger("logs"))
    assert trainer.current_epoch == 2 and trainer.global_step == 4  # two epochs of two steps of two batches
    average = callbacks[0]._average_model.module
    names = [name for name, _ in model.named_parameters()]
    assert names and [name for name, _ in average.named_parameters()] == names


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")  # and so it runs
@every_recipe
def test_stochastic_weight_averaging_averages_the_network(recipe):
    model, data = make(recipe)
    weights: list[list[torch.Tensor]] = []

    class Record(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            weights.append([parameter.detach().clone() for parameter in pl_module.parameters()])

    fit(model, data, Record(), StochasticWeightAveraging(1e-2, swa_epoch_start=2, annealing_epochs=1), max_epochs=3)
    for parameter, *of_epochs in zip(model.parameters(), *weights[:2], strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(of_epochs).mean(0))


@every_recipe
def test_pruning_finds_the_network(recipe):
    model, data = make(recipe)
    fit(model, data, ModelPruning("l1_unstructured", amount=0.5, use_global_unstructured=True))
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    assert any(bool((bias == 0).any()) for bias in biases)


@every_recipe
def test_tuners_where_the_output_is_no_terminal(recipe, monkeypatch):
    monkeypatch.setattr(LR_FINDER, lambda self: 1e-4)  # which needs many steps
    model, data = make(recipe)
    rate, size = LearningRateFinder(num_training_steps=3), BatchSizeFinder(max_trials=1, steps_per_trial=1, init_val=2)
    progress = PlainProgress(RECIPES[recipe][3])
    rates: list[float] = []
    callbacks = [rate, size, progress, Rates(rates)]
    trainer = fit(model, data, *callbacks, enable_progress_bar=True, max_steps=2, limit_train_batches=3)
    assert trainer.global_step == 2 and data.batch_size == 2
    assert rates[1] / rates[0] == pytest.approx(1 / 2 if recipe in (*COSINE, "q_learning") else 1, rel=1e-4)
    assert model.hparams["learning_rate"] == 1e-4 and rates[0] == pytest.approx(1e-4)


@every_recipe
def test_training_and_evaluation_run_the_network_s_one_forward(recipe):
    model, data = make(recipe)
    calls: list[bool] = []

    class Count(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.network.register_forward_hook(lambda network, *_: calls.append(network.training))

    with warnings.catch_warnings():
        warnings.filterwarnings("error", r"\d+ parameters (have|are)")
        fit(model, data, Count(), max_steps=1, limit_train_batches=1)
    assert set(calls) == {True, False}, "a layer added to forward would be left out"


def test_a_layer_that_is_added_to_a_copied_recipe_is_trained():
    source = Path(language_model.__file__).read_text("utf-8")
    for before, after in (
        ("        if tied:\n", "        self.extra = nn.Linear(hidden_size, hidden_size)\n        if tied:\n"),
        (
            "        x = self.output_dropout(hidden",
            "        hidden = self.extra(hidden)\n        x = self.output_dropout(hidden",
        ),
    ):
        assert source.count(before) == 1
        source = source.replace(before, after)
    copied = ModuleType("copied")
    sys.modules["copied"] = copied  # dataclasses look their module up
    try:
        exec(source, vars(copied))
    finally:
        del sys.modules["copied"]
    model = copied.LanguageModel(hidden_size=8)
    weights: list[torch.Tensor] = []

    class Record(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            weights.append(pl_module.network.extra.weight.detach().clone())

    fit(model, text(), Record())
    assert not torch.equal(*weights)


IMAGES = ("image_classifier", "sequential_images", "vae", "draw", "pixelcnn")


def own_loader(recipe: str, labels: bool = True) -> DataLoader[Any]:
    """Pairs (x, y), as torch collates them, a list of two tensors; or tensors alone."""
    x = torch.rand(6, 1, 12, 12) if recipe == "draw" else torch.randint(17, (6, 1, 12, 12)).float()
    x[0, 0, 0, 0] = 1 if recipe == "draw" else 16
    rows: Any = TensorDataset(x, torch.arange(6) % 3) if labels else x
    return DataLoader(rows, batch_size=3)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("recipe", IMAGES)
def test_a_loader_of_ones_own(recipe, labels):
    is_classifier = recipe in ("image_classifier", "sequential_images")
    model, _ = make(recipe)
    loader = own_loader(recipe, labels)
    if is_classifier and not labels:
        with pytest.raises(ValueError, match=r"the loader has no labels: give --data\.dataset"):
            Trainer(**TRAINER).fit(model, loader, loader)
        return
    trainer = Trainer(**TRAINER)
    trainer.fit(model, loader, loader)
    assert trainer.callback_metrics[RECIPES[recipe][3]].isfinite()
    assert model.images.shape == (1, 12, 12) and len(model.images.classes) == 3 * labels
    assert recipe == "draw" or model.images.num_values == 17
    assert str(model.images).startswith("images of the loader: 1 x 12 x 12")
    (tested,) = trainer.test(model, loader, verbose=False)
    trainer.save_checkpoint("own.ckpt")
    again = type(model).load_from_checkpoint("own.ckpt")
    (repeated,) = Trainer(**TRAINER).test(again, loader, verbose=False)
    assert repeated == tested
    fresh = make(recipe)[0]
    (once_more,) = Trainer(**TRAINER).test(fresh, loader, ckpt_path="own.ckpt", verbose=False)
    assert once_more == tested
    if is_classifier:
        x = loader.dataset.tensors[0]
        classify = STARTED[recipe].classify
        torch.testing.assert_close(classify("own.ckpt", x), model.eval()(x).softmax(1).detach())
        (predicted,) = Trainer(**TRAINER).predict(model, DataLoader(x, batch_size=6))
        torch.testing.assert_close(predicted, model(x).softmax(1).detach())


@pytest.mark.parametrize("recipe", IMAGES)
def test_an_evaluation_without_a_network_is_refused(recipe):
    for evaluate in (Trainer(**TRAINER).test, Trainer(**TRAINER).validate, Trainer(**TRAINER).predict):
        with pytest.raises(ValueError, match="no network yet: fit the model first, or load a checkpoint of it"):
            evaluate(make(recipe)[0], own_loader(recipe))


def saved(recipe: str) -> tuple[type[LightningModule], dict[str, Any]]:
    """A model's class and its checkpoint, which is also in model.ckpt."""
    model, data = make(recipe)
    fit(model, data, max_steps=1).save_checkpoint("model.ckpt")
    return type(model), torch.load("model.ckpt", weights_only=True)


@every_recipe
def test_a_checkpoint_is_examined_before_it_is_used(recipe):
    kind, checkpoint = saved(recipe)
    model, data = make(recipe, learning_rate=1e-5)
    with pytest.raises(
        ValueError, match=r"has learning_rate \S+, and goes on .* --model.learning_rate 1e-05 would do noth"
    ):
        Trainer(**TRAINER).fit(model, data, ckpt_path="model.ckpt")
    assert Trainer(**TRAINER).validate(model, data, ckpt_path="model.ckpt", verbose=False)  # nothing is trained

    info, weights = checkpoint["wnseq"], checkpoint["state_dict"]
    assert describe_progress(checkpoint) == "step 1 of 1, epoch 1 of 1"
    half = {**checkpoint, "wnseq": {**info, "fit": {**info["fit"], "total_steps": 9, "finished": False}}}
    torch.save(half, "half.ckpt")
    said = "is of step 1 of 9, epoch 1 of 1, the run was not finished"
    with pytest.warns(UserWarning, match=f"the checkpoint {said}"):
        kind.load_from_checkpoint("half.ckpt")
    with pytest.warns(UserWarning, match=f"the checkpoint {said}"):
        Trainer(**TRAINER).test(*make(recipe), ckpt_path="half.ckpt", verbose=False)
    with pytest.warns(UserWarning, match=f"half.ckpt {said}"):
        fit(*make(recipe, init_from="half.ckpt"), max_epochs=0)

    name = list(model.state_dict())[-1]
    broken = {**weights, name: torch.full_like(weights[name], torch.nan)}
    for changes, text in (
        ({"wnseq": {**info, "recipe": "other"}}, f"is of the recipe other, this one is {recipe}"),
        ({"wnseq": {**info, "version": "99.0"}}, "was written by wnseq 99.0"),
        ({"state_dict": broken}, f"not finite, the first in {name}"),
    ):
        torch.save({**checkpoint, **changes}, "broken.ckpt")
        with pytest.raises(ValueError, match=text):
            kind.load_from_checkpoint("broken.ckpt")
    torch.save({name: value for name, value in checkpoint.items() if name != "wnseq"}, "foreign.ckpt")
    with pytest.raises(ValueError, match=f"not written by the recipe {recipe}: it has no entry wnseq"):
        kind.load_from_checkpoint("foreign.ckpt")
    torch.save(broken, "broken.pt")
    warnings.filterwarnings("ignore", ".*doesn't say which tokens its rows are")
    with pytest.raises(ValueError, match=r"broken.pt holds weights that are not finite"):
        fit(*make(recipe, init_from="broken.pt"))


@every_recipe
def test_every_hyper_parameter_of_a_resumed_run_is_refused_or_takes_effect(recipe):
    model = make(recipe)[0]
    resumed = set(getattr(model, "resume_may_change", ()))
    assert set(getattr(model, "evaluation_may_change", ())) | resumed <= set(model.hparams)


@pytest.mark.parametrize(("recipe", "option"), [("draw", {"glimpses": 3}), ("q_learning", {"eval_epsilon": 0.5})])
def test_what_a_validation_depends_on_is_refused_in_a_resumed_run_alone(recipe, option):
    saved(recipe)
    with pytest.raises(ValueError, match=f"and goes on with it: --model.{next(iter(option))} .* would do nothing"):
        Trainer(**TRAINER).fit(*make(recipe, **option), ckpt_path="model.ckpt")
    Trainer(**TRAINER).validate(*make(recipe, **option), ckpt_path="model.ckpt", verbose=False)


@every_recipe
def test_a_run_goes_on_without_the_file_that_it_started_from(recipe):
    model, data = make(recipe)
    fit(model, data, max_steps=1).save_checkpoint("start.ckpt")
    own = [f"--data.{name}={value}" for name, value in data.checkpoint_options().items()]
    few = ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
    few += ["--model.sampling.number=1"] if hasattr(model, "sampling") else []
    main, run = sys.modules[type(model).__module__].main, Path("runs", recipe, "1")
    main(["fit", "--model.init_from=start.ckpt", *own, *few, "--trainer.max_steps=2"])
    Path("start.ckpt").unlink()
    for steps, words in ((3, [f"--resume={run}"]), (4, ["--ckpt_path=last", "--model.init_from=start.ckpt", *few])):
        main(["fit", *words, f"--trainer.max_steps={steps}"])
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == steps
    assert "init_from: start.ckpt" in (run / "config.yaml").read_text()


def test_another_optimizer_is_refused_before_its_state_is_loaded():
    fit(*make("language_model"), max_steps=1).save_checkpoint("model.ckpt")
    model, data = make("language_model", optimizer="sgd", schedule="constant")
    with pytest.raises(ValueError, match=r"has optimizer adamw, schedule cosine, .* --model\.optimizer sgd"):
        Trainer(**TRAINER).fit(model, data, ckpt_path="model.ckpt")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_plateau_without_a_validation_is_refused_in_a_fit_of_ones_own():
    model, data = make("language_model", schedule="plateau")
    data.setup("fit")
    model.build(data.tokenizer)
    with pytest.raises(ValueError, match="the schedule plateau needs a validation"):
        Trainer(**TRAINER).fit(model, data.train_dataloader())


def test_a_plateau_has_no_warmup():
    with pytest.raises(ValueError, match="warmup must be 0 with the schedule plateau, which has none, got 5"):
        make("language_model", schedule="plateau", warmup=5)


@pytest.mark.parametrize("recipe", COSINE)
def test_a_cosine_ends_where_the_resumed_run_ends(recipe):
    trainer = fit(*make(recipe), max_steps=2)
    trainer.save_checkpoint("model.ckpt")
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    resumed = Trainer(**{**TRAINER, "max_epochs": 2})
    rates: list[float] = []
    resumed.callbacks.append(Rates(rates))
    resumed.fit(*make(recipe), ckpt_path="model.ckpt")
    peak = make(recipe)[0].hparams["learning_rate"]
    # the first step has the rate that the optimiser was saved with
    assert rates[1:] == pytest.approx([peak * (1 + math.cos(3 * math.pi / 4)) / 2])
