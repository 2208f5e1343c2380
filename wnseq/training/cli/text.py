"""The command line of a recipe whose data are text: settings by its size, and the tokenizer of a checkpoint."""

import lzma
from typing import Any

import torch
from jsonargparse import Namespace

from wnseq._torch_internals import processor_capabilities
from wnseq.training.checkpoint_files import load
from wnseq.training.cli.recipe import RecipeCLI
from wnseq.training.cli.resumed_run import read_named
from wnseq.training.cli.sampling import SamplingCLI

__all__ = ["TextCLI", "TokenizerCLI", "compressed_bits_per_byte", "has_fast_bfloat16"]

XZ_WINDOW = 64 * 2**20  # xz looks no further back


class TokenizerCLI(RecipeCLI):
    """RecipeCLI whose data are encoded by the tokenizer of the checkpoint that the run starts from, if any.

    A checkpoint to distil from, or to average with, may be named as others are, by path or as ``best``.
    """

    def before_instantiate_classes(self) -> None:
        """Use the tokenizer of the checkpoint that the run starts from, unless another is given; find other models."""
        super().before_instantiate_classes()
        config = self.config[self.subcommand]
        for name in ("average_with", *(("distill_from",) if self.subcommand == "fit" else ())):
            if (other := config.model.get(name)) is not None:
                path, _ = read_named(other, self._runs_folder(config), f"--model.{name}", load)
                config.model[name] = str(path)
        if config.data.tokenizer is None:
            config.data.tokenizer = config.get("ckpt_path") or config.model.init_from


class TextCLI(TokenizerCLI, SamplingCLI):
    """SamplingCLI that chooses what the user leaves open by text and processor; a recipe overrides settings."""

    def settings(self, tokens: int, entries: int, options: Namespace, given: set[str]) -> dict[str, Any]:
        """Return the defaults of options for a text of some size.

        Args:
            tokens: About how many are trained on in an epoch.
            entries: Those of the tokenizer.
            options: Options of the command.
            given: Names of the options that the command has by itself.
        """
        return {}

    def choose_defaults(self, options: Namespace, defaults: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """Return the settings by the size of the text and by the processor, and note them for the screen.

        A run that goes on has the epochs that it was planned with.
        """
        data = vars(options.data) | {
            name.removeprefix("data."): value
            for name, value in defaults.items()
            if name.startswith("data.") and name not in given
        }
        if data["tokenizer"] is None and self.start is not None:
            data["tokenizer"] = str(self.start.path)
        data_class: Any = self.datamodule_class
        try:
            module = data_class(**data)
        except (TypeError, ValueError):  # reported with the other problems of the command when its parts are built
            return {}
        tokens, entries = module.estimate_tokens()
        limits = {"trainer.max_steps", "trainer.max_time"} & given  # the user limits the training otherwise
        settings = self.settings(tokens, entries, options, given)
        settings = {name: value for name, value in settings.items() if not (limits and "epochs" in name)}
        run = self.start.info.get("fit", {}) if self.start is not None and self.start.resumed else {}
        planned = {"trainer.max_epochs": run["max_epochs"]} if run.get("max_epochs") and not limits else {}
        decided = {*given, *defaults, *planned}
        taken = [f"{name} {value}" for name, value in settings.items() if name not in decided]
        if taken:
            self.notes.append(f"chosen for about {tokens:,} training tokens: {', '.join(taken)}")
        if not {"trainer.precision", "trainer.plugins"} & given and has_fast_bfloat16():
            self.notes.append("chosen for this processor: trainer.precision bf16-mixed")
            settings["trainer.precision"] = "bf16-mixed"
        return settings | planned  # which may have been chosen before the tokenizer was known

    def print_compressed_size(self) -> None:
        """Print the bits per byte of a compressor, the figure to beat, if it can see the whole training part."""
        parts = self.datamodule.text.parts
        if parts["train"].size < XZ_WINDOW:
            bits = compressed_bits_per_byte(parts["train"].read(), parts["test"].read())
            print(f"\nxz, having seen the training part, needs {bits:.3f} bits per byte of the test part.")


def has_fast_bfloat16() -> bool:
    """Return True if a processor computes that has instructions for products of bfloat16."""
    return bool(processor_capabilities().get("avx512_bf16")) and not torch.accelerator.is_available()


def compressed_bits_per_byte(train: bytes, test: bytes) -> float:
    """Compute what xz (``-9e``) adds for ``test`` when it comes after ``train``, in bits per byte of ``test``."""
    # a window that holds the whole text: xz's own of 64 MiB would take 700 MB of memory for a small text too
    xz: list[dict[str, int]] = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    xz[0]["dict_size"] = min(XZ_WINDOW, max(4096, len(train + test)))
    with_test, alone = (len(lzma.compress(text, filters=xz)) for text in (train + test, train))
    return 8 * (with_test - alone) / len(test)
