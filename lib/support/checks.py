"""Checks of arguments, for every package: an error states the value, what is allowed and the remedy."""

from collections.abc import Iterable, Iterator, Mapping, MappingView, Set
from numbers import Integral, Real
from typing import TypeVar

T = TypeVar("T")

GRADES = 10_000  # the largest grade; trec_eval takes time that grows with the square of the largest


def check_iterable(values: Iterable, what: str, *, ordered: bool = True, rows: bool = False) -> Iterable:
    """Return `values` when to iterate over them is to read what they hold, in order.

    Raises a TypeError, with what to pass instead, for a `str` (it would be read letter by letter), a dict (only its
    keys would be read), a data frame (only the names of its columns), an array of not one dimension (its rows; `rows`
    allows two), and, unless `ordered` is False, a set, whose order is arbitrary; and for what is not iterable. The keys
    of a dict, `values.keys()`, have an order.
    """
    kind, remedy = type(values), None
    if kind in (list, tuple):
        return values
    has_columns = hasattr(kind, "columns") or hasattr(kind, "column_names")  # pandas, polars, pyarrow; datasets
    if isinstance(values, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"{what} is a single {kind.__name__}; pass a list of str, for example [{what}].")
    if isinstance(values, Mapping):
        remedy = f"pass list({what}.values()), or list({what}) for its keys"
    elif has_columns:
        remedy = f"pass one of its columns as a list, such as list({what}[column])"
    elif len(shape := getattr(values, "shape", (0,))) not in ((1, 2) if rows else (1,)):
        raise TypeError(f"{what} has shape {tuple(shape)}; pass one dimension, such as list({what}[:, 0]).")
    elif ordered and isinstance(values, Set) and not isinstance(values, MappingView):
        remedy = f"its order is arbitrary: pass a list, such as sorted({what})"
    elif not isinstance(values, Iterable):
        remedy = "pass a list"
    if remedy is not None:
        raise TypeError(f"{what} is a {kind.__name__}; {remedy}.")
    return values


def check_mapping(values: Mapping, what: str, example: str) -> Mapping:
    """Return `values` when they are a mapping; raise a TypeError that shows the `example` when they are not."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{what} is a {type(values).__name__}; pass a dict such as {example}.")
    return values


def check_texts(
    texts: Iterable[str], what: str = "texts", *, remedy: str = "Drop it, or use '' for it.", ordered: bool = True
) -> Iterable[str]:
    """Return `texts` when it is an iterable of `str`; an empty string is legal.

    A sequence is checked before it is returned; another iterable, such as a generator, as it is read. Raises as
    `check_iterable`, and a TypeError for an element that is not a `str`, whose position is named, and the `remedy`.
    """
    texts = check_iterable(texts, what, ordered=ordered)
    if not hasattr(texts, "__len__"):
        return _checked(texts, what, remedy)
    texts = list(texts)
    return texts if {str}.issuperset(map(type, texts)) else list(_checked(texts, what, remedy))


def _checked(texts: Iterable[str], what: str, remedy: str) -> Iterator[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"{what}[{position}] is {text!r} ({kind}); each must be a str. {remedy}")
        yield text


def check_ids(ids: Iterable[str], n: int | None = None, what: str = "ids", *, ordered: bool = True) -> list[str]:
    """Return `ids` as a list of unique `str`, `n` of them if `n` is given.

    Raises as `check_texts`; a ValueError for ids that repeat (the first is named) or whose number is not `n`. Numbers
    are refused, so that 7 and "7" are never two documents: ids are `str` here, in rankings and in qrels.
    """
    remedy = f"Pass [str(id_) for id_ in {what}], and the same ids as str in qrels."
    ids = list(check_texts(ids, what, remedy=remedy, ordered=ordered))
    if n is not None and len(ids) != n:
        raise ValueError(f"{what} holds {len(ids)} ids for {n} rows; give exactly one id for each row.")
    if len(set(ids)) != len(ids):
        first = next(repeats(ids))
        raise ValueError(f"{what} repeats {first!r}; ids must be unique. Rename or merge what shares an id.")
    return ids


def check_id(id_: str, what: str) -> str:
    """Return `id_` when it is a `str`; raise a TypeError when it is not."""
    if not isinstance(id_, str):
        raise TypeError(f"{what} is {id_!r} ({type(id_).__name__}); an id must be a str. Pass str(id_).")
    return id_


def repeats(ids: Iterable[str]) -> Iterator[str]:
    """Yield each id that occurred before, in order."""
    earlier: set[str] = set()
    for id_ in ids:
        if id_ in earlier:
            yield id_
        earlier.add(id_)


def check_integer(value: int, what: str, least: int = 0, most: int | None = None) -> int:
    """Return `value` as an `int`, also if it is an integer of numpy.

    A TypeError if it is no integer (a `bool` is none), a ValueError if it is below `least` or above `most`.
    """
    allowed = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{what} is {value!r} ({type(value).__name__}); it must be {allowed}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{what} is {value}; it must be {allowed}.")
    return int(value)


def check_count(value: int, what: str) -> int:
    """Return `value` as an `int` of at least 1; otherwise as `check_integer`."""
    return check_integer(value, what, 1)


def check_grade(grade: float, what: str) -> int:
    """Return a relevance grade as an `int`: 1, 1.0 and numpy's are equal; above 0 is relevant.

    Raises a TypeError if it is no whole number (a `bool` is none), a ValueError if it is further from 0 than 10,000.
    """
    if type(grade) is not int and (not isinstance(grade, Real) or isinstance(grade, bool) or grade % 1 != 0):
        raise TypeError(f"{what} is {grade!r} ({type(grade).__name__}); a grade is an integer, above 0 for relevant.")
    if not -GRADES <= grade <= GRADES:
        raise ValueError(f"{what} is {grade!r}; a grade is from {-GRADES} to {GRADES}. Use smaller grades.")
    return int(grade)


def check_choice(value: T, choices: Iterable[T], what: str) -> T:
    """Return `value` when it is one of `choices`; raise a `ValueError` that lists them when it is not."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{what} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
    return value
