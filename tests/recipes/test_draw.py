import csv
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import accept_v_and_g
from lightning.pytorch import Callback, Trainer
from PIL import Image

import wnseq
from wnseq.data.images.datamodule import ImageDataModule
from wnseq.recipes.draw import Draw, Network, filterbank, initialise, main, window
from wnseq.training.evaluation import ExampleGenerators
from wnseq.training.images import ImageSpec

NORMS = ["weight", "none", "layer"]
SIZES = ["--model.hidden_size=6", "--model.latent_size=2", "--model.glimpses=3"]
SMALL = [*SIZES, "--data.batch_size=50", "--trainer.log_every_n_steps=1"]
WINDOWS = pytest.mark.parametrize(("read", "write"), [(2, 3), (0, 0), (1, 0), (0, 4)])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=2):
    return main(["fit", *SMALL, "--trainer.limit_val_batches=1", f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/draw").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def make(norm="weight", read=2, write=3, height=5, width=4):
    """A network whose every parameter counts."""
    network = Network(norm, height, width, 6, 2, read, write)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return accept_v_and_g(network)


# ---- the bound, from the equations


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop_filters(centre, stride, log_variance, size, length):
    filters = np.zeros((size, length))
    for i in range(1, size + 1):
        mean = centre + (i - size / 2 - 0.5) * stride
        for a in range(1, length + 1):
            filters[i - 1, a - 1] = math.exp(-((a - mean) ** 2) / (2 * math.exp(log_variance)))
        filters[i - 1] /= filters[i - 1].sum()
    return filters


def loop_window(parameters, size, height, width):
    x, y, log_variance, log_stride, log_intensity = parameters
    stride = (max(height, width) - 1) / max(size - 1, 1) * math.exp(log_stride)
    rows = loop_filters((height + 1) / 2 * (y + 1), stride, log_variance, size, height)
    columns = loop_filters((width + 1) / 2 * (x + 1), stride, log_variance, size, width)
    return rows, columns, math.exp(log_intensity)


def linear(module, x):
    values = {name: value.detach().double().numpy() for name, value in module.named_parameters()}
    w = values.get("weight")
    if w is None:
        w = values["weight_v"] * (values["weight_g"] / np.sqrt((values["weight_v"] ** 2).sum(1)))[:, None]
    return w @ x + values.get("bias", 0)


def centred(x, module):
    x = (x - x.mean()) / np.sqrt(x.var() + module.eps) * module.weight.detach().double().numpy()
    return x if module.bias is None else x + module.bias.detach().double().numpy()


def cell(module, x, state):
    h, c = state
    if hasattr(module, "norm_c"):
        total = centred(linear(module.ih, x), module.norm_ih) + centred(linear(module.hh, h), module.norm_hh)
    else:
        total = 0
        for of, value in (("ih", x), ("hh", h)):
            parts = {}
            for name, parameter in module.named_parameters():
                if of in name:
                    parts[name.replace(f"_{of}", "")] = parameter
            total = total + linear(SimpleNamespace(named_parameters=parts.items), value)
    i, f, g, o = np.split(total, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(centred(c, module.norm_c) if hasattr(module, "norm_c") else c), c


def loop_bound(network, image, noise):
    """Equations 1 to 12 and 19 to 29 of Gregor et al. 2015, for one image: −log p(x|z), and the KL of each glimpse."""
    height, width = image.shape
    canvas = network.canvas.detach().double().numpy()
    encoder, decoder = (
        tuple(s.detach().double().numpy() for s in of) for of in (network.encoder_state, network.decoder_state)
    )
    divergences = []
    for eps in noise:
        seen = [image, image - sigmoid(canvas)]
        if network.read_size:
            rows, columns, intensity = loop_window(
                linear(network.read_window, decoder[0]), network.read_size, height, width
            )
            seen = [intensity * rows @ each @ columns.T for each in seen]
        encoder = cell(network.encoder, np.concatenate([seen[0].ravel(), seen[1].ravel(), decoder[0]]), encoder)
        mean, log_deviation = np.split(linear(network.posterior, encoder[0]), 2)
        divergences.append(0.5 * (mean**2 + np.exp(2 * log_deviation) - 2 * log_deviation - 1).sum())
        decoder = cell(network.decoder, mean + np.exp(log_deviation) * eps, decoder)
        patch = linear(network.write_patch, decoder[0])
        if network.write_size:
            place = linear(network.write_window, decoder[0])
            rows, columns, intensity = loop_window(place, network.write_size, height, width)
            canvas = canvas + rows.T @ patch.reshape(network.write_size, -1) @ columns / intensity
        else:
            canvas = canvas + patch.reshape(height, width)
    p = sigmoid(canvas)
    return -(image * np.log(p) + (1 - image) * np.log(1 - p)).sum(), divergences


@WINDOWS
@pytest.mark.parametrize("norm", NORMS)
def test_the_bound_is_that_of_the_equations(norm, read, write):
    model = Draw(norm, 3, 6, 2, read, write)
    model.network = make(norm, read, write).double()
    images, noise = torch.bernoulli(torch.full((4, 1, 5, 4), 0.4)).double(), torch.randn(3, 4, 2).double()
    with torch.no_grad():
        reconstruction, kl = model._step(model.binary(images), noise)
    for n in range(4):
        nats, divergences = loop_bound(model.network, images[n, 0].numpy(), noise[:, n].numpy())
        assert float(reconstruction[n]) == pytest.approx(nats, rel=1e-12)
        assert kl[:, n].tolist() == pytest.approx(divergences, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("size", "length"), [(1, 5), (2, 8), (5, 5)])
def test_filters_are_those_of_the_equations(size, length):
    parameters = torch.randn(3, 3).double()
    centre, stride, log_variance = 3 + parameters[0], parameters[1].exp(), parameters[2]
    filters = filterbank(centre, stride, log_variance, size, length)
    for n in range(3):
        loop = loop_filters(*(float(values[n]) for values in (centre, stride, log_variance)), size, length)
        np.testing.assert_allclose(filters[n].numpy(), loop, rtol=1e-12)
    torch.testing.assert_close(filters.sum(2), torch.ones(3, size).double())


def test_a_window_far_outside_sees_the_edge():
    filters = filterbank(torch.tensor([-300.0]), torch.tensor([1.0]), torch.tensor([-4.0]), 2, 6)
    torch.testing.assert_close(filters[0], torch.eye(6)[[0, 0]])


def test_a_window_without_parameters_is_on_the_whole_image():
    found = window(torch.zeros(1, 5), 2, 8, 8)
    assert found.box.tolist() == [[-0.5, -0.5, 8.5, 8.5]]
    assert found.rows.argmax(2).tolist() == found.columns.argmax(2).tolist() == [[0, 7]]
    moved = window(torch.tensor([[0.5, -0.5, -20.0, -1.0, 0.0]]), 3, 8, 8)
    assert moved.box[0, 0] + moved.box[0, 2] == pytest.approx(2 * (4.5 * 1.5 - 0.5))
    assert moved.box[0, 1] + moved.box[0, 3] == pytest.approx(2 * (4.5 * 0.5 - 0.5))


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_of_the_windows(size):
    parameters = (0.3 * torch.randn(2, 5)).double().requires_grad_()
    images, patches = (torch.randn(2, *s).double().requires_grad_() for s in ((5, 4), (size, size)))
    assert torch.autograd.gradcheck(lambda p, x: window(p, size, 5, 4).read(x), (parameters, images))
    assert torch.autograd.gradcheck(lambda p, w: window(p, size, 5, 4).write(w), (parameters, patches))


@WINDOWS
def test_sampling_draws_what_redrawing_draws_from_the_same_latents(read, write):
    network = make("none", read, write)
    with torch.no_grad():
        for parameter in network.posterior.parameters():
            parameter.zero_()  # the posterior is the prior, so that the noise is the latent
    latents = torch.randn(3, 4, 2)
    redrawn, drawn = network(latents, torch.rand(4, 5, 4)), network(latents)
    assert torch.equal(torch.stack(redrawn.canvases), torch.stack(drawn.canvases))
    assert not redrawn.kl.any() and drawn.kl is None
    assert (redrawn.read is None) == (not read) and (drawn.written is None) == (not write) and drawn.read is None


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_is_trained(norm):
    network = make(norm)
    drawing = network(torch.randn(3, 4, 2), torch.rand(4, 5, 4))
    (drawing.canvases[-1].square().sum() + drawing.kl.sum()).backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


def test_a_step_of_64_glimpses_composes_each_weight_once(monkeypatch):
    composed = []
    compose = wnseq.nn._module.compose_in
    monkeypatch.setattr("wnseq.nn._module.compose_in", lambda m, *of: composed.append(of) or compose(m, *of))
    model = Draw(glimpses=64, hidden_size=6, latent_size=2, read_size=2, write_size=3)
    model.build(ImageSpec((1, 5, 4)))
    composed.clear()
    reconstruction, kl = model._step(model.binary(torch.rand(4, 1, 5, 4)), model.noise(4))
    (reconstruction.mean() + kl.sum(0).mean()).backward()
    assert kl.shape == (64, 4)
    assert len(composed) == 8 == len({id(v) for v, *_ in composed})  # two LSTMs with two each, four linear maps
    names = [name for name, _ in model.network.named_parameters() if name.endswith("_v")]
    assert len(names) == 8
    assert not any(name.endswith("weight") for name, _ in model.network.named_parameters())


# ---- starts


@pytest.mark.parametrize("start", ["normal", "orthogonal"])
def test_one_seed_starts_every_norm_with_the_same_weights(start):
    networks = {}
    for norm in NORMS:
        networks[norm] = make(norm)
        torch.manual_seed(0)
        initialise(networks[norm], start, "norm", 6)
    ours, plain, layer = (networks[norm] for norm in NORMS)
    for of in ("encoder", "decoder"):
        for name, renamed in (("weight_ih", "ih"), ("weight_hh", "hh")):
            w = getattr(ours, of).compose_weights()[name]
            torch.testing.assert_close(w, getattr(getattr(plain, of), name))
            torch.testing.assert_close(w, getattr(getattr(layer, of), renamed).weight)
    torch.testing.assert_close(ours.posterior.compose_weights()["weight"], plain.posterior.weight)
    for bias in (ours.encoder.bias_ih, plain.decoder.bias_hh, ours.posterior.bias, plain.write_patch.bias):
        assert not bias.any()


def test_what_each_start_sets():
    network = Network("weight", 8, 8, 64, 10, 2, 5)
    initialise(network, "normal", "norm", 64)
    w = network.encoder.compose_weights()["weight_hh"].detach()
    assert float(w.std()) == pytest.approx(0.01, rel=0.05)
    torch.testing.assert_close(network.encoder.weight_hh_g, network.encoder.weight_hh_v.norm(dim=1))
    initialise(network, "normal", "one", 64)
    assert (network.encoder.weight_hh_g == 1).all() and (network.posterior.weight_g == 1).all()
    assert float(network.encoder.weight_hh_v.detach().std()) == pytest.approx(0.01, rel=0.05)
    initialise(network, "orthogonal", "norm", 64)
    for w in (network.encoder.compose_weights()["weight_hh"][64:128], network.posterior.compose_weights()["weight"]):
        torch.testing.assert_close(w @ w.T, torch.eye(len(w)))
    torch.testing.assert_close(network.decoder.compose_weights()["weight_ih"].norm(dim=1), torch.ones(256))
    assert not network.read_window.bias.any()
    pen = window(network.write_window.bias.detach()[None], 5, 8, 8)
    assert float(pen.write(torch.ones(1, 5, 5)).mean()) == pytest.approx(25 / 64 * 1.75**2, rel=1e-5)


# ---- data


def test_grey_becomes_binary():
    model = Draw(binarize="sample")
    model.build(ImageSpec((1, 8, 8)))
    grey = torch.full((50, 1, 8, 8), 0.25)
    drawn = model.binary(grey)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and float(drawn.mean()) == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(drawn, model.binary(grey))
    fixed = [model.evaluated(grey, ExampleGenerators().take(50)) for _ in range(2)]
    assert torch.equal(fixed[0][0], fixed[1][0]) and torch.equal(fixed[0][1], fixed[1][1])
    assert not torch.equal(fixed[0][0][0], fixed[0][0][1])
    assert torch.equal(model.binary(drawn[:, None]), drawn)  # what is binary stays
    model.hparams.binarize = "threshold"
    assert model.binary(torch.tensor([0.2, 0.7]).repeat(32).view(1, 1, 8, 8)).flatten()[:2].tolist() == [0, 1]


@pytest.mark.parametrize("fixed", [False, True])
def test_the_order_can_be_fixed(fixed):
    data = ImageDataModule(fixed_order=fixed, normalize="unit")
    data.setup("fit")
    loader = data.train_dataloader()
    first, second = ([batch.labels.tolist() for batch in loader] for _ in range(2))
    assert (first == second) is fixed
    assert data.resume_settings()["fixed_order"] is fixed


# ---- runs


@pytest.mark.parametrize(
    ("norm", "read", "write"), [("weight", 2, 3), ("weight", 0, 4), ("none", 0, 0), ("layer", 1, 0)]
)
def test_every_variant_trains(norm, read, write):
    options = (f"--model.norm={norm}", f"--model.read_size={read}", f"--model.write_size={write}")
    metrics = fit(*options, "--model.start=normal", "--model.schedule=constant", steps=2)
    assert metrics["test/nats_per_image"] == pytest.approx(
        metrics["test/kl_nats"] + metrics["test/reconstruction_nats"]
    )
    assert metrics["test/bits_per_dim"] == pytest.approx(metrics["test/nats_per_image"] / 64 / math.log(2))


@pytest.mark.figures
def test_a_run_learns_and_leaves_what_it_says(capsys):
    fit("--model.hidden_size=32", "--model.learning_rate=1e-2", "--trainer.max_epochs=4", steps=-1)
    with Path("runs/draw/1/metrics.csv").open() as log:
        rows = list(csv.DictReader(log))
    losses = [float(row["train/nats_per_image"]) for row in rows if row["train/nats_per_image"]]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    glimpses = [[float(row[f"val/kl_nats_{t:02d}"]) for t in (1, 2, 3)] for row in rows if row["val/kl_nats_01"]]
    whole = [float(row["val/kl_nats"]) for row in rows if row["val/kl_nats"]]
    assert [sum(kl) for kl in glimpses] == pytest.approx(whole, rel=1e-4) and len(whole) == 4
    printed = capsys.readouterr().out
    for left in ("checkpoints/best.ckpt", "curves.png", "samples.png", "samples.gif", "samples.npz", "redrawn.gif"):
        assert Path("runs/draw/1", left).exists(), left
        assert str(Path("runs/draw/1", left)) in printed
    assert "model: 3 glimpses, read 5, write 5, norm weight" in printed and "KL at each glimpse, in nats: " in printed
    with Image.open("runs/draw/1/samples.gif") as animation:
        assert animation.n_frames >= 3


def test_an_evaluation_does_not_depend_on_the_size_of_its_batches():
    fit("--model.binarize=sample", steps=2)
    once = main(["test", f"--ckpt_path={newest()}"])
    assert once == pytest.approx(main(["test", f"--ckpt_path={newest()}", "--data.eval_batch_size=70"]), rel=1e-5)


class Interrupt(Callback):
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_):
        raise KeyError("interrupted")


def test_an_interrupted_evaluation_leaves_nothing_in_the_next():
    model = Draw("weight", 3, 6, 2, read_size=2, write_size=3)
    model.build(ImageSpec((1, 5, 4)))
    loader = Batches(torch.rand(4, 1, 5, 4))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    (expected,) = Trainer(**quiet).validate(model, loader, verbose=False)
    with pytest.raises(KeyError, match="interrupted"):
        Trainer(callbacks=[Interrupt()], **quiet).validate(model, loader, verbose=False)
    assert Trainer(**quiet).validate(model, loader, verbose=False) == [expected]


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit():
    options = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=6")
    fit(*options, steps=-1)
    whole = weights(newest())
    Path("stop_draw.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 3: raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.syspath_prepend(str(Path.cwd()))
        fit(*options, "--trainer.callbacks=stop_draw.Stop", steps=-1)
    fit(*options, "--ckpt_path=last", steps=-1)
    resumed = weights(newest())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.figures
def test_a_checkpoint_alone_draws(capsys):
    fit("--data.val_size=200", "--data.size=16")
    path = newest()
    capsys.readouterr()
    for flag in (f"--ckpt_path={path}", f"--model.init_from={path}"):
        sizes = SIZES if "init_from" in flag else []
        main(
            [
                "predict",
                flag,
                *sizes,
                "--model.sampling.number=7",
                "--model.sampling.output=to/x",
            ]
        )
        assert capsys.readouterr().out.split() == ["to/x.png", "to/x.gif", "to/x.npz"]
        with np.load("to/x.npz") as found:
            probabilities, latents = found["probabilities"], found["latents"]
        with torch.no_grad():
            canvases = Draw.load_from_checkpoint(path, map_location="cpu").network(torch.from_numpy(latents)).canvases
        np.testing.assert_allclose(probabilities[:, 0], canvases[-1].sigmoid().numpy(), rtol=1e-6)
        assert probabilities.shape == (7, 1, 16, 16)


def test_a_checkpoint_holds_plain_types_and_says_what_it_is():
    fit(steps=1)
    about = torch.load(newest(), weights_only=True)["wnseq"]
    assert about["recipe"] == "draw" and about["version"] == wnseq.__version__
    assert about["data"]["dataset"] == "digits" and len(about["dataset_sha256"]) == 64


def test_fine_tuning_takes_the_weights():
    fit(steps=5)
    path = newest()
    before = main(["test", f"--ckpt_path={path}"])["test/nats_per_image"]
    after = fit(f"--model.init_from={path}", "--model.learning_rate=1e-9", steps=1)["test/nats_per_image"]
    assert after == pytest.approx(before, rel=1e-4)


def test_fine_tuning_in_a_program_of_ones_own():
    plain = make("none", read=5, write=5, height=8, width=8)
    torch.save(plain.state_dict(), "plain.pt")
    model = Draw("weight", 3, 6, 2, init_from="plain.pt")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, limit_train_batches=0, limit_val_batches=0, enable_model_summary=False, **quiet)
    trainer.fit(model, ImageDataModule(normalize="unit"))
    noise, images = torch.randn(3, 3, 2), torch.rand(3, 8, 8)
    torch.testing.assert_close(model.network(noise, images).canvases, plain(noise, images).canvases)


class Batches:
    """A loader of two batches."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return 2

    def __iter__(self):
        return iter((self.images, self.images))


def test_batches_of_ones_own():
    model = Draw("weight", 3, 6, 2, read_size=2, write_size=3)
    model.build(ImageSpec((1, 5, 4)))
    images = torch.rand(4, 1, 5, 4)
    before = model.network.canvas.clone()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=2, enable_model_summary=False, log_every_n_steps=1, **quiet)
    trainer.fit(model, Batches(images), Batches(images))
    assert (model.network.canvas != before).all() and trainer.callback_metrics["val/kl_nats"] > 0
    for batch in ((images,), [images, torch.zeros(4)]):
        Trainer(max_steps=1, enable_model_summary=False, **quiet).fit(model, Batches(batch), Batches(batch))


# ---- mistakes


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            torch.rand(2, 1, 4, 5),
            r"images must have shape \(N, 1, 5, 4\), which the network is for, got \(2, 1, 4, 5\): give --data\.size",
        ),
        (torch.rand(2, 5, 4), r"images must have shape \(N, 1, 5, 4\), which the network is for, got \(2, 5, 4\)"),
        (torch.rand(2, 1, 5, 4) - 1, r"pixels must be from 0 to 1, got -.* to -.*: give --data\.normalize unit"),
        (torch.full((2, 1, 5, 4), 255.0), r"pixels must be from 0 to 1, got 255 to 255"),
        (torch.full((2, 1, 5, 4), math.nan), r"pixels must be from 0 to 1, got nan to nan"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, text):
    model = Draw(read_size=2, write_size=3)
    model.build(ImageSpec((1, 5, 4)))
    with pytest.raises(ValueError, match=text):
        model.training_step(images, 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--model.glimpses=0", "--model.hidden_size=0", "--model.latent_size=0", "--model.read_size=-1",
             "--model.write_size=-1", "--model.learning_rate=0"],
            ["glimpses must be at least 1, got 0", "hidden_size must be at least 1, got 0",
             "latent_size must be at least 1, got 0", "read_size must be at least 0, got -1",
             "write_size must be at least 0, got -1", "learning_rate must be greater than 0, got 0"],
        ),
        (["--model.read_size=9"], "read_size must be at most 8, the shorter side of images of 8 x 8"),
        (["--model.write_size=12"], "or 0 for the whole image without attention; got 12"),
        (["--model.norm=layer", "--model.g_start=one"], "g_start must be norm where the norm is not weight, got one"),
        (["--model.sampling.number=0"], "sampling.number must be at least 1, got 0"),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=-1"], "the schedule needs --trainer.max_epochs"),
        (["--data.normalize=symmetric"], "pixels must be from 0 to 1, got -0.941 to 0.941"),
        (["--data.batch_size=2000"], "fewer than the 2000 of one batch"),
        (["--data.dataset=binarized_mnist", "--data.root=nowhere"], "binarized_mnist_train.amat.gz is missing"),
        (["--model.init_from=nowhere.ckpt"], "there is no checkpoint at nowhere.ckpt"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(*arguments)
    error = capsys.readouterr().err
    assert all(part in error for part in ([text] if isinstance(text, str) else text))
    assert stop.value.code in (1, 2) and "Traceback" not in error
    assert not list(Path().glob("runs/draw/*/checkpoints"))


def test_a_checkpoint_of_another_size_is_refused(capsys):
    fit(steps=1)
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={newest()}", "--model.hidden_size=7", "--data.size=16")
    error = capsys.readouterr().err
    assert "it was made with --model.norm weight --model.hidden_size 6 --model.latent_size 2" in error
    assert "(size mismatch for canvas" in error


def test_what_is_no_checkpoint_of_this_recipe_does_not_draw(capsys):
    torch.save({"weight": torch.zeros(2)}, "other.pt")
    with pytest.raises(SystemExit):
        main(["predict", "--model.init_from=other.pt"])
    assert (
        "other.pt does not say which images its weights are for: expected a checkpoint of a recipe"
        in capsys.readouterr().err
    )


def test_images_in_colour_are_refused():
    model, data = Draw(), ImageDataModule()
    data.setup("fit")
    parts = {"test": dataclasses.replace(data.images.parts["test"], pixels=torch.zeros(4, 3, 8, 8))}
    data.images = dataclasses.replace(data.images, name="cifar10", parts=parts)
    model._trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn="fit"))
    with pytest.raises(ValueError, match=r"cifar10 has 3 channels, and this recipe draws in one: --data.channels 1"):
        model.build_from_data()
