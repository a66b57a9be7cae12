"""A codebook: a quantizer replaces each vector by the nearest one in it.

References:
    van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017
    (https://arxiv.org/abs/1711.00937), section 3 and appendix A.1.
    Arthur, Vassilvitskii: k-means++: The Advantages of Careful Seeding, 2007
    (https://dl.acm.org/doi/10.5555/1283383.1283494).
    Dhariwal, Jun, Payne, Kim, Radford, Sutskever: Jukebox, 2020 (https://arxiv.org/abs/2005.00341),
    section 3.1, for restarting codes that are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from nextpixel.errors import UserError

__all__ = ["Codebook", "Quantized", "Quantizer", "perplexity", "plus_plus"]

# How a codebook learns: by moving averages of the vectors nearest to a code, or by the gradient of
# their squared distance.
Codebook = Literal["ema", "loss"]

PATIENCE = 20  # steps without use after which a code is placed again
CANDIDATES = 8  # least number of candidate vectors for each code that is placed
SITES = 16  # least number of candidate vectors from each image
BLOCK = 1 << 15  # vectors compared with the codebook at a time
ENOUGH = 1e-3  # least running count that is divided by


class Quantized(NamedTuple):
    """The result of quantizing vectors `(B, D, h, w)`.

    Attributes:
        vectors: The nearest codebook vectors, `(B, D, h, w)`; gradients pass straight through to
            the input.
        codes: Their indices in the codebook, `(B, h, w)`, int64.
        loss: The training loss of each vector, `(B, h, w)`: the mean squared distance from its
            code, times `commitment`; for a codebook that learns by "loss", plus the same distance
            with gradients for the code.
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """Creates a codebook.

    The forward pass does not change the codebook; `update` does. Codes are random until its first
    call initialises them from data.

    Args:
        codes: Number of codes K.
        size: Length D of a codebook vector.
        codebook: How it learns, see `Codebook`.
        decay: Decay of the moving averages.
        commitment: Weight of the commitment loss, which pulls vectors towards their codes.

    Raises:
        UserError: An argument is out of range.

    Attributes:
        codebook: The vectors, `(K, D)`.
        counts: The number of vectors nearest to each code, a moving average `(K,)`.
        sums: The sums of those vectors, a moving average `(K, D)`.
        idle: The number of updates since each code was last used, `(K,)`.
    """

    counts: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(
        self,
        codes: int,
        size: int,
        *,
        codebook: Codebook = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
    ) -> None:
        super().__init__()
        if codes < 2:
            raise UserError(f"A codebook has at least 2 codes, not {codes}.")
        if size < 1:
            raise UserError(f"A codebook vector has at least 1 number, not {size}.")
        if codebook not in get_args(Codebook):
            raise UserError(f"A codebook learns by 'ema' or 'loss', not {codebook!r}.")
        if not 0 <= decay < 1:
            raise UserError(f"decay must lie in [0, 1), not {decay}.")
        if not 0 <= commitment < math.inf:
            raise UserError(f"commitment must be at least 0, not {commitment}.")
        self.averages, self.decay, self.commitment = codebook == "ema", decay, commitment
        vectors = torch.randn(codes, size)
        if self.averages:
            self.register_buffer("codebook", vectors)
        else:
            self.codebook = nn.Parameter(vectors)
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, size))
        # All count as unused, so that the first update places them all.
        self.register_buffer("idle", torch.full((codes,), PATIENCE))

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        return f"{', '.join(map(str, self.codebook.shape))}, {'ema' if self.averages else 'loss'}"

    def nearest(self, vectors: Tensor) -> Tensor:
        """Finds the nearest code of each vector, `(N, D)` -> `(N,)`, in float32 or better."""
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            book = self.codebook.detach()
            squares = book.square().sum(1)
            return torch.cat(
                [
                    # Without the vector's own square, which is the same for all codes.
                    torch.addmm(squares, part.to(book.dtype), book.T, alpha=-2).argmin(1)
                    for part in torch.split(vectors, BLOCK)
                ]
            )

    def vectors(self, codes: Tensor) -> Tensor:
        """Looks codes up, `(B, h, w)` -> `(B, D, h, w)`."""
        return self.codebook[codes].movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantized:
        """Replaces vectors `(B, D, h, w)` by the nearest of the codebook."""
        flat = z.movedim(1, -1)
        codes = self.nearest(flat.flatten(0, -2)).view(flat.shape[:-1])
        vectors = self.vectors(codes)
        loss = self.commitment * (z - vectors.detach()).square().mean(1)
        if not self.averages:
            loss = loss + (z.detach() - vectors).square().mean(1)
        return Quantized(vectors.detach() + (z - z.detach()), codes, loss)

    @torch.no_grad()
    def update(
        self,
        z: Tensor,
        gather: Callable[[Tensor], Tensor],
        seed: int,
        real: Tensor | None = None,
    ) -> None:
        """Updates the codebook after a step of training.

        Codes that have not been used for long are placed among the vectors of the batch; then the
        moving averages, and with them an "ema" codebook, are updated.

        Args:
            z: The vectors of this rank's whole batch, `(B, D, h, w)`.
            gather: Stacks a tensor over the ranks, in their order.
            seed: The same on all ranks.
            real: False at vectors of padding, which are left out, `(B, h, w)`; None: all are real.
        """
        counted = z.new_ones(z[:, 0].shape, dtype=torch.bool) if real is None else real
        z, counted = z.flatten(2).mT.to(self.codebook), counted.flatten(1)
        asleep = self.idle >= PATIENCE
        if asleep.any():
            self.place(asleep, z, counted, gather, torch.Generator().manual_seed(seed))
        vectors = z[counted]
        codes = self.nearest(vectors)
        counts = torch.bincount(codes, minlength=len(self.codebook))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        counts, sums = gather(counts).sum(0), gather(sums).sum(0)
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
        self.counts.lerp_(counts.to(self.counts), 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        if self.averages:
            # Both averages of an unused code decay alike, so it stays, until they are almost 0.
            enough = (self.counts > ENOUGH)[:, None]
            means = self.sums / self.counts.clamp_min(ENOUGH)[:, None]
            self.codebook.copy_(torch.where(enough, means, self.codebook))

    def place(
        self,
        which: Tensor,
        z: Tensor,
        real: Tensor,
        gather: Callable[[Tensor], Tensor],
        random: torch.Generator,
    ) -> None:
        """Places codes far from the others, on real vectors `(B, sites, D)` of the batch.

        Their averages are reset, so that only the vectors of the next updates count.
        """
        images = len(z) * len(gather(z.new_zeros(1)))
        wanted = max(SITES, -(-CANDIDATES * len(self.codebook) // images))
        # The same sites of all images, so that the distribution over ranks does not matter.
        sites = torch.randperm(z.shape[1], generator=random)[:wanted]
        sites = sites.to(z.device)
        candidates = gather(z[:, sites].contiguous())[gather(real[:, sites].contiguous())]
        if not len(candidates):
            return  # all candidates are padding: the next step tries other sites
        placed = plus_plus(candidates, self.codebook[~which], int(which.sum()), random)
        for tensor, new in ((self.codebook, placed), (self.counts, 0), (self.sums, 0)):
            tensor[which] = new


def plus_plus(points: Tensor, centres: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Chooses points by k-means++, with probabilities in proportion to squared distances.

    Args:
        points: `(M, D)`.
        centres: Existing centres, `(K, D)`, K >= 0.
        count: Number of points to choose.
        random: A generator on the CPU.

    Returns:
        The chosen points, `(count, D)`; some repeat if there are too few different ones.
    """
    far = torch.full(points.shape[:1], math.inf, dtype=torch.float64, device=points.device)
    for centre in centres:
        far = torch.minimum(far, (points - centre).square().sum(1).double())
    chosen: list[Tensor] = []
    for uniform in torch.rand(count, generator=random, dtype=torch.float64).to(points.device):
        weights = torch.where(far.isinf(), 1.0, far)
        if not weights.any():
            weights = torch.ones_like(far)
        cdf = weights.cumsum(0)
        index = torch.searchsorted(cdf, uniform * cdf[-1], right=True).clamp_max(len(points) - 1)
        chosen.append(points[index])
        far = torch.minimum(far, (points - points[index]).square().sum(1).double())
    return torch.stack(chosen)


def perplexity(counts: Tensor) -> float:
    """Computes the perplexity of codes from their counts, `(K,)`: K if all are used equally."""
    shares = counts.double() / counts.sum()
    return float(torch.special.entr(shares).sum().exp())
