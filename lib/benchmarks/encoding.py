"""`python -m lib.benchmarks.encoding`: text to document-term matrix, ours beside the usual parts put together.

The usual parts: `SentenceTransformer.encode(output_value="token_embeddings")` as it comes, a Top-K autoencoder whose
codes are a dense [tokens, width] tensor, as published packages give them, and for each text their sum and its square
root. They and ours take turns within one run, and the two matrices are compared. In float32 they differ where two
latents are so nearly equal at a token's k-th place that rounding decides between them.
"""

import argparse
import os
import time
from collections.abc import Callable

import pandas as pd
import torch
from scipy.sparse import csr_array, vstack
from scipy.sparse.linalg import norm
from sentence_transformers import SentenceTransformer
from torch.profiler import ProfilerActivity, profile

from lib.benchmarks import measure
from lib.data.collection import load_collection
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import largest_codes
from lib.support.checks import check_count
from lib.support.progress import log_to_stderr

OURS, PEER = "this package", "SentenceTransformer, dense SAE"
PRODUCTS = {
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_int_mm"),
    *("aten::mkldnn_linear", "aten::mkl_linear", "mkldnn::_linear_pointwise"),
    *("aten::_scaled_dot_product_flash_attention_for_cpu"),
}
GROUP = 32  # texts whose dense codes the peer holds at once, as many as it encodes at once


def check_comparable(model: LatentTerms) -> LatentTerms:
    """Return `model` if the usual parts encode a text alike; ValueError if its layer, pooling and so on are others."""
    encoder = model.encoder
    for name, got, allowed in (
        ("layer", encoder.layer, encoder.n_layers),
        ("special_tokens", encoder.special_tokens, True),
        ("activation", model.sae.activation.name, "topk"),
        ("pooling", model.pooling, "sum"),
        ("phi", model.phi, "sqrt"),
    ):
        if got != allowed:
            raise ValueError(f"The model's {name} is {got!r}; the peer gives {allowed!r}. Choose a model with that.")
    return model


def _with_special_tokens(model: LatentTerms) -> LatentTerms:
    """Return the model with the states of special tokens among those that it pools, as the usual parts give them."""
    if model.encoder.special_tokens:
        return model
    return LatentTerms(model.encoder.replace(special_tokens=True), model.sae, model.pooling, model.phi)


def spread(texts: list[str], n: int) -> list[str]:
    """Return `n` of the texts that are not blank, evenly spaced, or all of them if there are fewer."""
    texts = [text for text in texts if text.strip()]
    n = min(check_count(n, "texts"), len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


def dense_codes(states: torch.Tensor, sae: SparseAutoencoder) -> torch.Tensor:
    """Return ReLU(TopK(pre-activations)) of states [n, d] with all of their zeros, float32 [n, width]."""
    pre_activations = (states - sae.b_pre) @ sae.W_enc.T + sae.b_enc
    indices, values = largest_codes(pre_activations, sae.k, sae.activation.groups)
    return torch.zeros_like(pre_activations).scatter_(1, indices, values)


class UsualParts:
    """What somebody without this package would put together of a model's retriever and autoencoder, in float32."""

    def __init__(self, model: LatentTerms):
        self.sae = check_comparable(model).sae
        encoder = model.encoder
        folder = str(encoder.folder)
        self.retriever = SentenceTransformer(folder, device=str(encoder.device))
        self.retriever.max_seq_length = encoder.max_length
        self.prompt = encoder.prompts["document"]

    def states(self, texts: list[str]) -> list[torch.Tensor]:
        """Return the token states of each text, float32 [n_tokens, d]."""
        return self.retriever.encode(texts, prompt=self.prompt, output_value="token_embeddings")

    @torch.no_grad()
    def encode(self, texts: list[str]) -> csr_array:
        """Return the document-term matrix, float32 [n_texts, width]."""
        states = self.states(texts)
        rows = []
        for start in range(0, len(states), GROUP):
            group = states[start : start + GROUP]
            codes = dense_codes(torch.cat(group), self.sae).split([len(part) for part in group])
            rows.append(csr_array(torch.stack([part.sum(dim=0) for part in codes]).sqrt().cpu().numpy()))
        return vstack(rows, format="csr")


def difference(ours: csr_array, peers: csr_array) -> float:
    """Return the relative Frobenius difference of two document-term matrices, |ours - peers| / |peers|."""
    return float(norm(ours - peers) / norm(peers))


def competitors(
    models: list[LatentTerms], peer: UsualParts, texts: list[str]
) -> dict[tuple[str, str, str], Callable[[], object]]:
    """Return what is timed, by (what, who, dtype): the states alone, and all the steps to the matrix."""
    steps: dict[tuple[str, str, str], Callable[[], object]] = {}
    for model in models:
        encoder = model.encoder
        steps["states", OURS, encoder.dtype] = lambda encoder=encoder: [
            block.offsets for block in encoder.stream(texts, progress=False)
        ]
        steps["matrix", OURS, encoder.dtype] = lambda model=model: model.encode_documents(texts, progress=False)
    steps["states", PEER, "float32"] = lambda: peer.states(texts)
    steps["matrix", PEER, "float32"] = lambda: peer.encode(texts)
    return steps


def outside_products(step: Callable[[], object]) -> float:
    """Return the share of a step's time in which the calling thread is in no matrix product of torch, on a CPU."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
    microseconds = sum(event.self_cpu_time_total for event in profiler.key_averages() if event.key in PRODUCTS)
    return 1 - microseconds / 1e6 / seconds


def table(models: list[LatentTerms], texts: list[str], repeats: int) -> pd.DataFrame:
    """Return a row for each thing timed: its tokens a second, times the peer's, and how far its matrix is from it.

    `models` are one model in one or several dtypes. No text may be blank: the peer gives states of the special tokens
    of such a text, this package none.
    """
    peer = UsualParts(models[0])
    n_tokens = sum(models[0].encoder.count_tokens(texts))
    rates = {name: n_tokens / seconds for name, seconds in measure(competitors(models, peer, texts), repeats).items()}
    matrix = peer.encode(texts)
    differences = {model.encoder.dtype: difference(model.encode_documents(texts), matrix) for model in models}
    rows = [
        {
            "what": what,
            "who": who,
            "dtype": dtype,
            "tokens/s": rate,
            "times the peer": rate / rates[what, PEER, "float32"],
            "difference": differences[dtype] if (what, who) == ("matrix", OURS) else float("nan"),
        }
        for (what, who, dtype), rate in sorted(rates.items(), key=lambda item: item[0][0])
    ]
    return pd.DataFrame(rows)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmarks.encoding", description=__doc__)
    add = parser.add_argument
    add("--model", help="What LatentTerms.load takes; by default the packaged model.")
    add("--collection", default="pydoc", help="Collection whose documents are encoded.")
    add("--texts", type=int, default=2_048, help="Number of its documents, evenly spaced.")
    add("--batch-tokens", type=int, help="Tokens of a forward pass of this package; by default the encoder's.")
    add("--repeats", type=int, default=5, help="Turns of each competitor that are measured.")
    args = parser.parse_args()
    log_to_stderr()
    texts = spread(load_collection(args.collection).doc_texts, args.texts)
    models = [LatentTerms.load(args.model)]
    if models[0].encoder.dtype != "float32":
        models.append(LatentTerms.load(args.model, dtype="float32"))
    models = [_with_special_tokens(model) for model in models]
    for model in models:
        model.encoder.batch_tokens = check_count(args.batch_tokens or model.encoder.batch_tokens, "batch_tokens")
    load = f"load average before {os.getloadavg()[0]:.1f}"
    result = table(models, texts, args.repeats)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {models[0].sae}, {len(texts)} texts, {load}")
    formats = {"tokens/s": "{:.0f}", "times the peer": "{:.2f}", "difference": "{:.1e}"}
    print(result.to_string(index=False, na_rep="", formatters={name: form.format for name, form in formats.items()}))
    for model in models:
        share = outside_products(lambda model=model: model.encode_documents(texts, progress=False))
        print(f"{model.encoder.dtype}: {share:.0%} of this package's time is outside of matrix products")


if __name__ == "__main__":
    main()
