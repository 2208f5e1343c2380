"""Images: files, data sets, preprocessing and batches."""

from wnseq.data._position import EpochLoader
from wnseq.data.images.datamodule import ImageBatch, ImageDataModule
from wnseq.data.images.datasets import open_images
from wnseq.data.images.image_set import Images, ImageSet
from wnseq.data.images.transforms import Preprocess

__all__ = [
    "EpochLoader",
    "ImageBatch",
    "ImageDataModule",
    "ImageSet",
    "Images",
    "Preprocess",
    "open_images",
]
