"""The vocabulary's counts against hand-made ones."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import zeta

from lib.inspect.vocabulary import (
    _draw,
    _fit_tail,
    _Tail,
    _zeta,
    fit_zipf,
    growth,
    latent_token_matrix,
    rank_frequency,
    spaced_ranks,
    top_tokens,
    word_counts,
    word_terms,
)

# How many words occur how often in Moby Dick, "frequency:words" (one word where no number stands): Newman's counts,
# with which Clauset, Shalizi and Newman (2009) illustrate the method.
MOBY_DICK = """
    1:9161 2:3085 3:1629 4:926 5:627 6:469 7:361 8:300 9:232 10:179 11:165 12:146 13:115 14:90 15:100 16:74 17:56
    18:70 19:51 20:46 21:44 22:26 23:50 24:37 25:32 26:25 27:21 28:23 29:27 30:18 31:25 32:19 33:16 34:13 35:17
    36:16 37:17 38:23 39:10 40:11 41:10 42:17 43:11 44:8 45:9 46:12 47:7 48:6 49:10 50:8 51:11 52:6 53:2 54:7 55:5
    56:6 57:4 58:4 59:3 60:5 61:2 62:4 63:3 64:4 65:4 66:5 67:6 68:2 69:2 70:4 71:3 72:5 73:3 74:7 75:4 76:4 77:3 78
    79:4 80:4 81:3 82:4 83:7 84:2 85:3 86:2 87:5 88:4 89:2 90 91:2 92 93:2 94:6 95 97:4 98:2 99 100 101:2 104 105
    108:3 110:3 111:4 112:2 113:2 115:2 117:2 119:3 120 121 122:2 123:2 125:2 126:2 127 129:2 130:3 133:2 134 135:2
    136:2 138 147:3 148:4 151 152 153:4 154 158:2 159 160 161:2 162 163 169 172 174 175 176 178:2 179:2 181 184 185
    186 188:2 193:2 199:2 201:3 204:2 206 207 208 212:2 218 219 223 224 225 228:2 229 230 232 235 236 237:2 238
    246:2 248:2 250 260 261 262 264 265 267 274 275 280 281 282 287 289 293:2 297 299:2 300 302 304 309 315 317 323
    325 329 334 342 362 363 364:2 365 374 383 384 393:2 394 408 415 419 428 436 441 443 462 470 471 501:2 511 516
    547 551 571 575 578 586 588 599 604 606 618 620 623 639 673 679 682 748 762 770 777 844 882 897 1022 1035 1041
    1043 1065 1134 1161 1297 1372 1493 1581 1604 1674 1683 1711 1744 1792 1942 2374 2483 2917 4040 4484 4573 6260
    6414 14086
"""


@pytest.fixture(scope="module")
def moby_dick() -> np.ndarray:
    pairs = [map(int, f"{entry}:1".split(":")[:2]) for entry in MOBY_DICK.split()]
    return np.concatenate([np.full(number, frequency) for frequency, number in pairs])


def test_rank_frequency_is_descending_and_leaves_out_what_never_occurs():
    assert rank_frequency([3, 0, 7, 1, 0]).tolist() == [7, 3, 1]
    assert rank_frequency(word_counts(["a b", "b"]).values()).tolist() == [2, 1]


def test_word_counts():
    assert word_counts(["The cat, the CAT!", "", "cat_1"]) == {"the": 2, "cat": 2, "cat_1": 1}
    with pytest.raises(TypeError, match="single str"):
        word_counts("the cat")


def test_top_tokens_are_shares_of_a_latents_activation():
    # tokens 0, 1, 0 have latent 2 at 3, 1, 2 and latent 0 at 0 (inactive), 4, 1
    indices = np.array([[2, 0], [2, 0], [2, 0]])
    values = np.array([[3, 0], [1, 4], [2, 1]], np.float32)
    matrix = latent_token_matrix(indices, values, np.array([0, 1, 0]), width=3, n_tokens=2)
    assert matrix.toarray().tolist() == [[1, 4], [0, 0], [5, 1]]
    assert top_tokens(matrix, 2, ["x", "y"]) == [("x", pytest.approx(5 / 6)), ("y", pytest.approx(1 / 6))]
    assert top_tokens(matrix, 0, ["x", "y"], n=1) == [("y", pytest.approx(0.8))]
    assert top_tokens(matrix, 1, ["x", "y"]) == []
    assert top_tokens(matrix, np.int64(0), ["x", "y"], n=np.int8(1)) == [("y", pytest.approx(0.8))]
    for latent, error in ((-1, ValueError), (3, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match=f"latent is {latent}"):
            top_tokens(matrix, latent, ["x", "y"])


@pytest.mark.parametrize("texts", [["a b"], "a b", [{"a": 1}], {"d": ["a"]}])
def test_word_terms_refuse_what_is_no_list_of_words(texts):
    for documents, queries in ((texts, [["a"]]), ([["a"]], texts)):
        with pytest.raises(TypeError, match=r"(documents|queries)(\[0\])? is a"):
            word_terms(documents, queries)


def test_word_terms_count_documents_and_queries_over_the_documents_words():
    docs, queries = word_terms([["b", "a", "b"], [], ["c"]], [["a", "x", "c", "a"]])
    # columns b, a, c
    assert docs.toarray().tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert queries.toarray().tolist() == [[0, 2, 1]]  # x is in no document


def test_growth_is_the_mean_over_all_samples():
    rng = np.random.default_rng(0)
    docs = rng.random((6, 9)) < 0.4
    counted = [
        np.mean([docs[list(sample)].any(axis=0).sum() for sample in combinations(range(6), n)]) for n in range(1, 7)
    ]
    df = docs.sum(axis=0)
    np.testing.assert_allclose(growth(df, 6, range(1, 7)), counted)
    # the last document brings the terms that it alone has: V(N) - V(N - 1) = (terms in one document) / N
    assert np.diff(growth(df, 6, [5, 6]))[0] == pytest.approx((df == 1).sum() / 6)
    with pytest.raises(ValueError, match="1 to 7"):
        growth(df, 6, [1, 7])


def test_spaced_ranks_hold_both_ends():
    assert spaced_ranks(3).tolist() == [1, 2, 3]
    ranks = spaced_ranks(100_000, 50)
    assert len(ranks) <= 50
    assert ranks[[0, -1]].tolist() == [1, 100_000]


def test_zeta_is_scipys():
    q = np.array([1, 2, 31, 32, 33, 1000])
    for alpha in (1.01, 2.0, 5.9):
        np.testing.assert_allclose(_zeta(alpha, q), zeta(alpha, q.astype(float)), rtol=1e-8)


@pytest.mark.slow
def test_the_published_fit_of_moby_dick(moby_dick):
    assert len(moby_dick) == 18_855
    found = _fit_tail(moby_dick)
    # Clauset et al., table 6.1: xmin 7, alpha 1.95, 2,958 words in the tail. The package powerlaw 2.0.0 (PyPI), with
    # discrete=True and estimate_discrete=False, finds alpha 1.952718 and a distance of 0.008257;
    # igraph 1.0.0's power_law_fit alpha 1.9527275, 0.008253, and p = 0.70.
    assert (found.xmin, found.n_tail) == (7, 2958)
    assert found.alpha == pytest.approx(1.9527275, abs=1e-6)
    assert found.distance == pytest.approx(0.008253, abs=1e-6)
    fit = fit_zipf(moby_dick, n_resamples=20)
    assert fit.exponent == pytest.approx(1 / 0.952718, abs=1e-4)
    assert fit.low < fit.exponent < fit.high
    assert fit.p > 0.1  # not ruled out; the paper has 0.49


def test_draws_follow_the_law_and_are_fitted_back():
    law = _Tail(2.2, 3, 0, 0.0)
    drawn = _draw(np.random.default_rng(1), 50_000, law)
    for value in (3, 4, 7):  # P(x) = x^-alpha / zeta(alpha, xmin)
        assert (drawn == value).mean() == pytest.approx(value**-2.2 / zeta(2.2, 3), abs=0.01)
    assert _fit_tail(drawn).alpha == pytest.approx(2.2, abs=0.02)
    assert (drawn > 10_003).any()  # beyond the table


@pytest.mark.slow
def test_a_power_law_is_kept_and_an_exponential_is_rejected():
    rng = np.random.default_rng(2)
    law = fit_zipf(_draw(rng, 2000, _Tail(2.0, 5, 0, 0.0)), n_resamples=30)
    assert law.p > 0.1
    assert law.low < 1.0 < law.high
    # a geometric distribution cut off at 50 terms or more has no such tail
    assert fit_zipf(rng.geometric(0.05, 5000), n_resamples=30).p < 0.1


def test_the_same_seed_gives_the_same_fit():
    frequencies = _draw(np.random.default_rng(3), 300, _Tail(2.0, 1, 0, 0.0))
    assert fit_zipf(frequencies, 5) == fit_zipf(np.append(frequencies, [0, 0]), 5)
    assert fit_zipf(frequencies, 5) != fit_zipf(frequencies, 5, seed=1)


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        (np.arange(49), "48 terms occur"),
        (np.full(100, 3), "1 different frequencies"),
        (np.array([-1] * 60), "a frequency is -1"),
    ],
)
def test_what_cannot_be_fitted_is_said(frequencies, message):
    with pytest.raises(ValueError, match=message):
        fit_zipf(frequencies)
    with pytest.raises(TypeError, match="integers"):
        fit_zipf(frequencies.astype(float))
