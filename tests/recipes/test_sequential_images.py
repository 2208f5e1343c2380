import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

import wnseq
from wnseq.data.images import ImageDataModule
from wnseq.recipes.sequential_images import (
    Network,
    SequentialImages,
    classify,
    initialise_from_batch,
    main,
    memory,
    steps,
)

STARTS = ["torch", "forget_bias", "input", "closed_form", "data"]
SMALL = ["--model.hidden_size=6", "--data.batch_size=50", "--trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=2):
    return main(["fit", *SMALL, f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/sequential_images").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def make(norm, cell="lstm"):
    return Network(cell, norm, 1, 6, 1, 10)


def images(number=40):
    data = ImageDataModule(normalize="unit", batch_size=number)
    data.setup("fit")
    return next(iter(data.train_dataloader())).images


def test_the_pixels_come_row_by_row():
    x = torch.arange(2 * 1 * 2 * 3).view(2, 1, 2, 3)
    assert steps(x)[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5] and steps(x).shape == (6, 2, 1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("how", STARTS)
def test_every_start_is_the_same_function_with_and_without_weight_normalisation(cell, how):
    x = images()
    torch.manual_seed(0)
    ours = make("weight", cell)
    torch.manual_seed(0)
    plain = make("none", cell)
    for network in (ours, plain):
        initialise_from_batch(network, how, None, x)
    torch.testing.assert_close(plain(x), ours(x))


def test_what_each_start_sets():
    x = images()
    networks = {}
    for how in STARTS:
        torch.manual_seed(0)
        networks[how] = make("weight")
        initialise_from_batch(networks[how], how, None, x)
    drawn = networks["torch"].rnn
    for how in ("forget_bias", "input", "closed_form", "data"):
        rnn = networks[how].rnn
        bias = rnn.bias_ih_l0 + rnn.bias_hh_l0
        seen = x.flatten() @ torch.ones(x.numel(), 1) / x.numel()
        mean = bias + rnn.weight_ih_l0[:, 0] * seen if how in ("input", "data") else bias
        torch.testing.assert_close(mean[6:12], torch.ones(6), rtol=0, atol=1e-4)
        assert torch.equal(rnn.weight_hh_l0_g, drawn.weight_hh_l0_g) == (how in ("forget_bias", "input"))
    initialise_from_batch(networks["data"], "data", 40, x)
    assert 0.3 <= float(memory(networks["data"], x)[-41]) <= 1


def test_memory_is_the_size_of_the_gradient_of_each_pixel():
    x, network = images(8), make("weight")
    ratios = memory(network, x)
    assert ratios.shape == (64,) and ratios[-1] == 1
    pixels = steps(x).requires_grad_()
    along = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((network.rnn(pixels)[0][-1] * along).sum(), pixels)
    torch.testing.assert_close(ratios[40], slope[40].norm() / slope[63].norm())


@pytest.mark.parametrize("norm", ["weight", "none"])
@pytest.mark.parametrize(("cell", "gate", "start"), [("minlstm", slice(6, 12), 1), ("mingru", slice(6), -1)])
def test_a_minimal_cell_trains_from_the_starts_that_it_has(norm, cell, gate, start):
    with pytest.raises(ValueError, match=f"start must be torch or forget_bias with the cell {cell}, got data"):
        SequentialImages(cell, norm, start="data")
    network = make(norm, cell)
    initialise_from_batch(network, "forget_bias", None, images())
    assert (network.rnn.bias_ih_l0[gate] == start).all()
    assert 0 <= fit(f"--model.norm={norm}", f"--model.cell={cell}", steps=2)["test/error_percent"] <= 100


@pytest.mark.parametrize("norm", ["weight", "none"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_variant_trains(norm, cell):
    metrics = fit(f"--model.norm={norm}", f"--model.cell={cell}", "--model.start=data", steps=2)
    assert 0 <= metrics["test/error_percent"] <= 100


@pytest.mark.figures
def test_a_run_learns_and_leaves_what_it_says(capsys):
    fit("--model.start=data", "--model.hidden_size=16", "--trainer.max_epochs=4", steps=-1)
    with Path("runs/sequential_images/1/metrics.csv").open() as log:
        losses = [float(row["train/nats_per_image"]) for row in csv.DictReader(log) if row["train/nats_per_image"]]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    printed = capsys.readouterr().out
    run = Path("runs/sequential_images/1")
    for left in ("checkpoints/best.ckpt", "metrics.csv", "curves.png", "gates.png"):
        assert (run / left).exists(), left
        assert str(run / left) in printed
    assert "model: 1 x 16 lstm, norm weight, start data" in printed and "  63 steps back  " in printed


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit():
    options = ("--model.start=data", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1")
    fit(*options, "--trainer.limit_train_batches=10", steps=-1)
    whole = weights(newest())
    Path("stop_sequential_images.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 6: raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.syspath_prepend(str(Path.cwd()))
        fit(*options, "--trainer.limit_train_batches=10", "--trainer.callbacks=stop_sequential_images.Stop", steps=-1)
    fit(*options, "--trainer.limit_train_batches=10", "--ckpt_path=last", steps=-1)
    resumed = weights(newest())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_alone_classifies(capsys):
    fit("--data.val_size=200")
    path = newest()
    data = ImageDataModule(normalize="unit")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    probabilities = classify(path, data.images.parts["test"].pixels[:100])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(100))
    capsys.readouterr()
    main(["predict", f"--ckpt_path={path}"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "image,label,predicted,probability" and len(rows) == 300
    for number, row in enumerate(rows[:100]):
        which, label, predicted, probability = row.split(",")
        assert int(which) == number and int(label) == int(batch.labels[number])
        assert int(predicted) == int(probabilities[number].argmax())
        assert float(probability) == pytest.approx(float(probabilities[number].max()), abs=1e-3)


def test_a_checkpoint_holds_plain_types_and_says_what_it_is():
    fit(steps=1)
    about = torch.load(newest(), weights_only=True)["wnseq"]
    assert about["recipe"] == "sequential_images" and about["version"] == wnseq.__version__
    assert len(about["dataset_sha256"]) == 64 and about["classes"] == list("0123456789")


def test_fine_tuning_takes_the_weights_and_no_new_start():
    fit(steps=6)
    path = newest()
    before = main(["test", f"--ckpt_path={path}"])["test/nats_per_image"]
    small = ("--model.start=data", "--model.learning_rate=1e-9", "--trainer.limit_val_batches=0")
    after = fit(f"--model.init_from={path}", *small, steps=1)["test/nats_per_image"]
    assert after == pytest.approx(before, rel=1e-3)


def test_fine_tuning_from_a_plain_torch_checkpoint():
    plain = make("none")
    torch.save(plain.state_dict(), "plain.pt")
    model = SequentialImages(hidden_size=6, init_from="plain.pt")
    trainer = Trainer(
        max_steps=1, limit_train_batches=0, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, ImageDataModule())
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(model.network(x), plain(x))
    assert isinstance(plain.rnn, nn.LSTM)


class Loader:
    """Batches that no ImageDataModule made."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def test_batches_of_ones_own():
    x, labels = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    model = SequentialImages(hidden_size=6, start="data")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=2, enable_model_summary=False, log_every_n_steps=1, **quiet)
    loader = Loader((x, labels), [x, labels])
    trainer.fit(model, loader, loader)
    assert 0 <= trainer.callback_metrics["val/error_percent"] <= 100
    assert trainer.predict(model, loader)[0].shape == (6, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model.hidden_size=0"], "hidden_size must be at least 1, got 0"),
        (["--model.num_layers=0"], "num_layers must be at least 1, got 0"),
        (["--model.horizon=20"], "horizon must be left out unless the start is data, got 20"),
        (["--model.start=data", "--model.horizon=64"], "needs sequences of at least 65 steps, got 64"),
        (["--model.learning_rate=0"], "learning_rate must be greater than 0, got 0"),
        (["--model.weight_decay=-1"], "weight_decay must be at least 0, got -1"),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=-1"], "the schedule needs --trainer.max_epochs"),
        (["--data.dataset=binarized_mnist", "--data.root=nowhere"], "binarized_mnist_train.amat.gz is missing"),
        (["--model.init_from=nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code in (1, 2) and text in error and "Traceback" not in error


def test_a_checkpoint_of_another_size_is_refused(capsys):
    fit(steps=1)
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={newest()}", "--model.hidden_size=7")
    assert "it was made with --model.cell lstm --model.norm weight --model.hidden_size 6" in capsys.readouterr().err


def test_a_set_without_labels_is_refused():
    model, data = SequentialImages(), ImageDataModule()
    data.setup("fit")
    data.images = dataclasses.replace(data.images, classes=())
    model._trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn="fit"))
    with pytest.raises(ValueError, match=r"digits has no labels: give --data\.dataset digits, mnist or cifar10"):
        model.build_from_data()
