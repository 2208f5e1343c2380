"""Batches of a user's own."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from wnseq.errors import ShapeError
from wnseq.training.batches import (
    check_image_multiple,
    check_image_shape,
    check_pixels,
    check_tokens,
    get_labelled,
    get_labels,
    get_tensor,
)


class Batch(NamedTuple):
    images: Tensor
    pixels: Tensor


IMAGES, PIXELS = torch.rand(2, 1, 4, 4), torch.ones(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(Batch(IMAGES, PIXELS), PIXELS), ((IMAGES, PIXELS), IMAGES), ([IMAGES], IMAGES), (IMAGES, IMAGES)],
)
def test_the_tensor_of_a_batch(batch: Any, expected: Tensor) -> None:
    assert get_tensor(batch, "pixels") is expected


@pytest.mark.parametrize(("batch", "kind"), [({"x": IMAGES}, "dict"), ((), "tuple"), (["a"], "list")])
def test_a_batch_without_a_tensor_is_refused(batch: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"expected a batch with pixels, a tuple that begins with a tensor.*got {kind}"):
        get_tensor(batch, "pixels")


def test_images_of_another_shape_are_refused() -> None:
    check_image_shape(IMAGES, (1, 4, 4))
    for images in (IMAGES[:, 0], torch.rand(2, 3, 4, 4)):
        with pytest.raises(ShapeError, match=r"images must have shape \(N, 1, 4, 4\), which the network is for, got"):
            check_image_shape(images, (1, 4, 4))


@pytest.mark.parametrize("size", [(10, 8), (8, 10)])
def test_sizes_that_are_no_multiples_are_refused(size: tuple[int, int]) -> None:
    check_image_multiple(8, 12, 4)
    text = f"images must be multiples of 4 high and wide, got {size[0]} x {size[1]}: --data.size 12"
    with pytest.raises(ValueError, match=text):
        check_image_multiple(*size, 4)


@pytest.mark.parametrize("value", [-1, 17, 0.5, float("nan")])
def test_pixels_that_are_no_whole_numbers_are_refused(value: float) -> None:
    check_pixels(torch.tensor([0, 16], dtype=torch.uint8), 17)
    with pytest.raises(ValueError, match=f"pixels must be whole numbers from 0 to 16, unscaled, got {value:g} to"):
        check_pixels(torch.full((2, 2), value), 17)


LABELS = torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize("batch", [(IMAGES, LABELS), [IMAGES, LABELS], (IMAGES, LABELS, PIXELS)])
def test_images_and_labels_of_a_batch(batch: Any) -> None:
    images, labels = get_labelled(batch)
    assert images is IMAGES and labels is LABELS


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (IMAGES, "a tuple of two tensors, got Tensor"),
        ({"x": IMAGES}, "a tuple of two tensors, got dict"),
        ((IMAGES,), "a tuple of two tensors, got tuple of Tensor"),
        ((IMAGES, None), "a tuple of two tensors, got tuple of Tensor, NoneType"),
        ([], "a tuple of two tensors, got list of nothing"),
        ((LABELS, LABELS), r"images must be floating-point numbers, scaled to about -1 to 1, got torch\.int64"),
    ],
)
def test_a_batch_without_images_and_labels(batch: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        get_labelled(batch)


def test_labels_of_a_batch_that_may_have_none() -> None:
    assert get_labels((IMAGES, LABELS)) is LABELS and get_labels([IMAGES, LABELS, PIXELS]) is LABELS
    for batch in (IMAGES, (IMAGES,), [], (IMAGES, None)):
        assert get_labels(batch) is None


def test_tokens_and_targets_outside_the_vocabulary_are_refused() -> None:
    tokens, none = torch.arange(6).view(3, 2), torch.full((3, 2), -100)
    targets = tokens.clone()
    targets[0] = -100
    check_tokens(tokens, targets, 6, -100, training=True)
    check_tokens(tokens, none, 6, -100, training=False)
    for inputs, wanted, text in (
        (tokens - 1, targets, "tokens must be from 0 to 5, got -1 to 4"),
        (tokens, targets + 1, "targets must be from 0 to 5, got -99 to 6"),
        (tokens, none, "a training batch must have a target that counts, all are -100"),
    ):
        with pytest.raises(ValueError, match=text):
            check_tokens(inputs, wanted, 6, -100, training=True)
