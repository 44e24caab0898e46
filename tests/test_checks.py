import numpy as np
import pandas as pd
import pytest

from lib.support.checks import (
    check_choice,
    check_count,
    check_grade,
    check_id,
    check_ids,
    check_integer,
    check_texts,
    repeats,
)


def test_texts_pass_through_in_order():
    assert check_texts(["b", "", "a"]) == ["b", "", "a"]
    assert check_texts(("b", "a")) == ["b", "a"]
    assert check_texts(np.array(["b", "a"])) == ["b", "a"]
    assert check_texts([]) == []


@pytest.mark.parametrize("single", ["abc", b"abc", ""])
def test_a_single_str_is_refused(single):
    with pytest.raises(TypeError, match=f"texts is a single {type(single).__name__}"):
        check_texts(single)


@pytest.mark.parametrize("number", [None, 3, 2.5])
def test_what_is_not_iterable_is_refused(number):
    with pytest.raises(TypeError, match=f"queries is a {type(number).__name__}"):
        check_texts(number, "queries")


@pytest.mark.parametrize("wrong", [None, 3, float("nan"), b"a", ["a"]])
@pytest.mark.parametrize("position", [0, 2])
def test_an_element_that_is_no_str_is_named(wrong, position):
    texts = ["a", "b", "c"]
    texts[position] = wrong
    with pytest.raises(TypeError, match=rf"texts\[{position}\] is .*{type(wrong).__name__}"):
        check_texts(texts)


def test_a_generator_is_checked_as_it_is_read():
    read = []

    def source():
        for text in ["a", None, "c"]:
            read.append(text)
            yield text

    checked = check_texts(source())
    assert read == []
    assert next(checked) == "a"
    assert read == ["a"]
    with pytest.raises(TypeError, match=r"texts\[1\] is None"):
        next(checked)


def test_ids_are_a_list_of_unique_str():
    assert check_ids(iter(["q2", "q1"]), n=2) == ["q2", "q1"]
    assert check_ids([]) == []


@pytest.mark.parametrize(
    ("ids", "n", "error", "message"),
    [
        ("abc", None, TypeError, "doc_ids"),
        (["a", 7], None, TypeError, r"doc_ids\[1\] is 7"),
        (["a", "b"], 3, ValueError, "doc_ids holds 2 ids for 3"),
        (["a", "b"], 0, ValueError, "doc_ids holds 2 ids for 0"),
        (["c", "a", "b", "b", "a"], None, ValueError, "doc_ids repeats 'b'"),
    ],
)
def test_wrong_ids(ids, n, error, message):
    with pytest.raises(error, match=message):
        check_ids(ids, n, "doc_ids")


def test_repeats_yields_each_repetition():
    assert list(repeats(["a", "b", "a", "c", "b", "a"])) == ["a", "b", "a"]


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
def test_counts(value):
    assert check_count(value, "k") == value
    assert type(check_count(value, "k")) is int


@pytest.mark.parametrize("value", [0, -1, np.int32(-5)])
def test_counts_below_one(value):
    with pytest.raises(ValueError, match=f"k is {value}"):
        check_count(value, "k")


@pytest.mark.parametrize("value", [1.0, "3", None, True, np.bool_(True), np.float32(2)])
def test_counts_that_are_no_integers(value):
    with pytest.raises(TypeError, match=r"k is .*integer"):
        check_count(value, "k")


def test_choices():
    assert check_choice("b", {"a": 1, "b": 2}, "phi") == "b"
    with pytest.raises(ValueError, match=r"phi is 'c'.*'a', 'b'"):
        check_choice("c", {"a": 1, "b": 2}, "phi")
    with pytest.raises(ValueError, match=r"phi is \['a'\]"):
        check_choice(["a"], iter("ab"), "phi")


class Rows(list):
    """As a `datasets.Dataset`, which yields dicts."""

    column_names = ("text",)


FRAME = pd.DataFrame({"text": ["a", "b"], "id": ["1", "2"]})


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"a": "text"}, r"list\(texts.values\(\)\).*list\(texts\)"),
        ({"a", "b"}, r"sorted\(texts\)"),
        (frozenset("ab"), r"sorted\(texts\)"),
        (FRAME, r"DataFrame.*list\(texts\[column\]\)"),
        (pd.DataFrame(), r"DataFrame.*list\(texts\[column\]\)"),
        (Rows(), r"Rows.*list\(texts\[column\]\)"),
        (FRAME.to_numpy(), r"shape \(2, 2\).*list\(texts\[:, 0\]\)"),
        (np.array("a"), r"shape \(\)"),
        (bytearray(b"a"), "single bytearray"),
        ({"a": "b"}.items(), r"texts\[0\] is \('a', 'b'\)"),
    ],
)
@pytest.mark.parametrize("check", [check_texts, lambda values: check_ids(values, what="texts")])
def test_a_container_whose_iteration_is_not_its_content_is_refused_with_what_to_pass(values, remedy, check):
    with pytest.raises(TypeError, match=remedy):
        check(values)


@pytest.mark.parametrize(
    "values",
    [
        FRAME["text"],
        pd.Index(["a", "b"]),
        pd.Series(["a", "b"], index=["columns", "column_names"]),  # labels that are attributes, too
        pd.Categorical(["a", "b"]),
        {"a": 1, "b": 2}.keys(),
        {1: "a", 2: "b"}.values(),
        (text for text in "ab"),
    ],
)
def test_a_container_whose_iteration_is_its_content_is_read(values):
    assert check_ids(values) == ["a", "b"]


def test_a_set_is_read_where_order_means_nothing():
    assert sorted(check_ids({"a", "b"}, ordered=False)) == ["a", "b"]
    with pytest.raises(TypeError, match=r"list\(allow.values\(\)\)"):
        check_ids({"a": 1}, what="allow", ordered=False)


@pytest.mark.parametrize("value", [7, np.int64(7), 7.0, None, float("nan")])
def test_numbers_are_no_ids(value):
    with pytest.raises(TypeError, match=r"doc_ids\[1\] is .*str\(id_\).*qrels"):
        check_ids(["a", value], what="doc_ids")
    with pytest.raises(TypeError, match=r"doc_id is .*str\(id_\)"):
        check_id(value, "doc_id")


@pytest.mark.parametrize("value", [0, np.int64(0), np.uint8(2), 2])
def test_integers(value):
    assert type(check_integer(value, "layer", 0, 2)) is int


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (np.int8(3), ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_integers_out_of_range(value, error):
    with pytest.raises(error, match=r"layer is .*from 0 to 2"):
        check_integer(value, "layer", 0, 2)


@pytest.mark.parametrize("grade", [2, 2.0, np.int8(2), np.float32(2)])
def test_grades(grade):
    assert check_grade(grade, "grade") == 2
    assert type(check_grade(grade, "grade")) is int


@pytest.mark.parametrize(
    ("grade", "error"),
    [
        (0.5, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (float("nan"), TypeError),
        (float("inf"), TypeError),
        (10**30, ValueError),
        (-1e5, ValueError),
    ],
)
def test_wrong_grades(grade, error):
    with pytest.raises(error, match=r"grade is .*(integer|smaller)"):
        check_grade(grade, "grade")
