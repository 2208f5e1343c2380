"""What is silenced is silenced by name, and nothing else."""

import logging
import warnings
from unittest import TestCase

import pytest

from wnseq.training.cli.log_filter import filter_lightning_logs

NAME = "lightning.pytorch.utilities.rank_zero"


def test_tips_are_silenced_and_news_is_not() -> None:
    logger = logging.getLogger(NAME)
    with TestCase().assertLogs(NAME, "INFO") as logs:
        with filter_lightning_logs():
            logger.info("GPU available: False, used: False")
            logger.info("💡 Tip: For seamless cloud logging")
            logger.info("[rank: 1] Seed set to 0")
            logger.info(
                "The following callbacks returned in `LightningModule.configure_callbacks` will override existing "
                "callbacks passed to Trainer: UnusedParameters"
            )
            logger.info(
                "The following callbacks returned in `LightningModule.configure_callbacks` will override existing "
                "callbacks passed to Trainer: PolyakAverage, UnusedParameters"
            )
            logger.info("Trainer already configured")
        logger.info("GPU available: True, used: True")
    told = [record.getMessage()[-21:] for record in logs.records]
    assert told == ["age, UnusedParameters", "er already configured", "ilable: True, used: True"[-21:]]


def test_named_warnings_are_silenced_and_others_are_not() -> None:
    with filter_lightning_logs():
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck", stacklevel=1)
        with pytest.raises(UserWarning, match="is not resumable"):
            warnings.warn("your dataloader is not resumable", stacklevel=1)
    with pytest.raises(UserWarning, match="many workers"):
        warnings.warn("The 'train_dataloader' does not have many workers", stacklevel=1)
