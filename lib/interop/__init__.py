"""Latent Terms in other libraries: sentence-transformers, mteb, search engines, Ray."""

from importlib import import_module
from types import ModuleType


def optional_module(name: str, extra: str) -> ModuleType:
    """Return a module of a package that the extra `extra` installs; an ImportError that names both if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed ({error}); pip install 'latent-terms[{extra}]'.") from error
