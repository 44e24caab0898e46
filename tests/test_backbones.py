"""Late-interaction models against sentence-transformers and PyLate's way; models that are refused; SPLARE."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TEXTS, VOCABULARY
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from test_encoder import CLOSE, assert_same, ids, joined, rows
from transformers import (
    AutoModel,
    AutoTokenizer,
)

from lib.data.training_text import GivenText
from lib.encode.encoder import TokenEncoder
from lib.encode.states import cache_states
from lib.evaluation.baselines import inner_product_search
from lib.evaluation.late_interaction import late_interaction_search
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK

QUERIES = ["red cat", "", "is the big dog in the old house ?", "fish , bird . " * 6]
SKIPPED = [".", ",", ":"]
PROMPTS = {"query": "query : ", "document": "title : "}


def projection(seed: int = 5) -> torch.Tensor:
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(seed))


def save_colbert(plain_folder, folder, *, last=(), **settings) -> str:
    """A `MultiVectorEncoder` of the plain BERT as sentence-transformers saves it, projected from 32 to 16."""
    states = "token_embeddings"
    modules = [
        Transformer(plain_folder, document_length=20, **settings),
        Dense(32, 16, False, activation_function=None, init_weight=projection(), module_input_name=states),
        MultiVectorMask(skiplist_words=SKIPPED),
        Normalize(states),
        *last,
    ]
    MultiVectorEncoder(modules=modules, prompts=PROMPTS, device="cpu").save_pretrained(str(folder))
    return str(folder)


EXPANSIONS = {
    "none": None,
    "fixed": {"strategy": "fixed", "length": 12},
    "attended": {"strategy": "fixed", "length": 12, "attend": True},
    "min": {"strategy": "min", "length": 9, "token": "[UNK]"},
}


@pytest.fixture(scope="module", params=EXPANSIONS)
def colbert_folder(request, plain_folder, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp(f"colbert-{request.param}")
    return save_colbert(plain_folder, folder, query_expansion=EXPANSIONS[request.param])


@pytest.fixture(scope="module")
def expanding_folder(plain_folder, tmp_path_factory) -> str:
    return save_colbert(plain_folder, tmp_path_factory.mktemp("expanding"), query_expansion=EXPANSIONS["fixed"])


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [1, 2048])
def test_final_states_are_what_a_multi_vector_encoder_gives(colbert_folder, batch_tokens):
    encoder = TokenEncoder(colbert_folder, dtype="float32", batch_tokens=batch_tokens)
    model = MultiVectorEncoder(colbert_folder, device="cpu")
    assert (encoder.late_interaction, encoder.n_layers, encoder.layer, encoder.d) == (True, 4, 4, 16)
    assert encoder.prompts == PROMPTS
    for kind, texts, encode in (("document", TEXTS, model.encode_document), ("query", QUERIES, model.encode_query)):
        got, expected = joined(encoder.stream(texts, kind)), encode(texts)
        assert (got.pooled.shape, got.pooled.dtype) == ((len(texts), 0), np.float32)
        assert list(encoder.count_tokens(texts, kind)) == np.diff(got.offsets).tolist()
        for i, text in enumerate(texts):
            if text.strip():
                torch.testing.assert_close(rows(got, i), expected[i], **CLOSE)
            else:
                assert len(rows(got, i)) == 0


@pytest.mark.slow
def test_bfloat16_is_near_float32(expanding_folder):
    exact, rough = (
        joined(TokenEncoder(expanding_folder, dtype=dtype).stream(TEXTS)).states for dtype in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.float32
    assert (exact * rough).sum(dim=1).min() > 0.99  # cosines
    assert (exact - rough).abs().max() > 0


@pytest.mark.slow
def test_a_model_kept_in_half_precision_has_a_head_in_single(plain_folder, tmp_path):
    AutoModel.from_pretrained(plain_folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(plain_folder).save_pretrained(tmp_path / "half")
    modules = [Transformer(str(tmp_path / "half")), Pooling(32), Dense(32, 8)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "whole"))
    got = joined(TokenEncoder(tmp_path / "whole", dtype="float32").stream(TEXTS)).pooled
    model = SentenceTransformer(str(tmp_path / "whole"), device="cpu")
    assert model.dtype == torch.bfloat16
    np.testing.assert_allclose(got, model.float().encode(TEXTS), **CLOSE)


def test_the_skiplist_is_read_but_not_given_out(expanding_folder):
    encoder = TokenEncoder(expanding_folder, dtype="float32", document_prompt="", query_prompt="")
    skipped = {VOCABULARY[word] for word in SKIPPED}
    docs, queries = joined(encoder.stream(["cat , dog .", "cat dog"])), joined(encoder.stream(["cat , dog ."], "query"))
    assert not skipped & set(docs.token_ids.tolist())
    assert ids(docs, 0) == ids(docs, 1)  # [CLS] cat dog [SEP]
    assert (rows(docs, 0) - rows(docs, 1)).abs().max() > 0.1  # but the comma was seen
    assert skipped & set(queries.token_ids.tolist())  # it is for documents only


def test_query_expansion_counts_as_special_tokens(expanding_folder):
    complete = joined(TokenEncoder(expanding_folder, dtype="float32").stream(["red cat"], "query"))
    bare = joined(TokenEncoder(expanding_folder, dtype="float32", special_tokens=False).stream(["red cat"], "query"))
    words = [VOCABULARY[word] for word in ["[CLS]", "query", ":", "red", "cat", "[SEP]"]]
    assert ids(complete, 0) == words + [VOCABULARY["[MASK]"]] * 6
    assert ids(bare, 0) == words[1:-1]
    torch.testing.assert_close(bare.states, complete.states[1:5], **CLOSE)


def test_a_late_interaction_model_has_its_blocks_below_the_projection(expanding_folder, plain_folder):
    encoder, plain = TokenEncoder(expanding_folder, dtype="float32"), TokenEncoder(plain_folder, dtype="float32")
    assert [encoder.at(layer).d for layer in (0, 3, 4, -1)] == [32, 32, 16, 16]
    block = joined(b[3] for b in encoder.stream_layers(["the cat ran"], [3, 4], "document"))
    below = joined(plain.stream(["title : the cat ran"]))
    kept = ~np.isin(below.token_ids, [VOCABULARY[word] for word in SKIPPED])
    torch.testing.assert_close(block.states, below.states[kept], **CLOSE)
    projected = torch.nn.functional.normalize(block.states @ projection().T, dim=1)
    torch.testing.assert_close(joined(encoder.stream(["the cat ran"])).states, projected, **CLOSE)
    with pytest.raises(ValueError, match="layer is 5"):
        encoder.at(5)


@pytest.mark.slow
def test_max_length_cuts_text_and_leaves_the_expansion(expanding_folder):
    encoder = TokenEncoder(expanding_folder, dtype="float32", max_length=5)
    assert np.diff(joined(encoder.stream(["cat dog bird fish"] * 2, "query")).offsets).tolist() == [12, 12]
    assert ids(joined(encoder.stream(["cat dog bird fish"])), 0) == [
        VOCABULARY[word]
        for word in ("[CLS]", "title", "cat", "[SEP]")  # the colon is read, and skipped
    ]
    complete = TokenEncoder(expanding_folder, dtype="float32")
    assert complete.max_length == 20
    assert TokenEncoder(**complete.config).identity == complete.identity


def test_queries_with_an_expansion_are_cut(expanding_folder):
    encoder, long = TokenEncoder(expanding_folder, dtype="float32", long_texts="chunk"), "cat dog " * 100
    assert np.diff(joined(encoder.stream([long], "query")).offsets).tolist() == [12]
    assert len(joined(encoder.stream([long])).states) > 200


@pytest.mark.slow
def test_identity_knows_skiplist_expansion_and_lengths(plain_folder, expanding_folder, tmp_path):
    folders = [expanding_folder]
    for name, expansion in (("none", None), ("attended", EXPANSIONS["attended"])):
        folders.append(save_colbert(plain_folder, tmp_path / name, query_expansion=expansion))
    shutil.copytree(expanding_folder, tmp_path / "other-skiplist")
    mask = next((tmp_path / "other-skiplist").glob("*_MultiVectorMask")) / "config.json"
    mask.write_text(json.dumps(json.loads(mask.read_text()) | {"skiplist_words": ["."]}))
    folders.append(str(tmp_path / "other-skiplist"))
    identities = [TokenEncoder(folder, dtype="float32").identity | {"model": ""} for folder in folders]
    assert len({json.dumps(identity) for identity in identities}) == len(folders)


def test_maximum_similarity_ranks_as_the_models_own(expanding_folder):
    docs = [text for text in TEXTS if text.strip()]
    queries = [query for query in QUERIES if query]
    encoder, model = TokenEncoder(expanding_folder, dtype="float32"), MultiVectorEncoder(expanding_folder, device="cpu")
    names, names_of_queries = [f"d{i}" for i in range(len(docs))], [f"q{i}" for i in range(len(queries))]
    ranking = late_interaction_search(encoder, docs, names, queries, names_of_queries, k=len(docs))
    scores = model.similarity(model.encode_query(queries), model.encode_document(docs)).numpy()
    for query, expected in zip(names_of_queries, scores, strict=True):
        best = np.argsort(-expected, kind="stable")
        assert [doc for doc, _ in ranking[query]] == [names[i] for i in best]
        np.testing.assert_allclose([score for _, score in ranking[query]], expected[best], atol=1e-4)


def save_pylate(plain_folder, folder, **settings) -> str:
    """The plain BERT as PyLate saves a ColBERT: two modules, its settings beside the prompts, two tokens more."""
    model, tokenizer = AutoModel.from_pretrained(plain_folder), AutoTokenizer.from_pretrained(plain_folder)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model.resize_token_embeddings(len(tokenizer))
        model.embeddings.word_embeddings.weight.data[-2:].normal_()
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 16, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": projection()}, folder / "1_Dense" / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 63, "do_lower_case": False}))
    config = {"model_type": "ColBERT", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim"}
    config |= {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 10, "document_length": 18}
    config |= {"skiplist_words": SKIPPED} | settings
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return str(folder)


def colbert_by_hand(folder, text: str, is_query: bool, expand: bool, attend: bool) -> torch.Tensor:
    """ColBERT as PyLate computes it: the prefix is put in by its id, the query filled up with [MASK]."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prefix, length = ("[Q] ", 10) if is_query else ("[D] ", 18)
    actual = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
    actual = [actual[0], tokenizer.convert_tokens_to_ids(prefix), *actual[1:]]
    fill = (length - len(actual)) * (is_query and expand)
    mask = torch.tensor([[1] * len(actual) + [int(attend)] * fill])
    actual = torch.tensor([actual + [tokenizer.mask_token_id] * fill])
    with torch.no_grad():
        states = model(input_ids=actual, attention_mask=mask).last_hidden_state[0] @ projection().T
    states = torch.nn.functional.normalize(states, dim=1)
    skipped = torch.tensor([VOCABULARY[word] for word in SKIPPED])
    return states if is_query else states[~torch.isin(actual[0], skipped)]


@pytest.mark.slow
@pytest.mark.parametrize(("expand", "attend"), [(True, False), (True, True), (False, False)])
def test_a_pylate_folder(plain_folder, tmp_path, expand, attend):
    settings = {"do_query_expansion": expand, "attend_to_expansion_tokens": attend}
    folder = save_pylate(plain_folder, tmp_path, **settings)
    encoder = TokenEncoder(folder, dtype="float32")
    assert (encoder.d, encoder.n_layers, encoder.prompts) == (16, 4, {"query": "[Q] ", "document": "[D] "})
    for kind, texts in (("query", QUERIES), ("document", TEXTS)):
        got = joined(encoder.stream(texts, kind))
        for i, text in enumerate(texts):
            if text.strip():
                expected = colbert_by_hand(folder, text, kind == "query", expand, attend)
                torch.testing.assert_close(rows(got, i), expected, **CLOSE)


def test_latent_terms_of_a_late_interaction_model(expanding_folder, tmp_path):
    encoder = TokenEncoder(expanding_folder, dtype="float32", include_prompt=False, long_texts="chunk")
    directions = torch.randn(24, 16, generator=torch.Generator().manual_seed(8))
    sae = SparseAutoencoder(directions, torch.zeros(24), directions, torch.zeros(16), FinishedTopK(4))
    model = LatentTerms(encoder, sae)
    assert model.encode_documents(TEXTS).shape == (len(TEXTS), 24)
    model.save(tmp_path)
    again = LatentTerms.load(tmp_path, dtype="float32")
    assert again.identity == model.identity
    assert (again.encode_queries(QUERIES) != model.encode_queries(QUERIES)).nnz == 0
    with pytest.raises(ValueError, match=r"32.* 16"):
        LatentTerms(encoder.at(3), sae)


def test_splare_is_any_layer_with_max_log1p_and_the_inner_product(sentence_folder, tiny_sae):
    encoder = TokenEncoder(sentence_folder, layer=1, dtype="float32")
    model = LatentTerms(encoder, tiny_sae, pooling="max", phi="log1p")
    docs, queries = model.encode_documents(TEXTS), model.encode_queries(QUERIES)
    doc_ids, query_ids = [f"d{i}" for i in range(len(TEXTS))], [f"q{i}" for i in range(len(QUERIES))]
    ranking = inner_product_search(docs, doc_ids, queries, query_ids, k=3)

    def by_hand(texts: list[str]) -> np.ndarray:
        weights = np.zeros((len(texts), tiny_sae.width))
        block = joined(encoder.stream(texts))
        for i, row in enumerate(weights):
            for state in rows(block, i):
                codes = tiny_sae.encode(state[None])
                at = codes.indices[0].numpy()
                row[at] = np.maximum(row[at], np.log1p(codes.values[0].numpy()))
        return weights

    scores = by_hand(QUERIES) @ by_hand(TEXTS).T
    for i in (0, 2, 3):
        best = np.argsort(-scores[i], kind="stable")[:3]
        assert [doc for doc, _ in ranking[f"q{i}"]] == [doc_ids[j] for j in best]
        np.testing.assert_allclose([score for _, score in ranking[f"q{i}"]], scores[i][best], rtol=1e-3)


@pytest.mark.slow
def test_models_that_cannot_be_read_are_refused(plain_folder, tmp_path):
    merging = save_colbert(plain_folder, tmp_path / "merging", last=[HierarchicalTokenPooling(2.0)])
    with pytest.raises(ValueError, match="HierarchicalTokenPooling"):
        TokenEncoder(merging)
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = AutoTokenizer.from_pretrained(plain_folder).backend_tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    static.save_pretrained(str(tmp_path / "static"))
    with pytest.raises(ValueError, match="StaticEmbedding"):
        TokenEncoder(tmp_path / "static")


def test_a_model_that_makes_other_tokens_is_refused(plain_folder, tmp_path):
    folder = tmp_path / "left"
    save_colbert(plain_folder, folder, query_expansion={"strategy": "fixed", "length": 16})
    config = json.loads((folder / "tokenizer_config.json").read_text())
    # sentence-transformers would then put the expansion before the query
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    with pytest.raises(ValueError, match="query"):
        TokenEncoder(folder)


@pytest.mark.slow
def test_a_chat_template_is_not_used(plain_folder, tmp_path):
    shutil.copytree(plain_folder, tmp_path, dirs_exist_ok=True)
    template = "{% for message in messages %}dog {{ message['content'] }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    want = joined(TokenEncoder(plain_folder, dtype="float32").stream(TEXTS))
    assert_same(joined(TokenEncoder(tmp_path, dtype="float32").stream(TEXTS)), want)
    SentenceTransformer(modules=[Transformer(str(tmp_path)), Pooling(32)], device="cpu").save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="chat template"):  # but this model does
        TokenEncoder(tmp_path)


def test_states_of_all_layers_are_kept(expanding_folder, tmp_path):
    encoder, texts = TokenEncoder(expanding_folder, dtype="float32"), GivenText(TEXTS)
    kept = cache_states(tmp_path, encoder, texts, [3, -1])
    assert {layer: states.d for layer, states in kept.items()} == {3: 32, 4: 16}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    cache_states(tmp_path, encoder.at(3), texts, [3, -1])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == written  # nothing was encoded again
