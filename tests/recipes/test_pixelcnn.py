import contextlib
import csv
import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import accept_v_and_g
from figures import without_figures
from lightning.pytorch import Trainer

import wnseq
from wnseq.data.images.datamodule import ImageBatch, ImageDataModule
from wnseq.recipes import pixelcnn
from wnseq.recipes.pixelcnn import Cached, Naive, Network, PixelCNN, Sampling, complete, draw, generate, main, noise
from wnseq.training.images import ImageSpec

SMALL = [
    "--model.channels=4",
    "--model.blocks=1",
    "--model.mixtures=2",
    "--model.sampling.number=4",
    "--trainer.log_every_n_steps=1",
]
FEW = ["--trainer.limit_test_batches=1"]
QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
KINDS = [((1, 8, 4), 17, "categorical"), ((1, 8, 8), 2, "categorical"), ((3, 8, 4), 256, "logistic")]
each_kind = pytest.mark.parametrize(("shape", "num_values", "output"), KINDS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*arguments, steps=2):
    return main(["fit", *SMALL, *FEW, "--trainer.limit_val_batches=1", f"--trainer.max_steps={steps}", *arguments])


def newest(name="last"):
    return max(Path("runs/pixelcnn").glob(f"*/checkpoints/{name}.ckpt"), key=lambda path: int(path.parts[2]))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run with its figures: its folder, its metrics, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("learned"), io.StringIO()
    few = ("--trainer.max_epochs=3", "--trainer.limit_train_batches=12", "--model.learning_rate=0.01")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        metrics = fit("--model.sampling.number=12", *few, steps=-1)
    return folder / "runs/pixelcnn/1", metrics, printed.getvalue()


def pixels(number, num_values=17, shape=(1, 8, 8)):
    return torch.randint(num_values, (number, *shape))


def move(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return accept_v_and_g(network)


def make(
    norm="weight", shape=(1, 8, 8), num_values=17, output="categorical", classes=0, channels=4, blocks=1, started=True
):
    """Make a network, its start set and moved, so that every part matters."""
    own = (shape, num_values, output, channels, blocks, 3, classes, 0.5, False)
    network = Network(norm, *own).double()
    if started:
        label = torch.arange(40) % classes if classes else None
        pixelcnn.initialise_from_batch(network, pixels(40, num_values, shape), label)
        move(network)
    return network


# ---- the distribution


@pytest.mark.parametrize(
    ("norm", "shape", "num_values", "output"), [*(("weight", *kind) for kind in KINDS), ("none", *KINDS[0])]
)
def test_a_pixel_depends_on_those_before_it(norm, shape, num_values, output):
    network, (_, height, width) = make(norm, shape, num_values, output).eval(), shape
    x = pixels(1, num_values, shape).double().requires_grad_()
    before = network(x)
    order = torch.arange(height * width).view(height, width)
    for row, column in itertools.product(range(height), range(width)):
        (gradient,) = torch.autograd.grad(before[:, :, row, column].abs().sum(), x, retain_graph=True)
        sees = (gradient != 0).any(0).any(0)
        assert not sees[order >= order[row, column]].any(), "a pixel sees itself or what comes later"
        moved = x.detach().clone()
        moved[:, :, row, column] = (moved[:, :, row, column] + 1) % num_values
        changed = (network(moved) != before).any(0).any(0)
        assert not changed[order <= order[row, column]].any()
        if (row, column) != (height - 1, width - 1):
            after = order > order[row, column]
            assert changed[after].any()
            if column + 1 < width:
                assert changed[row, column + 1], "the next pixel does not see this one"


def test_the_last_pixel_sees_all_others():
    network, x = make(blocks=2).eval(), pixels(1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, :, -1, -1].abs().sum(), x)
    assert (gradient.flatten() != 0).tolist() == [True] * 63 + [False]


def test_the_probabilities_of_all_images_sum_to_one():
    network = move(make(shape=(1, 4, 4), num_values=2, classes=2, channels=2, started=False)).float().eval()
    every = (torch.arange(2**16)[:, None] >> torch.arange(16)) & 1
    with torch.no_grad():
        parts = [
            network.log_likelihood(some.view(-1, 1, 4, 4), torch.ones(len(some), dtype=torch.long))
            for some in every.split(4096)
        ]
    assert torch.cat(parts).double().exp().sum() == pytest.approx(1, abs=1e-4)


@each_kind
def test_the_likelihood_is_the_product_of_what_pixels_are_drawn_from(shape, num_values, output):
    network = make("weight", shape, num_values, output).eval()
    x, total = pixels(2, num_values, shape), torch.zeros(2).double()
    steps = Cached(network, 2, None)
    with torch.inference_mode():
        for row, column in itertools.product(range(shape[1]), range(shape[2])):
            if column == 0:
                steps.begin(row)
            parameters, value = steps.parameters(row, column)[..., None, None], x[:, :, row, column]
            if output == "categorical":
                total += parameters[:, :, 0, 0].log_softmax(1).gather(1, value)[:, 0]
            else:
                single = value[..., None, None]
                total += wnseq.distributions.logistic_mixture_log_likelihood(single, parameters, num_values)[:, 0, 0]
            steps.put(row, column, value)
    torch.testing.assert_close(network.log_likelihood(x).detach(), total)


def test_a_categorical_pixel_is_drawn_with_its_probabilities():
    network, parameters = make(started=False), torch.randn(1, 17).double()
    drawn = network.sample(parameters.expand(50_000, -1), torch.rand(50_000, 1).double())
    found = torch.bincount(drawn[:, 0], minlength=17) / 50_000
    torch.testing.assert_close(found.double(), parameters.softmax(1)[0], rtol=0, atol=0.01)
    assert network.sample(parameters, torch.ones(1, 1).double()).tolist() == [[16]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_categorical_pixel_of_mixed_precision_is_drawn_with_the_probabilities_of_float32(dtype):
    network = make(num_values=256, started=False)
    parameters, uniform = torch.randn(1000, 256).to(dtype), torch.rand(1000, 1)
    assert torch.equal(network.sample(parameters, uniform), network.sample(parameters.float(), uniform))


# ---- sampling


@pytest.mark.parametrize(
    ("norm", "classes", "shape", "num_values", "output"),
    [("weight", 3, *KINDS[0]), ("none", 0, *KINDS[0]), ("weight", 0, *KINDS[1]), ("none", 3, *KINDS[2])],
)
def test_cached_samples_are_the_naive_ones(norm, shape, num_values, output, classes):
    network = make(norm, shape, num_values, output, classes, blocks=2)
    label = torch.tensor([2, 0, 1]) if classes else None
    uniform, given = noise(network, 3, 5).double(), pixels(3, num_values, shape)
    known = torch.zeros(shape[1:], dtype=torch.bool)
    known[: shape[1] // 2] = True
    assert torch.equal(draw(network, uniform, label), draw(network, uniform, label, sampler=Naive))
    half = draw(network, uniform, label, given, known)
    assert torch.equal(half, draw(network, uniform, label, given, known, sampler=Naive))
    assert torch.equal(half[:, :, known], given[:, :, known].to(torch.uint8))
    assert not torch.equal(half, given.to(torch.uint8))


@each_kind
def test_cached_parameters_are_the_naive_ones_in_single_precision(shape, num_values, output):
    network, x = make("weight", shape, num_values, output, blocks=2).float().eval(), pixels(3, num_values, shape)
    steps, found = Cached(network, 3, None), torch.empty_like(network(x))
    with torch.inference_mode():
        for row, column in itertools.product(range(shape[1]), range(shape[2])):
            if column == 0:
                steps.begin(row)
            found[:, :, row, column] = steps.parameters(row, column)
            steps.put(row, column, x[:, :, row, column])
    torch.testing.assert_close(found, network(x).detach(), rtol=1e-4, atol=1e-4)


def test_samples_follow_the_distribution():
    network = move(make(shape=(1, 4, 4), num_values=2, channels=2, started=False)).float()
    known = torch.ones(4, 4, dtype=torch.bool)
    known[3, 2:] = False  # two pixels to draw
    given = pixels(1, 2, (1, 4, 4)).expand(20_000, -1, -1, -1)
    drawn = draw(network, noise(network, 20_000, 0), None, given, known)[:, 0, 3, 2:].long()
    found = torch.bincount(drawn @ torch.tensor([2, 1]), minlength=4) / 20_000
    four = given[:4].clone()
    four[:, 0, 3, 2:] = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    with torch.no_grad():
        expected = network.eval().log_likelihood(four).softmax(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.015)


def test_weights_are_composed_once_a_run(monkeypatch):
    network, composed = make(), []
    monkeypatch.setattr(
        wnseq.WNConv2d, "compose_weights", lambda self: composed.append(self) or pytest.fail("composed in a forward")
    )
    draw(network, noise(network, 2, 0).double())


# ---- the start and the memory


@pytest.mark.parametrize("classes", [0, 3])
def test_both_norms_start_as_the_same_function(classes):
    x, label, outputs = pixels(40), torch.arange(40) % 3 if classes else None, []
    for norm, started in itertools.product(("weight", "none"), (False, True)):
        torch.manual_seed(0)
        network = make(norm, started=False, classes=classes, channels=8).eval()
        if started:
            pixelcnn.initialise_from_batch(network, x, label)
        outputs.append(network(x, label).detach())
    torch.testing.assert_close(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[1], outputs[3])
    ones = torch.ones(17).double()
    torch.testing.assert_close(outputs[1].std((0, 2, 3), correction=0), ones)
    torch.testing.assert_close(outputs[1].mean((0, 2, 3)), 0 * ones)


def test_the_start_is_the_published_one():
    network, seen = make(started=False, channels=8).eval(), {}
    for module in network.modules():
        if isinstance(module, wnseq.WNConv2d):
            assert module.weight.detach().std() == pytest.approx(0.05, rel=0.3) and not module.bias.any()
            module.register_forward_hook(lambda module, _, out: seen.update({module: out}))
    x = pixels(60)
    pixelcnn.initialise_from_batch(network, x, None)
    network(x)
    small = {block.second.conv for block in network.modules() if isinstance(block, wnseq.pixelcnn.layers.GatedBlock)}
    for module, out in seen.items():
        deviation = out.detach().std((0, 2, 3), correction=0)
        torch.testing.assert_close(deviation, torch.full_like(deviation, 0.1 if module in small else 1))


def test_checkpointing_halves_the_memory_and_changes_nothing():
    found = {}
    for flag in (False, True):
        torch.manual_seed(0)
        model = PixelCNN(channels=8, blocks=2, checkpoint_activations=flag)
        model.build(ImageSpec((1, 8, 8), 17))
        kept, x = {}, pixels(20)

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.network.log_likelihood(x).mean()
        loss.backward()
        parameters = sum(parameter.nbytes for parameter in model.parameters())
        found[flag] = sum(kept.values()) - parameters, loss, [parameter.grad for parameter in model.parameters()]
    assert found[True][0] < found[False][0] / 2
    assert torch.equal(found[True][1], found[False][1])
    for lean, full in zip(found[True][2], found[False][2], strict=True):
        assert (lean is full is None) or torch.equal(lean, full)


def test_the_default_sizes_are_the_papers_when_asked_for():
    network = Network("none", (3, 32, 32), 256, "logistic", 192, 5, 10, 0, 0.5, False)
    assert [len(level.up) for level in (network.streams, network.streams.deeper, network.streams.deeper.deeper)] == [
        6, 6, 5,
    ]  # fmt: skip
    assert network.pixels.out_channels == 100
    assert {name for name, value in network.named_parameters() if not value.requires_grad} == set()
    assert network.streams.down[0][0].first.conv.kernel_size == (2, 3)
    assert network.streams.down[0][1].first.conv.kernel_size == (2, 2)


# ---- training


@pytest.mark.parametrize(
    "options",
    [
        ("--model.norm=none",),
        ("--model.output=logistic", "--model.checkpoint_activations=true"),
        ("--model.data_init=false", "--model.conditional=true", "--model.polyak_steps=0"),
    ],
)
def test_every_kind_trains(options):
    metrics = fit(*options, steps=2)
    assert all(math.isfinite(value) for value in metrics.values())
    nats = metrics["test/nats_per_image"]
    assert metrics["test/bits_per_dim"] == pytest.approx(nats / 64 / math.log(2), rel=1e-5)


def test_a_run_learns_and_leaves_what_it_says(learned):
    run, _, printed = learned
    with (run / "metrics.csv").open() as log:
        rows = list(csv.DictReader(log))
    bits = [float(row["val/bits_per_dim"]) for row in rows if row.get("val/bits_per_dim")]
    assert len(bits) == 3 and bits[-1] < bits[0] - 0.05
    for left in ("samples.png", "samples.npz", "completions.png", "curves.png", "checkpoints/best.ckpt"):
        assert (run / left).exists() and f"runs/pixelcnn/1/{left}" in printed, left
    with np.load(run / "samples.npz") as file:
        assert file["pixels"].shape == (12, 1, 8, 8)
    assert "norm weight" in printed and "categorical pixels" in printed


def test_seeds_repeat():
    first, second, other = fit(), fit(), fit("--seed_everything=1")
    assert first == second != other


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit():
    options = ("--model.conditional=true", "--model.checkpoint_activations=true", "--trainer.max_epochs=1",
               "--model.polyak_steps=3", "--trainer.limit_train_batches=4")  # fmt: skip
    fit(*options, steps=-1)
    whole = torch.load(newest(), weights_only=True)
    Path("stop_pixelcnn.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 2: raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.syspath_prepend(str(Path.cwd()))
        fit(*options, "--trainer.callbacks=stop_pixelcnn.Stop", steps=-1)
    assert torch.load(newest(), weights_only=True)["global_step"] == 2
    fit(*options, "--ckpt_path=last", steps=-1)
    resumed = torch.load(newest(), weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    assert resumed["lr_schedulers"][0]["_last_lr"] == whole["lr_schedulers"][0]["_last_lr"]


def test_the_average_is_what_is_tested_and_the_step_size_falls(learned):
    run, kept, _ = learned
    best = run / "checkpoints/best.ckpt"
    saved = torch.load(best, weights_only=True)
    assert saved["lr_schedulers"][0]["_last_lr"] == [pytest.approx(0.01 * 0.999995 ** saved["global_step"])]
    again = main(["test", *FEW, f"--ckpt_path={best}"])
    assert again == pytest.approx({name: value for name, value in kept.items() if name.startswith("test/")}, rel=1e-6)
    average, trained = saved["state_dict"], saved["current_model_state"]
    assert any(not torch.equal(value, average[name]) for name, value in trained.items())


@each_kind
def test_mixed_precision_is_near_full(shape, num_values, output):
    network, x = make("weight", shape, num_values, output, blocks=2).float().eval(), pixels(20, num_values, shape)
    full = network.log_likelihood(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network.log_likelihood(x)
    assert mixed.dtype == torch.float32
    assert mixed.mean().item() == pytest.approx(full.mean().item(), rel=0.02)


def test_a_fit_in_mixed_precision():
    assert math.isfinite(fit("--trainer.precision=bf16-mixed", steps=2)["test/bits_per_dim"])


# ---- checkpoints


@pytest.mark.parametrize("options", [(), ("--model.conditional=true", "--model.output=logistic")])
@pytest.mark.figures
def test_a_checkpoint_alone_draws_images(options, learned, capsys, monkeypatch):
    if options:
        with without_figures():
            fit(*options, steps=2)
    path = newest() if options else learned[0] / "checkpoints/last.ckpt"
    monkeypatch.setattr(ImageDataModule, "setup", lambda *_: pytest.fail("data was read"))
    capsys.readouterr()
    how = ["--model.sampling.number=12", "--model.sampling.seed=3", "--model.sampling.output=out/drawn"]
    main(["predict", f"--ckpt_path={path}", *how, "--model.sampling.batch_size=5"])
    assert capsys.readouterr().out.split() == ["out/drawn.png", "out/drawn.npz"]
    with np.load("out/drawn.npz") as file:
        drawn = dict(file)
    expected = generate(path, number=12, seed=3)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(drawn[name], value.numpy())
    assert drawn["pixels"].dtype == np.uint8 and drawn["pixels"].max() <= 16
    assert drawn["labels"].tolist() == ([*range(10), 0, 1] if options else [])
    assert Path("out/drawn.png").stat().st_size > 1000
    if options:
        assert generate(path, number=2, label=7).labels.tolist() == [7, 7]


def test_a_checkpoint_holds_plain_types_and_says_what_it_is(learned):
    about = torch.load(learned[0] / "checkpoints/last.ckpt", weights_only=True)["wnseq"]
    assert about["recipe"] == "pixelcnn" and about["version"] == wnseq.__version__
    assert about["shape"] == [1, 8, 8] and about["num_values"] == 17 and about["classes"] == list("0123456789")
    assert about["data"] == {"dataset": "digits", "normalize": "symmetric", "whiten": False, "fixed_order": False}


def test_fine_tuning_takes_the_weights_and_no_new_start(learned):
    path = learned[0] / "checkpoints/last.ckpt"
    before = main(["test", *FEW, f"--ckpt_path={path}"])["test/nats_per_image"]
    small = ("--model.learning_rate=1e-9", "--trainer.limit_val_batches=0")
    after = fit(f"--model.init_from={path}", *small, steps=1)["test/nats_per_image"]
    assert after == pytest.approx(before, rel=1e-4)
    larger = fit(f"--model.init_from={path}", *small, "--data.size=12", steps=1)
    assert math.isfinite(larger["test/nats_per_image"])
    model = PixelCNN.load_from_checkpoint(path, learning_rate=1e-9, map_location="cpu")
    Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(model, ImageDataModule())
    (again,) = Trainer(limit_test_batches=1, **QUIET).test(model, ImageDataModule(), verbose=False)
    assert again["test/nats_per_image"] == pytest.approx(before, rel=1e-4)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_fine_tuning_from_a_plain_torch_checkpoint():
    plain = make("none", started=False).float()
    torch.save(plain.state_dict(), "plain.pt")
    model = PixelCNN("weight", channels=4, blocks=1, init_from="plain.pt")
    Trainer(max_steps=1, limit_train_batches=0, limit_val_batches=0, **QUIET).fit(model, ImageDataModule())
    x = pixels(5)
    torch.testing.assert_close(model.network.eval()(x), plain.eval()(x))


# ---- images of one's own


class Loader:
    """Batches that no ImageDataModule made."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def own(images, labels=None, model=None, shape=(1, 8, 8)):
    """Fit a model to a batch of one's own; tell whether its weights moved."""
    model = model or PixelCNN(channels=4, blocks=1)
    model.build(ImageSpec(shape, 17, tuple("abc")))
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    batch = ImageBatch(images.float(), labels, images)
    try:
        Trainer(max_steps=1, **QUIET).fit(model, Loader(batch), Loader(batch))
    finally:
        own.changed = any(not torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    return model


def test_batches_of_ones_own():
    model = own(pixels(6).to(torch.uint8))
    assert own.changed
    for batch in (pixels(6), (pixels(6),), [pixels(6), torch.zeros(6)]):
        Trainer(max_steps=1, **QUIET).fit(model, Loader(batch), Loader(batch))
    model = own(pixels(6), torch.tensor([0, 1, 2, 0, 1, 2]), PixelCNN(channels=4, blocks=1, conditional=True))
    assert own.changed
    images, known = pixels(3), torch.zeros(8, 8, dtype=torch.bool)
    known[:, :4] = True
    done = complete(model.eval(), images, known, torch.tensor([2, 1, 0]))
    assert torch.equal(done[..., :4], images[..., :4].to(torch.uint8)) and done.dtype == torch.uint8
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got none"):
        complete(model, images, known)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.full((4, 1, 8, 8), 17), "whole numbers from 0 to 16, unscaled, got 17 to 17"),
        (torch.full((4, 1, 8, 8), -1), "whole numbers from 0 to 16, unscaled, got -1 to -1"),
        (torch.full((4, 1, 8, 8), 0.5), "whole numbers from 0 to 16, unscaled, got 0.5 to 0.5"),
        (torch.zeros(4, 3, 8, 8), r"shape \(N, 1, 8, 8\), which the network is for, got \(4, 3, 8, 8\)"),
        (torch.zeros(4, 8, 8), r"shape \(N, 1, 8, 8\), which the network is for, got \(4, 8, 8\)"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_the_first_step(images, text):
    with pytest.raises(ValueError, match=text):
        own(images)
    assert not own.changed


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (torch.tensor([0, 1, 2, 3]), "labels must be from 0 to 2, got 0 to 3"),
        (torch.tensor([0, -1, 2, 0]), "labels must be from 0 to 2, got -1 to 2"),
        (None, "labels must be from 0 to 2, got none"),
    ],
)
def test_labels_out_of_range_are_refused_before_the_first_step(labels, text):
    with pytest.raises(ValueError, match=text):
        own(pixels(4), labels, PixelCNN(channels=4, blocks=1, conditional=True))
    assert not own.changed


def test_a_conditional_model_needs_classes():
    with pytest.raises(ValueError, match=r"these images have no classes: --model.conditional false"):
        PixelCNN(conditional=True).build(ImageSpec((1, 8, 8), 17))


@pytest.mark.parametrize("shape", [(1, 10, 8), (1, 8, 6)])
def test_sizes_that_are_no_multiples_of_4_are_refused(shape):
    with pytest.raises(ValueError, match=f"multiples of 4 high and wide, got {shape[1]} x {shape[2]}: --data.size"):
        PixelCNN().build(ImageSpec(shape, 17))


def test_images_of_four_rows_have_no_start_from_data():
    network = make(started=False, shape=(1, 4, 8))
    with pytest.raises(ValueError, match=r"4 rows .* sees nothing above: --model.data_init false"):
        pixelcnn.initialise_from_batch(network, pixels(4, shape=(1, 4, 8)), None)
    assert draw(network, noise(network, 2, 0).double()).shape == (2, 1, 4, 8)


def test_a_categorical_pixel_has_one_channel():
    with pytest.raises(ValueError, match=r"a categorical pixel has one channel, these have 3: --model.output logistic"):
        PixelCNN(output="categorical").build(ImageSpec((3, 8, 8), 256))


def test_a_layer_that_the_cached_sampler_lacks_is_named_before_the_first_step():
    network = make()
    network.extra = torch.nn.Identity()
    for known in (lambda: draw(network, noise(network, 1, 0).double()), lambda: pixelcnn.check_layers(network)):
        with pytest.raises(ValueError, match="the cached sampler lacks extra: add it to Cached, or draw by Naive"):
            known()


def test_the_output_follows_the_images():
    found = []
    for shape, num_values in (((1, 8, 8), 2), ((1, 8, 8), 17), ((1, 8, 8), 256), ((3, 8, 8), 17)):
        model = PixelCNN(channels=4, blocks=1)
        model.build(ImageSpec(shape, num_values))
        found.append(model.network.output)
    assert found == ["categorical", "categorical", "logistic", "logistic"]


def test_a_class_that_is_not_there_is_refused():
    model = PixelCNN(channels=4, blocks=1, conditional=True)
    model.build(ImageSpec((1, 4, 4), 2, tuple("abc")))
    with pytest.raises(ValueError, match=r"sampling.label must be from 0 to 2, got 3"):
        pixelcnn.sample(model, Sampling(number=1, label=3))
    model = PixelCNN(channels=4, blocks=1)
    model.build(ImageSpec((1, 4, 4), 2))
    with pytest.raises(ValueError, match=r"sampling.label must be left out: the model is not conditional, got 0"):
        pixelcnn.sample(model, Sampling(number=1, label=0))


def test_a_checkpoint_for_another_number_of_channels_is_refused(capsys):
    colour = PixelCNN(channels=4, blocks=1)
    colour.build(ImageSpec((3, 8, 8), 17))
    about = {"shape": [3, 8, 8], "num_values": 17, "classes": [], "preprocess": None}
    torch.save({"state_dict": colour.state_dict(), "loops": {}, "wnseq": about}, "colour.ckpt")
    with pytest.raises(SystemExit):
        fit("--model.init_from=colour.ckpt", steps=1)
    assert "the checkpoint is of images with 3 channels, these have 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the checkpoint is of images with 3 channels, these have 1"):
        model = PixelCNN(channels=4, blocks=1)
        model.build(ImageSpec((1, 8, 8), 17))
        model.on_load_checkpoint({"wnseq": about})


def test_a_checkpoint_of_another_width_is_refused(learned, capsys):
    with pytest.raises(SystemExit):
        fit(f"--model.init_from={learned[0] / 'checkpoints/last.ckpt'}", "--model.channels=5", steps=1)
    told = capsys.readouterr().err
    assert "does not fit this network: it was made with --model.norm weight" in told and "--model.channels 4" in told


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "--model.channels=0 --model.blocks=0 --model.mixtures=0 --model.learning_rate=0 --model.polyak_steps=-1 "
            "--model.dropout=1",
            "channels must be at least 1, got 0; blocks must be at least 1, got 0; mixtures must be at least 1, got 0; "
            "dropout must be at least 0 and less than 1, got 1.0; learning_rate must be greater than 0, got 0.0; "
            "polyak_steps must be at least 0, got -1",
        ),
        ("--model.sampling.number=0", "sampling.number must be at least 1, got 0"),
        ("--model.sampling.batch_size=0", "sampling.batch_size must be at least 1, got 0"),
        ("--model.norm=layer", "norm"),
        ("--model.output=normal", "output"),
        ("--data.size=10", "images must be multiples of 4 high and wide, got 10 x 10: --data.size 12"),
        ("--data.normalize=unit", "leave out --data.normalize and whiten"),
        ("--data.whiten=true", "leave out --data.normalize and whiten"),
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
