"""Images: files, data sets, preprocessing and batches."""

from wnseq.data.images.datamodule import ImageBatch, ImageDataModule
from wnseq.data.images.datasets import Images, ImageSet, open_images
from wnseq.data.images.transforms import Preprocess, Whitening

__all__ = [
    "ImageBatch",
    "ImageDataModule",
    "ImageSet",
    "Images",
    "Preprocess",
    "Whitening",
    "open_images",
]
