"""A loss by which `SparseEncoderTrainer` of sentence-transformers trains the autoencoder of a `SparseEncoder`.

    trainer = SparseEncoderTrainer(model, args, train_dataset=texts, loss=TokenReconstructionLoss(model))

`lib.sae.trainer` is several times faster, resumes, and scales decoder rows to norm 1; this is for training code that is
written for sentence-transformers already.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SparseEncoder

from lib.interop.modules import SparseAutoEncoderTokenEncoder
from lib.interop.modules.features import modules_before, origin_of, real_tokens
from lib.sae.kernels import aux_shape, dense_top, unexplained
from lib.support.checks import check_count


class TokenReconstructionLoss(torch.nn.Module):
    """Reconstruction of token states, FVU(k) + larger FVU(4k) + auxk AuxK (AuxK: Gao et al., arXiv 2406.04093, A.2).

    FVU = sum |x - x_hat|^2 / sum |x - mean|^2,   AuxK = sum |e - e_hat|^2 / sum |e|^2

    x is `sae_input_normalized`, x_hat `sae_output_decoded`, each over the tokens of a batch that are not padding.
    e = x - x_hat is a constant, e_hat its reconstruction by the min(D / 2, `k_aux`) largest dead latents of a token; if
    fewer are dead, by all of them, and the loss shrinks with their share of that number. FVU(4k) is that of codes of 4k
    latents a token; with larger = 1/8, FVU(k) and it are CSR's (arXiv 2503.01776), divided by the variance of x.

    The retriever is frozen: all modules before the autoencoder require no gradients, stay in evaluation mode, without
    dropout, and become its `trained_on`. The thresholds of jumprelu stay as they are: no gradient reaches them
    (`lib.sae.trainer` trains them).

    Parameters
    ----------
    model : SparseEncoder
        With a `SparseAutoEncoderTokenEncoder` that has a decoder and is not frozen.
    auxk : float
        Coefficient of AuxK; 0 leaves it out.
    dead_tokens : int
        A latent is dead when it was not active for this many tokens, at least 1. AuxK is 0 before as many were read, so
        give fewer, such as half of the tokens of the run, if that is short: the length of a run is not known here.
    larger : float
        Coefficient of FVU(4k); 0 leaves it out. Of a width below 4k, all latents take part.
    joint : bool
        Whether the retriever is trained with it: x is a constant still, but gradients of x_hat reach the retriever,
        and there is no `trained_on`.
    """

    def __init__(
        self,
        model: SparseEncoder,
        auxk: float = 1 / 32,
        dead_tokens: int = 1_000_000,
        larger: float = 0.0,
        joint: bool = False,
    ):
        super().__init__()
        self.model = model
        if not any(isinstance(module, SparseAutoEncoderTokenEncoder) for module in model):
            names = ", ".join(type(module).__name__ for module in model)
            raise ValueError(f"The model has no SparseAutoEncoderTokenEncoder among its modules ({names}); add one.")
        if self._sae.W_dec is None:
            raise ValueError("The autoencoder has no decoder to reconstruct with; make it with has_decoder=True.")
        if self._sae.frozen:
            raise ValueError("The autoencoder is frozen; make it, or load it, with frozen=False to train it.")
        for name, value in (("auxk", auxk), ("larger", larger)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be at least 0.")
        self.auxk, self.larger, self.joint = auxk, larger, joint
        self.dead_tokens = check_count(dead_tokens, "dead_tokens")
        self.register_buffer("silent", torch.zeros_like(self._sae.b_enc, dtype=torch.int64))  # tokens since last active
        for module in self._retriever if not joint else ():
            module.requires_grad_(False)
        self._sae.trained_on = None if joint else origin_of(model, self._sae)

    @property
    def _sae(self) -> SparseAutoEncoderTokenEncoder:
        return next(module for module in self.model.modules() if isinstance(module, SparseAutoEncoderTokenEncoder))

    @property
    def _retriever(self) -> list[torch.nn.Module]:
        """The modules before the autoencoder; a trainer may have wrapped the model."""
        return modules_before(getattr(self.model, "module", self.model), self._sae)

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return {"fvu": ..., "fvu_4k": ..., "auxk": ...}, scalars to be added up, without those that are left out.

        Every column of texts counts, labels do not. ValueError if all tokens are padding, and if the attention mask is
        of other tokens.
        """
        for module in self._retriever if not self.joint else ():
            module.eval()
        return self.compute_loss_from_embeddings([self.model(features) for features in sentence_features])

    def compute_loss_from_embeddings(self, outputs: Iterable[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return what `forward` does, of what the model has made of each column of texts."""
        read = [self._read(output) for output in outputs]
        x, x_hat, tokens, active = (torch.cat(parts) for parts in zip(*read, strict=True))
        if not len(x):
            raise ValueError("The batch has no token that is not padding; drop empty texts.")
        mean = x.mean(dim=0)
        losses = {"fvu": unexplained(x, x_hat, mean)}
        if self.larger:
            codes = self._sae.encode_tokens(tokens, min(4 * self._sae.k, self._sae.hidden_dim))
            losses["fvu_4k"] = self.larger * unexplained(x, self._sae.decode_codes(*codes).float(), mean)
        if self.auxk:
            losses["auxk"] = self.auxk * self._auxk(x, (x - x_hat).detach())
        if self._sae.training:
            self.silent += len(x)
            self.silent[active] = 0
        return losses

    def _read(self, output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return x, x_hat and embeddings [n, D] of the tokens that are not padding, and their active latents [p]."""
        sae = self._sae
        values, indices = (output[f"token_sparse_{kind}"].flatten(0, -2) for kind in ("values", "indices"))
        tokens = output["backbone_token_embeddings"].flatten(0, -2)
        if "sae_output_decoded" in output:
            x, x_hat = output["sae_input_normalized"], output["sae_output_decoded"]
        else:  # in evaluation mode
            x, x_hat = sae.normalize(tokens), sae.decode_codes(values, indices)
        mask = None if "cu_seq_lens_q" in output else output.get("attention_mask")
        real = real_tokens(mask, output["token_sparse_values"]).flatten()
        return x[real].detach().float(), x_hat[real].float(), tokens[real], indices[real][values[real] > 0]

    def _auxk(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        sae = self._sae
        dead = (self.silent >= self.dead_tokens).nonzero()[:, 0]
        if not len(dead) or not sae.k_aux:
            return x.new_zeros(())
        pre = (x - sae.b_pre) @ sae.W_enc[:, dead] + sae.b_enc[dead]
        k_aux, scale = aux_shape(len(dead), x.shape[1], sae.k_aux)
        e_hat = dense_top(pre, k_aux) @ sae.W_dec[dead]
        return scale * unexplained(residual, e_hat, torch.zeros_like(sae.b_pre))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for a model card."""
        return {name: getattr(self, name) for name in ("auxk", "dead_tokens", "larger", "joint")}
