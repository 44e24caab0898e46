"""Figures of other people's papers, to stand beside ours; none of them is ever a result of ours."""

import pandas as pd

# nDCG@10 of Latent Terms (arXiv 2605.29384), known at second hand: other retrievers, 32,768 latents, five seeds.
PUBLISHED = pd.DataFrame(
    [
        ("BM25", 0.686, 0.319, 0.249, 0.680, 0.300, 0.285, 0.569, 0.481),
        ("SPLADE-v3", 0.710, 0.357, 0.374, 0.748, 0.450, 0.586, 0.692, 0.796),
        ("Contriever", 0.655, 0.313, 0.274, 0.448, 0.377, 0.419, 0.542, 0.581),
        ("Contriever + latent terms", 0.713, 0.340, 0.317, 0.709, 0.409, 0.468, 0.627, 0.751),
        ("Nomic", 0.703, 0.346, 0.377, 0.822, 0.431, 0.598, 0.672, 0.813),
        ("Nomic + latent terms", 0.749, 0.372, 0.382, 0.783, 0.436, 0.577, 0.732, 0.885),
        ("GTE-ModernColBERT", 0.756, 0.381, 0.456, 0.849, 0.475, 0.617, 0.773, 0.875),
        ("GTE-ModernColBERT + latent terms", 0.730, 0.374, 0.399, 0.759, 0.387, 0.509, 0.653, 0.814),
    ],
    columns=["published", "SciFact", "NFCorpus", "FiQA", "TREC-COVID", "DBpedia", "NQ", "HotpotQA", "FEVER"],
)

# nDCG@10 of dense search as MTEB has it, of the retrievers of the profile `laptop`.
PUBLISHED_DENSE = pd.DataFrame(
    [("all-MiniLM-L6-v2", 0.6451, 0.3159), ("all-mpnet-base-v2", 0.6557, 0.3329)],
    columns=["published, dense", "SciFact", "NFCorpus"],
).set_index("published, dense")

# Recall on the official LIMIT with 50,000 documents: Latent Terms (arXiv 2605.29384), known at second hand.
PUBLISHED_LIMIT = pd.DataFrame(
    [
        ("BM25", 0.944, 0.949, 0.965, 0.995),
        ("Contriever", 0.021, 0.027, 0.053, 0.125),
        ("Contriever + latent terms", 0.414, 0.510, 0.730, 0.929),
        ("GTE-ModernColBERT", 0.843, 0.857, 0.872, 0.880),
        ("GTE-ModernColBERT + latent terms", 0.799, 0.832, 0.892, 0.978),
    ],
    columns=["published, 50,000 documents", "R@10", "R@20", "R@100", "R@1000"],
)

# nDCG@10 of DenseOn on NanoBEIR, dense and by latent terms, in the maintainer's trial with 6 million tokens: pull
# request 3796 of sentence-transformers, the one published negative figure.
DENSEON = 0.60, 0.50

# Share of latents that two seeds have in common, matched one to one: 131K latents on a layer of Llama 3 8B, by Paulo
# and Belrose (arXiv 2501.16615).
SHARED = 0.30

# Mean cosine of the matched decoder rows of two Top-K autoencoders, on activations of a language model: Song et al.
# (arXiv 2505.20254).
PW_MCC = 0.80

# "One to two orders of magnitude faster than state-of-the-art inverted index-based solutions" on MS MARCO: Bruch,
# Nardini, Rulli and Venturini (arXiv 2404.18812). This is the lower end.
SEISMIC_SPEEDUP = 10.0
