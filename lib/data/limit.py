"""`limit`: who likes what, after the LIMIT data set of Weller et al. (arXiv 2508.21038), from word lists of our own.

The lists in `limit_words.json` were written for this project. Things are single words and pairs of words. The second
word of a pair heads a family; the first is in that pair alone, except for eight. No word of a pair is a thing by
itself: no thing is part of another's name.
"""

import json
from itertools import combinations
from pathlib import Path
from random import Random

from lib.support.checks import check_count

_WORDS: dict[str, list[str]] = json.loads((Path(__file__).parent / "limit_words.json").read_text("utf-8"))
FIRST_NAMES, SURNAMES, THINGS = (_WORDS[name] for name in ("first_names", "surnames", "things"))
N_ASKED = 46  # people who like what the queries ask for: 46 choose 2 = 1,035 pairs is the least that is over 1,000
LIKES = (45, 50)  # fewest and most likes of a person
MAX_DOCUMENTS = 50_000
MAX_QUERIES = N_ASKED * (N_ASKED - 1) // 2
N_DOCUMENTS, N_QUERIES, SEED = 5_000, 1_000, 0  # of the collection that is called "limit" alone


def build(n_documents: int = N_DOCUMENTS, n_queries: int = N_QUERIES, seed: int = SEED) -> dict:
    """Build LIMIT-style data: every query is answered by exactly two documents, and no two queries by the same two.

    A document is a person, "NAME likes A, B, ... and C.", with 45 to 50 likes; its id is the name. A query is
    "Who likes X?". Each X is liked by exactly 2 of 46 people, all pairs different; the other `n_documents` - 46 people
    like only things that no query asks for. The 46 stand at random places among the others.

    It has the structure of the official set (github.com/google-deepmind/limit), and its words are from lists of our
    own (both know otters and opals). It differs in this: the pairs are drawn at random (the official ones are the
    first 1,000 in lexicographic order, so that 37 people answer 45 queries each and 9 people 37 or 38); likes number
    45 to 50 (45 each in the official small set); 30 % of the things have two words ("Linden Trees"), the rest one
    (official: 34 % two, 8 % more); 75 % of all words in the things are distinct (official: 80 %).

    Parameters
    ----------
    n_documents
        46 to 50,000; 46 leaves only the people that queries ask for, like the official small set.
    n_queries
        1 to 1,035 (46 choose 2).
    seed
        Decides names, things, pairs and order. The same arguments give the same data on every Python version.

    Returns
    -------
    dict
        The fields of a `Collection`: ``Collection(**build(46))``. Its name holds every argument that is not the
        default's: "limit", "limit/46", "limit/46/100/7" (documents, queries, seed), and `load_collection` takes it.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not an integer, or out of range.
    """
    _check_range(n_documents, N_ASKED, MAX_DOCUMENTS, "n_documents")
    _check_range(n_queries, 1, MAX_QUERIES, "n_queries")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:  # Random takes -1 and 1 for the same seed
        raise ValueError(f"seed is {seed!r}; it must be an integer of at least 0.")
    rng = Random(seed)
    things = draw(rng, THINGS, len(THINGS))
    name = _collection_name(n_documents, n_queries, seed)
    return {"name": name, "split": None, **_written(rng, things[:n_queries], things[n_queries:], n_documents)}


def build_train(n_documents: int = N_DOCUMENTS) -> dict:
    """Build the split "train" of `build()`: the same structure, asking for what no query of that one asks for.

    To choose constants and autoencoders on. Its 874 queries ask for the things that only fill up the documents there
    (and the other way round); people, pairs and places are drawn anew.

    Parameters
    ----------
    n_documents
        As in `build`.

    Returns
    -------
    dict
        The fields of a `Collection`, whose full name is "limit/train" or, of 46 documents, "limit/46/train".

    Raises
    ------
    TypeError, ValueError
        As in `build`.
    """
    _check_range(n_documents, N_ASKED, MAX_DOCUMENTS, "n_documents")
    tested = set(draw(Random(SEED), THINGS, N_QUERIES))  # what `build` asks for
    rng = Random(SEED + 1)
    things = draw(rng, THINGS, len(THINGS))
    untested = [thing for thing in things if thing not in tested]
    others = [thing for thing in things if thing in tested]
    name = _collection_name(n_documents, N_QUERIES, SEED)
    return {"name": name, "split": "train", **_written(rng, untested, others, n_documents)}


def _written(rng: Random, asked: list[str], others: list[str], n_documents: int) -> dict:
    """Return documents, queries and judgements; of the people, two like each thing of `asked`."""
    pairs = draw(rng, list(combinations(range(N_ASKED), 2)), len(asked))
    places = draw(rng, range(n_documents), N_ASKED)  # places[p]: the document of the p-th of the 46
    likes: dict[int, list[str]] = {place: [] for place in places}
    for thing, pair in zip(asked, pairs, strict=True):
        for person in pair:
            likes[places[person]].append(thing)
    names = [_name(number) for number in draw(rng, range(len(FIRST_NAMES) * len(SURNAMES)), n_documents)]
    query_ids = [f"query_{i}" for i in range(len(asked))]
    return {
        "doc_ids": names,
        "doc_texts": [_sentence(rng, name, likes.get(i, []), others) for i, name in enumerate(names)],
        "query_ids": query_ids,
        "query_texts": [f"Who likes {thing}?" for thing in asked],
        "qrels": {q: {names[places[p]]: 1 for p in pair} for q, pair in zip(query_ids, pairs, strict=True)},
        "source": "built-in",
    }


def draw(rng: Random, items, k: int) -> list:
    """Draw `k` of `items` without replacement, in random order: the first `k` steps of a Fisher-Yates shuffle.

    It calls `rng.random` alone, the one method whose sequence Python promises to keep from version to version.
    """
    pool = list(items)
    for i in range(k):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:k]


def _sentence(rng: Random, name: str, asked: list[str], others: list[str]) -> str:
    """Fill a person's likes up to 45 to 50 with things that no query asks for, and write them down in random order."""
    fewest, most = LIKES
    n_likes = fewest + int(rng.random() * (most - fewest + 1))
    likes = draw(rng, asked + draw(rng, others, n_likes - len(asked)), n_likes)
    return f"{name} likes {', '.join(likes[:-1])} and {likes[-1]}."


def _name(number: int) -> str:
    first, last = divmod(number, len(SURNAMES))
    return f"{FIRST_NAMES[first]} {SURNAMES[last]}"


def _collection_name(*arguments: int) -> str:
    """Name the data by its arguments, short where they are the defaults."""
    if arguments[1:] != (N_QUERIES, SEED):
        return "/".join(map(str, ("limit", *arguments)))
    return "limit" if arguments[0] == N_DOCUMENTS else f"limit/{arguments[0]}"


def _check_range(value: int, least: int, most: int, what: str) -> None:
    if not least <= check_count(value, what) <= most:
        raise ValueError(f"{what} is {value}; it must be from {least} to {most:,}.")
