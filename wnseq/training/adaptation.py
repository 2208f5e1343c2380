"""A language model that adapts while it is evaluated: the options, their choice on the validation part, the reading."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wnseq.adaptation import ContinuousCache, DynamicEvaluation, gradient_rms
from wnseq.training.carried_state import State
from wnseq.training.checkpoint_files import load
from wnseq.training.evaluation import evaluation_stage
from wnseq.training.hparams import check_arguments
from wnseq.training.run_info import find_datamodule

__all__ = ["AdaptedModel", "Evaluation", "adapted_model"]

THETAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # penalties on activations make hidden states short
LAMBDAS = (0.05, 0.1, 0.15, 0.2, 0.3)
SWITCHES = {  # option that is 0 where the others would do nothing
    "cache_window": ("cache_theta", "cache_lambda"),
    "dynamic_rate": ("dynamic_decay", "dynamic_epsilon", "dynamic_bptt", "rms_batches"),
}
WORTHWHILE = 1e-3  # nats per token that another halving or doubling of the rate, or of the decay, must save
IGNORE = -100  # a target that does not count, cross_entropy's default
SHOWN = 5  # of what was tried


@dataclass
class Evaluation:
    """How a language model adapts to the text of ``test`` and ``validate``, and of the test at the end of a fit.

    Args:
        cache_window: Positions of the continuous cache (Grave et al. 2017); 0 for none. ``predict`` draws with it too.
        cache_theta: Sharpness of the cache.
        cache_lambda: Share of the cache in the mixture.
        dynamic_rate: Step size of dynamic evaluation (Krause et al. 2018); 0 for none. All streams of
            data.eval_batch_size adapt the same weights; the paper reads one. It needs the training data: ``predict``,
            which has none, refuses it.
        dynamic_decay: How fast it returns to the trained weights.
        dynamic_epsilon: Added to the root mean square of the gradients, in units of its mean.
        dynamic_bptt: Tokens of each stream between its steps.
        rms_batches: Training batches that the root mean square is measured on.
        tune: Whether ``test`` first chooses what is in use on the validation part: rate and decay, one after the other,
            halved or doubled for as long as that saves 0.001 nats per token; theta and lambda from a grid.
            limit_val_batches makes it faster.
    """

    cache_window: int = 0
    cache_theta: float = 0.3
    cache_lambda: float = 0.1
    dynamic_rate: float = 0.0
    dynamic_decay: float = 1e-3
    dynamic_epsilon: float = 1.0
    dynamic_bptt: int = 5
    rms_batches: int = 200
    tune: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        ranges = dict.fromkeys(("cache_window", "cache_theta", "dynamic_rate", "dynamic_decay"), "at least 0")
        ranges |= {"cache_lambda": "greater than 0 and less than 1", "dynamic_epsilon": "greater than 0"}
        ranges |= dict.fromkeys(("dynamic_bptt", "rms_batches"), "at least 1")
        check_arguments(Evaluation, vars(self), "evaluation.", **ranges)
        for switch, names in SWITCHES.items():
            idle = [name for name in names if getattr(self, name) != getattr(Evaluation, name)]
            if idle and not getattr(self, switch):
                raise ValueError(f"evaluation.{idle[0]} does nothing without evaluation.{switch}: set it, too")
        if self.tune and not self.adapts:
            raise ValueError("evaluation.tune needs something to choose: set evaluation.cache_window or dynamic_rate")

    @property
    def adapts(self) -> bool:
        """Return True if the model adapts at all."""
        return bool(self.cache_window or self.dynamic_rate)

    def check_without_data(self) -> None:
        """Raise ValueError for what reads the training or the validation part, where there is neither."""
        if self.dynamic_rate:
            raise ValueError(
                "dynamic evaluation needs the scale of the gradients on training data: use the command test, for a "
                "text of your own with --data.test PATH, or evaluation.dynamic_rate 0"
            )
        if self.tune:
            raise ValueError("evaluation.tune chooses on the validation part, for a test: use the command test")

    def cache(self) -> ContinuousCache | None:
        """Return an empty cache; None if there is none."""
        return ContinuousCache(self.cache_window, self.cache_theta, self.cache_lambda) if self.cache_window else None

    def __str__(self) -> str:
        """Return what is in use, for the screen."""
        cache = f"cache of {self.cache_window} positions, theta {self.cache_theta:g}, lambda {self.cache_lambda:g}"
        scale = f"rate {self.dynamic_rate:g}, decay {self.dynamic_decay:g}, epsilon {self.dynamic_epsilon:g}"
        dynamic = f"dynamic evaluation each {self.dynamic_bptt} tokens, {scale}"
        return ", and ".join([cache] * bool(self.cache_window) + [dynamic] * bool(self.dynamic_rate))


class AdaptedModel:
    """A language model that adapts to the text it reads.

    Args:
        network: Module in evaluation mode, tokens ``(T, N)`` and a state to logits ``(T, N, V)`` and the next state.
            Its parameters stay as they are.
        recurrent: Its part whose first output are the hidden states ``(T, N, H)`` before the softmax.
        options: How it adapts.
        rms: The scale of its gradients, by :func:`wnseq.adaptation.gradient_rms`; needed for dynamic evaluation alone.
        grid: θ and λ of caches to try side by side instead of the one of the options.
    """

    def __init__(
        self,
        network: nn.Module,
        recurrent: nn.Module,
        options: Evaluation,
        rms: Mapping[str, Tensor] | None = None,
        grid: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self.network, self.recurrent, self.options = network, recurrent, options
        thetas, self.lambdas = grid or ((options.cache_theta,), (options.cache_lambda,))
        tried = [replace(options, cache_theta=theta).cache() for theta in thetas]
        self.caches = [cache for cache in tried if cache is not None]
        self.dynamic: DynamicEvaluation | None = None
        if rms is None:
            options.check_without_data()
        elif options.dynamic_rate:
            how = options.dynamic_rate, options.dynamic_decay, options.dynamic_epsilon
            self.dynamic = DynamicEvaluation(network, rms, *how)

    def nats(
        self, inputs: Tensor, targets: Tensor, state: State | None, reset: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """Return what a batch's targets cost in all, for each θ and λ of a grid, and the next state.

        Without a state a new text begins, with empty caches and the trained weights. ``reset`` resets the state alone.
        """
        if state is None:
            for cache in self.caches:
                cache.reset()
            if self.dynamic:
                self.dynamic.reset()
        hidden: list[Tensor] = []
        length = self.options.dynamic_bptt if self.dynamic else len(inputs)
        hook = self.recurrent.register_forward_hook(lambda _, __, output: hidden.append(output[0]))
        try:
            with torch.inference_mode(False), torch.set_grad_enabled(self.dynamic is not None):
                total = torch.zeros(
                    len(self.caches) * len(self.lambdas) or 1, dtype=torch.float64, device=inputs.device
                )
                state = _map_state(torch.clone, state)  # what inference mode made cannot be in a graph
                for first in range(0, len(inputs), length):
                    part = slice(first, first + length)
                    x, y = inputs[part].clone(), targets[part].clone()
                    where = {} if reset is None else {"reset": reset[part].clone()}
                    logits, state = (self.dynamic or self.network)(x, state, **where)
                    nats, counted = _nats(logits, y), (y != IGNORE).sum()
                    if self.dynamic and counted:
                        self.dynamic.update(nats.sum() / counted)
                    nats, state = nats.detach(), _map_state(Tensor.detach, state)
                    mixed = [cache.nats(hidden[-1], y, nats, self.lambdas) for cache in self.caches] or [nats[None]]
                    total += torch.cat(mixed).double().sum((1, 2))
                    hidden.clear()
        finally:
            hook.remove()
        return total.squeeze(0), state


def adapted_model(
    model: LightningModule, network: nn.Module, recurrent: nn.Module, options: Evaluation
) -> AdaptedModel:
    """Return the network as the Trainer's evaluation shall read with it, the options chosen first if that is wanted.

    Raises:
        ValueError: Several processes would each adapt weights of their own; dynamic evaluation or tuning lacks a data
            module; tuning is asked of a validation.
    """
    trainer = model.trainer
    if options.dynamic_rate and trainer.world_size > 1:
        raise ValueError(
            f"dynamic evaluation adapts the weights of one process, got {trainer.world_size}: --trainer.devices 1"
        )
    if options.tune and not trainer.testing:
        raise ValueError("evaluation.tune chooses on the validation part, for a test: use the command test")
    data: Any = None
    rms = None
    if options.dynamic_rate or options.tune:
        own = find_datamodule(model)
        if not hasattr(own, "checkpoint_options"):
            raise ValueError(
                "dynamic evaluation and evaluation.tune read the training and the validation part: give the Trainer a "
                "TextDataModule instead of loaders, or leave both out"
            )
        data = _all_parts(model, own, options)
    with torch.inference_mode(False), torch.enable_grad(), trainer.precision_plugin.forward_context():
        if options.dynamic_rate:
            batches = itertools.islice(data.train_dataloader(), options.rms_batches)
            rms = gradient_rms(network, _losses(network, batches, model.device))
        if options.tune:
            options = _tune(model, network, recurrent, replace(options, tune=False), rms, data)
    model.print(f"evaluated with a {options}" if options.cache_window else f"evaluated with {options}")
    return AdaptedModel(network, recurrent, options, rms)


def _all_parts(model: LightningModule, own: Any, options: Evaluation) -> Any:
    """Return a data module with the parts that the model was trained and validated on, whatever is measured now."""
    part, checkpoint, found = evaluation_stage(model.trainer), model.trainer.ckpt_path, own.checkpoint_options()
    if checkpoint is not None and part in own.given:  # a text by its path, which may be all that the command reads
        saved = load(Path(checkpoint)).get("wnseq", {}).get("data", {})
        found = own.training_options(saved, part)
    data = type(own)(**found)  # with a position in training that nobody resumes
    data.tokenizer = own.tokenizer
    data.setup("fit")
    if data.corpus_sha256 != own.corpus_sha256:
        uses = {"train": "gradients of" if options.dynamic_rate else "", "val": "tuned on" if options.tune else ""}
        for part, use in uses.items():
            if use:
                model.print(f"{use} {data.describe_part(part)}")
    return data


def _losses(network: nn.Module, batches: Iterable[Any], device: torch.device) -> Iterator[Tensor]:
    state = None
    for batch in batches:
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        where = {} if batch.reset is None else {"reset": batch.reset.to(device)}
        logits, state = network(inputs, None if batch.reset_state else state, **where)
        state = _map_state(Tensor.detach, state)
        yield _nats(logits, targets).sum() / (targets != IGNORE).sum()


def _tune(
    model: LightningModule,
    network: nn.Module,
    recurrent: nn.Module,
    options: Evaluation,
    rms: Mapping[str, Tensor] | None,
    data: Any,
) -> Evaluation:
    """Return the options with the values that cost least on the validation part, printing what each costs."""

    def measure(tried: Evaluation, grid: tuple[Sequence[float], Sequence[float]] | None = None) -> list[float]:
        adapted = AdaptedModel(network, recurrent, tried, rms, grid)
        total, tokens, state = torch.zeros((), dtype=torch.float64), 0, None
        for batch in itertools.islice(loader, _limit(model.trainer, len(loader))):
            inputs, targets = batch.inputs.to(model.device), batch.targets.to(model.device)
            reset = None if batch.reset is None else batch.reset.to(model.device)
            nats, state = adapted.nats(inputs, targets, None if batch.reset_state else state, reset)
            total, tokens = total + nats.cpu(), tokens + int((targets != IGNORE).sum())
        return [float(cost) / tokens for cost in total.reshape(-1)]

    loader = data.val_dataloader()
    if not _limit(model.trainer, len(loader)):
        limit = model.trainer.limit_val_batches
        raise ValueError(f"evaluation.tune needs validation batches, got limit_val_batches {limit} of {len(loader)}")
    cost = None  # of the options as they stand
    chosen = ("dynamic_rate", "dynamic_decay") if options.dynamic_rate else ()
    for name in (name for name in chosen if getattr(options, name)):  # a decay of 0 stays
        without = replace(
            options, **{of: getattr(Evaluation, of) for of in ("cache_window", *SWITCHES["cache_window"])}
        )
        found, cost = _best(model, _descend(lambda tried: measure(tried)[0], without, name, cost))
        options = replace(options, **{name: getattr(found, name)})
    if options.cache_window:
        grid = itertools.product(THETAS, LAMBDAS)
        tried = [replace(options, cache_theta=theta, cache_lambda=share) for theta, share in grid]
        costs = measure(options, (THETAS, LAMBDAS))
        options, _ = _best(model, list(zip(tried, costs, strict=True)))
    return options


def _descend(
    measure: Callable[[Evaluation], float], start: Evaluation, name: str, cost: float | None
) -> list[tuple[Evaluation, float]]:
    """Return options and what they cost, one of them halved again and again, or doubled, as long as that is worthwhile.

    Args:
        measure: Returns what options cost.
        start: The first.
        name: Which of them is changed.
        cost: What the first cost, if that is known.
    """
    measured = [(start, measure(start) if cost is None else cost)]
    for factor in (0.5, 2.0):
        best, least = measured[0]
        while True:
            tried = replace(best, **{name: getattr(best, name) * factor})
            measured.append((tried, measure(tried)))
            if not measured[-1][1] < least - WORTHWHILE:
                break
            best, least = measured[-1]
        if best is not start:
            break
    return measured


def _best(model: LightningModule, measured: list[tuple[Evaluation, float]]) -> tuple[Evaluation, float]:
    """Return the options that cost least, and what they cost; print the best of them."""
    order = sorted(measured, key=lambda each: (math.isnan(each[1]), each[1]))
    for tried, cost in order[:SHOWN]:
        model.print(f"{cost:.4f} nats per token of the validation part: {tried}")
    if len(order) > SHOWN:
        model.print(f"… of {len(order)} tried, {order[-1][1]:.4f} the worst")
    return order[0]


def _limit(trainer: Trainer, number: int) -> int:
    """Return how many batches ``limit_val_batches`` leaves of a number."""
    limit = trainer.limit_val_batches
    return number if limit is None else min(limit, number) if isinstance(limit, int) else int(number * limit)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return what each target costs, in float32 at least; what is ignored costs 0."""
    full = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(full.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def _map_state(function: Callable[[Tensor], Tensor], state: State | None) -> State | None:
    if state is None:
        return None
    return function(state) if isinstance(state, Tensor) else (function(state[0]), function(state[1]))
