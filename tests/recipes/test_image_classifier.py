import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

import wnseq
from wnseq.data.images import ImageDataModule
from wnseq.recipes.image_classifier import ImageClassifier, Network, classify, initialise_from_batch, main

NORMS = ["none", "weight", "batch", "mean_only", "weight_mean_only"]
SMALL = ["--model.width=0.05", "--data.size=16", "--data.batch_size=50", "--trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=2):
    return main(["fit", *SMALL, f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/image_classifier").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def make(norm, width=1.0, channels=3):
    return Network(norm, channels, 10, width, 0.15, 0.5)


def logged(name):
    with Path("runs/image_classifier/1/metrics.csv").open() as log:
        return [float(row[name]) for row in csv.DictReader(log) if row.get(name)]


def test_the_network_is_the_papers():
    sizes = {norm: sum(parameter.numel() for parameter in make(norm).parameters()) for norm in NORMS}
    directions, outputs = 1_405_344, 1_450
    assert sizes["none"] == sizes["mean_only"] == directions + outputs
    assert sizes["weight"] == sizes["weight_mean_only"] == sizes["batch"] == directions + 2 * outputs
    shapes = []
    network = make("none", width=0.05)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    first, second = round(0.05 * 96), round(0.05 * 192)
    assert shapes == [(first, 32, 32)] * 3 + [(second, 16, 16)] * 3 + [(second, 6, 6)] * 3


@pytest.mark.parametrize("norm", NORMS)
def test_every_layer_starts_with_mean_0_and_deviation_1(norm):
    network, images = make(norm, width=0.1), torch.randn(40, 3, 16, 16)
    initialise_from_batch(network, norm, images)
    seen = []
    for module in network.modules():
        if type(module).__name__ == "Normalised":
            module.register_forward_hook(lambda module, args, output: seen.append(output.transpose(0, 1).flatten(1)))
    for module in network.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "Noise":
            module.eval()  # while the norms use the batch
    network(images)
    assert len(seen) == 10
    for units in seen:
        torch.testing.assert_close(units.mean(1), torch.zeros(len(units)), rtol=0, atol=1e-5)
        tolerance = 1e-3 if norm == "batch" else 1e-5  # batch norm's epsilon
        torch.testing.assert_close(units.std(1, correction=0), torch.ones(len(units)), rtol=0, atol=tolerance)


def test_all_but_batch_norm_start_as_the_same_function():
    images = torch.randn(40, 1, 16, 16)
    outputs = []
    for norm in ("weight", "none", "weight_mean_only", "mean_only"):
        network = make(norm, 0.05, 1)
        initialise_from_batch(network, norm, images)
        for module in network.modules():
            if isinstance(module, nn.Dropout) or type(module).__name__ == "Noise":
                module.eval()
        outputs.append(network(images))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains(norm):
    metrics = fit(f"--model.norm={norm}", steps=2)
    assert 0 <= metrics["test/error_percent"] <= 100


@pytest.mark.figures
def test_a_run_learns_and_leaves_what_it_says(capsys):
    options = ["--model.norm=batch", "--model.learning_rate=0.01", "--model.dropout=0", "--trainer.max_epochs=4"]
    metrics = fit(*options, steps=-1)
    assert metrics["test/error_percent"] < 40
    printed = capsys.readouterr().out
    run = Path("runs/image_classifier/1")
    for left in ("checkpoints/best.ckpt", "metrics.csv", "curves.png", "mistakes.png", "config.yaml"):
        assert (run / left).exists(), left
        assert left == "config.yaml" or str(run / left) in printed
    assert "images digits (sha256 " in printed and "split: order permuted (seed 0)" in printed
    assert "of the test images are taken for another class" in printed
    errors = round(metrics["test/error_percent"] * 3)
    assert f"\n{errors} of the test images" in printed


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit():
    options = ("--model.norm=weight_mean_only", "--data.shift=1", "--trainer.limit_val_batches=1")
    options += ("--trainer.max_epochs=1",)
    fit(*options, "--trainer.limit_train_batches=8", steps=-1)
    whole = weights(newest())
    Path("stop_image_classifier.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 5: raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.syspath_prepend(str(Path.cwd()))
        fit(*options, "--trainer.limit_train_batches=8", "--trainer.callbacks=stop_image_classifier.Stop", steps=-1)
    assert torch.load(newest(), weights_only=True)["global_step"] == 5
    fit(*options, "--trainer.limit_train_batches=8", "--ckpt_path=last", steps=-1)
    resumed = weights(newest())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_papers_schedule(monkeypatch):
    betas, step = [], ImageClassifier.training_step

    def recorded(self, batch, index):
        betas.append(self.optimizers().param_groups[0]["betas"][0])
        return step(self, batch, index)

    monkeypatch.setattr(ImageClassifier, "training_step", recorded)
    fit("--model.learning_rate=0.01", steps=8)
    assert logged("lr-Adam") == pytest.approx([0.01] * 5 + [0.0075, 0.005, 0.0025])
    assert betas == [0.9] * 4 + [0.5] * 4


def test_a_checkpoint_alone_classifies(capsys):
    fit("--data.whiten=true", "--data.val_size=200")
    path = newest()
    data = ImageDataModule(size=16, whiten=True)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    probabilities = classify(path, data.images.parts["test"].pixels[:100])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(100))
    capsys.readouterr()
    main(["predict", f"--ckpt_path={path}"])  # size and whitening come from the checkpoint
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "image,label,predicted,probability" and len(rows) == 300
    for number, row in enumerate(rows[:100]):
        which, label, predicted, probability = row.split(",")
        assert int(which) == number and int(label) == int(batch.labels[number])
        assert int(predicted) == int(probabilities[number].argmax())
        assert float(probability) == pytest.approx(float(probabilities[number].max()), abs=1e-3)
    once = main(["test", f"--ckpt_path={path}"])
    assert once == pytest.approx(main(["test", f"--ckpt_path={path}", "--data.eval_batch_size=70"]), rel=1e-5)


def test_a_checkpoint_holds_plain_types_and_says_what_it_is():
    fit(steps=1)
    about = torch.load(newest(), weights_only=True)["wnseq"]
    assert about["recipe"] == "image_classifier" and about["version"] == wnseq.__version__
    kept = {"normalize": "symmetric", "whiten": False, "fixed_order": False}
    assert about["data"] == {"dataset": "digits", "size": 16, **kept}
    assert len(about["dataset_sha256"]) == 64 and about["classes"] == list("0123456789")


def test_fine_tuning_takes_the_weights_and_no_new_start():
    fit(steps=6)
    path = newest()
    before = main(["test", f"--ckpt_path={path}"])["test/nats_per_image"]
    small = ("--model.learning_rate=1e-9", "--trainer.limit_val_batches=0")
    after = fit(f"--model.init_from={path}", *small, steps=1)["test/nats_per_image"]
    assert after == pytest.approx(before, rel=1e-3)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's
def test_fine_tuning_from_a_plain_torch_checkpoint():
    plain = make("none", 0.05, 1)
    torch.save(plain.state_dict(), "plain.pt")
    model = ImageClassifier("weight", width=0.05, init_from="plain.pt")
    trainer = Trainer(
        max_steps=1, limit_train_batches=0, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, ImageDataModule(size=16))
    images = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(model.network.eval()(images), plain.eval()(images))


class Loader:
    """Batches that no ImageDataModule made."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def test_batches_of_ones_own(monkeypatch):
    starts = []
    monkeypatch.setattr("wnseq.recipes.image_classifier.initialise_from_batch", lambda *of: starts.append(of[-1]))
    images, labels = torch.randn(6, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    model = ImageClassifier("weight", width=0.05)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=2, enable_model_summary=False, log_every_n_steps=1, **quiet)
    loader = Loader((images, labels), [images + 1, labels])
    trainer.fit(model, loader, loader)
    assert len(starts) == 1 and torch.equal(starts[0], images)
    assert 0 <= trainer.callback_metrics["val/error_percent"] <= 100
    (tested,) = trainer.test(model, loader, verbose=False)
    assert math.isfinite(tested["test/nats_per_image"]) and model.mistakes == []
    assert trainer.predict(model, loader)[0].shape == (6, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--model.width=0", "--model.noise=-1", "--model.dropout=1", "--model.learning_rate=0", "--model.beta=1",
             "--model.late_beta=-1", "--model.init_images=1"],
            ["width must be greater than 0, got 0", "noise must be at least 0, got -1",
             "dropout must be at least 0 and less than 1, got 1", "learning_rate must be greater than 0, got 0",
             "; beta must be at least 0 and less than 1, got 1", "late_beta must be at least 0 and less than 1, got -1",
             "init_images must be at least 2, got 1"],
        ),
        (["--model.norm=layer"], "norm"),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=-1"], "the schedule needs --trainer.max_epochs"),
        (["--data.dataset=cifar"], "dataset"),
        (["--data.dataset=binarized_mnist", "--data.root=nowhere"], "binarized_mnist_train.amat.gz is missing"),
        (["--model.init_from=nowhere.ckpt"], "nowhere.ckpt"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(*arguments)
    assert stop.value.code in (1, 2)
    told = capsys.readouterr().err
    assert all(part in told for part in ([text] if isinstance(text, str) else text)) and "Traceback" not in told
    assert not Path("runs").exists() or not list(Path("runs").glob("*/*"))


def test_images_without_labels_are_refused(capsys, tmp_path):
    (tmp_path / "binarized_mnist").mkdir()
    for part in ("train", "valid", "test"):
        path = tmp_path / "binarized_mnist" / f"binarized_mnist_{part}.amat"
        path.write_text((" ".join("01" * 392) + "\n") * 50)
    with pytest.raises(SystemExit):
        fit("--data.dataset=binarized_mnist", f"--data.root={tmp_path}", "--data.size=28")
    assert (
        "binarized_mnist has no labels: give --data.dataset digits, mnist or cifar10, or your own"
        in capsys.readouterr().err
    )


def test_a_checkpoint_of_another_size_is_refused(capsys):
    fit(steps=1)
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={newest()}", "--model.width=0.1", steps=1)
    assert (
        "does not fit this network: it was made with --model.norm weight --model.width 0.05" in capsys.readouterr().err
    )
