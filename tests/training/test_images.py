"""What a network must know of its images: of a loader that is read once, and in a checkpoint."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import wnseq
from wnseq.errors import ShapeError
from wnseq.training.images import ImageSpec, build_for_images, find_images, restore_for_images, scan_images


def test_a_checkpoint_holds_it_in_plain_types() -> None:
    images = ImageSpec((1, 8, 6), 17, ("a", "b"), {"size": 8}, "digits")
    state = images.state()
    assert state == {"shape": [1, 8, 6], "num_values": 17, "classes": ["a", "b"], "preprocess": {"size": 8}}
    assert ImageSpec.from_state({**state, "recipe": "vae"}) == ImageSpec(
        (1, 8, 6), 17, ("a", "b"), {"size": 8}, "the checkpoint"
    )
    assert str(images) == "images of digits: 1 x 8 x 6, 17 values, 2 classes"


@pytest.mark.parametrize(
    ("largest", "values"), [(0.7, 2), (1, 2), (2, 3), (16, 17), (31, 32), (32, 256), (255, 256), (-1, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_pixel_has_the_values_that_the_largest_says(largest: float, values: int, dtype: torch.dtype) -> None:
    if dtype == torch.uint8 and largest < 0:
        return
    batches = [torch.zeros(2, 1, 4, 4, dtype=dtype), torch.full((2, 1, 4, 4), largest).to(dtype)]
    assert scan_images(batches, "pixels").num_values == values


def test_classes_are_as_many_as_the_largest_label_says() -> None:
    x = torch.zeros(6, 3, 4, 5)
    y = torch.tensor([0, 1, 5, 0, 1, 2])
    before = torch.get_rng_state()
    images = scan_images(DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True), "images")
    assert torch.equal(torch.get_rng_state(), before)
    assert images.shape == (3, 4, 5) and images.classes == tuple("012345")
    for batch in ((x, y.float()), (x, x), (x,), x, (x, None)):
        assert scan_images([batch], "images").classes == ()


class Endless:
    """Batches without an end."""

    def __iter__(self) -> Any:
        while True:
            yield torch.ones(1, 1, 2, 2)


def test_a_loader_without_a_length_is_not_read_for_ever() -> None:
    assert scan_images(Endless(), "images").shape == (1, 2, 2)


def test_loaders_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a loader that can be read more than once.*got an iterator \(generator\)"):
        scan_images((torch.zeros(2, 1, 4, 4) for _ in range(2)), "images")
    with pytest.raises(ValueError, match="the loader has no batches"):
        scan_images([], "images")
    for batches in ([torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5)], [torch.zeros(2, 4, 4)]):
        with pytest.raises(ShapeError, match=r"shape \(N, C, H, W\), the same in all batches, got \(2, .*4"):
            scan_images(batches, "images")


class Model(LightningModule):
    """A model of images, as far as its network is made."""

    def __init__(self, fn: str, loaders: Any = None, data: Any = None) -> None:
        super().__init__()
        self.network: torch.nn.Module | None = None
        self.init_from: str | None = None
        source = SimpleNamespace(_data_source=SimpleNamespace(dataloader=lambda: loaders))
        self._trainer: Any = SimpleNamespace(
            datamodule=data,
            state=SimpleNamespace(fn=fn),
            fit_loop=source,
            is_global_zero=True,
            progress_bar_callback=None,
        )

    def build(self, images: ImageSpec) -> None:
        self.images = images
        output = wnseq.WNLinear(images.shape[2], len(images.classes) or 1)
        self.network = torch.nn.ModuleDict({"features": torch.nn.Linear(2, 2), "output": output})


X: Tensor = torch.ones(2, 1, 4, 3)


def test_several_loaders_are_refused() -> None:
    assert find_images(Model("fit", DataLoader(X)), "images") == ImageSpec((1, 4, 3), 2)
    for loaders in ([DataLoader(X), DataLoader(X)], {"a": DataLoader(X), "b": DataLoader(X)}):
        with pytest.raises(TypeError, match="expected one loader of training batches, got 2"):
            find_images(Model("fit", loaders), "images")


def images_of(spec: ImageSpec) -> Any:
    """Return a data module of such images."""
    images = SimpleNamespace(num_values=spec.num_values, classes=spec.classes, name=spec.name)
    return SimpleNamespace(
        image_shape=spec.shape, images=images, preprocess=SimpleNamespace(state=lambda: spec.preprocess)
    )


def test_a_network_that_is_there_is_of_the_images_that_it_trains_on() -> None:
    before = ImageSpec((1, 4, 3), 17, ("a", "b"), {"scale": 1}, "some")
    for field in ("images", "pixels"):
        others = ImageSpec((1, 4, 5), 17, ("a", "b"), {"scale": 2}, "others")
        model = Model("fit", data=images_of(others))
        model.build(before)
        network = model.network
        build_for_images(model, field, ())
        assert model.images == others and model.network is network
    for field, change, text in (
        ("images", {"shape": (3, 4, 3)}, "the channels of some, 3, are others than the model's, 1"),
        ("pixels", {"num_values": 256}, "the values of a pixel of some, 256, are others than the model's, 17"),
        ("images", {"classes": ("a", "z")}, "the classes of some, a, z, are others than the model's, a, b: start"),
        ("images", {"classes": ()}, "the classes of some, none, are others"),
    ):
        data = images_of(replace(before, **change))  # type: ignore[arg-type]
        model = Model("fit", data=data)
        model.build(before)
        with pytest.raises(ValueError, match=text):
            build_for_images(model, field, ())
        other = "pixels" if field == "images" else "images"
        if "channels" not in text:  # which all models need
            build_for_images(model, other, ())
            assert model.images.classes == data.images.classes
        tested = Model("test", data=SimpleNamespace(**vars(data), match=lambda *kind: None))
        tested.build(before)
        build_for_images(tested, field, ())
        assert tested.images == before
    conditional = Model("fit", data=images_of(replace(before, classes=("a", "z"))))
    conditional.save_hyperparameters({"conditional": True})
    conditional.build(before)
    with pytest.raises(ValueError, match="the classes of some"):
        build_for_images(conditional, "pixels", ())


def test_an_evaluation_waits_for_its_checkpoint(tmp_path: Any) -> None:
    model = Model("test", DataLoader(X))
    build_for_images(model, "images", ())
    assert model.network is None
    source = Model("fit", DataLoader(X))
    source.build(ImageSpec((1, 4, 3), 17, ("a",)))
    info = {"recipe": "toy", **source.images.state()}
    restore_for_images(model, {"wnseq": info}, "toy")
    assert model.images.classes == ("a",) and model.network is not None
    with pytest.raises(ValueError, match=r"is of images with 3 channels, these have 1: --data.channels 3"):
        restore_for_images(model, {"wnseq": {**info, "shape": [3, 4, 3]}}, "toy")

    torch.save({"state_dict": source.state_dict(), "wnseq": info}, tmp_path / "a.ckpt")
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    started = Model("predict")
    started.init_from = str(tmp_path / "a.ckpt")
    build_for_images(started, "images", ())
    assert started.network is not None and source.network is not None
    weights = started.network.state_dict(), source.network.state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    plain = Model("predict")
    plain.init_from = str(tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"plain\.pt does not say which images its weights are for"):
        build_for_images(plain, "images", ())


@pytest.mark.parametrize("changes", [{"whiten": True}, {"normalize": "unit"}])
def test_a_model_of_pixels_refuses_other_scales(changes: dict[str, Any]) -> None:
    model = Model("fit", data=SimpleNamespace(**{"whiten": False, "normalize": "symmetric", **changes}))
    with pytest.raises(ValueError, match="the likelihood is that of the pixels themselves"):
        build_for_images(model, "pixels", ())


def test_the_rows_of_an_output_layer_follow_the_names_of_the_classes(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(classes: tuple[str, ...], field: str = "images") -> tuple[dict[str, Tensor], str]:
        images = SimpleNamespace(num_values=2, classes=classes, name="x")
        preprocess = SimpleNamespace(state=dict)
        model = Model("fit", data=SimpleNamespace(image_shape=(1, 4, 3), images=images, preprocess=preprocess))
        model.init_from = str(tmp_path / "a.ckpt")
        build_for_images(model, field, ())
        return model.state_dict(), capsys.readouterr().out

    def output_weight(state: dict[str, Tensor]) -> Tensor:
        return wnseq.functional.compose(state["network.output.weight_v"], state["network.output.weight_g"])

    source = Model("fit")
    source.build(ImageSpec((1, 4, 3), 2, ("ant", "bee")))
    info = {"recipe": "toy", **source.images.state()}
    weights = source.state_dict()
    torch.save({"state_dict": weights, "wnseq": info}, tmp_path / "a.ckpt")
    for classes, field in ((("ant", "bee"), "images"), (("bee", "cow"), "pixels")):
        found, said = start(classes, field)
        assert said == "" and all(torch.equal(found[name], weights[name]) for name in weights)
    for classes, places, text in (
        (("bee", "ant"), [1, 0], "2 of 2 classes keep their rows of the output layer"),
        (("ant", "bee", "cow"), [0, 1, 2], "2 of 3 classes keep their rows of the output layer; of cow it starts with"),
        (("bee",), [1], "1 of 1 classes keep their rows"),
        (("eel", "fly"), [2, 2], "0 of 2 classes keep their rows of the output layer; of eel, fly it starts with the"),
    ):
        found, said = start(classes)
        assert text in said
        assert all(torch.equal(found[name], weights[name]) for name in weights if "output" not in name)
        for of_output in (output_weight, lambda state: state["network.output.bias"]):
            rows = of_output(weights)
            expected = torch.cat([rows, rows.mean(0, keepdim=True)])[places]
            torch.testing.assert_close(of_output(found), expected)
