"""Language models that adapt to the text they are evaluated on: a cache of recent words, and dynamic evaluation."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["ContinuousCache", "DynamicEvaluation", "gradient_rms"]


class ContinuousCache:
    """Mix a model's next-token distribution with one over the tokens that followed similar hidden states before.

    p(w) = (1 − λ) p_model(w) + λ p_cache(w),   p_cache(w) ∝ Σ_i 1[w = x_{i+1}] exp(θ h_t·h_i)

    Each of N streams has a cache of its own, over its last ``window`` positions, from call to call. Where it is empty,
    p is the model's.

    Args:
        window: Positions in the cache.
        theta: θ, the sharpness; 0 weighs all positions alike.
        weight: λ, the share of the cache.
        ignore_index: Token that no cache holds, and target that costs what the model says.

    Raises:
        ValueError: An argument is out of its range, or other streams come without a reset.

    Note:
        λ is fixed, as in the paper's linear interpolation. A stream's first positions use what its cache holds so far;
        AWD-LSTM's code waits until the window is full.

    Example:
        >>> cache = ContinuousCache(window=2, theta=0.0, weight=0.5)
        >>> hidden, targets = torch.ones(3, 1, 4), torch.tensor([[7], [7], [8]])
        >>> cache.nats(hidden, targets, torch.full((3, 1), 0.25).log().neg()).neg().exp().flatten()
        tensor([0.2500, 0.6250, 0.1250])

    Source:
        Grave, Joulin, Usunier 2016, arXiv 1612.04426, section 3.
    """

    def __init__(self, window: int, theta: float, weight: float, *, ignore_index: int = -100) -> None:
        if window < 1 or not 0 <= theta < math.inf or not 0 < weight < 1:
            raise ValueError(
                "ContinuousCache: window must be at least 1, theta finite and at least 0, and weight between 0 and 1, "
                f"got {window}, {theta} and {weight}"
            )
        self.window, self.theta, self.weight, self.ignore_index = window, theta, weight, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget all positions."""
        self._pairs: tuple[Tensor, Tensor] | None = None  # hidden states (L, N, H), tokens after them (L, N)
        self._last: Tensor | None = None  # of read, (1, N, H), whose next token is not known

    @torch.no_grad()
    def nats(self, hidden: Tensor, targets: Tensor, nats: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Return what targets cost in the mixture, and add their positions to the cache.

        Args:
            hidden: Hidden states that predicted them.
            targets: Tokens, each the one after its position.
            nats: What they cost in the model, −log p.
            weights: Several λ to try instead of the cache's own; the result then has a cost for each.

        Shape:
            - hidden: ``(T, N, H)``
            - targets, nats: ``(T, N)``
            - Output: ``(T, N)``, or ``(len(weights), T, N)``
        """
        keys, followed_by = self._with(hidden, targets)  # L + T positions
        places = torch.arange(len(keys), device=keys.device)
        age = places[len(keys) - len(hidden) :, None] - places  # (T, L + T)
        attention, is_empty = self._attention(hidden, keys, followed_by, (age >= 1) & (age <= self.window))
        cached = torch.where(followed_by.t() == targets.unsqueeze(-1), attention, 0).sum(-1)
        self._pairs = keys[-self.window :], followed_by[-self.window :]
        tried = (self.weight,) if weights is None else weights
        mixed = torch.stack([-torch.logaddexp(math.log1p(-each) - nats, (each * cached).log()) for each in tried])
        mixed = torch.where(is_empty | (targets == self.ignore_index), nats, mixed)
        return mixed[0] if weights is None else mixed

    @torch.no_grad()
    def read(self, tokens: Tensor, hidden: Tensor) -> None:
        """Add the positions of a text that is read for :meth:`mix`.

        Args:
            tokens: The next tokens of each stream, ``(T, N)``.
            hidden: The hidden states after them, ``(T, N, H)``.
        """
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if self._last is None:
            before, tokens = hidden[:-1], tokens[1:]
        else:
            self._check(hidden)
            before = torch.cat([self._last, hidden[:-1]])
        keys, followed_by = self._with(before, tokens)
        self._pairs, self._last = (keys[-self.window :], followed_by[-self.window :]), hidden[-1:]

    @torch.no_grad()
    def mix(self, probabilities: Tensor) -> Tensor:
        """Return the mixture's probabilities of the token after what was read, from the model's, ``(N, V)``."""
        if self._pairs is None or self._last is None:
            return probabilities
        keys, followed_by = self._pairs
        seen = torch.ones(1, len(keys), dtype=torch.bool, device=keys.device)
        attention, is_empty = self._attention(self._last, keys, followed_by, seen)
        tokens = followed_by.t().clamp_min(0)  # what is ignored has no attention
        cached = torch.zeros_like(probabilities).scatter_add_(1, tokens, attention[0].to(probabilities.dtype))
        return torch.where(is_empty[0].unsqueeze(1), probabilities, probabilities.lerp(cached, self.weight))

    def _with(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return all positions of the cache and the new ones."""
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if self._pairs is None:
            return hidden.clone(), tokens.clone()
        self._check(hidden)
        keys, followed_by = self._pairs
        return torch.cat([keys, hidden]), torch.cat([followed_by, tokens])

    def _check(self, hidden: Tensor) -> None:
        """Raise ValueError for other streams than those that the cache holds."""
        if self._pairs is not None and self._pairs[0].shape[1:] != hidden.shape[1:]:
            _, streams, features = self._pairs[0].shape
            raise ValueError(
                f"ContinuousCache: it holds {streams} streams of {features} features, got "
                f"{hidden.shape[1]} of {hidden.shape[2]}; call reset() before other streams"
            )

    def _attention(self, hidden: Tensor, keys: Tensor, followed_by: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of L positions at T times, ``(T, N, L)``, and where a stream has none, ``(T, N)``."""
        with torch.autocast(hidden.device.type, enabled=False):  # a product's error is one of the exponent
            products = torch.einsum("tnh,lnh->tnl", hidden.to(keys.dtype), keys)
        forbidden = ~(seen.unsqueeze(1) & (followed_by.t() != self.ignore_index))
        if products.numel():  # the largest shall be 0, which no θ makes infinite
            products -= products.masked_fill(forbidden, -math.inf).amax(-1, keepdim=True)
        scores = products.mul_(self.theta).masked_fill_(forbidden, -math.inf)
        return scores.softmax(-1).nan_to_num(), forbidden.all(-1)


class DynamicEvaluation:
    """A module that is trained on what it has predicted, segment by segment, while it is evaluated.

    θ ← θ − η g/(√MS + ε) + λ R (θ₀ − θ),   R = √MS/mean(√MS), and λ R at most 1

    g is the gradient of a segment's loss, which is counted before the step, and MS the mean square of gradients on
    training data, entry by entry. Call this object instead of the module, then :meth:`update` with the loss. The
    adapted weights θ are this object's own: the module keeps the trained θ₀, whatever happens.

    Args:
        module: The trained module, in evaluation mode. What has no gradient is not adapted.
        rms: √MS by the name of each parameter: :func:`gradient_rms`.
        rate: η.
        decay: λ, how fast weights return to θ₀.
        epsilon: ε in units of the mean of √MS, greater than 0: the smaller it is, the further move the rarest words'
            rows.

    Raises:
        ValueError: An argument is out of its range, or rms is that of another module.
        RuntimeError: The loss of :meth:`update` has no gradient.

    Note:
        The parameters are the module's: with weight normalisation v and g, each with the MS of its own gradients. The
        mean of √MS is that over all entries; in the authors' code it is that of the parameters' means.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> module, x = nn.Linear(3, 1), torch.randn(8, 5, 3)
        >>> rms = gradient_rms(module, (mse_loss(module(part), part[:, :1]) for part in x))
        >>> adapted = DynamicEvaluation(module, rms, rate=0.1, decay=0.01)
        >>> losses = []
        >>> for part in x:
        ...     loss = mse_loss(adapted(part), part[:, :1])
        ...     adapted.update(loss)
        ...     losses.append(loss.item())
        >>> losses[-1] < losses[0]
        True

    Source:
        Krause, Kahembwe, Murray, Renals 2018, arXiv 1709.07432, section 4.
    """

    def __init__(
        self, module: nn.Module, rms: Mapping[str, Tensor], rate: float, decay: float, epsilon: float = 1.0
    ) -> None:
        for name, value in (("rate", rate), ("decay", decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"DynamicEvaluation: {name} must be finite and at least 0, got {value}")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"DynamicEvaluation: epsilon must be finite and greater than 0, got {epsilon}")
        self.module = module
        self._trained = _trainable(module)
        if mismatch := self._trained.keys() ^ rms.keys():
            raise ValueError(
                f"DynamicEvaluation: rms must have one entry for each parameter, and {', '.join(sorted(mismatch))} is "
                "not in both; measure it with gradient_rms(module, losses)"
            )
        mean = math.fsum(float(value.double().sum()) for value in rms.values()) / sum(map(torch.numel, rms.values()))
        if not mean > 0:
            raise ValueError("DynamicEvaluation: rms must have an entry greater than 0, or nothing can be adapted")
        own = {name: value.dtype for name, value in self._trained.items()}
        self._rates = {name: (rate / (value + epsilon * mean)).to(own[name]) for name, value in rms.items()}
        self._pulls = {name: (decay / mean * value).clamp_(max=1).to(own[name]) for name, value in rms.items()}
        self.reset()

    def reset(self) -> None:
        """Begin again from the trained weights."""
        with torch.inference_mode(False):
            self.weights = {name: value.detach().clone().requires_grad_() for name, value in self._trained.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the adapted weights."""
        with _without_cudnn(self.module):
            return functional_call(self.module, self.weights, args, kwargs)

    def update(self, loss: Tensor) -> None:
        """Step by the gradient of a segment's loss, which has been counted."""
        if not loss.requires_grad:
            raise RuntimeError(
                "element 0 of tensors does not require grad and does not have a grad_fn: call the adapted model, and "
                "compute the loss, in torch.inference_mode(False) and torch.enable_grad()"
            )
        gradients = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        with torch.no_grad():
            for (name, value), gradient in zip(self.weights.items(), gradients, strict=True):
                value.lerp_(self._trained[name], self._pulls[name])
                if gradient is not None:
                    value.addcmul_(_dense(gradient), self._rates[name], value=-1)
        torch.clear_autocast_cache()  # which holds the weights before the step in a lower precision


def gradient_rms(module: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the root mean square of each parameter's gradients over losses, entry by entry.

    Args:
        module: The trained module.
        losses: Mean losses of training segments, one after the other: a generator, so that one graph exists at a time.

    Returns:
        By name, as in ``module.named_parameters()``; only of what has a gradient; in float32 at least.

    Raises:
        ValueError: There is no loss.
    """
    parameters = _trainable(module)
    exact = {name: torch.promote_types(value.dtype, torch.float32) for name, value in parameters.items()}
    squares = {name: torch.zeros_like(value, dtype=exact[name]) for name, value in parameters.items()}
    number = 0
    with _without_cudnn(module):
        for loss in losses:
            number += 1
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for square, gradient in zip(squares.values(), gradients, strict=True):
                if gradient is not None:
                    gradient = _dense(gradient).to(square.dtype)
                    square.addcmul_(gradient, gradient)
    if not number:
        raise ValueError("gradient_rms: losses must have at least one loss of training data, got none")
    return {name: (square / number).sqrt_() for name, square in squares.items()}


def _dense(gradient: Tensor) -> Tensor:
    """Return a gradient as a dense tensor: that of an embedding may be sparse."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that have a gradient, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def _without_cudnn(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context without cuDNN for a module on a GPU: its recurrent nets have no backward in evaluation mode."""
    on_gpu = any(value.is_cuda for value in module.parameters())
    return torch.backends.cudnn.flags(enabled=False) if on_gpu else contextlib.nullcontext()
