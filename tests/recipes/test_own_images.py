"""Images of a user's own through every recipe: trained on, measured by a checkpoint, classified by their path."""

import contextlib
import importlib
import io
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_readme import blocks, run_all

from wnseq.data.images import ImageDataModule
from wnseq.functional import compose
from wnseq.recipes import draw, image_classifier, pixelcnn, sequential_images, vae

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
STEP = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
SMALL = {
    "image_classifier": ["--model.width=0.02", "--data.size=12"],
    "sequential_images": ["--model.hidden_size=4"],
    "vae": ["--model.width=0.1", "--model.hidden_size=6", "--model.latent_size=2", "--model.importance_samples=2",
            "--model.sampling.number=2"],
    "draw": ["--model.glimpses=2", "--model.hidden_size=6", "--model.latent_size=2", "--data.channels=1",
             "--model.sampling.number=2"],
    "pixelcnn": ["--model.channels=2", "--model.blocks=1", "--model.mixtures=1", "--model.sampling.number=1"],
}  # fmt: skip
MODULES = {
    each.__name__.rpartition(".")[2]: each for each in (draw, image_classifier, pixelcnn, sequential_images, vae)
}


def save(path: Path, *shape: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make folders of images of many sizes, coloured and grey: of three classes, of two in another order, of none."""
    folder = tmp_path_factory.mktemp("place")
    for number in range(30):
        colour = (3,) if number % 2 else ()
        save(
            folder / "photos" / ("bird", "cat", "dog")[number % 3] / f"{number}.png",
            9 + number,
            20,
            *colour,
            seed=number,
        )
        save(folder / "unlabelled" / f"{number}.png", 12, 12 + number, 3, seed=number)
    for number in range(4):
        save(folder / "others" / ("cat", "dog")[number % 2] / f"{number}.jpg", 30, 14, seed=number)
    save(folder / "strange" / "fish" / "0.png", 12, 12, 3)
    return folder


def run(recipe: str, *words: str) -> str:
    """Run a recipe's command; return what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        MODULES[recipe].main([*words])
    return printed.getvalue()


@pytest.fixture(scope="module", params=sorted(SMALL))
def trained(request: pytest.FixtureRequest, place: Path) -> str:
    """Train a recipe on the photos, or on those without labels if it needs none, in their folder."""
    name = request.param
    source = "photos" if "image" in name else "unlabelled"
    options = [f"--data.dataset={source}", "--data.resize=8", "--data.batch_size=8"]
    with contextlib.chdir(place):
        text = run(name, "fit", *options, *SMALL[name], *STEP)
    assert f"images {source} " in text and "24 train, 3 val, 3 test" in text
    return name


def test_a_checkpoint_measures_its_own_images_wherever_it_is(trained, place, tmp_path, monkeypatch):
    checkpoint = place / f"runs/{trained}/1/checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path)
    source = "photos" if "image" in trained else "unlabelled"
    for command, part in (("test", "test"), ("validate", "validation")):
        text = run(trained, command, f"--ckpt_path={checkpoint}")
        assert re.search(r"checkpoint   .*last\.ckpt\n", text) and "trained on" not in text
        assert re.search(rf"measured on  .*{source}, {part} part, 3 images", text)


def test_other_images_by_an_option_are_named(trained, place, monkeypatch):
    monkeypatch.chdir(place)
    channels = "1" if trained == "draw" else "3"
    text = run(trained, "test", "--ckpt_path=last", "--data.test=others", f"--data.channels={channels}")
    assert re.search(r"measured on  others, test part, 4 images.*\ntrained on   dataset \w+ .*another one", text)


@pytest.mark.parametrize("recipe", ["image_classifier", "sequential_images"])
def test_classes_are_found_by_their_names(recipe, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    small = ["--data.resize=8", "--data.batch_size=8", *SMALL[recipe], *STEP]
    run(recipe, "fit", "--data.dataset=photos", *small)
    same = ["predict", "--ckpt_path=last", "--data.channels=3"]
    rows = [row.split(",") for row in run(recipe, *same, "--data.test=others").splitlines()]
    assert rows[0] == ["image", "label", "predicted", "probability"]
    assert [row[:2] for row in rows[1:]] == [
        [f"others/{name}/{number}.jpg", name] for number, name in ((0, "cat"), (2, "cat"), (1, "dog"), (3, "dog"))
    ]
    checkpoint = max(Path(f"runs/{recipe}").glob("*/checkpoints/last.ckpt"), key=lambda path: int(path.parts[-3]))
    (head, row) = (line.split(",") for line in run(recipe, *same, "--data.test=photos/dog/2.png").splitlines())
    assert head == ["image", "predicted", "probability"] and row[0] == "photos/dog/2.png"
    data = ImageDataModule("photos", resize=8, size=12 if recipe == "image_classifier" else None)
    data.setup("test")
    place_of = [file for part in data.images.parts.values() for file in part.files].index("photos/dog/2.png")
    pixels = torch.cat([part.pixels for part in data.images.parts.values()])[place_of]
    (found,) = MODULES[recipe].classify(checkpoint, pixels[None])
    assert found.max() == pytest.approx(float(row[2]), abs=1e-4) and ["bird", "cat", "dog"][found.argmax()] == row[1]
    for words, text in (
        (["--data.test=strange"], "strange has the class fish, which the training images lack: bird, cat, dog"),
        (["--data.test=others", "--data.channels=1"], "others has 1 channels, the training images 3: --data.channels"),
        (["--data.dataset=digits", "--data.resize=null"], "the pixels of digits have 17 values, those of the training"),
    ):
        with pytest.raises(SystemExit):
            run(recipe, "test", "--ckpt_path=last", "--data.channels=3", *words)
        assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "norm"),
    [
        *(("image_classifier", norm) for norm in ("weight", "none", "batch", "weight_mean_only")),
        ("sequential_images", "weight"),
    ],
)
def test_a_classifier_goes_on_to_other_classes(recipe, norm, place, tmp_path, monkeypatch):
    """Of birds, cats and dogs to cats and dogs, and back, where birds are new; with a step that changes nothing."""
    monkeypatch.chdir(place)
    small = ["--data.resize=8", "--data.batch_size=4", "--data.channels=1", *SMALL[recipe], *STEP]
    small += [f"--trainer.default_root_dir={tmp_path}"]
    for name in ("cat", "dog"):
        shutil.copytree(place / "photos" / name, tmp_path / "pets" / name)

    def fit(source: str, *options: str) -> tuple[str, dict[str, torch.Tensor]]:
        text = run(recipe, "fit", f"--data.dataset={source}", *small, *options)
        (path,) = max(tmp_path.glob(f"**/{recipe}/*/"), key=lambda run: int(run.name)).glob("checkpoints/last.ckpt")
        return text, torch.load(path, weights_only=True)["state_dict"]

    def output_rows(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the output layer has for each class, its weight composed; not the statistics of an epoch."""
        found = {name.removeprefix("network.output."): rows for name, rows in state.items() if ".output." in name}
        for v in [name for name in found if name.endswith("weight_v")]:
            found["composed"] = compose(found.pop(v), found.pop(v.removesuffix("v") + "g"))
        return {name: rows for name, rows in found.items() if rows.ndim and "running" not in name}

    _, three = fit("photos", f"--model.norm={norm}")
    for source, places, said in (
        (str(tmp_path / "pets"), [1, 2], "2 of 2 classes keep their rows of the output layer\n"),
        (
            "photos",
            [2, 0, 1],
            "2 of 3 classes keep their rows of the output layer; of bird it starts with the mean row\n",
        ),
    ):
        text, found = fit(source, "--model.init_from=last", "--model.learning_rate=1e-12")
        assert said in text
        before, after = output_rows(three), output_rows(found)
        assert before.keys() == after.keys() and before
        for name, rows in before.items():
            expected = torch.cat([rows, rows.mean(0, keepdim=True)])[places]
            torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-5)
        three = found


def test_the_page_s_commands_and_programs_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    lines = ["time,a,b", *(f"{t},{np.sin(t / 5):.4f},{np.cos(t / 7):.4f}" for t in range(120))]
    Path("series.csv").write_text("\n".join(lines))
    for path in Path("others/cat").glob("*.jpg"):
        Image.open(path).convert("RGB").save(path.with_suffix(".png"))
        path.unlink()
    for path in Path("others/dog").glob("*.jpg"):
        path.unlink()
    save(Path("others/dog/1.png"), 12, 12, 3)
    Path("others").rename("other_photos")
    text = PAGE.read_text("utf-8")
    commands = [line for _, block in blocks(text, "sh") for line in block.splitlines() if line.startswith("wnseq run ")]
    images = [command.split()[2:] for command in commands if command.split()[2] in MODULES]
    assert len(images) == 8
    for recipe, *words in images:
        quick = [*SMALL[recipe], "--trainer.max_epochs=1", "--data.batch_size=8"] if words[0].startswith("--") else []
        quick = [word for word in quick if word.partition("=")[0] not in words]  # what the page gives counts
        importlib.import_module(f"wnseq.recipes.{recipe}").main([*words, *quick])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_all(text, str(PAGE))
    printed = capsys.readouterr().out
    assert "images of the loader: 3 x 16 x 16" in printed and "4 classes" in printed
    first, *_, last = (float(error) for error in re.findall(r"mean squared error (\S+)", printed))
    assert last < first / 2
