import pytest
import torch

from wnseq.data.images.transforms import Preprocess, fit_whitening

PIXELS = torch.randint(0, 17, (50, 1, 2, 2), dtype=torch.uint8)
PLAIN = Preprocess(17, (8.0,), (8.5,))


def test_scaling() -> None:
    torch.testing.assert_close(PLAIN(PIXELS), (PIXELS - 8.0) / 8.5)
    colour = Preprocess(256, (127.5, 0.0, 1.0), (128.0, 255.0, 2.0))
    pixel = torch.tensor([255, 51, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(colour(pixel).flatten(), torch.tensor([127.5 / 128, 0.2, 1.0]))


def test_enlarging_repeats_pixels_and_puts_black_around() -> None:
    big = Preprocess(17, (8.0,), (8.5,), size=7)
    pixels = big.enlarge(PIXELS)
    assert pixels.dtype == torch.uint8 and pixels.shape == (50, 1, 7, 7)
    assert torch.equal(pixels[:, :, :6, :6], PIXELS.repeat_interleave(3, 2).repeat_interleave(3, 3))
    assert not pixels[:, :, 6].any() and not pixels[:, :, :, 6].any()
    torch.testing.assert_close(big(PIXELS)[:, :, 6], torch.full((50, 1, 7), -8 / 8.5))
    around = Preprocess(17, (8.0,), (8.5,), size=4).enlarge(torch.ones(1, 1, 3, 2, dtype=torch.uint8))
    assert around[0, 0].tolist() == [[0, 1, 1, 0]] * 3 + [[0, 0, 0, 0]]


def test_whitening_comes_before_enlarging() -> None:
    white = Preprocess(17, (8.0,), (8.5,), 4, fit_whitening(PLAIN(PIXELS)))
    torch.testing.assert_close(white(PIXELS)[:, :, ::2, ::2], white.normalise(PIXELS))
    torch.testing.assert_close(white.normalise(PIXELS), white.whitening(PLAIN(PIXELS)))


def test_its_state_is_plain_and_enough() -> None:
    white = Preprocess(17, (8.0,), (8.5,), 4, fit_whitening(PLAIN(PIXELS)))
    for preprocess in (PLAIN, white):
        again = Preprocess.from_state(preprocess.state())
        torch.testing.assert_close(again(PIXELS), preprocess(PIXELS))


@pytest.mark.parametrize("state", [{"num_values": 17}, {**PLAIN.state(), "offset": None}])
def test_another_state_is_refused(state: dict) -> None:
    with pytest.raises(ValueError, match="not the state of a preprocessing"):
        Preprocess.from_state(state)


def test_a_size_below_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size must be at least that of the images, 2 x 2, got 1"):
        Preprocess(17, (8.0,), (8.5,), size=1)(PIXELS)
