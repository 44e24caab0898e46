"""The names that studies write into their tables and reports read from them; nothing here needs torch."""

import re

# Measures.
MEASURE = "nDCG@10"
RECALL = "R@10"
DEEP_RECALL = "R@100"
LIMIT_MEASURES = (RECALL, "R@20", DEEP_RECALL, "R@1000")

# Systems: what ranks a collection.
LEXICAL = "lexical BM25"
DENSE = "dense"
LATE = "late interaction"
SPLADE = "SPLADE"
LATENT = "latent terms"
TUNED = "latent terms, tuned"
DENSE_FUSED = "dense + lexical"
LATENT_FUSED = "latent terms + lexical"
DENSE_WORDS = "dense + words, weighted"
LATENT_WORDS = "latent terms + words"
ONE_PASS = "all of one pass"

# Vocabularies of 30_zipf; the third is SPLADE.
LATENTS = "latents"
WORDS = "words"

# Families of latents (31_features), and what is ranked with them.
FAMILIES = ("lexical", "narrow", "broad")
RARE = "rare"
ALL, ONLY, WITHOUT, CONTROL = "all", "only", "without", "without as many"

# Queries of 32_steering, which ask for two topics, and what is done to the latents of one of them.
TWO_TOPICS, KEPT_ALONE, LESS = "both topics", "kept topic alone", "less of the text"
SILENCED, AS_FREQUENT, AS_HEAVY = "silenced", "random, as frequent", "random, as heavy"
STEERED_MAIN = 16  # latents that are silenced where one number is named, as the rule of the study has it
SURVIVES = -0.02  # a change of nDCG@10 above this is no loss (32_steering)
OF_EMBEDDINGS, DECODED = "latents of embeddings", "latents of embeddings, decoded"  # vocabularies beside LATENTS

# What documents are clustered by (33_corpora), beside LATENTS, WORDS and DENSE, and which latents corpora differ in.
WELL_LABELLED = "latents of good labels"
AGREEING, BEYOND = "latents that agree", "latents beyond words"

# Prunings of 42_pruning; those of SPLADE's terms are called `of_splade(kind)`, as in 43.
NOTHING_PRUNED = "none"
DOCUMENT_TOP, DOCUMENT_MASS, DOCUMENT_FREQUENCY = "document top", "document mass", "document frequency"
QUERY_TOP, QUERY_TOP_BY_IDF, QUERY_MASS = "query top", "query top by idf", "query mass"

# Forms of impacts (44_impacts), and ways to search of 43_latency.
EXACT_IMPACTS, ROUNDED = "float32", "uint8"
UNCHANGED = 0.001  # of nDCG@10: what rounding may change on any collection
EXACT = "exact"
PRUNED_DOCUMENTS, PRUNED_QUERIES, PRUNED_BOTH = "documents pruned", "queries pruned", "both pruned"
SEISMIC = "Seismic"
FLAT, HNSW = "dense, every document", "dense, HNSW"

# Settings of 60_beyond, and the rows that average over collections.
AS_TUNED, PAPERS, WITH_WORDS, TOGETHER = "as tuned", "the paper's constants", "with words", "all together"
WITH_FEEDBACK, WITH_LATE, LOOKED_UP = "with feedback", "with late interaction", "queries looked up"
MEAN = "mean, limit left out"

# The studies that train autoencoders: readouts of 40_layers, variants of 50 and 51, pairs and shares of 52.
SPLADE_STYLE = "SPLADE-style"
BASELINE = "baseline"
RETRIEVER, TOKEN_EMBEDDINGS = "retriever", "its token embeddings"
UNTRAINED, PLAIN = "the same, untrained", "plain language model"
TWO_SEEDS, SEED_AND_WORDS = "two seeds", f"seed 0 and {LEXICAL}"
SHARE_OF_FIRINGS, SHARE_OF_LATENTS, IN_EVERY_RUN, BY_CHANCE = "firings", "latents", "every run", "chance"
SAME = 0.7  # least cosine at which two latents count as the same, as in Paulo and Belrose (arXiv 2501.16615)

# Ways to train an autoencoder (53), the others by their name in `--activation`; and which of them are correlated.
TOPK, MATRYOSHKA_WAY = "topk", "matryoshka"
BUDGETS, JOIN, BOOST = "topk, budgets", "join", "boost"
WHOLE_TEXTS = "topk, whole texts"
MATCHED = "matched"

# Retrievers trained on pairs (70 to 73), and their controls.
UNTRAINED_DENSE, TRAINED_DENSE = DENSE, "dense, finetuned"
PER_TOKEN = "normalisation: per-token"  # of 50_ablations
UNTRAINED_SPLARE, TRAINED_SPLARE = "SPLARE's readout, untrained", "SPLARE, trained"
UNTRAINED_WORDS, TRAINED_WORDS = "vocabulary head, untrained", "vocabulary head, trained"
BM25_OF_SPLARE = "SPLARE, trained, by BM25"
AFTER_EMBEDDINGS, AFTER_TOKENS = "autoencoder afterwards, of embeddings", "autoencoder afterwards, of tokens"
CSR_FROZEN, JOINT, JOINT_TOKENS = "CSR", "joint", "joint, of tokens"
JOINT_SUMS = "joint, of tokens, summed"  # of 73
TRUNCATED, MATRYOSHKA, CSRV2 = "dense, truncated", "dense, Matryoshka", "CSRv2"
CSRV2_AT_ONCE = "CSRv2, trained at once"
TEACHER, START = "with a teacher", "from a trained start"  # of 73
WHOLE_DENSE = "dense, finetuned as a whole"  # which 71 calls TRAINED_DENSE

# Clauset, Shalizi and Newman (SIAM Review 2009) rule a power law out below this p.
PLAUSIBLE = 0.1

# Verdicts of 90_claims, why they were reached, and whose claims they are about.
VERDICTS = HOLDS, WEAKER, FAILS, UNTESTED = ("holds", "holds weaker", "does not hold here", "not tested")
CONTRADICTED, UNDECIDED = "contradicted", "undecided"
REACHED, UNSIZED = "reaches the published size", "no size is published"
SHORT, NO_INTERVAL = "below the published size", "no interval"
LATENT_TERMS, SPLARE, OTHERS, OURS = "Latent Terms", "SPLARE", "other papers", "ours"
SPLARE_TRAINED, CSR_SECOND = "SPLARE, trained", "CSRv2"


def of_splade(kind: str) -> str:
    """Return what a pruning, or a way to search, is called where it is of SPLADE's terms and not of latents."""
    return f"{SPLADE}, {kind}"


def pruned(system: str, query_top: int, doc_top: int) -> str:
    """Return what a system is called whose queries and documents keep their largest weights only."""
    return f"{system}, top {query_top} and {doc_top}"


def pruned_by_idf(system: str, query_top: int, doc_top: int) -> str:
    """Return what a system is called whose queries keep the largest products of weight and idf only."""
    return f"{system}, top {query_top} by idf and {doc_top}"


def trained_on(system: str, n_pairs: int) -> str:
    """Return what a system is called that was trained on so many pairs."""
    return f"{system}, {n_pairs:,} pairs"


def helped(system: str, by: str) -> str:
    """Return what a system of 73 is called that was trained with a teacher or a start; "" is neither."""
    return f"{system}, {by}" if by else system


def is_limit(collection: str) -> bool:
    """Whether this is the full name of LIMIT or a sample, which has another purpose than others and is in no mean.

    A folder of that name is none: its full name has a split, as in "limit/test".
    """
    return re.fullmatch(r"limit([/-]\d+)*|limit-small/test", collection) is not None
