"""Lightning's messages that come with every run and that nobody needs, silenced by name and by nothing broader."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["filter_lightning_logs"]

# The first words of messages of information. Errors and warnings about the run itself are never listed here.
TIPS = re.compile(
    r"(\[rank: \d+\] )?(GPU available|TPU available|HPU available|LOCAL_RANK: |💡 Tip: |Seed set to |Received SIGTERM"
    r"|`Trainer\.fit` stopped: |`Trainer\(\w+=1\.0\)` was configured|Restor(ing states|ed all states) "
    r"|Load(ing|ed) model weights |Loading `train_dataloader` to estimate|\nDetected KeyboardInterrupt"
    r"|An \w+ was raised with message|Using bfloat16 Automatic|Using 16bit Automatic|You are using a CUDA device"
    r"|The following callbacks returned in `LightningModule\.configure_callbacks` will override .*: UnusedParameters$"
    r"|Initializing distributed: |-{100}\ndistributed_backend=)"
)
WARNINGS = (
    r"The '\w+' does not have many workers",  # wnseq's loaders read memory and need none
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"GPU available but not used",  # the user chose
    r"You are using `LearningRateMonitor` callback with models that have no learning rate schedulers",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of torch's pytree
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # those of fit, in test
    r"predict returned None if it was on purpose",  # a sample goes to the terminal
    r"Checkpoint directory .* exists and is not empty",  # a run that goes on
    r".* is of step .*, the run was not finished",  # of a checkpoint; the command has said so
    r"The `srun` command is available on your system but is not used",
)
# Lightning's rank_zero_info writes to whichever of the three was imported last.
LOGGERS = (
    "lightning_utilities.core.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.distributed",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch.trainer.connectors.signal_connector",
    "lightning.pytorch.accelerators.cuda",
)


def _is_kept(record: logging.LogRecord) -> bool:
    return TIPS.match(record.getMessage()) is None


@contextmanager
def filter_lightning_logs() -> Iterator[None]:
    """Silence Lightning's routine messages and warnings while the block runs."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_kept)
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message)
            # Lightning's use of what jsonargparse is about to drop
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_kept)
