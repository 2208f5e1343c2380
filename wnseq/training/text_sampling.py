"""How text is drawn from a language model: the options of a recipe, and one token after the other."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wnseq.training.hparams import check_arguments
from wnseq.training.sample_files import read_prompts

__all__ = ["Sampling", "draw_token", "print_texts"]

NUCLEUS = 512  # likeliest tokens that top_p looks at before it sorts the whole vocabulary, which takes the longest


@dataclass
class Sampling:
    """How text is drawn from the model.

    Args:
        prompt: Text to continue.
        prompts: File with a prompt in each line, instead.
        number: Samples of each prompt, drawn side by side.
        max_new_tokens: Tokens to draw.
        temperature: Divides the logits; 0 takes the likeliest token each time.
        top_k: Draw among this many likeliest tokens only.
        top_p: Draw among the likeliest tokens that hold this much probability.
        allow_unknown: Whether a word or character outside the vocabulary may be drawn, as ``<unk>`` or U+FFFD.
        seed: Seed of the first sample; each further one has the next.
        every_n_epochs: Epochs between samples, which samples.txt and the run's loggers keep; by default at its end.
        output: File that ``predict`` appends its samples to.
    """

    prompt: str = ""
    prompts: str | None = None
    number: int = 1
    max_new_tokens: int = 200
    temperature: float = 0.7
    top_k: int | None = None
    top_p: float = 0.9
    allow_unknown: bool = True
    seed: int = 0
    every_n_epochs: int | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        ranges = dict.fromkeys(("number", "max_new_tokens", "top_k", "every_n_epochs"), "at least 1")
        ranges |= {"temperature": "at least 0", "top_p": "greater than 0 and at most 1"}
        check_arguments(Sampling, vars(self), "sampling.", **ranges)
        if self.prompt and self.prompts is not None:
            raise ValueError("sampling.prompt and sampling.prompts exclude each other: write it into the file")
        try:
            self.prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"sampling.prompt must be text, which {self.prompt!r} is not in UTF-8") from error

    def settings(self) -> dict[str, Any]:
        """Return what is told beside a text, whose own beginning is its prompt if there are several."""
        return asdict(self) | {"output": None, "prompt": self.prompt if self.prompts is None else None}


def draw_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token from its logits, of shape ``(V,)``.

    Args:
        logits: Some are finite, none is NaN; -inf is never drawn.
        sampling: How. Where the temperature is so small that the logits overflow, it is the limit: the likeliest token.
        generator: Source of the random numbers.
    """
    temperature = min(sampling.temperature, torch.finfo(logits.dtype).max)  # by which -inf can be divided
    if not (logits.max() / temperature).isfinite():
        return int(logits.argmax())
    logits = logits / temperature
    if sampling.top_k is not None:
        logits, order = logits.topk(min(sampling.top_k, len(logits)))
        probabilities = logits.softmax(0)
    elif sampling.top_p == 1:
        return int(torch.multinomial(logits.softmax(0), 1, generator=generator))
    else:
        every = logits.softmax(0)
        probabilities, order = every.topk(min(NUCLEUS, len(every)))
        if probabilities.sum() < sampling.top_p:
            probabilities, order = every.sort(descending=True)
    beyond = probabilities.cumsum(0) - probabilities >= sampling.top_p  # the token that crosses top_p stays in
    beyond[0] = False  # a top_p below the least number of the type is 0 in the comparison
    return int(order[torch.multinomial(probabilities.masked_fill(beyond, 0), 1, generator=generator)])


def print_texts(draw: Callable[[Sampling], Iterator[list[int]]], tokenizer: Any, sampling: Sampling) -> list[str]:
    """Print each text that is drawn, a single one as it comes; return them.

    Args:
        draw: Returns the ids of the next tokens, one of each sample, one step after the other.
        tokenizer: The tokenizer of the model.
        sampling: How texts are drawn, with their prompts.
    """
    texts = []
    for prompt in [sampling.prompt] if sampling.prompts is None else read_prompts(sampling.prompts):
        drawn = draw(replace(sampling, prompt=prompt, prompts=None))
        for ids in [(ids[0] for ids in drawn)] if sampling.number == 1 else zip(*drawn, strict=True):
            texts.append(prompt)
            print(prompt, end="", flush=True)
            for piece in tokenizer.stream(ids, prompt):
                print(piece, end="", flush=True)
                texts[-1] += piece
            print()
    return texts
