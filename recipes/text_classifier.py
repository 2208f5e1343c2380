"""Text classifier on a recurrent encoder, from scratch or from a language model, with weight normalisation or without.

The encoder of the recipe language_model reads a text; its last state, and the maximum and the mean of its outputs,
go to a small head: ULMFiT, Howard & Ruder 2018 (arXiv 1801.06146), with the normalisation of Salimans & Kingma 2016
(arXiv 1602.07868). With no arguments it learns which part of Python's library a docstring is from.

On a CPU:
    wnseq run text_classifier
    wnseq run text_classifier --data.dataset reviews.csv --data.text review --data.label stars
From a language model, whose sizes and tokenizer it takes over (docs/text_classifier.md has a chain of three commands):
    wnseq run language_model --data.corpus wikitext-2 --data.tokenizer word
    wnseq run text_classifier --data.dataset sst2 --model.init_from language_model/best
Fine-tuning a classifier:
    wnseq run text_classifier --data.dataset other.csv --model.init_from best --model.learning_rate 1e-3
Averaging it with one of a language model that was trained with --data.backward true:
    wnseq run text_classifier test --ckpt_path FORWARD --model.average_with BACKWARD
Classifying the lines of a file, or of standard input, from a checkpoint alone:
    wnseq run text_classifier predict --ckpt_path best --data.predict lines.txt
    wnseq run text_classifier predict --ckpt_path best --data.predict - < lines.txt

Expect an accuracy near 62 % in six classes, on modules that the training has seen nothing of, after 2.3 minutes of
training on one CPU core.

Deviations from the paper:
1. The dropouts are the language model's times one factor, as in fastai; the head has no batch norm.
2. Every text is read whole, up to --data.max_tokens, with one backward pass; the paper carries a state through pieces.
3. AdamW with β2 = 0.99 in the place of Adam.
4. Without a language model there is nothing to keep: all layers train from the start, at one step size.
"""

import csv
import functools
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import wnseq
from wnseq.data.text import LabelledBatch, LabelledTextDataModule, Tokenizer, match_tokens, pad_texts
from wnseq.init import memory_bias_
from wnseq.nn import RECURRENT_LAYERS, stack_layers
from wnseq.training import checkpoint_files, plots
from wnseq.training.batches import check_classes
from wnseq.training.callbacks import GateMonitor, Throughput, UnusedParameters, build_network_first
from wnseq.training.cli.recipe import run
from wnseq.training.cli.text import TokenizerCLI
from wnseq.training.evaluation import EvaluationTotals, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint, load_encoder, load_initial_weights
from wnseq.training.hparams import check_arguments
from wnseq.training.ranks import join_lists
from wnseq.training.resume import open_checkpoint
from wnseq.training.run_info import checkpoint_info, find_datamodule, find_trainer, print_header
from wnseq.training.schedules import schedule_steps, use_found_learning_rate

SIZES = ("cell", "norm", "embedding_size", "hidden_size", "num_layers", "tied")
RATES = ("dropout", "embedding_dropout", "weight_drop")
ENCODER = ("encoder.", "rnn.")  # weights that a language model has too


class TextClassifier(CheckedLoading, LightningModule):
    """A recurrent text classifier and how it is trained.

    Args:
        cell: Recurrence.
        norm: ``weight`` for weight normalisation, ``none`` for plain layers.
        embedding_size: Features of a token; by default as many as hidden_size.
        hidden_size: Features of the hidden state.
        num_layers: Recurrent layers.
        tied: Whether the last layer has embedding_size units, as under a language model's tied softmax.
        dropout: Probability of a zero in the embedded input and between layers, before dropout_factor.
        embedding_dropout: Probability that all occurrences of a token in a batch are embedded as zeros, before
            dropout_factor.
        weight_drop: Probability of a zero in the recurrent weights, before dropout_factor.
        dropout_factor: Factor of all three, so that those of a language model are scaled together.
        head_size: Units between encoder and classes.
        head_dropout: Probability of a zero in front of each of the head's two layers.
        learning_rate: AdamW's step size of the head, at its peak.
        layer_decay: Factor by which the step size is smaller in each layer below, the embedding the lowest; by default
            2.6 with init_from, else 1.
        unfreeze_epochs: Epochs after which the next layer below begins to train, the head at once; 0 for all at once;
            by default 1 with init_from, else 0.
        weight_decay: Decay of the weights as the plain model has it.
        backward: Whether to read each text from its end to its beginning; by default as the model of init_from does.
        schedule: ``triangular`` rises over a tenth of the steps, from 1/32 of the step size, and falls back in a
            straight line; ``one_cycle`` rises over three tenths, from 1/25, and falls to nearly nothing, both along a
            cosine; or ``constant``.
        init_from: Checkpoint to start from: one of the recipe language_model, whose encoder, sizes and dropouts are
            taken over; one of this recipe, whose hyper-parameters then hold where none are given, its head too if the
            classes are the same; or a plain torch state dict with the same names.
        average_with: Checkpoint of this recipe whose probabilities are averaged with this model's, not in a fit.

    Shape:
        - batches: ``LabelledBatch``, or a tuple or list of padded tokens ``(T, N)``, lengths ``(N,)`` and labels
          ``(N,)``; to predict, without the labels

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    resume_may_change = (*RATES, "dropout_factor", "head_dropout")  # what takes effect when resumed
    lent_by: ClassVar = {"language_model": (*SIZES, *RATES)}  # hyper-parameters that hold with init_from

    @fill_from_checkpoint
    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn", "mingru", "minlstm", "mlstm"] = "lstm",
        norm: Literal["weight", "none"] = "weight",
        embedding_size: int | None = None,
        hidden_size: int = 128,
        num_layers: int = 1,
        tied: bool = False,
        dropout: float = 0.5,
        embedding_dropout: float = 0.0,
        weight_drop: float = 0.0,
        dropout_factor: float = 0.5,
        head_size: int = 50,
        head_dropout: float = 0.2,
        learning_rate: float = 5e-3,
        layer_decay: float | None = None,
        unfreeze_epochs: int | None = None,
        weight_decay: float = 0.01,
        backward: bool | None = None,
        schedule: Literal["triangular", "one_cycle", "constant"] = "triangular",
        init_from: str | None = None,
        average_with: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["init_from", "average_with"])
        ranges = dict.fromkeys(
            ("embedding_size", "hidden_size", "num_layers", "head_size", "layer_decay"), "at least 1"
        )
        ranges |= dict.fromkeys((*RATES, "head_dropout"), "at least 0 and less than 1")
        ranges |= dict.fromkeys(("dropout_factor", "weight_decay", "unfreeze_epochs"), "at least 0")
        given = {**self.hparams, "average_with": average_with}
        check_arguments(TextClassifier, given, learning_rate="greater than 0", **ranges)
        for name in RATES:
            if self.hparams[name] * dropout_factor >= 1:
                raise ValueError(
                    f"{name} times dropout_factor must be less than 1, got {self.hparams[name]} times {dropout_factor}"
                )
        if weight_drop and cell.startswith("m"):
            raise ValueError(f"weight_drop is for lstm, gru and rnn, got {cell}")
        if tied and num_layers == 1 and embedding_size not in (None, hidden_size):
            raise ValueError(f"a single tied layer has embedding_size units: hidden_size must be {embedding_size} too")
        if layer_decay is None:
            self.hparams.layer_decay = 1.0 if init_from is None else 2.6
        if unfreeze_epochs is None:
            self.hparams.unfreeze_epochs = 0 if init_from is None else 1
        self.init_from, self.average_with = init_from, average_with
        self.averaged: list[TextClassifier] = []  # the model of average_with; in a list it is no part of this one
        self.tokenizer: Tokenizer | None = None
        self.classes: tuple[str, ...] = ()
        self.max_tokens: int | None = None  # of the texts that a loaded checkpoint was trained on; None if not known
        self.network: Network | None = None
        self.totals = EvaluationTotals()
        self.confusion: list[list[float]] = []  # of the last evaluation: texts by true and predicted class
        self.mistakes: list[tuple[float, int, int, int]] = []  # of the last test: probability, place, label, prediction

    def build(self, tokenizer: Tokenizer, classes: Sequence[str]) -> None:
        """Make the network for a tokenizer and the names of the classes."""
        h, self.tokenizer, self.classes = self.hparams, tokenizer, tuple(classes)
        sizes = (h.embedding_size or h.hidden_size, h.hidden_size, h.num_layers, h.tied)
        rates = [h[name] * h.dropout_factor for name in RATES]
        self.network = Network(
            len(tokenizer), h.cell, h.norm, *sizes, *rates, h.head_size, h.head_dropout, len(self.classes)
        )
        self.network.backward = bool(h.backward)

    def build_from_data(self) -> None:
        """Make the network for the texts of the Trainer, if there is none, and start it from ``init_from``."""
        data, trainer = find_datamodule(self), find_trainer(self)
        fits = trainer is not None and trainer.state.fn == "fit"
        is_known = getattr(data, "tokenizer", None) is not None and len(getattr(data, "classes", ())) > 1
        if self.network is None and is_known and (fits or self.init_from is not None):
            self.build(data.tokenizer, data.classes)
        if self.network is not None:
            if self.init_from is not None:
                self._start(Path(self.init_from))
                self.init_from = None  # once: the next fit goes on
            self._match(data, fits)

    def _start(self, path: Path) -> None:
        """Load all weights of ``init_from``, or those of its encoder, where it has another head or none."""
        loaded = checkpoint_files.load(path)
        info = loaded.get("wnseq", {})
        backward = info.get("data", {}).get("backward", self.network.backward)  # of a language model
        if info.get("recipe") == "text_classifier":
            backward = bool(loaded["hyper_parameters"].get("backward"))
        if self.hparams.backward not in (None, backward):
            raise ValueError(f"{self.init_from} reads the other way: leave --model.backward out")
        self.hparams.backward = self.network.backward = backward
        same = tuple(loaded["wnseq"].get("classes", ())) == self.classes if "wnseq" in loaded else None
        weights = checkpoint_files.find_weights(path, loaded, set(self.network.state_dict()))
        if same or (same is None and any(name.startswith("head.") for name in weights)):
            load_initial_weights(self.network, self.init_from, (*SIZES, "head_size"), check=self._match_tokens)
            return
        load_encoder(self.network, self.init_from, SIZES, ENCODER, check=self._match_tokens)
        self.print(f"the encoder starts from {self.init_from}, the head is new")

    def _match_tokens(self, loaded: dict[str, Any]) -> None:
        """Bring the rows of the embedding into the order of the tokenizer."""
        rows = ("encoder.weight", "encoder.weight_v", "encoder.weight_g")  # of a language model normalised or not
        fresh = self.network.state_dict()
        if said := match_tokens(self.tokenizer, self.init_from, loaded, None, rows, fresh):
            self.print(said)

    def _match(self, data: Any, fits: bool) -> None:
        """Check that the data have the tokenizer and classes of this model, which number those of an evaluation."""
        if not isinstance(data, LabelledTextDataModule) or data.tokenizer is None:
            return
        self.tokenizer.check_same(data.tokenizer)
        if fits and data.classes != self.classes:
            raise ValueError(
                f"the classes of the data, {', '.join(data.classes)}, are others than the model's, "
                f"{', '.join(self.classes)}: start another model, with init_from"
            )
        data.match(self.classes)

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it; thaw its layers one after the other."""
        build_network_first(self.trainer)
        if self.average_with is not None and self.trainer.state.fn == "fit":
            raise ValueError("average_with is for an evaluation: train each model alone, and give it to test")
        epochs = self.hparams.unfreeze_epochs
        if epochs and self.trainer.world_size > 1 and self.trainer.state.fn == "fit":
            raise ValueError(
                f"unfreeze_epochs must be 0 on several processes, which share gradients of what trains from the start, "
                f"got {epochs}"
            )
        return [UnusedParameters(), *([GradualUnfreezing(epochs)] if epochs else [])]

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Classify padded texts: ``(T, N)`` ids and ``(N,)`` lengths to ``(N, classes)`` logits, averaged ones too."""
        logits = self.network(tokens, lengths).float()
        if self.training or self.average_with is None:
            return logits
        if not self.averaged:
            other = TextClassifier.load_from_checkpoint(self.average_with, map_location=self.device).eval()
            other.tokenizer.check_same(self.tokenizer)
            if other.classes != self.classes:
                raise ValueError(f"average_with: {self.average_with} has the classes {', '.join(other.classes)}")
            self.averaged.append(other)
        logarithms = logits.log_softmax(1), self.averaged[0](tokens, lengths).log_softmax(1)
        return torch.logaddexp(*logarithms) - math.log(2)

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        h = self.hparams
        use_found_learning_rate(self)
        print_header(
            self,
            f"{h.num_layers} x {h.hidden_size} {h.cell}, norm {h.norm}, layer_decay {h.layer_decay:g}, "
            f"unfreeze_epochs {h.unfreeze_epochs}",
        )

    def configure_optimizers(self) -> Any:
        """Set up AdamW, with a step size for each layer, and its schedule."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with a LabelledTextDataModule, or call build first")
        h = self.hparams
        groups = []
        for depth, layer in enumerate(layers(self.network)):
            own = {id(parameter) for parameter in layer}
            for group in wnseq.param_groups(self.network, h.weight_decay):
                parameters = [parameter for parameter in group["params"] if id(parameter) in own]
                groups.append({**group, "params": parameters, "lr": h.learning_rate / h.layer_decay**depth})
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=h.learning_rate, betas=(0.9, 0.99))
        return schedule_steps(optimizer, self.trainer, slanted_triangle if h.schedule == "triangular" else h.schedule)

    def _step(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Classify one batch; return the logits, ``(N, classes)``, and the labels."""
        tokens, lengths, labels = batch[:3]
        check_classes(tokens, len(self.tokenizer), "tokens")
        check_classes(labels, len(self.classes))
        return self(tokens, lengths), labels

    def training_step(self, batch: LabelledBatch, index: int) -> Tensor:
        """Compute the mean loss per text of one batch."""
        logits, labels = self._step(batch)
        loss = F.cross_entropy(logits, labels)
        options = {"batch_size": len(labels), "sync_dist": True}
        self.log("train/nats_per_text", loss, **options)
        error = 100 * (logits.argmax(1) != labels).float().mean()
        self.log("train/error_percent", error, on_step=False, on_epoch=True, prog_bar=True, **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the totals of the evaluation before, which may have been interrupted."""
        self.totals.reset()
        self.mistakes = []

    def validation_step(self, batch: LabelledBatch, index: int) -> None:
        """Add one batch to the totals of the validation or the test."""
        (logits, labels), number = self._step(batch), len(self.classes)
        predicted = logits.argmax(1)
        cells = torch.bincount(labels * number + predicted, minlength=number * number).view(number, number)
        self.totals.add(nats=F.cross_entropy(logits, labels, reduction="sum"), confusion=cells)
        if self.trainer.testing and isinstance(batch, LabelledBatch):
            wrong = predicted != labels
            found = logits.softmax(1).amax(1), batch.places, labels, predicted
            self.mistakes += zip(*(values[wrong].tolist() for values in found), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss, the share of errors, and macro F1."""
        stage, (nats, self.confusion) = evaluation_stage(self.trainer), self.totals.reduce(self.trainer).values()
        total = sum(map(sum, self.confusion))
        right = sum(row[number] for number, row in enumerate(self.confusion))
        values = {"nats_per_text": nats / total, "error_percent": 100 * (1 - right / total)}
        values["macro_f1_percent"] = 100 * macro_f1(self.confusion)
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)
        self.mistakes = join_lists(self.trainer, self.mistakes)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: LabelledBatch, index: int) -> Tensor:
        """Print a row for each text of the data module; return the classes' probabilities."""
        probabilities = self(*batch[:2]).softmax(1)
        data = find_datamodule(self)
        if isinstance(data, LabelledTextDataModule):
            table = csv.writer(sys.stdout, lineterminator="\n")
            if index == 0 and self.trainer.is_global_zero:
                table.writerow(["predicted", "probability", "text"])
            best = probabilities.max(1)
            rows = zip(best.indices.tolist(), best.values.tolist(), batch.places.tolist(), strict=True)
            for found, probability, place in rows:
                text = data.rows[data.predicted_part][place].text
                table.writerow([self.classes[found], f"{probability:.4f}", text])
        return probabilities

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone."""
        tokenizer = {"tokenizer": self.tokenizer.state(), "tokenizer_sha256": self.tokenizer.sha256}
        checkpoint["wnseq"] = checkpoint_info(self, "text_classifier", classes=list(self.classes), **tokenizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint, and number the classes of the data as it does."""
        info = open_checkpoint(self, checkpoint, "text_classifier")
        self.max_tokens = info.get("data", {}).get("max_tokens")
        backward = bool(checkpoint["hyper_parameters"].get("backward"))
        if self.hparams.backward not in (None, backward):
            raise ValueError("the checkpoint reads the other way: leave backward out")
        if backward:
            self.hparams.backward = True
        if self.network is None:
            self.build(Tokenizer.from_state(info["tokenizer"]), info["classes"])
        self.network.backward = backward
        Tokenizer.from_state(info["tokenizer"]).check_same(self.tokenizer)
        if tuple(info["classes"]) != self.classes:
            raise ValueError(
                f"the checkpoint has the classes {', '.join(info['classes'])}, the model has "
                f"{', '.join(self.classes)}: start a new run from it, with --model.init_from"
            )
        self._match(find_datamodule(self), fits=False)


class Network(nn.Module):
    """Tokens to logits. The names of the encoder's parts are those of the recipe language_model."""

    def __init__(
        self,
        vocabulary_size: int,
        cell: str,
        norm: str,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        tied: bool,
        dropout: float,
        embedding_dropout: float,
        weight_drop: float,
        head_size: int,
        head_dropout: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.backward = False
        self.encoder = nn.Embedding(vocabulary_size, embedding_size)
        sizes = [hidden_size] * (num_layers - 1) + [embedding_size if tied else hidden_size]
        layer = functools.partial(RECURRENT_LAYERS[cell, norm], **{"weight_drop": weight_drop} if weight_drop else {})
        self.rnn = stack_layers(layer, embedding_size, sizes, dropout)
        self.embedding_dropout = wnseq.EmbeddingDropout(vocabulary_size, embedding_dropout)
        self.dropout = wnseq.LockedDropout(dropout)
        linear = wnseq.WNLinear if norm == "weight" else nn.Linear
        self.head = nn.Sequential(
            nn.Dropout(head_dropout),
            linear(3 * sizes[-1], head_size),
            nn.ReLU(),
            nn.Dropout(head_dropout),
            linear(head_size, classes),
        )
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        if cell != "rnn":
            memory_bias_(self.rnn)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Map padded texts to logits, on which padding has no effect."""
        return self.head(self.pool(tokens, lengths))  # (N, classes)

    def pool(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the last state, and the maximum and the mean of the outputs of each text: ``(N, 3·H)``."""
        if self.backward:
            place = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)  # (T, 1)
            own = (place > 0) & (place < lengths)  # the entry before the text stays
            tokens = tokens.gather(0, torch.where(own, lengths - place, place))
        x = self.dropout(self.embedding_dropout(self.encoder(tokens), tokens))  # (T, N, I)
        packed, state = self.rnn(pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False))
        outputs, _ = pad_packed_sequence(packed)  # (T, N, H), zero where padded
        states = state[0] if isinstance(state, tuple) else state  # of layers of their own widths side by side
        last = states[-1, :, -outputs.shape[2] :]  # (N, H)
        padding = torch.arange(len(outputs), device=lengths.device).unsqueeze(1) >= lengths  # (T, N)
        largest = outputs.masked_fill(padding.unsqueeze(2), float("-inf")).amax(0)
        return torch.cat((last, largest, outputs.sum(0) / lengths.unsqueeze(1)), 1)


def layers(network: Network) -> list[list[nn.Parameter]]:
    """Return the parameters of the head, of each recurrent layer from the last down, and of the embedding."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        layer = re.search(r"^rnn\.(?:layers\.|\w+_l)(\d+)", name)
        height = int(layer[1]) if layer else math.inf if name.startswith("head.") else -1
        found.setdefault(height, []).append(parameter)
    return [found[height] for height in sorted(found, reverse=True)]


def slanted_triangle(progress: float, rise: float = 0.1, ratio: float = 32) -> float:
    """Return the factor of the step size after a share of all steps.

    Args:
        progress: The share, from 0 to 1.
        rise: The share in which the factor rises, from 1/ratio to 1.
        ratio: The largest step size by the smallest.

    Source:
        Howard & Ruder 2018, arXiv 1801.06146, equation 3.
    """
    height = progress / rise if progress < rise else max(0.0, (1 - progress) / (1 - rise))
    return (1 + height * (ratio - 1)) / ratio


class GradualUnfreezing(BaseFinetuning):
    """Train the head alone at first, and after every few epochs one more layer below it.

    Args:
        epochs: How many.

    Source:
        Howard & Ruder 2018, arXiv 1801.06146, section 3.3.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze before a fit alone."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze all but the head, if there is a network: one that a checkpoint makes is frozen later."""
        if pl_module.network is not None:
            self._thaw(pl_module, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaw what a run that resumes inside an epoch has thawed."""
        self._thaw(pl_module, trainer.current_epoch // self.epochs)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Thaw the next layer; the optimiser has had its parameters from the start, with their own step size."""
        self._thaw(pl_module, epoch // self.epochs)

    def _thaw(self, pl_module: LightningModule, deepest: int) -> None:
        for depth, layer in enumerate(layers(pl_module.network)):
            for parameter in layer:
                parameter.requires_grad_(depth <= deepest)


def macro_f1(confusion: Sequence[Sequence[float]]) -> float:
    """Return the mean over the classes of F1; a class that is neither there nor predicted is left out.

    Args:
        confusion: Examples by true and predicted class.

    Example:
        >>> macro_f1([[3, 1], [1, 3]])
        0.75
    """
    sizes = [sum(row) + sum(column) for row, column in zip(confusion, zip(*confusion, strict=True), strict=True)]
    scores = [2 * confusion[number][number] / size for number, size in enumerate(sizes) if size]
    return sum(scores) / len(scores)


@torch.no_grad()
def classify(checkpoint: str | Path, texts: Sequence[str], average_with: str | Path | None = None) -> Tensor:
    """Compute the classes' probabilities, ``(N, classes)``, of texts by a checkpoint alone, or the mean of two.

    A text is cut to the ``max_tokens`` of the checkpoint's data, as in its training and its test.

    Raises:
        TypeError: The texts are one string.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, got a string: give [text]")
    model = TextClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    model.average_with = average_with
    tokens, lengths = pad_texts(texts, model.tokenizer)
    most = len(tokens) if model.max_tokens is None else model.max_tokens
    return model(tokens[:most], lengths.clamp(max=most)).softmax(1)


class TextClassifierCLI(TokenizerCLI):
    """The command line of this recipe."""

    def callbacks(self) -> list[Callback]:
        """Return the throughput in texts, and the monitor of the gates."""
        return [Throughput("texts", lambda batch: len(batch.lengths)), GateMonitor()]

    def report(self) -> None:
        """Print accuracy, macro F1 and the most confident mistakes, and draw the confusion matrix."""
        if "test/error_percent" not in self.metrics:  # limit_test_batches 0
            return
        model, rows = self.model, self.datamodule.rows["test"]
        error, f1 = (self.metrics[f"test/{name}_percent"] for name in ("error", "macro_f1"))
        print(f"\naccuracy {100 - error:.1f} %, macro F1 {f1:.1f} %, on {sum(map(sum, model.confusion)):,.0f} texts")
        shown = sorted(model.mistakes, reverse=True)[:10]
        if shown:
            print("\nThe most confident mistakes, by probability: label → prediction")
        for probability, place, label, predicted in shown:
            text = " ".join(rows[place].text.split())
            text = text if len(text) <= 160 else f"{text[:157]}..."
            print(f"  {probability:.3f}  {model.classes[label]} → {model.classes[predicted]}: {text}")
        if self.run_dir is not None:
            figure = self.run_dir / "confusion.png"
            if plots.plot_confusion(model.confusion, model.classes, figure, title="texts of the test part"):
                print(f"\nthe confusion matrix: {figure}")


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        TextClassifier,
        LabelledTextDataModule,
        recipe="text_classifier",
        args=args,
        monitor="val/error_percent",
        cli_class=TextClassifierCLI,
        defaults={"trainer.max_epochs": 12, "trainer.gradient_clip_val": 1.0},
    )


if __name__ == "__main__":
    main()
