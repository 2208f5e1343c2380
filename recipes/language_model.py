"""Word, subword, character or byte language model with a weight-normalised LSTM, GRU or RNN.

An embedding, locked dropout, a recurrent net whose every gate has its own g, and a softmax, by truncated
back-propagation through time: Salimans & Kingma 2016 (arXiv 1602.07868) applied to the models of Zaremba et al. 2014
(arXiv 1409.2329). With no arguments it trains on the language reference that ships inside Python.

On a CPU:
    wnseq run language_model
    wnseq run language_model --data.corpus path/to/your.txt --data.tokenizer char
On a GPU:
    wnseq run language_model --data.corpus wikitext-2 --data.tokenizer word --model.hidden_size 650
        --model.num_layers 2 --model.dropout 0.5 --trainer.max_epochs 25 --trainer.precision bf16-mixed
Fine-tuning, tokenizer and hyper-parameters taken from the checkpoint:
    wnseq run language_model --data.corpus path/to/your.txt --model.init_from best --model.learning_rate 5e-4
Measuring a text of your own, and sampling, from a checkpoint alone:
    wnseq run language_model test --ckpt_path best --data.test path/to/other.txt
    wnseq run language_model predict --ckpt_path best --model.sampling.prompt "The value" --model.sampling.number 3
A smaller model, of a checkpoint trained with slim_penalty, and one for ONNX Runtime:
    wnseq run language_model slim --ckpt_path best --output small.ckpt
    wnseq run language_model export --ckpt_path best --output model.onnx

Expect a test perplexity near 43.6 and 1.60 bits per byte (xz: 1.78), after 1 to 1.5 minutes of training on 2 CPU cores.
Epochs, dropout and step size that you do not give are chosen by the size of the text, for some two minutes, and said.

Deviations from the paper:
1. The paper has no language model. As in its section 5.3, every weight vector of the recurrent net is normalised; those
   of embedding and softmax are with ``--model.embedding_norm weight``.
2. It starts from torch's own draw, g = ‖v‖, with a forget bias of 1 (the update gate's, in a GRU), whatever the norm.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

import wnseq
from wnseq.data.text import IGNORE, TextBatch, TextDataModule, Tokenizer, exp, match_tokens, text_batches
from wnseq.data.text.bptt import ends_blank_line
from wnseq.init import memory_bias_
from wnseq.losses import activation_penalty, fused_linear_cross_entropy, tied_embedding
from wnseq.nn import RECURRENT_LAYERS, composed_weight, is_tied, memory_bound_linear, stack_layers, tie_weights
from wnseq.optim import penalize_units
from wnseq.training.adaptation import AdaptedModel, Evaluation, adapted_model
from wnseq.training.batches import check_finite, check_tokens
from wnseq.training.callbacks import GateMonitor, PolyakAverage, RowLengths, UnusedParameters, build_network_first
from wnseq.training.carried_state import CarriedStates, State
from wnseq.training.cli.loggers import log_texts
from wnseq.training.cli.recipe import run
from wnseq.training.cli.text import TextCLI
from wnseq.training.distillation import Teacher
from wnseq.training.evaluation import EvaluationTotals, evaluation_mode, evaluation_stage
from wnseq.training.fine_tuning import CheckedLoading, fill_from_checkpoint, load_initial_weights
from wnseq.training.hparams import check_arguments
from wnseq.training.initialisation import start_from_counts
from wnseq.training.length_rates import RateByLength
from wnseq.training.reading import ReadsText, check_direction
from wnseq.training.resume import open_checkpoint
from wnseq.training.run_info import checkpoint_info, find_datamodule, print_header
from wnseq.training.sample_files import append_texts
from wnseq.training.schedules import Schedule, check_warmup, schedule_steps, step_plateau, use_found_learning_rate
from wnseq.training.serving import READERS, export, slim
from wnseq.training.text_sampling import Sampling, draw_token, print_texts

DROPOUTS = ("dropout", "input_dropout", "hidden_dropout", "output_dropout")
RATES = (*DROPOUTS, "embedding_dropout", "weight_drop")


class LanguageModel(CheckedLoading, RateByLength, ReadsText):
    """A recurrent language model and how it is trained.

    Args:
        cell: Recurrence.
        norm: ``weight`` for weight normalisation, ``none`` for plain layers.
        embedding_norm: ``weight`` normalises embedding and softmax too.
        count_start: What starts from how often each token of the training text occurs: ``g`` of a normalised embedding,
            in proportion to log counts (Herold et al. 2018), or the softmax's ``bias``, at the log frequencies.
        embedding_size: Features of a token; by default as many as hidden_size.
        hidden_size: Features of the hidden state.
        num_layers: Recurrent layers.
        dropout: Probability of a zero in the embedded input, between layers and before the softmax.
        input_dropout: That of the embedded input, if it is another.
        hidden_dropout: That between layers.
        output_dropout: That before the softmax.
        embedding_dropout: Probability that all occurrences of a token in a batch are embedded as zeros.
        weight_drop: Probability of a zero in the recurrent weights, by one mask a batch (Merity et al. 2018).
        activation_penalty: Factor of the mean square of the dropped output in the training loss (AR).
        temporal_penalty: Factor of the mean square of the output's change from step to step (TAR).
        tied: Whether the softmax shares the embedding's weight; the last layer then has embedding_size units.
        forget_bias: Start of the forget bias, of the GRU's update bias, and negated of the minGRU's, which forgets.
        optimizer: AdamW, or plain SGD.
        learning_rate: Step size, on the mean loss per token.
        weight_decay: Decay of g, embedding and softmax; never of v or biases.
        embedding_decay: That of embedding and softmax, of their g if they are normalised, if it is another.
        v_decay: Decay of every v: it changes no function, but leads to a steady turn of v a step.
        schedule: ``constant``; ``cosine`` to zero over the whole run; ``one_cycle`` rises over 0.3 of it from 1/25 and
            falls to zero; ``plateau`` multiplies by decay_factor whenever the validation loss has not improved,
            ``decay`` after every epoch past decay_after.
        warmup: Steps over which the step size rises from zero; not with ``plateau`` and ``one_cycle``.
        decay_factor: Factor of the schedules ``plateau`` and ``decay``.
        decay_after: Epochs before the schedule ``decay`` begins.
        slim_penalty: Group lasso on the units of the recurrent net, by which idle ones become zero for ``slim``; not
            with an average, in which none is zero.
        distill_from: Checkpoint of a teacher with the same tokenizer, as the model that ``slim`` cut: nine tenths of
            what is learned are its predictions, the rest is the text.
        average: Average of the weights for evaluation and checkpoints: ``ema`` over the last average_epochs; ``asgd``
            over all steps since the validation loss was above its least of more than average_patience validations
            before (NT-ASGD of Merity et al. 2018, with a constant schedule).
        average_epochs: Epochs of the average ``ema``.
        average_patience: Validations of the average ``asgd``.
        chunked_softmax: Whether logits are computed for a part of the vocabulary at a time, and twice: much less memory
            with a large vocabulary.
        init_from: Checkpoint to start from: one of this recipe, whose hyper-parameters then hold where none are given,
            or a plain torch state dict with the same names.
        init_vocabulary: Words of a plain state dict, in the order of its rows: a file with one word a line, or a
            torchtext vocabulary that torch.save wrote. Each word takes its row; a word that has none starts fresh.
        sampling: How ``predict`` and the end of a run draw text.
        evaluation: How the model adapts to the text of a test; by default it does not.

    Shape:
        - batches: ``TextBatch`` of ``(T, N)`` tokens and targets

    Raises:
        ValueError: An argument is out of its range, or a checkpoint does not fit.
    """

    resume_may_change = (*RATES, "activation_penalty", "temporal_penalty", "chunked_softmax")  # in a resumed run
    evaluation_may_change = ("chunked_softmax",)
    never_lent = ("distill_from",)

    @fill_from_checkpoint
    def __init__(
        self,
        cell: Literal["lstm", "gru", "rnn", "mingru", "minlstm", "mlstm"] = "lstm",
        norm: Literal["weight", "none"] = "weight",
        embedding_norm: Literal["weight", "none"] = "none",
        count_start: Literal["none", "g", "bias"] = "none",
        embedding_size: int | None = None,
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.5,
        input_dropout: float | None = None,
        hidden_dropout: float | None = None,
        output_dropout: float | None = None,
        embedding_dropout: float = 0.0,
        weight_drop: float = 0.0,
        activation_penalty: float = 0.0,
        temporal_penalty: float = 0.0,
        tied: bool = True,
        forget_bias: float = 1.0,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 5e-3,
        weight_decay: float = 0.0,
        embedding_decay: float | None = None,
        v_decay: float = 0.0,
        schedule: Schedule = "cosine",
        warmup: int = 0,
        decay_factor: float = 0.5,
        decay_after: int = 4,
        slim_penalty: float = 0.0,
        distill_from: str | None = None,
        average: Literal["none", "ema", "asgd"] = "none",
        average_epochs: float = 0.5,
        average_patience: int = 5,
        chunked_softmax: bool = False,
        init_from: str | None = None,
        init_vocabulary: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - shown by --help
        evaluation: Evaluation = Evaluation(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["init_from", "init_vocabulary", "sampling", "evaluation"])
        ranges = dict.fromkeys(RATES, "at least 0 and less than 1") | {"decay_factor": "greater than 0 and less than 1"}
        ranges |= dict.fromkeys(("hidden_size", "embedding_size", "num_layers", "average_patience"), "at least 1")
        at_least_0 = ("weight_decay", "embedding_decay", "v_decay", "activation_penalty", "temporal_penalty")
        ranges |= dict.fromkeys((*at_least_0, "slim_penalty", "warmup", "decay_after"), "at least 0")
        ranges |= dict.fromkeys(("learning_rate", "average_epochs"), "greater than 0")
        check_arguments(LanguageModel, {**self.hparams, "sampling": sampling, "evaluation": evaluation}, **ranges)
        own_widths = tied and embedding_size not in (None, hidden_size)
        if own_widths and num_layers == 1:
            sizes = f"hidden_size {embedding_size}, got {hidden_size}"
            raise ValueError(f"a tied softmax on a single layer needs {sizes}; or set --model.tied false")
        if weight_drop and cell.startswith("m"):
            raise ValueError(f"weight_drop is for lstm, gru and rnn, got {cell}")
        if slim_penalty and (norm == "none" or cell == "mlstm" or own_widths or average != "none"):
            raise ValueError(f"slim_penalty needs norm weight, one width, no mlstm and no average, got {slim_penalty}")
        if hidden_dropout and num_layers == 1:
            raise ValueError(f"hidden_dropout is that between layers, got {hidden_dropout} and a single layer")
        if count_start == "g" and embedding_norm == "none":
            raise ValueError("count_start g needs an embedding that has a g: set --model.embedding_norm weight")
        if v_decay and "weight" not in (norm, embedding_norm):
            raise ValueError(f"v_decay is for weights that have a v: set --model.norm weight, got {v_decay}")
        check_warmup(schedule, warmup)
        if init_vocabulary is not None and init_from is None:
            raise ValueError("init_vocabulary is that of init_from, which must be given too")
        self.init_from, self.init_vocabulary = init_from, init_vocabulary
        self.sampling, self.evaluation = replace(sampling), replace(evaluation)
        self.adapted: AdaptedModel | None = None  # in a test
        self.teacher: Teacher | None = None  # in a fit
        self.tokenizer: Tokenizer | None = None
        self.network: Network | None = None
        self.totals = EvaluationTotals()
        self.states = CarriedStates()  # from batch to batch, one for each stage

    def build(self, tokenizer: Tokenizer) -> None:
        """Make the network for a tokenizer."""
        h = self.hparams
        self.tokenizer = tokenizer
        sizes = (h.embedding_size or h.hidden_size, h.hidden_size, h.num_layers)
        dropout, *others = (h[name] for name in DROPOUTS)
        dropouts = tuple(dropout if other is None else other for other in others)
        rates = (dropouts, h.tied, h.forget_bias, h.weight_drop, h.embedding_dropout)
        self.network = Network(len(tokenizer), h.cell, h.norm, *sizes, *rates, h.embedding_norm)

    def build_from_data(self) -> None:
        """Make the network for the tokenizer of the Trainer's data, if there is none; start it from ``init_from``."""
        tokenizer = getattr(data := find_datamodule(self), "tokenizer", None)
        if tokenizer is not None:  # else that of build, or of the checkpoint that is about to be loaded
            self.read_as_data()
            if self.tokenizer is not None:
                self.tokenizer.check_same(tokenizer)
            elif self.hparams.count_start != "none" and self.trainer.state.fn != "fit" and "train" not in data.splits:
                self.tokenizer = tokenizer  # the checkpoint that is about to be loaded makes the network
            else:
                self.build(tokenizer)
                start_from_counts(self, self.hparams.count_start)
        if self.network is not None and self.init_from is not None:
            sizes = ("cell", "norm", "embedding_norm", "embedding_size", "hidden_size", "num_layers", "tied")
            load_initial_weights(self.network, self.init_from, sizes, check=self._match_tokenizer)
            self.init_from = None  # once: the next fit goes on

    def configure_callbacks(self) -> list[Callback]:
        """Make the network before the callbacks of the Trainer look at it; warn about what is not trained."""
        build_network_first(self.trainer)
        h, asgd = self.hparams, {"trigger": "val/nats_per_token", "patience": self.hparams.average_patience}
        if h.average == "none" or self.trainer.state.fn != "fit":
            return [UnusedParameters()]
        average = PolyakAverage(h.average_epochs, "epochs") if h.average == "ema" else PolyakAverage(math.inf, **asgd)
        return [UnusedParameters(), average]

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict the token after each of the given ones: ``(T, N)`` ids to ``(T, N, V)`` logits and the next state."""
        return self.network(tokens, state)

    def on_fit_start(self) -> None:
        """Print what is trained on what."""
        h = self.hparams
        use_found_learning_rate(self)
        self.teacher = None if h.distill_from is None else Teacher(self, h.distill_from)
        print_header(self, f"{h.num_layers} x {h.hidden_size} {h.cell}, norm {h.norm}")

    def configure_optimizers(self) -> Any:
        """Set up the optimiser and its schedule."""
        if self.network is None:
            raise ValueError("there is no network yet: fit with a TextDataModule, or call build(tokenizer) first")
        h = self.hparams
        groups = functools.partial(wnseq.param_groups, v_decay=h.v_decay)
        if h.embedding_decay is None:
            parts = groups(self.network, h.weight_decay)
        else:
            ends = nn.ModuleList([self.network.encoder, self.network.decoder])
            parts = groups(self.network.rnn, h.weight_decay) + groups(ends, h.embedding_decay)
        kind = torch.optim.AdamW if h.optimizer == "adamw" else torch.optim.SGD
        # Fused: one pass over the memory. 16-mixed scales the gradients, and a fused step would undo it only after
        # clipping. No other precision scales them, and Lightning must be told so before it clips.
        optimizer = kind(parts, lr=h.learning_rate, fused=self.trainer.precision != "16-mixed")
        optimizer._step_supports_amp_scaling = False
        if h.slim_penalty:
            penalize_units(optimizer, self.network, READERS, h.slim_penalty)
        how = {"warmup": h.warmup, "decay_factor": h.decay_factor, "decay_after": h.decay_after}
        return schedule_steps(optimizer, self.trainer, h.schedule, **how, metric="val/nats_per_token")

    def _step(self, batch: TextBatch, stage: str, reduction: str = "sum", outputs: Any = None) -> tuple[Tensor, Tensor]:
        """Run one batch from the carried state; return the loss in nats and the number of tokens."""
        check_tokens(batch.inputs, batch.targets, len(self.tokenizer), IGNORE, training=stage == "train")
        state = self.states.carried(self, stage, batch)
        if self.adapted is not None and stage != "train":
            nats, state = self.adapted.nats(batch.inputs, batch.targets, state, batch.reset)
        elif self.teacher is not None and stage == "train":
            logits, state = self.network(batch.inputs, state, reset=batch.reset, outputs=outputs)
            nats = self.teacher.loss(self, batch, logits)
        else:
            how = {"reduction": reduction, "chunked": self.hparams.chunked_softmax, "outputs": outputs}
            nats, state = self.network(batch.inputs, state, batch.targets, reset=batch.reset, **how)
        self.states.carry(stage, state)
        return nats, (batch.targets != IGNORE).sum()

    def training_step(self, batch: TextBatch, index: int) -> Tensor:
        """Compute the mean loss per token of one batch; a teacher's share and the penalties are not logged."""
        factors = self.hparams.activation_penalty, self.hparams.temporal_penalty
        outputs: list[Tensor] | None = [] if any(factors) else None  # which would keep them through the softmax
        loss, _ = self._step(batch, "train", "mean", outputs)
        nats = loss if self.teacher is None else self.teacher.nats
        self.log("train/nats_per_token", nats, prog_bar=True, batch_size=batch.inputs.numel(), sync_dist=True)
        return loss if outputs is None else loss + activation_penalty(*outputs, *factors)

    def on_validation_epoch_start(self) -> None:
        """Forget the totals of the evaluation before, which may have been interrupted; let a test adapt."""
        self.totals.reset()
        adapts = self.evaluation.adapts and self.trainer.state.fn != "fit"
        self.adapted = adapted_model(self, self.network, self.network.rnn, self.evaluation) if adapts else None

    def validation_step(self, batch: TextBatch, index: int) -> None:
        """Add one batch to the totals of the validation or the test."""
        nats, tokens = self._step(batch, evaluation_stage(self.trainer))
        self.totals.add(nats=nats, tokens=tokens)

    def on_validation_epoch_end(self) -> None:
        """Log the units in which language models are compared: nats and bits by token, word, character and byte."""
        stage, data = evaluation_stage(self.trainer), find_datamodule(self)
        nats, tokens = self.totals.reduce(self.trainer).values()
        if not tokens:
            raise ValueError(f"an evaluation must have a target that counts, all are {IGNORE}")
        step_plateau(self, loss := nats / tokens)
        values = {"nats_per_token": loss, "perplexity": exp(loss)}
        if isinstance(data, TextDataModule):
            values = data.splits[stage].counts.units(loss, self.tokenizer)
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_train_epoch_end(self) -> None:
        """Sample every few epochs, if that is wanted."""
        if (every := self.sampling.every_n_epochs) and (self.current_epoch + 1) % every == 0:
            texts = self.write_samples(Path(self.trainer.default_root_dir, "samples.txt"))
            log_texts(self.loggers, texts, self.global_step)

    def predict_step(self, batch: Any, index: int) -> list[str]:
        """Sample, writing the text to the terminal as it comes."""
        return forward_model(self).write_samples(self.sampling.output)

    def write_samples(self, output: str | Path | None) -> list[str]:
        """Sample to the terminal, and append the texts to a file; not where they would be drawn from their end."""
        if not self.trainer.is_global_zero or self.reads_backward:
            return []
        texts = print_texts(functools.partial(sample, self), self.tokenizer, self.sampling)
        if output is not None:
            append_texts(output, texts, step=self.trainer.global_step or None, **self.sampling.settings())
        return texts

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a checkpoint needs to stand alone, and the state carried between batches."""
        tokenizer = {"tokenizer": self.tokenizer.state(), "tokenizer_sha256": self.tokenizer.sha256}
        checkpoint["wnseq"] = checkpoint_info(self, "language_model", **tokenizer)
        checkpoint.update(self.states.gather(self.trainer))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network of a checkpoint, and continue from its carried state."""
        info = open_checkpoint(self, checkpoint, "language_model")
        tokenizer = Tokenizer.from_state(info["tokenizer"])
        tokenizer.check_same(self.tokenizer or tokenizer)
        if self.network is None:
            self.build(tokenizer)
        self.read_as_trained(info)
        self.states.restore(self, checkpoint)

    def _match_tokenizer(self, loaded: dict[str, Any]) -> None:
        """Refuse one that reads the other way; bring rows of other tokens into the tokenizer's order."""
        check_direction(loaded.get("wnseq", {}).get("data", {}).get("backward"), self.reads_backward, self.init_from)
        rows = [f"{part}.weight{end}" for part in ("encoder", "decoder") for end in ("", "_v", "_g")] + ["decoder.bias"]
        fresh = {**self.network.state_dict(), **wnseq.state_dict_as(self.network, "plain")}
        if said := match_tokens(self.tokenizer, self.init_from, loaded, self.init_vocabulary, rows, fresh):
            self.print(said)


class Network(nn.Module):
    """Tokens to logits. The names of its parts are those of PyTorch's word language model, whose checkpoints load."""

    def __init__(
        self,
        vocabulary_size: int,
        cell: str,
        norm: str,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float | tuple[float, float, float],  # of all, or of input, between layers, output
        tied: bool,
        forget_bias: float,
        weight_drop: float = 0.0,
        embedding_dropout: float = 0.0,
        embedding_norm: str = "none",
    ) -> None:
        super().__init__()
        of_input, between, of_output = dropout if isinstance(dropout, tuple) else (dropout,) * 3
        sizes = [hidden_size] * (num_layers - 1) + [embedding_size if tied else hidden_size]
        layer = functools.partial(RECURRENT_LAYERS[cell, norm], **{"weight_drop": weight_drop} if weight_drop else {})
        normalized = embedding_norm == "weight"
        self.encoder = (wnseq.WNEmbedding if normalized else nn.Embedding)(vocabulary_size, embedding_size)
        self.rnn = stack_layers(layer, embedding_size, sizes, between)
        self.decoder = (wnseq.WNLinear if normalized else nn.Linear)(sizes[-1], vocabulary_size)
        self.embedding_dropout = wnseq.EmbeddingDropout(vocabulary_size, embedding_dropout)
        self.input_dropout, self.output_dropout = wnseq.LockedDropout(of_input), wnseq.LockedDropout(of_output)
        for part in (self.encoder,) if tied else (self.encoder, self.decoder):
            part.weight = nn.Parameter(torch.empty(vocabulary_size, part.weight.shape[1]).uniform_(-0.1, 0.1))
        nn.init.zeros_(self.decoder.bias)
        if tied:
            tie_weights(self.decoder, self.encoder)
        if cell != "rnn":
            memory_bias_(self.rnn, forget_bias)

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        targets: Tensor | None = None,
        reduction: str = "sum",
        chunked: bool = False,
        bound: tuple[Callable[..., tuple[Tensor, State]], Tensor] | None = None,
        last_only: bool = False,
        reset: Tensor | None = None,
        outputs: list[Tensor] | None = None,
    ) -> tuple[Tensor, State]:
        """Predict the token after each of the given ones; return logits and state, with targets their cross-entropy.

        ``bound`` is the recurrent net with its weights composed, and the weight of the softmax; with ``last_only`` the
        last logits alone are computed; ``outputs`` gets the output of the last layer before and after its dropout;
        where ``reset`` is true, the state is zero before that token.
        """
        recur, weight = bound or (self.rnn, composed_weight(self.decoder))
        tied = is_tied(self.decoder, self.encoder)
        if tied and targets is not None:
            x, weight = tied_embedding(tokens, weight)  # both gradients in one buffer
        else:
            x = nn.functional.embedding(tokens, weight) if tied else self.encoder(tokens)  # (T, N, I)
        x = self.input_dropout(self.embedding_dropout(x, tokens))
        hidden, state = recur(x, state, *(() if reset is None else (reset,)))  # (T, N, H)
        x = self.output_dropout(hidden[-1:] if last_only else hidden)
        if outputs is not None:
            outputs += [hidden, x]
        if targets is not None:  # in a buffer of logits that become their own gradient
            options = {"ignore_index": IGNORE, "reduction": reduction, "chunked": chunked}
            return fused_linear_cross_entropy(x, weight, targets, self.decoder.bias, **options), state
        logits = memory_bound_linear(x.flatten(0, -2), weight, self.decoder.bias)
        return logits.unflatten(0, x.shape[:-1]), state  # (T, N, V)

    def bind(self) -> Callable[..., tuple[Tensor, State]]:
        """Return :meth:`forward` with the weights composed once."""
        recur = self.rnn.bind() if hasattr(self.rnn, "bind") else self.rnn
        return functools.partial(self, bound=(recur, composed_weight(self.decoder)))


def sample(model: LanguageModel, sampling: Sampling) -> Iterator[list[int]]:
    """Draw the ids of the next tokens, one of each sample, one step after the other, the weights composed once.

    With a cache in the model's ``evaluation`` what was read and drawn before becomes likelier.
    """
    network, tokenizer = model.network, model.tokenizer
    generators = [torch.Generator().manual_seed(sampling.seed + index) for index in range(sampling.number)]
    prompt = [tokenizer.start, *tokenizer.encode(sampling.prompt)]
    tokens = torch.tensor([prompt] * sampling.number, device=model.device).T  # (T, N)
    cache, state, step, last = model.evaluation.cache(), None, None, tokens[:1]
    for _ in range(sampling.max_new_tokens):
        reset = ends_blank_line(torch.cat([last, tokens[:-1]]), tokens, tokenizer.start) if model.documents else None
        with evaluation_mode(network):
            step, outputs = step or network.bind(), []
            logits, state = step(tokens, state, last_only=True, outputs=outputs, reset=reset)  # (1, N, V)
        logits = logits[0].float()  # (N, V)
        check_finite(logits, "the logits of the next token")
        if cache is not None:
            cache.read(tokens, outputs[0])
            logits = cache.mix(logits.softmax(1)).log()
        if not sampling.allow_unknown and tokenizer.unknown is not None:
            logits[:, tokenizer.unknown] = -math.inf
        drawn = [draw_token(row, sampling, generator) for row, generator in zip(logits.cpu(), generators, strict=True)]
        yield drawn
        last, tokens = tokens[-1:], torch.tensor([drawn], device=model.device)


def forward_model(model: LanguageModel | str | Path, evaluation: Evaluation | None = None) -> LanguageModel:
    """Return a model, or that of a checkpoint, if it reads forward and needs no data to adapt."""
    model = model if isinstance(model, LanguageModel) else LanguageModel.load_from_checkpoint(model, map_location="cpu")
    if model.reads_backward:
        raise ValueError("the model reads from the end of a text to its beginning: it neither draws nor scores one")
    (evaluation or model.evaluation).check_without_data()
    return model


def generate(
    model: LanguageModel | str | Path,
    prompt: str = "",
    *,
    number: int = 1,
    max_new_tokens: int = 200,
    temperature: float = 0.7,
    top_k: int | None = None,
    top_p: float = 0.9,
    allow_unknown: bool = True,
    seed: int = 0,
) -> list[str]:
    """Return ``number`` texts that begin with the prompt, drawn by a model or by a checkpoint alone.

    Args:
        model: The model, on any device, or the path of a checkpoint of this recipe.
        prompt: Text to continue; for the other arguments see :class:`Sampling`.
    """
    model = forward_model(model)
    how = Sampling(prompt, None, number, max_new_tokens, temperature, top_k, top_p, allow_unknown, seed)
    columns = zip(*sample(model, how), strict=True)
    return [prompt + "".join(model.tokenizer.stream(ids, prompt)) for ids in columns]


def score(model: LanguageModel | str | Path, text: str, evaluation: Evaluation | None = None) -> dict[str, float]:
    """Return how well a model, or a checkpoint alone, predicts a text, in the units of a test.

    Args:
        model: The model, on any device, or the path of a checkpoint of this recipe.
        text: The text, read from the zero state on, and each document of it, if the model was trained so by
            ``data.documents``; ``share_unknown`` of its tokens are no entries of the vocabulary.
        evaluation: Its cache is used, by default that of the model's own; dynamic evaluation needs training data: the
            command ``test --data.test PATH``.
    """
    model = forward_model(model, evaluation)
    batches, counts = text_batches(text, model.tokenizer, documents=bool(model.documents))
    nats, state, how = 0.0, None, evaluation or model.evaluation
    adapted = AdaptedModel(model.network, model.network.rnn, how) if how.adapts else None
    with evaluation_mode(model.network):
        for batch in batches:
            inputs, targets, _, reset = model.transfer_batch_to_device(batch, model.device, 0)
            if adapted is not None:
                loss, state = adapted.nats(inputs, targets, state, reset)
            else:
                loss, state = model.network(inputs, state, targets, "sum", model.hparams.chunked_softmax, reset=reset)
            nats += loss.item()
    units = counts.units(nats / counts.tokens, model.tokenizer)
    return units | {"tokens": counts.tokens, "share_unknown": counts.unknown / counts.tokens}


class LanguageModelCLI(TextCLI):
    """The command line of this recipe."""

    def settings(self, tokens: int, entries: int, options: Any, given: set[str]) -> dict[str, Any]:
        """Return 3 to 25 epochs, what takes some two minutes on two cores, and what suits a text of that size.

        On a small one a weight-normalised LSTM that starts afresh has the step size and embedding found best for it.
        """
        small = tokens < 5e5
        seconds = tokens * ((15 if small else 9) + entries / 150) * 1e-6  # of an epoch, with 256 units
        epochs = min(25, max(3 if tokens < 1e7 else 1, round(130 / seconds)))
        dropout = 0.5 if tokens < 2e5 else 0.3 if small else 0.2 if tokens < 1.5e6 else 0.1
        chosen = {"trainer.max_epochs": epochs, "model.dropout": dropout}
        if not small:
            return chosen | {"data.batch_size": 32, "model.learning_rate": 7e-3}
        best = {"model.schedule": "one_cycle", "model.embedding_norm": "weight", "model.count_start": "g"}
        rivals = {"model.warmup", "model.optimizer", *best} & given
        if self.start is not None or rivals or (options.model.cell, options.model.norm) != ("lstm", "weight"):
            return chosen
        return chosen | best | {"model.learning_rate": 1.5e-2}

    def callbacks(self) -> list[Callback]:
        """Add the monitors of the gates and of the embedding."""
        return [*super().callbacks(), GateMonitor(), RowLengths()]

    def report(self) -> None:
        """Print a sample, and the bits per byte of a compressor."""
        print("\nNo sample: the model reads backward" if self.model.reads_backward else "\nA sample:\n")
        self.model.write_samples(self.run_dir and self.run_dir / "samples.txt")
        self.print_compressed_size()


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the final metrics."""
    return run(
        LanguageModel,
        TextDataModule,
        recipe="language_model",
        args=args,
        cli_class=LanguageModelCLI,
        commands=(slim, export),
        defaults={
            "trainer.max_epochs": 25,
            "trainer.gradient_clip_val": 1.0,
            "trainer.log_every_n_steps": 10,
            "data.batch_size": 16,
        },
    )


if __name__ == "__main__":
    main()
