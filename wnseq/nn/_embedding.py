"""WNEmbedding: a table of vectors, each with a scale of its own."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wnseq.errors import ShapeError
from wnseq.functional import direction_norm, scale_shape, weight_norm
from wnseq.nn._arguments import check_bool, check_int, check_number, check_size
from wnseq.nn._fx import record_compose
from wnseq.nn._module import WNModule


class WNEmbedding(WNModule):
    """A table of vectors with weight normalisation, a drop-in for ``torch.nn.Embedding``.

    y = w[j], w[j] = g[j]·v[j]/‖v[j]‖ over the row of index j

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Length of each.
        padding_idx: Index whose row starts as zeros and gets no gradient by a look-up. A negative one counts from the
            end.
        max_norm: Upper bound of the norm of a row: a look-up lowers \\|g\\| of its rows to it, in place.
        norm_type: 2 is the only norm that g bounds; any other is refused together with ``max_norm``.
        scale_grad_by_freq: Divide the gradient of each row by how often its index is looked up.
        sparse: Give v and g sparse gradients, which ``SGD``, ``SparseAdam`` and ``Adagrad`` take.
        dim: Axis of the table along which g lies, as in torch's ``weight_norm``: 0 for a scale of each row, 1 of each
            column, None for one of the whole table. Along another axis than 0 a look-up composes the whole table, and
            g has torch's shape, ``(1, D)`` or ``()``.

    Shape:
        - input: ``(*)``, int64 or int32
        - output: ``(*, D)``, D being embedding_dim

    State:
        weight_v ``(V, D)``, V being num_embeddings, from N(0, 1); weight_g ``(V,)``, ‖v‖, of ``padding_idx`` 0.

    Note:
        A look-up composes the rows that it returns, not the table; ``module.weight`` composes the table. To tie an
        output layer, call ``F.linear(h, embedding.weight)``, or share v and g with a WNLinear.

    Example:
        >>> from wnseq import WNLinear
        >>> embedding, output = WNEmbedding(10, 3), WNLinear(3, 10)
        >>> output.weight_v, output.weight_g = embedding.weight_v, embedding.weight_g
        >>> output(embedding(torch.tensor([[1, 2, 4]]))).shape
        torch.Size([1, 3, 10])

    Source:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dim: int | None = 0,
    ) -> None:
        super().__init__()
        self.num_embeddings = rows = check_size("WNEmbedding", "num_embeddings", num_embeddings)
        self.embedding_dim = check_size("WNEmbedding", "embedding_dim", embedding_dim)
        if padding_idx is not None:
            padding_idx = check_int("WNEmbedding", "padding_idx", padding_idx)
            if not -rows <= padding_idx < rows:
                raise ValueError(
                    f"Padding_idx must be within num_embeddings, which is {rows}, got {padding_idx} in WNEmbedding"
                )
            padding_idx %= rows
        self.padding_idx = padding_idx
        if max_norm is not None:
            max_norm = check_number(
                "WNEmbedding", "max_norm", max_norm, 0, float("inf"), "max_norm must be a number ≥ 0"
            )
            if norm_type != 2:
                raise ValueError(
                    f"WNEmbedding: max_norm bounds the 2-norm of a row, which is its g, got norm_type={norm_type!r}; "
                    "leave norm_type at 2, or keep this layer a torch.nn.Embedding"
                )
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq = check_bool("WNEmbedding", "scale_grad_by_freq", scale_grad_by_freq, lenient=True)
        self.sparse = check_bool("WNEmbedding", "sparse", sparse, lenient=True)
        shape = (rows, self.embedding_dim)
        g_shape = scale_shape(shape, dim)
        if len(g_shape) != 1 and (self.sparse or max_norm is not None):
            raise ValueError(f"WNEmbedding: sparse and max_norm need one g for each row, dim=0, got dim={dim}")
        self.register_weight("weight", shape, g_shape=g_shape, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters as torch does; g is the norm of v."""
        v, g = self.writable_v_and_g("weight")
        nn.init.normal_(v)
        with torch.no_grad():
            if self.padding_idx is not None and g.ndim != 1:
                v[self.padding_idx] = 0
            g.copy_(direction_norm(v, g))
            if self.padding_idx is not None and g.ndim == 1:
                g[self.padding_idx] = 0
        self.accept_v_and_g()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **options: Any) -> "WNEmbedding":
        """Make an embedding of a table ``(V, D)``.

        Args:
            embeddings: The table, which is copied.
            freeze: Leave v and g without gradients.
            options: The constructor's arguments after ``embedding_dim``.

        Raises:
            ShapeError: The table has not two axes.
        """
        if embeddings.ndim != 2:
            raise ShapeError(f"Embeddings parameter is expected to be 2-dimensional, got {embeddings.ndim} axes")
        new = cls(*embeddings.shape, **{"device": embeddings.device, "dtype": embeddings.dtype, **options})
        new.weight = embeddings.detach()
        return new.requires_grad_(not freeze)

    def forward(self, input: Tensor) -> Tensor:
        """Look up the rows of indices."""
        output: Tensor = self._run(input)
        return output

    def _record(self, tracer: Any, args: tuple[Any, ...]) -> Any:
        if self is not tracer.root:
            return super()._record(tracer, args)
        return self._look_up(record_compose(self, tracer, "weight"), *args)

    def bind(self) -> Callable[..., Tensor]:
        """Return a function that looks up rows, as a call of the module does."""
        bound: Callable[..., Tensor] = super().bind() if self.max_norm is None else self  # a look-up changes g itself
        return bound

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return v and g, of which a call composes the rows that it looks up."""
        self._check_before_use()
        return self.v_and_g("weight")

    def _with_weights(self, weights: tuple[Tensor, Tensor], input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            raise TypeError(f"WNEmbedding: input must be a tensor of indices, got {type(input).__name__}")
        v, g = weights
        if g.shape != v.shape[:1]:  # as torch's weight norm has it along another axis
            if self.sparse or self.max_norm is not None:
                raise ValueError(
                    f"WNEmbedding: sparse and max_norm need one g for each row, got g of shape {tuple(g.shape)} of a "
                    "checkpoint; load its plain form, which state_dict_as(model, 'plain') writes"
                )
            return self._look_up(self.compose_weights()["weight"], input)
        rows = self._look_up(v, input)  # (*, D)
        if self.max_norm is not None:
            with torch.no_grad():
                torch.embedding_renorm_(g.detach().unsqueeze(1), input.detach(), self.max_norm, 2.0)
        scales = self._look_up_sparsely(g, input) if self.sparse else self._look_up(g.unsqueeze(1), input).flatten()
        return weight_norm(rows.reshape(-1, v.shape[1]), scales).view(rows.shape)

    def _look_up(self, table: Tensor, input: Tensor) -> Tensor:
        return F.embedding(input, table, self.padding_idx, None, 2.0, self.scale_grad_by_freq, self.sparse)

    def _look_up_sparsely(self, g: Tensor, input: Tensor) -> Tensor:
        index = input.flatten().long()
        scales = g.gather(0, index, sparse_grad=True)  # a table's sparse gradient cannot be viewed as one of g
        return scales if self.padding_idx is None else torch.where(index == self.padding_idx, scales.detach(), scales)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        usual = {"padding_idx": None, "max_norm": None, "norm_type": 2, "scale_grad_by_freq": False, "sparse": False}
        text += "".join(
            f", {name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        )
        return text + self._describe_g("weight")
