"""KronSAE: latents that are pairs of two small sets of factors."""

from dataclasses import dataclass

import torch

from lib.sae.codes import Codes, FinishedActivation
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights, dense_top
from lib.sae.selection import EncoderWeights, Pairs, largest
from lib.support.checks import check_count

_BLOCK = 2**23  # products of factors held at once


def products(pre: torch.Tensor, m: int, n: int) -> torch.Tensor:
    """Return mAND(p, q)^2 = ReLU(p) ReLU(q) of all pairs of factors of a head, of [rows, heads (m + n)]."""
    p, q = pre.relu().unflatten(1, (-1, m + n)).split((m, n), dim=2)
    return (p[:, :, :, None] * q[:, :, None, :]).flatten(1)


def check_factors(m: int, n: int, width: int) -> None:
    """Raise a ValueError if `width` latents are no whole number of heads."""
    if width % (m * n):
        least = max(1, width // (m * n)) * m * n
        raise ValueError(f"The width is {width}; heads have {m} * {n} latents, so give a multiple, such as {least}.")


@dataclass(frozen=True, eq=False)
class FinishedKron(FinishedActivation):
    """z = TopK_k(sqrt(ReLU(p_i) ReLU(q_j))), p and q the m and n pre-activations of a head, head after head.

    W_enc and b_enc have m + n rows a head; W_dec has m n.
    """

    name = "kron"
    m: int
    n: int

    def check(self, width: int) -> None:
        """See `FinishedActivation`."""
        super().check(width)
        check_factors(self.m, self.n, width)

    def encoder_rows(self, width: int) -> int:
        """See `FinishedActivation`."""
        return width // (self.m * self.n) * (self.m + self.n)

    def encode(self, centred: torch.Tensor, encoder: EncoderWeights) -> Codes:
        """See `FinishedActivation`."""
        codes = []
        for rows in centred.split(max(1, _BLOCK // len(encoder.W_dec))):
            z = products(torch.addmm(encoder.b_enc, rows, encoder.W_enc.T), self.m, self.n)
            values, indices = z.topk(self.k, dim=1)
            codes.append(Codes(indices, values.sqrt()))
        return Codes(*(torch.cat(parts) for parts in zip(*codes, strict=True)))


@dataclass(frozen=True)
class Kron(Activation):
    """z = TopK_k(mAND(p_i, q_j)), mAND(p, q) = sqrt(ReLU(p) ReLU(q)) (KronSAE, Kurochkin et al., arXiv 2505.22255).

    The latents are heads of m n pairs, whose m + n factors p and q are what the encoder computes: m n / (m + n) times
    less. Rows of the decoder start as sums of their two rows of the encoder. There is no AuxK, whatever its
    coefficient: a dead latent shares its rows with others that are not.

    Attributes
    ----------
    m, n : int
        Factors of a head, at least 2; m n must divide the width, or a ValueError.
    """

    finished_form = FinishedKron
    revives = False
    m: int = 4
    n: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("m", "n"):
            if check_count(getattr(self, name), name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; a head has at least 2 of these factors, such as 4.")

    def check(self, width: int) -> None:
        """See `Activation`."""
        super().check(width)
        check_factors(self.m, self.n, width)

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`."""
        m, n, d = self.m, self.n, directions.shape[1]
        factors = directions.view(-1, m * n, d)[:, : m + n].clone()
        sums = factors[:, :m, None] + factors[:, None, m:]
        W_dec = torch.nn.functional.normalize(sums.reshape(-1, d), dim=1)
        return Weights(factors.reshape(-1, d), directions.new_zeros(factors.shape[:2]).flatten(), W_dec, mean.clone())

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`. The factors are so few that they are computed in the dtype of the states."""
        chosen = []
        for rows in centred.split(max(1, _BLOCK // len(weights.W_dec))):
            factors = weights.pre(rows)
            z = products(factors, self.m, self.n)
            indices = largest(z, self.k)
            chosen.append((indices, factors.gather(1, self.factors_of(indices)[0]).relu(), z.gather(1, indices).sqrt()))
        return Choice(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))

    def factors_of(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of W_enc that are p and q of each latent."""
        head, position = latents // (self.m * self.n), latents % (self.m * self.n)
        first = head * (self.m + self.n)
        return first + position // self.n, first + self.m + position % self.n

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`."""
        square = products(weights.pre(centred), self.m, self.n)
        z = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)  # sqrt has no gradient at 0
        return [dense_top(z, self.k)], 0.0

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`; d z / d p = q / 2 z = z / 2 p and d z / d q = p / 2 z, and `pre` is p."""
        active = batch.values > 0
        ratio = torch.where(active, batch.values, 1) / torch.where(active, batch.pre, 1)  # z / p
        half = batch.passed * active / 2
        rows = torch.stack(self.factors_of(batch.pairs.indices), dim=1)
        d_pre = torch.stack([half * ratio, half / ratio], dim=1)
        return Backward(half.new_zeros(()), d_pre.flatten(), rows=Pairs(rows.flatten(), 2 * batch.pairs.starts))

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedKron(self.k, self.m, self.n)
