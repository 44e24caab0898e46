"""ITDA: a dictionary of states, found without training."""

from dataclasses import dataclass

import torch

from lib.sae.activations.pursuit import FinishedPursuit, pursue
from lib.sae.codes import FinishedActivation
from lib.sae.kernels import Activation, Backward, Batch, Choice, Weights

_BLOCKS = 256  # in which the dictionary grows, at most
_STATES = 4  # times the width states are looked at


@dataclass(frozen=True)
class ITDA(Activation):
    """Matching pursuit (`FinishedPursuit`) over a dictionary of states, not trained (Leask et al., arXiv 2505.17769).

    W_dec are states less their mean, of norm 1, chosen one block of the first window after the other: those of a block
    that the dictionary so far reconstructs worst. The paper takes all above a threshold; ours takes as many of each
    block as give the width. What a window with too few states leaves open stays random. A run is one step, which
    measures and changes nothing.
    """

    finished_form = FinishedPursuit
    trains = False

    def initial(self, centred: torch.Tensor, directions: torch.Tensor, mean: torch.Tensor) -> Weights:
        """See `Activation`."""
        width = len(directions)
        states = centred[: _STATES * width]
        n_blocks = min(_BLOCKS, width, len(states))
        filled, atoms = 0, directions.clone()
        b_enc = directions.new_zeros(width)
        for number, block in enumerate(states.tensor_split(n_blocks), 1):
            rows = torch.nn.functional.normalize(block, dim=1)
            size = min(width * number // n_blocks - filled, len(rows))
            left = rows
            if filled:
                codes = pursue(rows, atoms[:filled], b_enc[:filled], atoms[:filled], min(self.k, filled))
                left = rows - torch.einsum("nk,nkd->nd", codes.values, atoms[codes.indices])
            worst = left.norm(dim=1).topk(size).indices
            atoms[filled : filled + size] = rows[worst]
            filled += size
        empty = atoms.norm(dim=1) == 0  # a state that is the mean
        atoms[empty] = directions[empty]
        return Weights(atoms.clone(), b_enc, atoms, mean.clone())

    def choose(self, centred: torch.Tensor, weights: Weights, dtype: torch.dtype) -> Choice:
        """See `Activation`."""
        indices, values = pursue(centred, weights.W_enc, weights.b_enc, weights.W_dec, self.k)
        return Choice(indices, values, values)

    def dense(self, centred: torch.Tensor, weights: Weights) -> tuple[list[torch.Tensor], float]:
        """See `Activation`; z is a constant."""
        fixed = (weights.W_enc.detach(), weights.b_enc.detach(), weights.W_dec.detach())
        indices, values = pursue(centred.detach(), *fixed, self.k)
        return [torch.zeros(len(centred), len(fixed[1]), dtype=values.dtype).scatter(1, indices, values)], 0.0

    def backward(self, batch: Batch) -> Backward:
        """See `Activation`."""
        return Backward(batch.pre.new_zeros(()), torch.zeros_like(batch.passed))

    def finished(self, weights: Weights, smallest: float | None) -> tuple[Weights, FinishedActivation]:
        """See `Activation`."""
        return weights, FinishedPursuit(self.k)
