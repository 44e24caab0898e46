"""Checks of arguments, for every package: an error states the value, what is allowed and the remedy."""

from collections.abc import Iterable, Iterator, Mapping, Set
from numbers import Integral


def check_texts(texts: Iterable[str], what: str = "texts") -> Iterable[str]:
    """Return `texts` when it is an iterable of `str`; an empty string is legal.

    A sequence is checked before it is returned; another iterable, such as a generator, as it is read. A TypeError for a
    single `str` (it would be read letter by letter), a dict (only its keys would be read), a set (it has no order), and
    for an element that is not a `str`, whose position is named.
    """
    kind = type(texts).__name__
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{what} is a single {kind}; pass a list of str, for example [text].")
    if isinstance(texts, (Mapping, Set)) or not isinstance(texts, Iterable):
        raise TypeError(f"{what} is a {kind}; pass a list of str, such as list({what}.values()) of a dict.")
    checked = _checked(texts, what)
    return list(checked) if hasattr(texts, "__len__") else checked


def _checked(texts: Iterable[str], what: str) -> Iterator[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{what}[{position}] is {text!r} ({kind}); each must be a str. Drop it, or use '' for it.")
        yield text


def check_ids(ids: Iterable[str], n: int | None = None, what: str = "ids") -> list[str]:
    """Return `ids` as a list of unique `str`, `n` of them if `n` is given.

    Raises as `check_texts`; a ValueError for ids that repeat (the first is named) or whose number is not `n`.
    """
    ids = list(check_texts(ids, what))
    if n is not None and len(ids) != n:
        raise ValueError(f"{what} holds {len(ids)} ids for {n} rows; give exactly one id for each row.")
    if len(set(ids)) != len(ids):
        first = next(repeats(ids))
        raise ValueError(f"{what} repeats {first!r}; ids must be unique. Rename or merge what shares an id.")
    return ids


def repeats(ids: Iterable[str]) -> Iterator[str]:
    """Yield each id that occurred before, in order."""
    earlier: set[str] = set()
    for id_ in ids:
        if id_ in earlier:
            yield id_
        earlier.add(id_)


def check_count(value: int, what: str) -> int:
    """Return `value` as an `int`; a TypeError if it is no integer (a `bool` is none), a ValueError if it is below 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{what} is {value!r} ({type(value).__name__}); it must be an integer of at least 1.")
    if value < 1:
        raise ValueError(f"{what} is {value}; it must be at least 1.")
    return int(value)


def check_choice(value: str, choices: Iterable[str], what: str) -> str:
    """Return `value` when it is one of `choices`; raise a `ValueError` that lists them when it is not."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{what} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
    return value
