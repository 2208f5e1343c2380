from pathlib import Path

import pytest
import torch

from wnseq.data.images import transforms
from wnseq.data.images.transforms import Preprocess, cached_whitening, fit_preprocess, fit_whitening
from wnseq.errors import ShapeError

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
    with pytest.raises(ValueError, match=r"size must be at least that of the images, 2 x 2, got 1: --data.size 2"):
        Preprocess(17, (8.0,), (8.5,), size=1)(PIXELS)


# ---- whitening


@pytest.fixture
def images() -> torch.Tensor:
    mixing = torch.randn(12, 12, dtype=torch.float64)
    return (torch.randn(5000, 12, dtype=torch.float64) @ mixing + 3).view(5000, 3, 2, 2)


def covariance(images: torch.Tensor) -> torch.Tensor:
    return torch.cov(images.flatten(1).double().T, correction=0)


@pytest.mark.parametrize("regulariser", [1e-5, 0.1])
def test_the_covariance_becomes_the_identity_up_to_the_regulariser(images: torch.Tensor, regulariser: float) -> None:
    values, vectors = torch.linalg.eigh(covariance(images))
    white = fit_whitening(images, regulariser)(images)
    expected = vectors * (values / (values + regulariser)) @ vectors.T
    torch.testing.assert_close(covariance(white), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(white.mean(0), torch.zeros(3, 2, 2, dtype=torch.float64), rtol=0, atol=1e-9)
    if regulariser < 1e-3:
        torch.testing.assert_close(covariance(white), torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-3)


def test_whitening_is_the_zero_phase_one(images: torch.Tensor) -> None:
    matrix = fit_whitening(images).matrix
    torch.testing.assert_close(matrix, matrix.T)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()  # symmetric and positive: of all whitenings the nearest to none


def test_a_pixel_that_never_varies_stays_finite(images: torch.Tensor) -> None:
    images[:, 0, 0, 0] = 7
    white = fit_whitening(images)(images)
    assert white.isfinite().all() and white[:, 0, 0, 0].abs().max() < 1e-6


def test_whitening_in_single_precision_and_chunks_is_the_same(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_whitening(images)
    monkeypatch.setattr(transforms, "CHUNK", 999)
    torch.testing.assert_close(fit_whitening(images).matrix, whole.matrix)
    torch.testing.assert_close(whole(images.float()).double(), whole(images), rtol=1e-4, atol=1e-4)


def test_whitening_is_cached_by_content(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    first = cached_whitening(images, "one")
    monkeypatch.setattr(transforms, "fit_whitening", lambda *_: pytest.fail("fitted again"))
    again = cached_whitening(images, "one")
    assert torch.equal(first.mean, again.mean) and torch.equal(first.matrix, again.matrix)
    for other in ({"content": "two"}, {"content": "one", "regulariser": 0.1}):
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            cached_whitening(images, **other)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", None])
def test_a_damaged_cache_is_made_again(
    images: torch.Tensor,
    content: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    first = cached_whitening(images, "one")
    (path,) = (tmp_path / "whitening").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:] if content is None else content)
    assert torch.equal(cached_whitening(images, "one").matrix, first.matrix)
    assert path.stat().st_size > 1000 and "is damaged, and made again" in capsys.readouterr().err


def test_a_regulariser_of_zero_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the regulariser must be greater than 0, got 0"):
        fit_whitening(images, 0)


@pytest.mark.parametrize(
    ("pixels", "error", "text"),
    [
        (torch.full((2, 1, 4, 4), 255.0), ValueError, "whole numbers from 0 to 16, as in the training images, got 255"),
        (torch.full((2, 1, 4, 4), -1), ValueError, "got -1 to -1"),
        (torch.full((2, 1, 4, 4), 0.5), ValueError, "got 0.5 to 0.5"),
        (torch.full((2, 1, 4, 4), torch.nan), ValueError, "got nan to nan"),
        (torch.zeros(2, 3, 4, 4), ShapeError, r"pixels must have shape \(N, 1, H, W\), got \(2, 3, 4, 4\)"),
        (torch.zeros(4, 4), ShapeError, r"got \(4, 4\)"),
    ],
)
def test_pixels_of_other_images_are_refused(pixels: torch.Tensor, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Preprocess(17, (8.0,), (8.5,))(pixels)


def test_a_channel_that_never_varies_is_zero() -> None:
    pixels = torch.stack([torch.full((6, 4, 4), 7), torch.arange(96).view(6, 4, 4)], 1).to(torch.uint8)
    images = fit_preprocess(pixels, 256, "standard")(pixels)
    assert torch.equal(images[:, 0], torch.zeros(6, 4, 4))
    torch.testing.assert_close(images[:, 1].std(correction=0), torch.tensor(1.0))
