"""Residual boosting: autoencoders one after the other, each of what those before it left.

Beside `autoencoder.join`, where each has the whole state (bagging; both in Gadgil, Lin and Lee, arXiv 2505.16077).
"""

from collections.abc import Iterator, Sequence

import torch

from lib.encode.states import StateSource
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedBoosted, FinishedTopK


def check_leaves(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return the autoencoder; ValueError if it scales each state, so that what it leaves is of another length."""
    if sae.scales:
        raise ValueError(f"{sae!r} scales each state; train the first one with another normalisation.")
    return sae


class Residuals:
    """A `StateSource` of what an autoencoder leaves of the states of another, to train the next one on.

    Raises ValueError if the autoencoder scales each state.

    Parameters
    ----------
    source : StateSource
    sae : SparseAutoencoder
    """

    def __init__(self, source: StateSource, sae: SparseAutoencoder):
        self._source, self._sae = source, check_leaves(sae)
        self.n, self.d, self.lengths = source.n, source.d, source.lengths

    @property
    def identity(self) -> dict:
        """Everything that decides the states, JSON-able."""
        before = self._source.identity
        return before | {"less": [*before.get("less", []), self._sae.identity]}

    def windows(self, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[torch.Tensor]:
        """Yield an epoch's windows from number `first` on: [size, d], the last one shorter."""
        return map(self._left, self._source.windows(size, seed, epoch, first))

    def whole_texts(
        self, size: int, seed: int, epoch: int, first: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `StateSource`."""
        return ((self._left(window), texts) for window, texts in self._source.whole_texts(size, seed, epoch, first))

    def _left(self, window: torch.Tensor) -> torch.Tensor:
        parts = (states.float() for states in window.split(4_096))
        return torch.cat([states - self._sae.decode(self._sae.encode(states)) for states in parts])


def boost(parts: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
    """Return one autoencoder of several, each trained on the `Residuals` of those before it: codes side by side.

    x_hat is the sum of their reconstructions; b_pre is that of theirs, and b_enc corrects for the difference.

    Raises ValueError for other parts, and for one that was trained on something else, as far as it says on what.

    Parameters
    ----------
    parts : sequence of SparseAutoencoder
        At least two, topk, of equal d, width and k, without a centre, in the order of training.
    """
    forms = [repr(part) for part in parts]
    plain = [
        type(part.activation) is FinishedTopK and part.activation.groups == 1 and not part.scales for part in parts
    ]
    if len(parts) < 2 or len(set(forms)) > 1 or not all(plain):
        raise ValueError(f"The parts are {forms}; give two or more topk autoencoders of equal d, width and k.")
    for number, part in enumerate(parts):
        states = part.metadata.get("run", {}).get("states")
        if states is not None and states.get("less", []) != [earlier.identity for earlier in parts[:number]]:
            raise ValueError(
                f"Part {number + 1} was not trained on what the {number} before it leave; give the parts in the order "
                "of training, each trained on the Residuals of those before it (python -m lib train --after)."
            )
    W_enc, W_dec = (torch.cat([part.tensors()[name] for part in parts]) for name in ("W_enc", "W_dec"))
    b_pre, before, b_enc = torch.stack([part.b_pre.double() for part in parts]).sum(dim=0), 0, []
    for part in parts:  # what it was given less its own b_pre: x less the b_pre of all before it, too
        before = before + part.b_pre.double()
        b_enc.append(part.b_enc + part.W_enc.double() @ (b_pre - before))
    metadata: dict = {"parts": [part.metadata for part in parts]}
    origin = parts[0].metadata.get("run", {}).get("states", {}).get("encoder")
    if origin:
        metadata["run"] = {"states": {"encoder": origin}}
    activation = FinishedBoosted(sum(part.k for part in parts), groups=len(parts))
    return SparseAutoencoder(W_enc, torch.cat(b_enc), W_dec, b_pre, activation, metadata)
