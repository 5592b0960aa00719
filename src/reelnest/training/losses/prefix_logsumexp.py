"""Log-sum-exps of the similarities of nested vectors: all prefixes for the price of the longest, without a (rows, columns) matrix.

1. The dot product of two prefixes is that of the next shorter ones plus one block's. So one product of the full width, block by block,
   passes by the similarities of every dim. Each prefix's own norms turn them into cosines.
2. It is done in chunks of rows. A chunk leaves its rows' log-sum-exps, and adds to the columns' ones; its similarities are forgotten.
3. Backward makes them again, a chunk at a time, and from them each dim's gradient with respect to the dot products. A block of the vectors
   takes part in the prefixes of its own dim and of all longer ones: the gradients are summed from the last dim to the first, and each block
   needs one product only.

Prefixes: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147. What is kept and what is made again: as in Gao et al. 2021
(https://arxiv.org/abs/2101.06983), one level further down.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_NORM = 1e-12
"""A shorter vector is divided by this, as `torch.nn.functional.normalize` does."""
BUFFER_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""What one (chunk, columns) buffer may hold. There are as many of them as dims, and three more. On a CPU they should stay in its caches."""
LEAST_CHUNK = 64
"""Rows; fewer of them at once would make the products slow."""


class Pairing(NamedTuple):
    """Which similarities count."""

    first: int
    """The column of row 0's partner; row i's is column `first` + i."""
    partner_counts: bool
    """Whether the partner is relevant to the row, and always counts, or the row itself, and never does."""
    paired: int = 0
    """The columns that get a log-sum-exp over rows: so many of the first ones."""
    masked: Tensor | None = None
    """(rows, columns) bool, True where a similarity does not count. What it says of partners does not matter."""
    row_limits: Tensor | None = None
    """(dims, rows): a row's cosines above it do not count in the row's sum. None for no limits."""
    column_limits: Tensor | None = None
    """(dims, paired): a column's cosines above it do not count in the column's sum. None for no limits."""


def nested_log_sums(
    rows: Tensor, columns: Tensor, dims: Sequence[int], scale: Tensor, pairing: Pairing, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps over columns and over rows of the scaled cosines of each prefix, and the partners' scaled cosines.

    Args:
        rows: (rows, width), not normalised.
        columns: (columns, width), not normalised.
        dims: the prefixes' lengths, rising.
        scale: (1,) what cosines are multiplied by: the inverse of the temperature.
        pairing: which of them count.
        chunk_rows: rows at once; None for as many as keep a buffer at `BUFFER_NUMBERS`.

    Returns:
        (dims, rows), (dims, pairing.paired) and (dims, rows); differentiable once, with respect to `rows`, `columns` and `scale`. A sum
        over nothing is -inf.

    Example:
        >>> vectors = torch.eye(2)
        >>> nested_log_sums(vectors, vectors, [2], torch.ones(1), Pairing(0, partner_counts=True, paired=2))[0]
        tensor([[1.3133, 1.3133]])
    """
    if chunk_rows is None:
        chunk_rows = max(LEAST_CHUNK, BUFFER_NUMBERS.get(rows.device.type, BUFFER_NUMBERS["cuda"]) // len(columns))
    with torch.autocast(rows.device.type, enabled=False):
        sums: tuple[Tensor, Tensor, Tensor] = _NestedLogSums.apply(rows, columns, scale, tuple(dims), pairing, chunk_rows)
    return sums


def partner_cosines(rows: Tensor, columns: Tensor, dims: Sequence[int]) -> Tensor:
    """Cosines of row i and column i by prefix, (dims, rows), without gradient."""
    rows, columns = rows.detach(), columns.detach()
    blocks = _blocks(dims)
    dots = torch.stack([torch.einsum("rw,rw->r", rows[:, block], columns[:, block]) for block in blocks]).cumsum(0)
    return dots * _inverse_norms(rows, blocks) * _inverse_norms(columns, blocks)


class _NestedLogSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, dims: tuple[int, ...], pairing: Pairing, chunk_rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        pass_over = _Pass(rows, columns, scale, dims, pairing, chunk_rows)
        row_sums = rows.new_empty(len(dims), len(rows))
        partners = torch.empty_like(row_sums)
        column_sums = rows.new_full((len(dims), pairing.paired), -torch.inf)
        spare = pass_over.buffer()
        for chunk in pass_over.chunks():
            for k, logits in pass_over.logits(chunk):
                partners[k, chunk] = pass_over.partners(logits, chunk)
                space = spare[: len(logits)]
                if pairing.paired:
                    counted = pass_over.without(logits, k, chunk, space, by_column=True)[:, : pairing.paired]
                    column_sums[k] = torch.logaddexp(column_sums[k], counted.logsumexp(0))
                row_sums[k, chunk] = pass_over.without(logits, k, chunk, space, by_column=False).logsumexp(1)
        ctx.save_for_backward(rows, columns, scale, row_sums, column_sums)
        ctx.settings = dims, pairing, chunk_rows
        return row_sums, column_sums, partners

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_gradient: Tensor, column_gradient: Tensor, partner_gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, scale, row_sums, column_sums = ctx.saved_tensors
        dims, pairing, chunk_rows = ctx.settings
        pass_over = _Pass(rows, columns, scale, dims, pairing, chunk_rows)
        to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        # What the gradients with respect to a prefix have along the prefix itself: a cosine does not change with the length.
        along_rows, along_columns = torch.zeros_like(row_sums), rows.new_zeros(len(dims), len(columns))
        buffers = [pass_over.buffer() for _ in dims]
        spare = pass_over.buffer()
        paired = pairing.paired
        for chunk in pass_over.chunks():
            gradients = [buffer[: chunk.stop - chunk.start] for buffer in buffers]
            space = spare[: len(gradients[0])]
            for k, logits in pass_over.logits(chunk):
                gradient = gradients[k]  # with respect to the logits, (chunk, columns)
                torch.sub(logits, row_sums[k, chunk, None], out=gradient).exp_()
                pass_over.mask(gradient, logits, k, chunk, by_column=False)
                gradient *= row_gradient[k, chunk, None]
                if paired:
                    share = torch.sub(logits[:, :paired], column_sums[k], out=space[:, :paired]).exp_()
                    pass_over.mask(share, logits, k, chunk, by_column=True)
                    gradient[:, :paired].addcmul_(share, column_gradient[k])
                pass_over.partners(gradient, chunk).add_(partner_gradient[k, chunk])
                weighted = torch.mul(gradient, logits, out=space)
                along_rows[k, chunk] = weighted.sum(1)
                along_columns[k] += weighted.sum(0)
                gradient *= pass_over.column_factors[k]
                gradient *= pass_over.row_factors[k, chunk, None]
            for k in reversed(range(len(dims))):
                if k + 1 < len(dims):
                    gradients[k] += gradients[k + 1]
                block = pass_over.blocks[k]
                torch.mm(gradients[k], columns[:, block], out=to_rows[chunk, block])
                to_columns[:, block].addmm_(gradients[k].T, rows[chunk, block])
        to_scale = (along_rows.sum() / scale).reshape(scale.shape)
        _take_off(to_rows, rows, along_rows, pass_over.blocks)
        _take_off(to_columns, columns, along_columns, pass_over.blocks)
        return to_rows, to_columns, to_scale, None, None, None


class _Pass:
    """One walk over the chunks, the same in forward and backward."""

    def __init__(self, rows: Tensor, columns: Tensor, scale: Tensor, dims: tuple[int, ...], pairing: Pairing, chunk_rows: int) -> None:
        self._rows = rows
        self._columns = columns
        self._pairing = pairing
        self._scale = scale
        self._chunk_rows = min(chunk_rows, len(rows))
        self.blocks = _blocks(dims)
        self.row_factors = _inverse_norms(rows, self.blocks) * scale
        self.column_factors = _inverse_norms(columns, self.blocks)
        self._dots, self._logits = self.buffer(), self.buffer()
        self._masked: Tensor | None = None

    def buffer(self) -> Tensor:
        return self._rows.new_empty(self._chunk_rows, len(self._columns))

    def chunks(self) -> Iterator[slice]:
        for start in range(0, len(self._rows), self._chunk_rows):
            chunk = slice(start, min(start + self._chunk_rows, len(self._rows)))
            if self._pairing.masked is not None:
                self._masked = self._pairing.masked[chunk].clone()
                self.partners(self._masked, chunk).fill_(not self._pairing.partner_counts)
            yield chunk

    def logits(self, chunk: slice) -> Iterator[tuple[int, Tensor]]:
        """The scaled cosines of each dim, (chunk, columns), in a buffer that the next one uses again."""
        dots, logits = self._dots[: chunk.stop - chunk.start], self._logits[: chunk.stop - chunk.start]
        for k, block in enumerate(self.blocks):
            torch.addmm(dots, self._rows[chunk, block], self._columns[:, block].T, beta=int(k > 0), out=dots)
            torch.mul(dots, self.column_factors[k], out=logits)
            logits *= self.row_factors[k, chunk, None]
            yield k, logits

    def partners(self, matrix: Tensor, chunk: slice) -> Tensor:
        """The partners' places of a chunk's (chunk, columns), as a view (chunk,)."""
        return matrix.diagonal(self._pairing.first + chunk.start)[: len(matrix)]

    def mask(self, values: Tensor, logits: Tensor, k: int, chunk: slice, *, by_column: bool, to: float = 0.0) -> None:
        """Overwrites the `values`, (chunk, columns or paired), that do not count."""
        width = values.shape[1]
        limits = self._pairing.column_limits if by_column else self._pairing.row_limits
        if limits is not None:
            bound = limits[k] * self._scale if by_column else (limits[k, chunk] * self._scale)[:, None]
            above = logits[:, :width] > bound
            self.partners(above, chunk).fill_(not self._pairing.partner_counts)
            if self._masked is not None:
                above |= self._masked[:, :width]
            values.masked_fill_(above, to)
        elif self._masked is not None:
            values.masked_fill_(self._masked[:, :width], to)
        elif not self._pairing.partner_counts:
            self.partners(values, chunk).fill_(to)

    def without(self, logits: Tensor, k: int, chunk: slice, space: Tensor, *, by_column: bool) -> Tensor:
        """The logits, with -inf for those that do not count: in place where no one needs the others any more, else in `space`."""
        if self._pairing.column_limits is None and self._pairing.row_limits is None:
            self.mask(logits, logits, k, chunk, by_column=by_column, to=-torch.inf)
            return logits
        values = space[:, : self._pairing.paired] if by_column else space
        values.copy_(logits[:, : values.shape[1]])
        self.mask(values, logits, k, chunk, by_column=by_column, to=-torch.inf)
        return values


def _blocks(dims: Sequence[int]) -> list[slice]:
    return [slice(start, end) for start, end in zip([0, *dims], dims, strict=False)]


def _norms(vectors: Tensor, blocks: Sequence[slice]) -> Tensor:
    """Of each prefix, (dims, vectors): they are carried along from block to block."""
    squares = torch.stack([torch.linalg.vector_norm(vectors[:, block], dim=1) for block in blocks]).square_()
    return squares.cumsum(0).sqrt_()


def _inverse_norms(vectors: Tensor, blocks: Sequence[slice]) -> Tensor:
    return _norms(vectors, blocks).clamp_(min=SMALLEST_NORM).reciprocal_()


def _take_off(gradient: Tensor, vectors: Tensor, along: Tensor, blocks: Sequence[slice]) -> None:
    """Takes off each prefix's share along itself, given as the sums of gradient times logit, (dims, vectors)."""
    norms = _norms(vectors, blocks)
    # A vector of no length is divided by a constant, which has no derivative.
    shares = torch.where(norms > SMALLEST_NORM, along / norms.clamp(min=SMALLEST_NORM).square(), 0.0)
    for block, share in zip(blocks, shares.flip(0).cumsum(0).flip(0), strict=True):
        gradient[:, block].addcmul_(vectors[:, block], share[:, None], value=-1)
