"""The pooling as sentence-transformers' pull request 3796 describes it, judged by the library's own `Pooling`."""

import inspect
import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sentence_transformers.sentence_transformer.modules import Pooling
from test_modules import BOUNDS, LENGTHS, WIDTH, K, N, dense, draw, make, padded
from torch.testing import assert_close

from lib.bm25.pruning import keep_top
from lib.interop.modules import MissingFeatureError, SparseTokenPooling

pytestmark = pytest.mark.usefixtures("one_thread")

DEFAULTS = {
    "pooling_strategy": "sum",
    "include_prompt": True,
    "values_key": "token_sparse_values",
    "indices_key": "token_sparse_indices",
}
STRATEGIES = ["sum", "max", "max_log1p", "sum_sqrt", "count"]
LATENTS = torch.arange(N * K).view(N, K) * 7 % 5 + torch.arange(K) * 5  # few, so that tokens share some
VALUES = draw(N, K).relu()  # half are 0: not active


def features(form: str) -> dict[str, torch.Tensor]:
    """The same 15 tokens of 4 texts in one of four forms; padding has latents and activations of its own."""
    if form in ("left", "right"):
        values, indices = padded(VALUES, form), padded(LATENTS.float(), form)
        indices = indices["token_embeddings"].long().clamp(max=WIDTH - 1)
        return {
            "token_sparse_values": values["token_embeddings"],
            "token_sparse_indices": indices,
            "attention_mask": values["attention_mask"],
        }
    lead = (1,) if form == "packed-3" else ()
    return {
        "token_sparse_values": VALUES.view(*lead, N, K),
        "token_sparse_indices": LATENTS.view(*lead, N, K),
        "cu_seq_lens_q": BOUNDS,
    }


FORMS = ["left", "right", "packed-2", "packed-3"]


def by_hand(strategy: str, left_out: int = 0) -> np.ndarray:
    """One text, one token, one latent at a time, without the first `left_out` tokens of each text."""
    rows = np.zeros((len(LENGTHS), WIDTH))
    for row, start, end in zip(rows, BOUNDS[:-1].tolist(), BOUNDS[1:].tolist(), strict=True):
        for token in range(start + left_out, end):
            for value, latent in zip(VALUES[token].tolist(), LATENTS[token].tolist(), strict=True):
                old = row[latent]
                new = {"sum": old + value, "max": max(old, value), "count": old + (value > 0)}
                row[latent] = new[strategy.partition("_")[0]]
    return {"max_log1p": np.log1p, "sum_sqrt": np.sqrt}.get(strategy, np.asarray)(rows)


def test_parameters_defaults_and_saved_keys_are_those_of_the_pull_request():
    parameters = inspect.signature(SparseTokenPooling).parameters
    assert list(parameters)[:5] == ["embedding_dimension", *DEFAULTS]
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    assert SparseTokenPooling(8).get_config_dict() == {"embedding_dimension": 8} | DEFAULTS
    ours = {"sparse_rows": True, "special_tokens": (1, 1)}  # settings of ours are saved where they matter
    config = SparseTokenPooling(np.int64(8), sparse_rows=True, special_tokens=np.array([1, 1])).get_config_dict()
    json.dumps(config)
    assert config == {"embedding_dimension": 8} | DEFAULTS | ours


def test_strategies_by_hand():
    given = {
        "token_sparse_values": torch.tensor([[[1.0, 2.0], [3.0, 0.0], [5.0, 4.0]]]),
        "token_sparse_indices": torch.tensor([[[0, 2], [0, 1], [3, 2]]]),
    }
    sums = torch.tensor([[4.0, 0.0, 6.0, 5.0]])
    largest = torch.tensor([[3.0, 0.0, 4.0, 5.0]])
    expected = {"sum": sums, "max": largest, "max_log1p": largest.log1p(), "sum_sqrt": sums.sqrt()}
    for strategy, row in expected.items():
        assert_close(SparseTokenPooling(4, strategy)(dict(given))["sentence_embedding"], row)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "count"])  # which the library lacks
@pytest.mark.parametrize("prompt_length", [None, 1, torch.tensor([2]), torch.tensor([1, 1, 1, 1]), 3, 9])
def test_it_counts_the_tokens_that_the_library_s_pooling_counts(strategy, prompt_length):
    mode = "max" if strategy.startswith("max") else "mean"
    values, indices = (tensor[:12].view(4, 3, K) for tensor in (VALUES, LATENTS))
    unmasked = {"token_sparse_values": values, "token_sparse_indices": indices}
    for given, dtype, include_prompt in (
        (features("left"), torch.int64, True),
        (features("left"), torch.bool, False),
        (features("right"), torch.float32, False),
        (unmasked, None, False),
    ):
        given |= {} if prompt_length is None else {"prompt_length": prompt_length}
        given |= {} if dtype is None else {"attention_mask": given["attention_mask"].to(dtype)}
        codes = dense(given["token_sparse_values"], given["token_sparse_indices"])
        judge = Pooling(WIDTH, pooling_mode=mode, include_prompt=include_prompt)
        pooling = SparseTokenPooling(WIDTH, strategy, include_prompt=include_prompt)
        rows = pooling(dict(given))["sentence_embedding"]
        # a mean over 1 is a sum; the maximum over no token is -inf there
        given |= {"token_embeddings": codes, "token_weights_sum": torch.ones(len(LENGTHS))}
        expected = judge(given)["sentence_embedding"].clamp(min=0)
        expected = {"max_log1p": torch.log1p, "sum_sqrt": torch.sqrt}.get(strategy, torch.clone)(expected)
        assert_close(rows, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_are_those_of_the_equations(strategy, form):
    given = features(form)
    rows = SparseTokenPooling(WIDTH, strategy)(given)["sentence_embedding"]
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows, by_hand(strategy), atol=1e-6)
    sparse = SparseTokenPooling(WIDTH, strategy, sparse_rows=True)(given)["sentence_embedding"]
    assert sparse.is_sparse
    cells = sparse.indices()[0] * WIDTH + sparse.indices()[1]
    assert (cells.diff() > 0).all()  # coalesced, as it says
    assert torch.equal(sparse.to_dense(), rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, torch.tensor([2]), torch.tensor([2, 2, 2, 2]), 50])
def test_a_prompt_is_left_out_if_it_is_not_included(form, length):
    given = features(form) | {"prompt_length": length}
    n = int(torch.as_tensor(length).flatten()[0])
    pooling = SparseTokenPooling(WIDTH, include_prompt=False)
    np.testing.assert_allclose(pooling(given)["sentence_embedding"], by_hand("sum", left_out=n), atol=1e-6)
    pooling.include_prompt = True
    np.testing.assert_allclose(pooling(given)["sentence_embedding"], by_hand("sum"), atol=1e-6)


def test_an_attention_mask_is_not_changed_and_may_be_missing():
    given = features("left") | {"prompt_length": 2}
    mask = given["attention_mask"].clone()
    SparseTokenPooling(WIDTH, include_prompt=False)(given)
    assert torch.equal(given["attention_mask"], mask)
    values = draw(2, 3, K).relu()
    indices = torch.zeros(2, 3, K, dtype=torch.int64)
    rows = SparseTokenPooling(WIDTH)({"token_sparse_values": values, "token_sparse_indices": indices})
    assert_close(rows["sentence_embedding"][:, 0], values.sum(dim=(1, 2)))


def test_special_tokens_alone_make_an_empty_row_and_may_be_left_out():
    # texts of 5, 2, 7 and 1 tokens, of which the first and the last are special: the second and fourth are blank
    for form in FORMS:
        rows = SparseTokenPooling(WIDTH, special_tokens=(1, 1))(features(form))["sentence_embedding"]
        expected = by_hand("sum")
        expected[[1, 3]] = 0
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        pooling = SparseTokenPooling(WIDTH, special_tokens=(1, 1), include_special=False)
        inner = pooling(features(form))["sentence_embedding"].numpy()
        special = [(0, 4), (7, 13)]  # of the two texts that are not blank
        for row, tokens in zip((0, 2), special, strict=True):
            for token in tokens:
                np.add.at(inner[row], LATENTS[token].numpy(), VALUES[token].numpy())
        np.testing.assert_allclose(inner, expected, atol=1e-6)
        given = features(form) | {"prompt_length": 4}
        rows = SparseTokenPooling(WIDTH, special_tokens=(1, 1))(given)["sentence_embedding"]
        expected[0] = 0  # of its five tokens, four are the prompt's, and the last is special
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_sparse_rows_never_make_the_dense_ones():
    width = 10**13  # dense, four rows would be 160 TB
    given = features("packed-2")
    given["token_sparse_indices"] = LATENTS + width - WIDTH
    rows = SparseTokenPooling(width, "sum_sqrt", sparse_rows=True)(given)["sentence_embedding"]
    assert rows.shape == (4, width)
    row, column = rows.indices()
    shifted = np.zeros((4, WIDTH))
    shifted[row, column - (width - WIDTH)] = rows.values()
    np.testing.assert_allclose(shifted, by_hand("sum_sqrt"), atol=1e-6)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "count"])  # which is constant
def test_gradients_are_those_of_the_dense_form(strategy):
    given = features("right")
    values = given["token_sparse_values"].clone().requires_grad_()
    rows = SparseTokenPooling(WIDTH, strategy)(given | {"token_sparse_values": values})["sentence_embedding"]
    (rows * draw(4, WIDTH)).sum().backward()
    gradients, values.grad = values.grad, None
    z = torch.zeros(4, 7, WIDTH).scatter(2, given["token_sparse_indices"], values)
    z = z * given["attention_mask"][:, :, None]
    pooled = z.amax(dim=1) if strategy.startswith("max") else z.sum(dim=1)
    active = pooled > 0
    pooled = {"max_log1p": torch.log1p, "sum_sqrt": torch.sqrt}.get(strategy, torch.clone)(pooled[active])
    (pooled * draw(4, WIDTH)[active]).sum().backward()
    assert_close(gradients, values.grad * (values > 0))


def test_half_precision_is_summed_in_float32():
    n = 3_000  # bfloat16 itself would stop at 256
    given = {
        "token_sparse_values": torch.ones(1, n, 1, dtype=torch.bfloat16),
        "token_sparse_indices": torch.zeros(1, n, 1, dtype=torch.int64),
    }
    rows = SparseTokenPooling(2)(given)["sentence_embedding"]
    assert (rows.dtype, rows.tolist()) == (torch.float32, [[3_000.0, 0.0]])


def test_silent_latents_texts_without_tokens_no_tokens_at_all_and_nan():
    silent = {name: tensor - 100 if "values" in name else tensor for name, tensor in features("right").items()}
    assert not SparseTokenPooling(WIDTH)(silent)["sentence_embedding"].any()
    masked = features("right") | {"attention_mask": torch.tensor([[0] * 7, [1] * 7, [0] * 7, [1] * 7])}
    rows = SparseTokenPooling(WIDTH, include_prompt=False)(masked | {"prompt_length": 1})["sentence_embedding"]
    assert rows.any(dim=1).tolist() == [False, True, False, True]
    empty = torch.zeros(2, 0, K)
    given = {"token_sparse_values": empty, "token_sparse_indices": empty.long()}
    assert not SparseTokenPooling(WIDTH)(given)["sentence_embedding"].any()
    given = features("packed-2")
    given["token_sparse_values"] = torch.where(torch.arange(N)[:, None] == 0, torch.nan, VALUES)
    rows = SparseTokenPooling(WIDTH)(given)["sentence_embedding"]
    assert rows.isnan().any(dim=1).tolist() == [True, False, False, False]  # seen, not dropped


def test_save_and_load(tmp_path):
    pooling = SparseTokenPooling(WIDTH, "sum_sqrt", False, "v", "i", True, (1, 2), False)
    pooling.save(tmp_path)
    loaded = SparseTokenPooling.load(str(tmp_path))
    assert loaded.get_config_dict() == pooling.get_config_dict()
    assert loaded.get_embedding_dimension() == WIDTH


def test_other_keys():
    given = features("right")
    renamed = {"v": given["token_sparse_values"], "i": given["token_sparse_indices"]}
    renamed["attention_mask"] = given["attention_mask"]
    pooled = SparseTokenPooling(WIDTH, values_key="v", indices_key="i")(renamed)
    assert pooled is renamed
    assert_close(pooled["sentence_embedding"], SparseTokenPooling(WIDTH)(given)["sentence_embedding"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0,), "embedding_dimension is 0"),
        ((WIDTH, "mean"), "'max_log1p'.*'mean'|'mean'.*'max_log1p'"),
        ((WIDTH, "sum", True, "v", "i", False, (1,)), r"special_tokens.*\(1,\)"),
    ],
)
def test_settings_that_are_not_allowed(arguments, named):
    with pytest.raises(ValueError, match=named):
        SparseTokenPooling(*arguments)


@pytest.mark.parametrize("bounds", [[1, 15], [0, 9, 4, 15], [[0, 15]], []])
def test_bounds_that_are_not_ascending_from_0(bounds):
    packed = {"token_sparse_values": VALUES, "token_sparse_indices": LATENTS, "token_embeddings": draw(N, 8)}
    for module in (SparseTokenPooling(WIDTH), make()):
        with pytest.raises(ValueError, match=r"cu_seq_lens_q is \["):
            module(packed | {"cu_seq_lens_q": torch.tensor(bounds)})


def test_a_mask_of_other_tokens_is_refused_unless_there_are_bounds():
    for shape in ((4, 9), (28,), (2, 7)):
        with pytest.raises(ValueError, match=r"attention_mask.*\(4, 7\)"):
            SparseTokenPooling(WIDTH)(features("right") | {"attention_mask": torch.zeros(shape)})
    packed = features("packed-2") | {"attention_mask": torch.zeros(3, 9)}
    np.testing.assert_allclose(SparseTokenPooling(WIDTH)(packed)["sentence_embedding"], by_hand("sum"), atol=1e-6)


def test_features_that_do_not_fit():
    pooling, given = SparseTokenPooling(WIDTH), features("right")
    for form in ("right", "packed-2"):
        for key in ("token_sparse_values", "token_sparse_indices"):
            less = {name: tensor for name, tensor in features(form).items() if name != key}
            with pytest.raises(MissingFeatureError, match=f"'{key}'"):
                pooling(less)
    outside = given["token_sparse_indices"].clamp(max=0) + WIDTH * (torch.arange(K) == 1)
    for wrong, named in (
        ({"token_sparse_values": VALUES, "token_sparse_indices": LATENTS}, r"\(15, 3\).*cu_seq_lens_q"),
        (features("packed-2") | {"token_sparse_values": VALUES[1:]}, "15 tokens"),
        (given | {"token_sparse_indices": given["token_sparse_indices"][..., :2]}, "token_sparse_indices"),
        (given | {"token_sparse_indices": outside}, "0 to 24.*0 to 23"),
    ):
        with pytest.raises(ValueError, match=named):
            pooling(wrong)
    with pytest.raises(ValueError, match=r"max_active_dims is 5.*sparse_rows"):
        SparseTokenPooling(WIDTH, sparse_rows=True)(given, max_active_dims=5)


@pytest.mark.parametrize("sparse_rows", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_top_leaves_the_largest_weights_of_queries_and_documents(form, sparse_rows):
    whole = SparseTokenPooling(WIDTH, "max_log1p")(features(form))["sentence_embedding"]
    pooling = SparseTokenPooling(WIDTH, "max_log1p", sparse_rows=sparse_rows, top=(2, 3)).eval()
    for task, n in (("query", 2), ("document", 3), (None, WIDTH)):
        rows = pooling(features(form), task=task)["sentence_embedding"].to_dense()
        expected = torch.from_numpy(keep_top(csr_array(whole.numpy()), n).toarray())
        assert_close(rows, expected)
    assert_close(pooling.train()(features(form), task="query")["sentence_embedding"].to_dense(), whole)


def test_top_is_saved_where_there_is_one(tmp_path):
    assert "top" not in SparseTokenPooling(WIDTH).get_config_dict()
    SparseTokenPooling(WIDTH, top=[2, 3]).save(tmp_path)
    assert SparseTokenPooling.load(str(tmp_path)).top == (2, 3)
    for top in ((2,), (0, 3), (2, 3, 4)):
        with pytest.raises(ValueError, match="top"):
            SparseTokenPooling(WIDTH, top=top)
