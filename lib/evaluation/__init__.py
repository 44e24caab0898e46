"""Measures, baselines, late interaction, SPLADE, and the tuning of BM25's constants."""
