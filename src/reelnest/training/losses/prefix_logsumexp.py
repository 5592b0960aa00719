"""Log-sum-exps of the similarities of nested vectors: all prefixes at the cost of the longest, without a (rows, columns) matrix.

1. The dot product of two prefixes is that of the next shorter prefixes plus one block's. So one product of the full width, computed block
   by block, gives the similarities of every dim. Each prefix's norms turn them into cosines.
2. It runs in chunks of rows. A chunk computes its rows' log-sum-exps and adds to those of the columns; its similarities are not stored.
3. Backward computes them again, chunk by chunk, and each dim's gradient with respect to the dot products. A block of the vectors is part of
   the prefixes of its own dim and all longer ones. So the gradients are summed from the last dim to the first, and each block needs one
   product.

Prefixes: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147. The recomputation is gradient caching (Gao et al. 2021,
https://arxiv.org/abs/2101.06983) within the loss.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_NORM = 1e-12
"""The smallest divisor of a vector, as in `torch.nn.functional.normalize`."""
BUFFER_NUMBERS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Numbers in one (chunk, columns) buffer. There are three more buffers than dims. On a CPU they should fit its caches."""
LEAST_CHUNK = 64
"""Rows; smaller chunks make the products slow."""


class Pairing(NamedTuple):
    """Which similarities are included."""

    first: int
    """The column of row 0's partner; the partner of row i is column `first` + i."""
    partner_counts: bool
    """True if the partner is the relevant item, which is always included; False if it is the row itself, which never is."""
    paired: int = 0
    """The number of first columns that get a log-sum-exp over rows."""
    masked: Tensor | None = None
    """(rows, columns) bool, True for excluded similarities. Values of partners are ignored."""
    row_limits: Tensor | None = None
    """(dims, rows): a row's sum excludes cosines above it. None for no limits."""
    column_limits: Tensor | None = None
    """(dims, paired): a column's sum excludes cosines above it. None for no limits."""


def nested_log_sums(
    rows: Tensor, columns: Tensor, dims: Sequence[int], scale: Tensor, pairing: Pairing, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns log-sum-exps of each prefix's scaled cosines over columns and over rows, and the partners' scaled cosines.

    Args:
        rows: (rows, width), not normalised.
        columns: (columns, width), not normalised.
        dims: the prefix lengths, ascending.
        scale: (1,) the factor of the cosines: the inverse temperature.
        pairing: which similarities are included.
        chunk_rows: rows per chunk; None for buffers of `BUFFER_NUMBERS`.

    Returns:
        (dims, rows), (dims, pairing.paired) and (dims, rows); differentiable once, with respect to `rows`, `columns` and `scale`. An
        empty sum is -inf.

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
    """Returns the cosines of row i and column i by prefix, (dims, rows), without gradient."""
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
        # Each gradient's component along the prefix, which must be removed: a cosine does not depend on the length.
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
        _remove_parallel(to_rows, rows, along_rows, pass_over.blocks)
        _remove_parallel(to_columns, columns, along_columns, pass_over.blocks)
        return to_rows, to_columns, to_scale, None, None, None


class _Pass:
    """One pass over the chunks, the same in forward and backward."""

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
        """Yields the scaled cosines of each dim, (chunk, columns), in a buffer that the next dim overwrites."""
        dots, logits = self._dots[: chunk.stop - chunk.start], self._logits[: chunk.stop - chunk.start]
        for k, block in enumerate(self.blocks):
            torch.addmm(dots, self._rows[chunk, block], self._columns[:, block].T, beta=int(k > 0), out=dots)
            torch.mul(dots, self.column_factors[k], out=logits)
            logits *= self.row_factors[k, chunk, None]
            yield k, logits

    def partners(self, matrix: Tensor, chunk: slice) -> Tensor:
        """Returns the partners' values of a (chunk, columns) matrix, as a view (chunk,)."""
        return matrix.diagonal(self._pairing.first + chunk.start)[: len(matrix)]

    def mask(self, values: Tensor, logits: Tensor, k: int, chunk: slice, *, by_column: bool, to: float = 0.0) -> None:
        """Overwrites excluded `values`, (chunk, columns or paired), with `to`."""
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
        """Returns the logits with -inf for excluded ones: in place without limits, else in `space`."""
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
    """Returns the norm of each prefix, (dims, vectors), accumulated over blocks."""
    squares = torch.stack([torch.linalg.vector_norm(vectors[:, block], dim=1) for block in blocks]).square_()
    return squares.cumsum(0).sqrt_()


def _inverse_norms(vectors: Tensor, blocks: Sequence[slice]) -> Tensor:
    return _norms(vectors, blocks).clamp_(min=SMALLEST_NORM).reciprocal_()


def _remove_parallel(gradient: Tensor, vectors: Tensor, along: Tensor, blocks: Sequence[slice]) -> None:
    """Removes each prefix's gradient along the prefix, given as sums of gradient times logit, (dims, vectors)."""
    norms = _norms(vectors, blocks)
    # A zero vector is divided by a constant, which has no derivative.
    shares = torch.where(norms > SMALLEST_NORM, along / norms.clamp(min=SMALLEST_NORM).square(), 0.0)
    for block, share in zip(blocks, shares.flip(0).cumsum(0).flip(0), strict=True):
        gradient[:, block].addcmul_(vectors[:, block], share[:, None], value=-1)
