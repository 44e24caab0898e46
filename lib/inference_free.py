"""Queries without a Transformer: a token's latents are looked up, those that it had in documents."""

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array

from lib.bm25.pooling import apply_phi, check_weights
from lib.bm25.pruning import keep_top
from lib.encode.encoder import TokenEncoder
from lib.inspect.vocabulary import latent_token_matrix
from lib.latent_terms import LatentTerms


class InferenceFreeQueries:
    """Encodes queries with the tokenizer alone: w(q) = phi(sum_{t in q} E_t), E_t the mean code of token t.

    E_tj = (1 / n_t) sum over the n_t occurrences of t in documents of z_j. It takes the place of `encode_queries`;
    documents and index stay as they are. The idea is that of inference-free learned sparse retrieval, where only
    documents are read by a model (SPLADE-doc, arXiv 2109.10086, section 3.2; Geng et al., arXiv 2411.04403); here
    nothing is trained for it. A token means the same in every query, so that queries lose what their context adds.

    A token that no document has adds nothing; nor does a prompt, whose tokens are in every query. ValueError for a
    matrix that has not one row for each token of the tokenizer, and errors as `check_weights`.

    Parameters
    ----------
    encoder : TokenEncoder
        Of which the tokenizer is used.
    latents : csr_array, float32 [n_tokens, width]
        E; `build` makes it.
    phi : str
        The model's.
    """

    def __init__(self, encoder: TokenEncoder, latents: csr_array, phi: str):
        self.encoder, self.phi = encoder, phi
        self.latents = check_weights(latents, "latents")
        if self.latents.shape[0] != len(encoder.tokenizer):
            rows = f"{self.latents.shape[0]} rows, the tokenizer of {encoder.name} {len(encoder.tokenizer)} tokens"
            raise ValueError(f"latents has {rows}; give a row for each token, as InferenceFreeQueries.build does.")

    def __repr__(self) -> str:
        known = np.count_nonzero(np.diff(self.latents.indptr))
        return f"InferenceFreeQueries({self.encoder.name}, {known:,} of {self.latents.shape[0]:,} tokens known)"

    @classmethod
    def build(cls, model: LatentTerms, texts: Iterable[str], n_latents: int | None = None) -> "InferenceFreeQueries":
        """Read documents with the model, a stream of any length, and look its queries up from then on.

        `n_latents` is the number of latents that a token keeps, the strongest; None keeps all: queries are then long,
        and slow to search. ValueError for a model whose pooling is not the sum, and for no texts; errors otherwise as
        `model.encode_documents` and `keep_top`.
        """
        if model.pooling != "sum":
            raise ValueError(f"The model's pooling is {model.pooling!r}; looked-up latents add up: it must be 'sum'.")
        width, n_tokens = model.sae.width, len(model.encoder.tokenizer)
        total, counts = csr_array((width, n_tokens), dtype=np.float32), np.zeros(n_tokens, np.int64)
        for block in model.encoder.stream(texts):
            indices, values = (tensor.cpu().numpy() for tensor in model.sae.encode(block.states))
            total += latent_token_matrix(indices, values, block.token_ids, width, n_tokens)
            counts += np.bincount(block.token_ids, minlength=n_tokens)
        if not counts.any():
            raise ValueError("texts holds no token; give the documents, or a sample of them.")
        return cls(model.encoder, mean_codes(total, counts, n_latents), model.phi)

    def encode(self, queries: Iterable[str]) -> csr_array:
        """Return the term weights of queries, float32 [n_queries, width]; errors as `model.encode_queries`."""
        ids = list(self.encoder.token_ids(queries, "query"))
        rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
        columns = np.concatenate([np.empty(0, np.int64), *ids])
        shape = (len(ids), self.latents.shape[0])
        counts = coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape).tocsr()
        return apply_phi(counts @ self.latents, self.phi)


def mean_codes(total: csr_array, counts: np.ndarray, n_latents: int | None = None) -> csr_array:
    """Return E, float32 [n_tokens, width], of `latent_token_matrix` of texts and their numbers of each token.

    `total` is float32 [width, n_tokens], `counts` int64 [n_tokens]; a token that does not occur has no latents.
    """
    means = (diags_array(1 / np.maximum(counts, 1).astype(np.float32)) @ total.T.tocsr()).astype(np.float32)
    return means if n_latents is None else keep_top(means, n_latents)
