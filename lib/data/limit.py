"""`limit`: who likes what, after the LIMIT data set of Weller et al. (arXiv 2508.21038), from word lists of our own.

The lists in `limit_words.json` were written for this project. Things are single words and pairs of words. The second
word of a pair heads a family; the first is in that pair alone, except for eight. No word of a pair is a thing by
itself: no thing is part of another's name.
"""

import json
from itertools import combinations, product
from pathlib import Path
from random import Random

from lib.support.checks import check_integer

_WORDS: dict[str, list[str]] = json.loads((Path(__file__).parent / "limit_words.json").read_text("utf-8"))
FIRST_NAMES, SURNAMES, THINGS = (_WORDS[name] for name in ("first_names", "surnames", "things"))
N_QUERIED = 46  # people who like what the queries ask for: 46 choose 2 = 1,035 pairs is the least that is over 1,000
LIKES = (45, 50)  # fewest and most likes of a person
MAX_DOCUMENTS = 50_000
MAX_QUERIES = N_QUERIED * (N_QUERIED - 1) // 2
N_DOCUMENTS, N_QUERIES, SEED = 5_000, 1_000, 0  # of the collection that is called "limit" alone


def build(n_documents: int = N_DOCUMENTS, n_queries: int = N_QUERIES, seed: int = SEED) -> dict:
    """Build LIMIT-style data: every query is answered by exactly two documents, and no two queries by the same two.

    A document is a person, "NAME likes A, B, ... and C.", with 45 to 50 likes; its id is the name. A query is
    "Who likes X?". Each X is liked by exactly 2 of 46 people, all pairs different; the other `n_documents` - 46 people
    like only things that no query asks for. The 46 stand at random places among the others.

    It has the structure of the official set (github.com/google-deepmind/limit). It differs in this: the words are from
    our own lists; the pairs are drawn at random (the official ones are the first 1,000 in lexicographic order, so that
    37 people answer 45 queries each and 9 people 37 or 38); likes number 45 to 50 (45 each in the official small set);
    30 % of the things have two words ("Linden Trees"), the rest one (official: 34 % two, 8 % more); 75 % of all words
    in the things are distinct (official: 80 %).

    Raises TypeError or ValueError for an argument that is not an integer, or out of range.

    Parameters
    ----------
    n_documents : int
        Number of documents, 46 to 50,000; 46 are only the people whom queries ask for, as in the official small set.
    n_queries : int
        Number of queries, 1 to 1,035 (46 choose 2).
    seed : int
        Seed of names, things, pairs and order. The same arguments give the same data on every Python version.

    Returns
    -------
    dict
        The fields of a `Collection`: ``Collection(**build(46))``. Its name holds every argument that is not the
        default's: "limit", "limit/46", "limit/46/100/7" (documents, queries, seed), and `load_collection` takes it.
    """
    n_documents = check_integer(n_documents, "n_documents", N_QUERIED, MAX_DOCUMENTS)
    n_queries = check_integer(n_queries, "n_queries", 1, MAX_QUERIES)
    seed = check_integer(seed, "seed")  # Random takes -1 and 1 for the same seed
    rng = Random(seed)
    things = draw(rng, THINGS, len(THINGS))
    name = _collection_name(n_documents, n_queries, seed)
    return {"name": name, "split": None, **_fields(rng, things[:n_queries], things[n_queries:], n_documents)}


def build_train(n_documents: int = N_DOCUMENTS) -> dict:
    """Build the split "train" of `build()`, to choose constants and autoencoders on: the same structure, other queries.

    Its 874 queries ask for the things that only fill up the documents there (and the other way round); people, pairs
    and places are drawn anew. Its full name is "limit/train" or, of 46 documents, "limit/46/train".
    """
    n_documents = check_integer(n_documents, "n_documents", N_QUERIED, MAX_DOCUMENTS)
    tested = set(draw(Random(SEED), THINGS, N_QUERIES))  # what `build` asks for
    rng = Random(SEED + 1)
    things = draw(rng, THINGS, len(THINGS))
    queried = [thing for thing in things if thing not in tested]
    others = [thing for thing in things if thing in tested]
    name = _collection_name(n_documents, N_QUERIES, SEED)
    return {"name": name, "split": "train", **_fields(rng, queried, others, n_documents)}


def _fields(rng: Random, queried: list[str], others: list[str], n_documents: int) -> dict:
    """Return documents, queries and judgements; two people like each thing of `queried`, none likes one elsewhere."""
    pairs = draw(rng, combinations(range(N_QUERIED), 2), len(queried))
    places = draw(rng, range(n_documents), N_QUERIED)  # position of the document of each of the 46
    likes: dict[int, list[str]] = {place: [] for place in places}
    for thing, pair in zip(queried, pairs, strict=True):
        for person in pair:
            likes[places[person]].append(thing)
    names = [f"{first} {last}" for first, last in draw(rng, product(FIRST_NAMES, SURNAMES), n_documents)]
    query_ids = [f"query_{i}" for i in range(len(queried))]
    return {
        "doc_ids": names,
        "doc_texts": [_sentence(rng, name, likes.get(i, []), others) for i, name in enumerate(names)],
        "query_ids": query_ids,
        "query_texts": [f"Who likes {thing}?" for thing in queried],
        "qrels": {q: {names[places[p]]: 1 for p in pair} for q, pair in zip(query_ids, pairs, strict=True)},
        "source": "built-in",
    }


def draw(rng: Random, items, k: int) -> list:
    """Draw `k` of `items` without replacement, in random order: the first `k` steps of a Fisher-Yates shuffle.

    It uses `rng.random` only, whose sequence Python promises to keep from version to version.
    """
    pool = list(items)
    for i in range(k):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:k]


def _sentence(rng: Random, name: str, queried: list[str], others: list[str]) -> str:
    """Fill a person's likes up to 45 to 50 with things that no query asks for, and write them down in random order."""
    fewest, most = LIKES
    n_likes = fewest + int(rng.random() * (most - fewest + 1))
    likes = draw(rng, queried + draw(rng, others, n_likes - len(queried)), n_likes)
    return f"{name} likes {', '.join(likes[:-1])} and {likes[-1]}."


def _collection_name(*arguments: int) -> str:
    """Name the data by its arguments, short where they are the defaults."""
    if arguments[1:] != (N_QUERIES, SEED):
        return "/".join(map(str, ("limit", *arguments)))
    return "limit" if arguments[0] == N_DOCUMENTS else f"limit/{arguments[0]}"
