import contextlib
import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from figures import without_figures
from lightning.pytorch import Trainer
from torch import nn
from torch.func import functional_call

import wnseq
from wnseq.data.images.datamodule import ImageBatch, ImageDataModule
from wnseq.recipes import vae
from wnseq.recipes.vae import VAE, IAFStep, Network, generate, importance_weighted, log_weights, main
from wnseq.training.images import ImageSpec

SMALL = [
    "--model.width=0.125",
    "--model.hidden_size=12",
    "--model.latent_size=4",
    "--model.iaf_size=8",
    "--model.importance_samples=20",
    "--model.sampling.number=4",  # a figure of many takes its time
    "--trainer.log_every_n_steps=1",
]
FEW = ["--data.eval_batch_size=50", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
KINDS = [(norm, posterior) for norm in ("weight", "none") for posterior in ("gaussian", "iaf")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=4):
    return main(["fit", *SMALL, *FEW, f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/vae").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


WHOLE = ["--data.eval_batch_size=512", "--trainer.limit_val_batches=1.0", "--trainer.limit_test_batches=1.0"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run with its figures: its folder, its metrics, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("learned"), io.StringIO()
    options = ["--model.learning_rate=0.02", "--trainer.max_epochs=3", "--model.sampling.number=12"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        metrics = fit(*options, *WHOLE, steps=-1)
    return folder / "runs/vae/1", metrics, printed.getvalue()


def make(norm="weight", posterior="iaf", levels=17, shape=(1, 8, 8), latent=3):
    network = Network(norm, shape, levels, 0.125, 7, latent, [6, 6] if posterior == "iaf" else [])
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double()


def pixels(number, levels=17, shape=(1, 8, 8)):
    return torch.randint(levels, (number, *shape))


class Reference:
    """The bound from the equations in float64: loops over patches, masks by counting, no module's forward."""

    def __init__(self, network):
        self.network = network
        self.values = {name: value.detach() for name, value in network.named_parameters()}

    def weight(self, name, dim=0):
        if f"{name}.weight" in self.values:
            return self.values[f"{name}.weight"]
        return reference.weight_norm(self.values[f"{name}.weight_v"], self.values[f"{name}.weight_g"], dim)

    def linear(self, name, x):
        return x @ self.weight(name).T + self.values[f"{name}.bias"]

    def conv(self, name, x, stride=1):
        w = self.weight(name)
        height, width = x.shape[2:]
        flat = reference.patches(F.pad(x, (1, 1, 1, 1)), 3) @ w.flatten(1).T + self.values[f"{name}.bias"]
        return flat.unflatten(0, (len(x), height, width)).permute(0, 3, 1, 2)[:, :, ::stride, ::stride]

    def up(self, name, x):
        w = self.weight(name, dim=1)
        number, _, height, width = x.shape
        y = torch.zeros(number, w.shape[1], 2 * height + 2, 2 * width + 2, dtype=x.dtype)
        for i in range(height):
            for j in range(width):
                y[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += torch.einsum("nc,cohw->nohw", x[:, :, i, j], w)
        return y[:, :, 1:-1, 1:-1] + self.values[f"{name}.bias"][:, None, None]

    def elu(self, x):
        return torch.where(x > 0, x, torch.exp(x) - 1)

    def sequence(self, part, x):
        for place, module in enumerate(getattr(self.network, part)):
            name, kind = f"{part}.{place}", type(module).__name__
            if kind == "Block":
                x = x + self.conv(f"{name}.second", self.elu(self.conv(f"{name}.first", self.elu(x))))
            elif "ConvTranspose" in kind:
                x = self.up(name, x)
            elif "Conv" in kind:
                x = self.conv(name, x, module.stride[0])
            elif "Linear" in kind:
                x = self.linear(name, x)
            elif kind == "ELU":
                x = self.elu(x)
            else:
                x = x.flatten(1) if kind == "Flatten" else x.reshape(len(x), *module.unflattened_size)
        return x

    def flow(self, name, z, context):
        hidden, size = self.weight(f"{name}.input").shape
        w_in, w_out = self.weight(f"{name}.input"), self.weight(f"{name}.output")
        of_context = self.linear(f"{name}.context", context) + self.values[f"{name}.input.bias"]
        direct = self.linear(f"{name}.direct", context) + self.values[f"{name}.output.bias"]
        new, log_determinant = torch.zeros_like(z), 0
        for i in range(size):
            m, s = direct[:, i], direct[:, size + i]
            for unit in range(hidden):
                seen = unit % (size - 1)  # the last element that this unit sees
                if seen < i:
                    a = of_context[:, unit] + sum(w_in[unit, k] * z[:, k] for k in range(seen + 1))
                    m, s = m + w_out[i, unit] * self.elu(a), s + w_out[size + i, unit] * self.elu(a)
            gate = reference.sigmoid(s + 2)
            new[:, i] = gate * z[:, i] + (1 - gate) * m
            log_determinant = log_determinant + torch.log(gate)
        return new, log_determinant

    def bound(self, x, noise):
        net = self.network
        context = self.sequence("encoder", 2 * x.double() / (net.num_values - 1) - 1)
        mean, log_deviation = self.linear("posterior", context).chunk(2, 1)
        z, log_q = mean + torch.exp(log_deviation) * noise, 0
        for row, value in enumerate(z):
            part = reference.gaussian_log_density(value, mean[row], log_deviation[row]).sum()
            log_q = log_q + F.one_hot(torch.tensor(row), len(z)) * part
        for step in range(len(net.flow)):
            z, log_determinant = self.flow(f"flow.{step}", z.flip(1) if step else z, context)
            log_q = log_q - log_determinant
        if len(net.flow):
            zero = torch.zeros(z.shape[1], dtype=z.dtype)
            kl = log_q - torch.stack([reference.gaussian_log_density(row, zero, zero).sum() for row in z])
        else:
            zero = torch.zeros(z.shape[1], dtype=z.dtype)
            rows = zip(mean, log_deviation, strict=True)
            kl = torch.stack([reference.gaussian_kl(m, a, zero, zero).sum() for m, a in rows])
        out = self.conv("pixels", self.sequence("decoder", z))
        if net.num_values == 2:
            return -reference.bernoulli_log_likelihood(x, out).flatten(1).sum(1), kl
        means, log_scales = out.chunk(2, 1)
        total = torch.zeros(len(x), dtype=z.dtype)
        for place in np.ndindex(*x.shape):
            probabilities = reference.discretized_logistic(means[place], log_scales[place], net.num_values)
            total[place[0]] -= torch.log(probabilities[x[place]])
        return total, kl


@pytest.mark.parametrize("levels", [2, 17])
@pytest.mark.parametrize(("norm", "posterior"), KINDS)
def test_the_bound_is_that_of_an_independent_computation(norm, posterior, levels):
    network = make(norm, posterior, levels)
    x, noise = pixels(3, levels), torch.randn(3, 3, dtype=torch.float64)
    found = network(x, noise)
    for part, expected in zip(found, Reference(network).bound(x, noise), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", ["weight", "none"])
def test_gradients_pass_through_the_flow(norm):
    step = IAFStep(norm, 4, 7, 3).double()
    values = {name: value.detach().requires_grad_() for name, value in step.named_parameters()}
    z, context = torch.randn(2, 4).double().requires_grad_(), torch.randn(2, 3).double().requires_grad_()

    def call(z, context, *parameters):
        return functional_call(step, dict(zip(values, parameters, strict=True)), (z, context))

    masked = [name for name in values if name.startswith(("input.weight_v", "input.weight", "output.weight"))]
    assert masked
    assert torch.autograd.gradcheck(call, (z, context, *values.values()))


@pytest.mark.parametrize("norm", ["weight", "none"])
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_the_flows_determinant_is_that_of_the_numerical_jacobian(norm, latent):
    step, context = IAFStep(norm, latent, 9, 3).double(), torch.randn(1, 3).double()
    z, small = torch.randn(1, latent).double(), 1e-6
    columns = []
    for k in range(latent):
        move = small * F.one_hot(torch.tensor(k), latent)
        columns.append((step(z + move, context)[0] - step(z - move, context)[0]).squeeze(0) / (2 * small))
    jacobian = torch.stack(columns, 1)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, step(z, context)[1][0], rtol=0, atol=1e-7)
    assert jacobian.triu(1).abs().max() < 1e-9, "an element sees those behind it"
    before = jacobian[tuple(torch.tril_indices(latent, latent, -1))]
    assert (before != 0).all(), "an element does not see all those before it"


def test_what_a_mask_hides_stays_away_in_training():
    step = IAFStep("weight", 4, 7, 3)
    optimizer = torch.optim.Adamax(step.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        z, log_determinant = step(torch.randn(5, 4), torch.randn(5, 3))
        (z.square().sum() - log_determinant.sum()).backward()
        optimizer.step()
    for layer in (step.input, step.output):
        assert torch.equal(layer.weight * layer.mask, layer.weight)


@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_the_estimate_of_log_p_rises_with_its_samples_and_lies_above_the_bound(posterior):
    network, x = make("weight", posterior), pixels(200)
    weights = log_weights(network, x, torch.randn(64, 200, 3, dtype=torch.float64))
    estimates = importance_weighted(weights, [1, 8, 64])
    torch.testing.assert_close(estimates[1].exp(), weights[:8].exp().mean(0))
    for lower, upper in ((estimates[0], estimates[1]), (estimates[1], estimates[2]), (weights.mean(0), estimates[2])):
        rise = upper - lower
        assert rise.mean() > rise.std() / math.sqrt(200)


def test_the_estimate_is_the_integral_over_z(monkeypatch):
    network, x = make("weight", "gaussian", latent=1), pixels(2)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    with torch.no_grad():
        joint = network.log_likelihood(x, z.view(-1, 1, 1).expand(-1, 2, 1)) - z.square().view(-1, 1) / 2
    exact = joint.logsumexp(0) + math.log(16 / 4000) - 0.5 * math.log(2 * math.pi)
    noise = torch.randn(4000, 2, 1, dtype=torch.float64)
    whole = log_weights(network, x, noise)
    (estimate,) = importance_weighted(whole, [4000])
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.1)
    monkeypatch.setattr(vae, "MAX_DECODED", 14)
    torch.testing.assert_close(log_weights(network, x, noise[:20]), whole[:20])


@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_both_norms_start_as_the_same_function_of_small_parameters(posterior):
    x, noise = pixels(40), torch.randn(40, 3)
    outputs = []
    for norm in ("weight", "none"):
        torch.manual_seed(0)
        network = Network(norm, (1, 8, 8), 17, 0.25, 12, 3, [6] if posterior == "iaf" else [])
        vae.initialise_from_batch(network, x, noise)
        outputs.append(torch.stack(network(x, noise)).detach())
        mean, log_deviation, _ = (part.detach() for part in network.encode(x))
        assert mean.std(0, correction=0) == pytest.approx(torch.full((3,), 0.1), abs=1e-3)
        assert log_deviation.mean(0) == pytest.approx(torch.zeros(3), abs=1e-4)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "posterior", "likelihood"),
    [("weight", "gaussian", "bernoulli"), ("none", "iaf", "bernoulli"), ("none", "gaussian", "logistic")],
)
def test_every_kind_trains(norm, posterior, likelihood):
    kind = (f"--model.norm={norm}", f"--model.posterior={posterior}", f"--model.likelihood={likelihood}")
    metrics = fit(*kind, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", steps=2)
    assert all(math.isfinite(value) for value in metrics.values())
    bound = metrics["test/bound_nats_per_image"]
    parts = metrics["test/kl_nats_per_image"] + metrics["test/reconstruction_nats_per_image"]
    assert bound == pytest.approx(parts, rel=1e-5)
    assert metrics["test/bound_bits_per_dim"] == pytest.approx(bound / 64 / math.log(2), rel=1e-5)
    assert metrics["test/importance_weighted_nats_per_image"] < bound + 1


def test_a_run_learns_and_leaves_what_it_says(learned):
    run, _, printed = learned
    with (run / "metrics.csv").open() as log:
        rows = list(csv.DictReader(log))
    bounds = [float(row["val/bound_nats_per_image"]) for row in rows if row.get("val/bound_nats_per_image")]
    assert len(bounds) == 3 and bounds[-1] < bounds[0] - 3
    for left in (
        "samples.png",
        "samples.npz",
        "reconstructions.png",
        "walk.png",
        "curves.png",
        "checkpoints/best.ckpt",
    ):
        assert (run / left).exists() and f"runs/vae/1/{left}" in printed, left
    with np.load(run / "samples.npz") as file:
        assert file["pixels"].shape == (12, 1, 8, 8)
    assert "posterior iaf" in printed and "discretised logistic pixels, as they are" in printed
    assert "log p(x) of 300 images, estimated by importance-weighted samples of z:" in printed
    assert [line.split(":")[0].strip() for line in printed.splitlines() if "a rise of" in line] == ["1", "10", "20"]


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


def test_a_run_that_goes_on_without_the_average_has_the_weights_of_its_optimiser(monkeypatch):
    fit("--model.polyak_epochs=0.5", steps=3)
    before, seen = torch.load(newest(), weights_only=True), {}

    def look(self, *_):
        seen.update({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(VAE, "on_train_start", look)
    fit("--model.polyak_epochs=0", "--ckpt_path=last", steps=4)
    assert all(torch.equal(seen[name], value) for name, value in before["current_model_state"].items())
    assert any(not torch.equal(value, before["state_dict"][name]) for name, value in seen.items())


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit():
    options = ("--model.likelihood=bernoulli", "--data.shift=1", "--trainer.max_epochs=1", "--model.polyak_epochs=0.5",
               "--trainer.limit_train_batches=4")  # fmt: skip
    fit(*options, steps=-1)
    whole = torch.load(newest(), weights_only=True)
    Path("stop_vae.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 2: raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.syspath_prepend(str(Path.cwd()))
        fit(*options, "--trainer.callbacks=stop_vae.Stop", steps=-1)
    assert torch.load(newest(), weights_only=True)["global_step"] == 2
    fit(*options, "--ckpt_path=last", steps=-1)
    resumed = torch.load(newest(), weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    assert any(
        not torch.equal(value, whole["current_model_state"][name]) for name, value in whole["state_dict"].items()
    )


def test_the_average_is_what_is_tested_and_what_a_checkpoint_holds(learned):
    run, kept, _ = learned
    best = run / "checkpoints/best.ckpt"
    again = main(["test", *WHOLE, f"--ckpt_path={best}"])
    assert again == pytest.approx({name: value for name, value in kept.items() if name.startswith("test/")}, rel=1e-6)
    validated = main(["validate", *WHOLE, f"--ckpt_path={best}"])
    assert validated == pytest.approx({name: value for name, value in kept.items() if "val/" in name}, rel=1e-6)
    saved = torch.load(best, weights_only=True)
    average, trained = saved["state_dict"], saved["current_model_state"]
    assert any(not torch.equal(value, average[name]) for name, value in trained.items())


def test_a_bound_in_mixed_precision_is_near_that_in_full():
    options = ("--model.learning_rate=0.02", "--trainer.max_epochs=1", "--trainer.limit_train_batches=6")
    full, mixed = fit(*options, steps=-1), fit(*options, "--trainer.precision=bf16-mixed", steps=-1)
    for name in ("val/bound_nats_per_image", "test/importance_weighted_nats_per_image"):
        assert mixed[name] == pytest.approx(full[name], rel=0.005)


def test_an_evaluation_does_not_depend_on_the_size_of_its_batches():
    fit("--model.likelihood=bernoulli", steps=2)
    once = main(["test", f"--ckpt_path={newest()}"])
    assert once == pytest.approx(main(["test", f"--ckpt_path={newest()}", "--data.eval_batch_size=70"]), rel=1e-5)


def test_more_samples_change_none_of_those_before():
    fit("--model.latent_size=4", steps=2)
    seven, one = VAE.load_from_checkpoint(newest()), VAE.load_from_checkpoint(newest(), importance_samples=1)
    data = ImageDataModule()
    (seven,), (one,) = (Trainer(**QUIET).test(model, data, verbose=False) for model in (seven, one))
    assert seven["test/bound_nats_per_image"] == one["test/bound_nats_per_image"]
    assert seven["test/importance_weighted_nats_per_image"] < one["test/importance_weighted_nats_per_image"]


@pytest.mark.figures
def test_the_figures_do_not_depend_on_the_size_of_batches_and_one_image_is_enough(capsys, recwarn):
    fit("--data.eval_batch_size=1", steps=1)
    assert Path("runs/vae/1/walk.png").exists()
    np.savez("few.npz", x=np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8))
    capsys.readouterr()
    fit("--data.dataset=few.npz", "--data.batch_size=4", steps=1)
    told = capsys.readouterr().out
    assert "of 1 images" in told and "nan" not in told and not [each for each in recwarn if "std()" in str(each)]
    assert Path("runs/vae/2/reconstructions.png").exists() and not Path("runs/vae/2/walk.png").exists()


def test_grey_images_are_drawn_anew_with_the_grey_as_the_probability():
    model = VAE("weight", likelihood="bernoulli", width=0.125, hidden_size=4, latent_size=2)
    model.build(ImageSpec((1, 8, 8), 17))
    levels = torch.arange(17, dtype=torch.uint8).repeat(64).view(17, 1, 8, 8)
    mean = torch.stack([model.observe(levels, torch.rand(levels.shape)).double() for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, levels.double() / 16, rtol=0, atol=0.06)
    assert (mean[levels == 0] == 0).all() and (mean[levels == 16] == 1).all()


@pytest.mark.parametrize("likelihood", ["logistic", "bernoulli"])
@pytest.mark.figures
def test_a_checkpoint_alone_draws_images(likelihood, learned, capsys, monkeypatch):
    path = learned[0] / "checkpoints/last.ckpt"
    if likelihood == "bernoulli":
        with without_figures():
            fit("--model.likelihood=bernoulli", steps=2)
        path = newest()
    monkeypatch.setattr(ImageDataModule, "setup", lambda *_: pytest.fail("data was read"))
    capsys.readouterr()
    options = ["--model.sampling.number=12", "--model.sampling.seed=3", "--model.sampling.output=out/drawn"]
    main(["predict", f"--ckpt_path={path}", *options])
    assert capsys.readouterr().out.split() == ["out/drawn.png", "out/drawn.npz"]
    with np.load("out/drawn.npz") as file:
        drawn = dict(file)
    expected = generate(path, number=12, seed=3)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(drawn[name], value.numpy())
    assert drawn["pixels"].dtype == np.uint8 and drawn["pixels"].max() <= (16 if likelihood == "logistic" else 1)
    assert 0 <= drawn["centres"].min() <= drawn["centres"].max() <= 1
    assert Path("out/drawn.png").stat().st_size > 1000
    plain = generate(path, number=12, temperature=0)
    # not to the bit: a product takes rows in blocks, and sums the rows left over from the last one in another order
    torch.testing.assert_close(plain.centres, plain.centres[:1].expand_as(plain.centres), rtol=0, atol=1e-6)


def test_colour_images():
    model = VAE(width=0.125, hidden_size=4, latent_size=2)
    model.build(ImageSpec((3, 8, 12), 256))
    drawn = vae.sample(model, vae.Sampling(number=5))
    assert drawn.pixels.shape == drawn.centres.shape == (5, 3, 8, 12)
    assert vae.walk(model, drawn.pixels[:3]).shape == (20, 3, 8, 12)


def test_a_checkpoint_holds_plain_types_and_says_what_it_is(learned):
    about = torch.load(learned[0] / "checkpoints/last.ckpt", weights_only=True)["wnseq"]
    assert about["recipe"] == "vae" and about["version"] == wnseq.__version__
    assert about["shape"] == [1, 8, 8] and about["num_values"] == 17 and len(about["dataset_sha256"]) == 64
    assert about["data"] == {"dataset": "digits", "normalize": "symmetric", "whiten": False, "fixed_order": False}


def test_fine_tuning_takes_the_weights_and_no_new_start(learned):
    path = learned[0] / "checkpoints/last.ckpt"
    before = main(["test", *FEW[::2], f"--ckpt_path={path}"])["test/bound_nats_per_image"]
    small = ("--model.learning_rate=1e-9", "--trainer.limit_val_batches=0")
    after = fit(f"--model.init_from={path}", *small, steps=1)["test/bound_nats_per_image"]
    assert after == pytest.approx(before, rel=1e-4)
    model = VAE.load_from_checkpoint(path, learning_rate=1e-9, map_location="cpu")
    Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(model, ImageDataModule())
    (again,) = Trainer(limit_test_batches=1, **QUIET).test(model, ImageDataModule(eval_batch_size=50), verbose=False)
    assert again["test/bound_nats_per_image"] == pytest.approx(before, rel=1e-4)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_fine_tuning_from_a_plain_torch_checkpoint_and_with_batches_of_ones_own():
    plain = Network("none", (1, 8, 8), 17, 0.125, 12, 4, [8, 8])
    torch.save(plain.state_dict(), "plain.pt")
    model = VAE("weight", width=0.125, hidden_size=12, latent_size=4, iaf_size=8, init_from="plain.pt")
    Trainer(max_steps=1, limit_train_batches=0, limit_val_batches=0, **QUIET).fit(model, ImageDataModule())
    x, noise = pixels(5), torch.randn(5, 4)
    torch.testing.assert_close(torch.stack(model.network(x, noise)), torch.stack(plain(x, noise)))


class Loader:
    """Batches that no ImageDataModule made."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def own(levels, steps=1, **options):
    """Fit a model to a batch of one's own."""
    model = VAE(width=0.125, hidden_size=4, latent_size=2, **options)
    model.build(ImageSpec((1, 8, 8), 17))
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    batch = ImageBatch(levels.float(), None, levels)
    try:
        Trainer(max_steps=steps, **QUIET).fit(model, Loader(batch), Loader(batch))
    finally:
        changed = any(not torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
        model.changed = changed
        own.model = model
    return model


def test_batches_of_ones_own():
    assert own(pixels(6).to(torch.uint8)).changed
    model, levels = own(pixels(6)), pixels(6).float()
    for batch in (levels, (levels,), [levels, torch.zeros(6)]):
        Trainer(max_steps=1, **QUIET).fit(model, Loader(batch), Loader(batch))


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (torch.full((4, 1, 8, 8), 17), "whole numbers from 0 to 16, unscaled, got 17 to 17"),
        (torch.full((4, 1, 8, 8), -1), "whole numbers from 0 to 16, unscaled, got -1 to -1"),
        (torch.full((4, 1, 8, 8), 0.5), "whole numbers from 0 to 16, unscaled, got 0.5 to 0.5"),
        (
            torch.zeros(4, 1, 8, 12),
            r"must have shape \(N, 1, 8, 8\), which the network is for, got \(4, 1, 8, 12",
        ),
        (torch.zeros(4, 8, 8), r"must have shape \(N, 1, 8, 8\), which the network is for, got \(4, 8, 8\)"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_the_first_step(levels, text):
    with pytest.raises(ValueError, match=text):
        own(levels)
    assert not own.model.changed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "--model.width=0 --model.learning_rate=0 --model.hidden_size=0 --model.latent_size=0 --model.iaf_steps=0 "
            "--model.iaf_size=0 --model.importance_samples=0 --model.polyak_epochs=-1",
            "width must be greater than 0, got 0.0; hidden_size must be at least 1, got 0; latent_size must be at "
            "least 1, got 0; iaf_steps must be at least 1, got 0; iaf_size must be at least 1, got 0; learning_rate "
            "must be greater than 0, got 0.0; polyak_epochs must be at least 0, got -1.0; importance_samples must be "
            "at least 1, got 0",
        ),
        ("--model.sampling.number=0", "sampling.number must be at least 1, got 0"),
        ("--model.sampling.temperature=-1", "sampling.temperature must be at least 0, got -1"),
        ("--model.norm=layer", "norm"),
        ("--model.posterior=normal", "posterior"),
        ("--data.size=10", "images must be multiples of 4 high and wide, got 10 x 10: --data.size 12"),
        ("--data.normalize=unit", "leave out --data.normalize and whiten"),
        ("--data.whiten=true", "leave out --data.normalize and whiten"),
        ("--data.batch_size=2000", "fewer than the 2000 of one batch"),
        ("--model.init_from=nowhere.ckpt", "nowhere.ckpt"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line_and_leaves_nothing(arguments, text, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(*arguments.split())
    assert stop.value.code in (1, 2)
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told
    assert not Path("runs").exists() or not list(Path("runs").glob("*/*"))


def test_binarised_images_are_bernoulli_whatever_is_asked_for(capsys, tmp_path):
    (tmp_path / "binarized_mnist").mkdir()
    for part in ("train", "valid", "test"):
        path = tmp_path / "binarized_mnist" / f"binarized_mnist_{part}.amat"
        path.write_text((" ".join("01" * 392) + "\n") * 50)
    fit("--data.dataset=binarized_mnist", f"--data.root={tmp_path}", "--model.width=0.07", steps=1)
    assert "Bernoulli pixels, as they are" in capsys.readouterr().out


def test_a_checkpoint_of_another_size_is_refused(learned, capsys):
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={learned[0] / 'checkpoints/last.ckpt'}", "--model.latent_size=5", steps=1)
    told = capsys.readouterr().err
    assert "does not fit this network: it was made with --model.norm weight" in told
    assert "--model.latent_size 4" in told


def test_the_default_network_is_the_papers():
    network = Network("none", (1, 28, 28), 2, 1.0, 450, 32, [])
    convolutions = [module for module in network.encoder.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [16] * 5 + [32] * 10
    assert [module.stride[0] for module in convolutions] == [1] * 5 + [2] + [1] * 4 + [2] + [1] * 4
    assert network.encode(pixels(2, 2, (1, 28, 28))).context.shape == (2, 450)
    assert network.decode(torch.randn(2, 32))[0].shape == (2, 1, 28, 28)
