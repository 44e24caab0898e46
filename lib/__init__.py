"""Latent Terms: BM25 over the terms that a sparse autoencoder reads out of a dense retriever.

The names below are imported when first used, so that whoever only searches an index never waits for torch.
"""

from importlib import import_module

_MODULE_OF = {
    "BM25Index": "bm25.index",
    "Collection": "data.collection",
    "LatentTerms": "latent_terms",
    "Ranking": "bm25.ranking",
    "Searcher": "searcher",
    "SparseAutoencoder": "sae.autoencoder",
    "TokenEncoder": "encode.encoder",
    "evaluate": "evaluation.measures",
    "load_collection": "data.collection",
}

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"lib has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"lib.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
