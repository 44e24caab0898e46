"""Codes to a document-term matrix to a ranking: pooling, pruning, weighting, postings, search, the index. No torch."""
