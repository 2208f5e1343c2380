from pathlib import Path

import pytest
import torch

from wnseq.data.images import transforms
from wnseq.data.images.transforms import cached_whitening, fit_whitening


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


def test_it_is_the_zero_phase_one(images: torch.Tensor) -> None:
    matrix = fit_whitening(images).matrix
    torch.testing.assert_close(matrix, matrix.T)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()  # symmetric and positive: of all whitenings the nearest to none


def test_a_pixel_that_never_varies_stays_finite(images: torch.Tensor) -> None:
    images[:, 0, 0, 0] = 7
    white = fit_whitening(images)(images)
    assert white.isfinite().all() and white[:, 0, 0, 0].abs().max() < 1e-6


def test_single_precision_and_chunks_change_nothing(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_whitening(images)
    monkeypatch.setattr(transforms, "CHUNK", 999)
    torch.testing.assert_close(fit_whitening(images).matrix, whole.matrix)
    torch.testing.assert_close(whole(images.float()).double(), whole(images), rtol=1e-4, atol=1e-4)


def test_it_is_cached_by_content(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    first = cached_whitening(images, "one")
    monkeypatch.setattr(transforms, "fit_whitening", lambda *_: pytest.fail("fitted again"))
    again = cached_whitening(images, "one")
    assert torch.equal(first.mean, again.mean) and torch.equal(first.matrix, again.matrix)
    for other in ({"content": "two"}, {"content": "one", "regulariser": 0.1}):
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            cached_whitening(images, **other)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"other"])
def test_a_damaged_cache_is_made_again(
    images: torch.Tensor, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WNSEQ_CACHE", str(tmp_path))
    first = cached_whitening(images, "one")
    (path,) = (tmp_path / "whitening").iterdir()
    path.write_bytes(content)
    assert torch.equal(cached_whitening(images, "one").matrix, first.matrix)
    assert path.stat().st_size > 1000


def test_a_regulariser_of_zero_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the regulariser must be greater than 0, got 0"):
        fit_whitening(images, 0)
