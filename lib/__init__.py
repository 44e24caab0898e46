"""Latent Terms: BM25 over the terms that a sparse autoencoder reads out of a dense retriever.

The names below are imported when first used, so that whoever only searches an index never waits for torch.
"""

from importlib import import_module

_ROOM_OF = {
    "BM25Index": "index",
    "Collection": "collection",
    "LatentTerms": "retriever",
    "Ranking": "ranking",
    "SparseAutoencoder": "sae",
    "TokenEncoder": "encoder",
    "evaluate": "measures",
    "load_collection": "collection",
}

__all__ = sorted(_ROOM_OF)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _ROOM_OF:
        raise AttributeError(f"lib has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"lib.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
