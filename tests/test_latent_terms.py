import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import TEXTS

import lib.latent_terms
from lib.bm25.index import BM25Index
from lib.bm25.weighting import PAPER, BM25Constants
from lib.data.collection import load_collection
from lib.encode.encoder import TokenEncoder
from lib.latent_terms import LatentTerms, packaged_models
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK
from lib.support.folders import digest_json

QUERIES = ["red cat", "", "river in a tree ?"]
TUNED = BM25Constants(1.5, 0.25, "robertson-clipped")


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae) -> LatentTerms:
    return LatentTerms(tiny_encoder, tiny_sae)


def dense_by_hand(model: LatentTerms, texts, kind: str = "document") -> np.ndarray:
    """One text at a time, one token at a time, dense: phi of the sum, maximum or number of the codes."""
    phi = {"sqrt": np.sqrt, "log1p": np.log1p, "identity": np.asarray}[model.phi]
    weights = np.zeros((len(texts), model.sae.width))
    for row, text in zip(weights, texts, strict=True):
        for block in model.encoder.stream([text], kind):
            for state in block.states:
                codes = model.sae.encode(state[None])
                z = np.zeros(model.sae.width)
                z[codes.indices[0].numpy()] = codes.values[0].numpy()
                if model.pooling == "max":
                    np.maximum(row, z, out=row)
                else:
                    row += z if model.pooling == "sum" else z > 0
    return phi(weights)


def relative(a: sp.csr_array, b) -> float:
    """Frobenius norm of the difference over that of `b`."""
    b = b.toarray() if sp.issparse(b) else b
    return np.linalg.norm(a.toarray() - b) / np.linalg.norm(b)


def assert_term_matrix(matrix, shape) -> None:
    assert isinstance(matrix, sp.csr_array)
    assert (matrix.shape, matrix.dtype) == (shape, np.float32)
    assert np.isfinite(matrix.data).all()
    assert (matrix.data > 0).all()
    for row in range(shape[0]):
        latents = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        assert np.all(np.diff(latents) > 0)


def test_documents(model):
    matrix = model.encode_documents(TEXTS)
    assert_term_matrix(matrix, (len(TEXTS), 64))
    n_terms = np.diff(matrix.indptr)
    for text, n in zip(TEXTS, n_terms, strict=True):
        assert (n > 0) == bool(text.strip())  # an empty text is an empty row, no other is
    assert relative(matrix, dense_by_hand(model, TEXTS)) < 1e-5


@pytest.mark.parametrize("pooling", ["sum", "max", "count"])
@pytest.mark.parametrize("phi", ["sqrt", "log1p", "identity"])
def test_every_pooling_and_phi(tiny_encoder, tiny_sae, pooling, phi):
    model = LatentTerms(tiny_encoder, tiny_sae, pooling, phi)
    assert relative(model.encode_documents(TEXTS), dense_by_hand(model, TEXTS)) < 1e-5


def test_no_documents_and_only_empty_ones(model):
    assert_term_matrix(model.encode_documents([]), (0, 64))
    assert_term_matrix(model.encode_queries(iter([])), (0, 64))
    empty = model.encode_documents(["", " \n"])
    assert_term_matrix(empty, (2, 64))
    assert empty.nnz == 0


def test_a_generator_gives_what_a_list_gives(model):
    assert (model.encode_documents(text for text in TEXTS) != model.encode_documents(TEXTS)).nnz == 0


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_batching_changes_nothing(model, sentence_folder, tiny_sae, batch_tokens):
    other = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", batch_tokens=batch_tokens), tiny_sae)
    assert relative(other.encode_documents(TEXTS * 3), model.encode_documents(TEXTS * 3)) < 1e-3


def test_order_slicing_and_neighbours_change_nothing(model):
    matrix = model.encode_documents(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert relative(model.encode_documents([TEXTS[i] for i in order]), matrix[order]) < 1e-3
    sliced = sp.vstack([model.encode_documents(TEXTS[i : i + 2]) for i in range(0, len(TEXTS), 2)])
    assert relative(sliced, matrix) < 1e-3
    for i, text in enumerate(TEXTS):
        if text.strip():
            assert relative(model.encode_documents([text]), matrix[[i]]) < 1e-3


@pytest.fixture(scope="module")
def packaged(packaged_encoder) -> LatentTerms:
    """The packaged retriever with random directions to read it by."""
    directions = torch.randn(512, 384, generator=torch.Generator().manual_seed(6))
    return LatentTerms(
        packaged_encoder, SparseAutoencoder(directions, torch.zeros(512), directions, torch.zeros(384), FinishedTopK(8))
    )


@pytest.mark.slow
def test_a_real_retriever_is_as_invariant(packaged):
    texts = [
        "Sparse codes of token states are pooled into a document.",
        "",
        "Who likes apples?",
        "The old bridge over the river was closed after the storm. " * 40,
        "BM25 ranks documents by the terms that they share with the query.",
    ] * 4
    matrix = packaged.encode_documents(texts)
    order = np.random.default_rng(1).permutation(len(texts))
    assert relative(packaged.encode_documents([texts[i] for i in order]), matrix[order]) < 1e-3
    alone = sp.vstack([packaged.encode_documents([text]) for text in texts[:5]])
    assert relative(alone, matrix[:5]) < 1e-3
    for copy in range(1, 4):
        assert relative(matrix[5 * copy : 5 * copy + 5], matrix[:5]) < 1e-3


def test_prompts(sentence_folder, tiny_sae, model):
    asking = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", query_prompt="query : "), tiny_sae)
    prompted = ["query : " + text for text in QUERIES]
    matrix = asking.encode_queries(QUERIES)
    assert relative(matrix[[0, 2]], model.encode_documents(prompted)[[0, 2]]) < 1e-3
    assert matrix[[1]].nnz == 0  # an empty query stays empty, prompt or not
    assert relative(asking.encode_documents(QUERIES), model.encode_documents(QUERIES)) < 1e-3
    assert relative(matrix, model.encode_queries(QUERIES)) > 0.1  # the prompt does matter

    telling = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", document_prompt="title : "), tiny_sae)
    assert relative(telling.encode_queries(QUERIES), model.encode_queries(QUERIES)) < 1e-3
    assert relative(telling.encode_documents(QUERIES), model.encode_documents(QUERIES)) > 0.1


def test_without_prompts_a_query_is_encoded_as_a_document(model):
    assert (model.encode_queries(TEXTS) != model.encode_documents(TEXTS)).nnz == 0


@pytest.mark.slow
def test_stream_gives_terms_embeddings_and_firings(sentence_folder, tiny_sae):
    model = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", batch_tokens=8), tiny_sae)
    texts = TEXTS * 4
    blocks = list(model.stream(texts))
    assert len(blocks) > 1
    assert relative(sp.vstack([block.terms for block in blocks]), model.encode_documents(texts)) == 0

    embeddings = np.concatenate([block.embeddings for block in blocks])
    states = list(model.encoder.stream(texts))
    np.testing.assert_allclose(embeddings, np.concatenate([block.pooled for block in states]), atol=1e-5)

    codes = [model.sae.encode(block.states) for block in states]
    active = [index for c in codes for index in c.indices[c.values > 0].tolist()]
    expected = [active.count(latent) for latent in range(64)]
    firings = sum(block.firings for block in blocks)
    assert firings.tolist() == expected
    assert firings.dtype.kind == "i"
    assert firings.sum() == np.sum(
        [model.sae.k * len(block.states) for block in states]
    )  # none is cut by the ReLU here


def test_firings_are_the_count_pooling_of_everything(tiny_encoder, tiny_sae):
    counts = LatentTerms(tiny_encoder, tiny_sae, "count", "identity").encode_documents(TEXTS)
    (block,) = LatentTerms(tiny_encoder, tiny_sae).stream(TEXTS)
    np.testing.assert_array_equal(counts.sum(axis=0), block.firings)


def assert_same_model(a: LatentTerms, b: LatentTerms) -> None:
    assert a.config == b.config
    assert a.identity == b.identity
    assert (a.encode_documents(TEXTS) != b.encode_documents(TEXTS)).nnz == 0


def test_round_trip(tmp_path, sentence_folder, tiny_sae):
    settings = {"layer": 1, "special_tokens": False, "query_prompt": "query : ", "max_length": 12}
    encoder = TokenEncoder(sentence_folder, dtype="float32", **settings)
    model = LatentTerms(encoder, tiny_sae, "max", "log1p", TUNED)
    model.save(tmp_path)
    loaded = LatentTerms.load(tmp_path, dtype="float32")
    assert_same_model(model, loaded)
    assert_same_model(model, LatentTerms.load(tmp_path, encoder=encoder))
    assert (model.encode_queries(QUERIES) != loaded.encode_queries(QUERIES)).nnz == 0
    assert loaded.sae.metadata == {"made": "by a test"}
    assert loaded.bm25 == TUNED


@pytest.mark.parametrize(("dtype", "share", "error"), [("float16", 0.6, 1e-3), ("int8", 0.4, 0.1)])
def test_round_trip_in_fewer_bits_is_near(tmp_path, model, dtype, share, error):
    model.save(tmp_path / "rough", dtype)
    model.save(tmp_path / "whole")
    rough = LatentTerms.load(tmp_path / "rough", dtype="float32")
    assert 0 < relative(rough.encode_documents(TEXTS), model.encode_documents(TEXTS)) < error
    sizes = [next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in ("rough", "whole")]
    assert sizes[0] < share * sizes[1]
    rough.save(tmp_path / "again", dtype)
    again = LatentTerms.load(tmp_path / "again", dtype="float32")
    for name, tensor in rough.sae.tensors().items():  # what was rounded once stays as it is
        torch.testing.assert_close(again.sae.tensors()[name], tensor, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_a_model_of_the_default_retriever_is_saved_by_its_name(tmp_path, packaged):
    packaged.save(tmp_path)
    manifest = json.loads((tmp_path / "latent_terms.json").read_text())
    assert manifest["encoder"]["model"] == "sentence-transformers/all-MiniLM-L6-v2"  # no path of this machine
    loaded = LatentTerms.load(tmp_path, dtype="float32")
    texts = ["Who likes apples?"]
    assert (loaded.encode_documents(texts) != packaged.encode_documents(texts)).nnz == 0


def test_identity_tells_models_apart(tiny_encoder, tiny_sae, model):
    other_weights = SparseAutoencoder(
        **tiny_sae.tensors() | {"b_enc": tiny_sae.b_enc + 1e-3}, activation=FinishedTopK(4)
    )
    others = [
        LatentTerms(tiny_encoder, tiny_sae, pooling="max"),
        LatentTerms(tiny_encoder, tiny_sae, phi="log1p"),
        LatentTerms(tiny_encoder, SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(5))),
        LatentTerms(tiny_encoder, other_weights),
    ]
    assert len({json.dumps(other.identity) for other in [model, *others]}) == 5
    renamed = LatentTerms(
        tiny_encoder,
        SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata={"note": "no matter"}),
    )
    assert renamed.identity == model.identity


def ids(n: int) -> list[str]:
    return [f"d{i}" for i in range(n)]


def assert_same_search(a: BM25Index, b: BM25Index, queries) -> None:
    rankings = [index.search(queries, ids(queries.shape[0]), k=len(index)) for index in (a, b)]
    assert rankings[0].doc_ids == rankings[1].doc_ids
    for scores, others in zip(*(ranking.scores for ranking in rankings), strict=True):
        np.testing.assert_array_equal(scores, others)


def test_index_has_the_constants_of_the_model(model):
    docs, queries = model.encode_documents(TEXTS), model.encode_queries(QUERIES)
    index = model.with_bm25(TUNED).index(docs, ids(len(TEXTS)))
    assert index.constants == BM25Constants(1.5, 0.25, "robertson-clipped")
    expected = BM25Index.build(docs, ids(len(TEXTS)), k1=1.5, b=0.25, idf="robertson-clipped")
    assert_same_search(index, expected, queries)
    # untuned, it is the index with the paper's
    assert model.bm25 == PAPER == BM25Constants(8.0, 0.7, "lucene")
    plain = model.index(docs, ids(len(TEXTS)))
    assert_same_search(plain, BM25Index.build(docs, ids(len(TEXTS))), queries)
    assert not np.array_equal(plain.search(queries, QUERIES).scores[0], index.search(queries, QUERIES).scores[0])


def test_index_takes_a_stream_of_blocks(model):
    tuned, docs = model.with_bm25(TUNED), model.encode_documents(TEXTS)
    blocks = (docs[i : i + 2] for i in range(0, len(TEXTS), 2))
    streamed = tuned.index(blocks, iter(ids(len(TEXTS))))
    assert_same_search(streamed, tuned.index(docs, ids(len(TEXTS))), model.encode_queries(QUERIES))
    with pytest.raises(ValueError, match=f"3 ids for {len(TEXTS)}"):
        tuned.index(docs, ids(3))


def test_constants_are_part_of_the_configuration_and_not_of_what_a_text_encodes_to(model):
    tuned = model.with_bm25(TUNED)
    assert tuned.config == model.config | {"bm25": {"k1": 1.5, "b": 0.25, "idf": "robertson-clipped"}}
    assert model.config["bm25"] == {"k1": 8.0, "b": 0.7, "idf": "lucene"}
    assert tuned.identity == model.identity
    assert (tuned.encode_documents(TEXTS) != model.encode_documents(TEXTS)).nnz == 0
    assert tuned.with_bm25(PAPER).config == model.config
    for wrong in ((8.0, 0.7), {"k1": 8.0}, None):
        with pytest.raises(TypeError, match="BM25Constants"):
            model.with_bm25(wrong)


def rewrite_manifest(folder, change) -> None:
    path = folder / "latent_terms.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    change(manifest)
    path.write_text(json.dumps(manifest | {"sha256": digest_json(manifest)}))


def test_constants_out_of_range_are_refused_in_a_saved_folder(tmp_path, model):
    model.with_bm25(TUNED).save(tmp_path)
    saved = json.loads((tmp_path / "latent_terms.json").read_text())
    assert saved["bm25"] == {"k1": 1.5, "b": 0.25, "idf": "robertson-clipped"}
    rewrite_manifest(tmp_path, lambda manifest: manifest.update(bm25={"k1": 8.0, "b": 7, "idf": "lucene"}))
    with pytest.raises(ValueError, match=r"b is 7\.0"):
        LatentTerms.load(tmp_path, encoder=model.encoder)


@pytest.mark.parametrize("name", ["wide_folder"])
def test_a_hidden_size_that_does_not_fit(request, tmp_path, model, tiny_sae, name):
    wide = TokenEncoder(request.getfixturevalue(name), dtype="float32")
    message = r"has states of size 48, the autoencoder reads size 32\. Pair it with the retriever"
    with pytest.raises(ValueError, match=message):
        LatentTerms(wide, tiny_sae)
    model.save(tmp_path)
    with pytest.raises(ValueError, match=message):
        LatentTerms.load(tmp_path, encoder=wide)


@pytest.mark.slow
def test_a_retriever_of_another_size_is_told_which_one_to_take(wide_folder):
    wide = TokenEncoder(wide_folder, dtype="float32")
    remedy = (
        r"size 48, .* size 384\. .*pair it with TokenEncoder\(model='sentence-transformers/all-MiniLM-L6-v2', layer=6"
    )
    with pytest.raises(ValueError, match=remedy):
        LatentTerms.load("all-MiniLM-L6-v2", encoder=wide)


def test_packaged_models_are_loaded_by_their_retrievers_names(tmp_path, model, monkeypatch):
    for name in packaged_models():
        manifest = json.loads((lib.latent_terms.PACKAGED / name / "latent_terms.json").read_text())
        assert manifest["encoder"]["model"] == f"sentence-transformers/{name}"
    assert lib.latent_terms._place(None) == lib.latent_terms.PACKAGED / "all-MiniLM-L6-v2"
    monkeypatch.setattr(lib.latent_terms, "PACKAGED", tmp_path / "packaged")
    model.save(tmp_path / "packaged" / "tiny")
    (tmp_path / "packaged" / "empty").mkdir()
    assert packaged_models() == ["tiny"]
    assert_same_model(LatentTerms.from_pretrained("tiny", dtype="float32"), model)
    with pytest.raises(FileNotFoundError, match=r"There is no folder empty.* Packaged models are tiny\."):
        LatentTerms.load("empty")
    monkeypatch.chdir(tmp_path)  # a folder of one's own comes first
    model.with_bm25(TUNED).save("tiny")
    assert LatentTerms.load("tiny", dtype="float32").bm25 == TUNED
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        LatentTerms.load(Path("all-MiniLM-L6-v2"))


def test_unknown_pooling_and_phi(tiny_encoder, tiny_sae):
    with pytest.raises(ValueError, match=r"pooling is 'mean'.* 'count'"):
        LatentTerms(tiny_encoder, tiny_sae, pooling="mean")
    with pytest.raises(ValueError, match=r"phi is 'square'.* 'log1p'"):
        LatentTerms(tiny_encoder, tiny_sae, phi="square")


def forbid(*_args, **_kwargs):
    raise AssertionError("work began")


@pytest.mark.parametrize("method", ["encode_documents", "encode_queries", "stream"])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the cat", r"texts is a single str; pass a list of str"),
        (None, "texts is a NoneType"),
        (["the cat"] * 300 + [None], r"texts\[300\] is None \(NoneType\); each must be a str"),
        (["the cat", 7], r"texts\[1\] is 7 \(int\)"),
    ],
)
def test_bad_texts_are_refused_before_any_work(model, monkeypatch, method, texts, message):
    monkeypatch.setattr(model.encoder, "_forward", forbid)
    monkeypatch.setattr(model.encoder, "_windows", forbid)
    with pytest.raises(TypeError, match=message):
        getattr(model, method)(texts)


@pytest.fixture
def saved(tmp_path, model):
    model.save(tmp_path)
    return tmp_path


def test_spoilt_folders(saved, tmp_path):
    (weights,) = saved.glob("*.safetensors")
    data = weights.read_bytes()
    for spoilt in (data[:-7], data[:-1] + bytes([data[-1] ^ 8])):
        weights.write_bytes(spoilt)
        with pytest.raises(ValueError, match=weights.name):
            LatentTerms.load(saved)
    weights.unlink()
    with pytest.raises(ValueError, match=weights.name):
        LatentTerms.load(saved)
    manifest = saved / "latent_terms.json"
    manifest.write_text(manifest.read_text().replace('"phi": "sqrt"', '"phi": "log1p"'))
    with pytest.raises(ValueError, match=r"latent_terms\.json"):
        LatentTerms.load(saved)
    manifest.unlink()
    with pytest.raises(ValueError, match=r"latent_terms\.json"):
        LatentTerms.load(saved)


def test_a_newer_format_and_no_folder(tmp_path, model, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr(lib.latent_terms, "FORMAT_VERSION", 9)
        model.save(tmp_path / "new")
    with pytest.raises(ValueError, match="version 9"):
        LatentTerms.load(tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="none"):
        LatentTerms.load(tmp_path / "none")


def test_a_folder_may_hold_the_autoencoder_too(saved, model, tiny_sae):
    # both manifests name one weights file, since it has the same content; saving either anew keeps the other whole
    tiny_sae.save(saved)
    other = SparseAutoencoder(**tiny_sae.tensors() | {"b_pre": tiny_sae.b_pre + 1}, activation=FinishedTopK(4))
    other.save(saved)
    assert_same_model(LatentTerms.load(saved, encoder=model.encoder), model)
    assert torch.equal(SparseAutoencoder.load(saved).b_pre, other.b_pre)


def test_a_saved_folder_may_be_moved(saved, tmp_path, model):
    moved = shutil.move(saved, f"{tmp_path}-elsewhere")
    assert_same_model(LatentTerms.load(moved, dtype="float32"), model)


def test_repr_says_what_it_is_made_of(model):
    parts = "layer 3, SparseAutoencoder(d=32, width=64, topk, k=4), sum, sqrt"
    assert repr(model).endswith(f"{parts}, BM25Constants(k1=8.0, b=0.7, idf='lucene'))")


@pytest.mark.slow
def test_the_packaged_model():
    model = LatentTerms.load(dtype="float32")
    assert (model.sae.d, model.sae.width, model.sae.k, model.sae.activation.groups) == (384, 39_936, 24, 3)
    assert model.encoder.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (model.pooling, model.phi) == ("sum", "sqrt")
    matrix = model.encode_documents(["The cat sat on the mat.", "", "A kitten lay on the rug.", "Stocks fell sharply."])
    assert_term_matrix(matrix, (4, 39_936))
    assert matrix[[1]].nnz == 0
    cosines = (matrix @ matrix.T).toarray() / np.linalg.norm(matrix[[0, 2, 3]].toarray(), axis=1).min() ** 2
    assert cosines[0, 2] > cosines[0, 3]  # what is like shares more terms than what is not
    assert np.nanmedian(model.labels.auc) > 0.65 > 0.52 > np.nanmedian(model.labels.control) > 0.48
    assert any(model.labels[latent].startswith("cat") for latent in matrix[[0]].indices)


@pytest.mark.slow  # loads the packaged model twice
def test_what_the_dtype_does_to_the_packaged_model():
    summaries = load_collection("pydoc/train").query_texts[:40]
    rough, exact = LatentTerms.load(dtype="bfloat16"), LatentTerms.load(dtype="float32")
    whole = exact.encode_documents(summaries)
    one_by_one = sp.vstack([exact.encode_documents([text]) for text in summaries], format="csr")
    backwards = exact.encode_documents(summaries[::-1])[::-1]
    assert relative(one_by_one, whole) < 1e-3
    assert relative(backwards, whole) < 1e-3
    assert 0.01 < relative(rough.encode_documents(summaries), whole) < 0.2


def test_an_autoencoder_of_another_layer_or_retriever_is_noticed(tiny_encoder, tiny_sae, tmp_path, recwarn):
    def told() -> list:
        return [one for one in recwarn if "was trained on" in str(one.message)]

    metadata = {"run": {"states": {"encoder": tiny_encoder.identity}}}
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=metadata)
    LatentTerms(tiny_encoder, sae).save(tmp_path / "model")
    LatentTerms.load(tmp_path / "model", encoder=tiny_encoder)
    LatentTerms.load(tmp_path / "model", dtype="bfloat16")  # the same weights, rounded
    assert not told()
    with pytest.warns(UserWarning, match="layer 3 .* layer 1 "):
        LatentTerms.load(tmp_path / "model", encoder=tiny_encoder.at(1))
    other = json.loads(json.dumps(metadata))
    other["run"]["states"]["encoder"]["weights"] = "0" * 64
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=other)
    with pytest.warns(UserWarning, match="000000000000"):
        model = LatentTerms(tiny_encoder, sae)
    model.save(tmp_path / "other")
    with pytest.warns(UserWarning, match="000000000000"):
        LatentTerms.load(tmp_path / "other", dtype="float32")


@pytest.mark.parametrize(
    ("origin", "fault"),
    [
        ({"model": "{name}", "layer": 3, "hook": "blocks.2.hook_resid_post"}, None),
        ({"model": "somebody/{name}"}, None),
        ({"layer": 3}, None),
        ({"model": "gpt2", "layer": 3}, "gpt2.*TokenEncoder"),
        ({"model": "gpt2"}, "gpt2.*TokenEncoder"),
        ({"model": "{name}", "layer": 2, "hook": "layers.1"}, r"layers\.1.*layer=2"),
        ({"layer": 6, "hook": "blocks.5.hook_resid_post"}, r"layer 6, hook point blocks\.5.*layer 3 .*layer=6"),
        ({"model": "{name}", "hook": "blocks.2.hook_mlp_out"}, r"hook_mlp_out.*train an autoencoder"),
    ],
)
def test_an_autoencoder_of_another_package_on_other_states_is_noticed(
    tiny_encoder, tiny_sae, tmp_path, recwarn, origin, fault
):
    name = Path(tiny_encoder.name).name
    origin = {key: value.format(name=name) if key == "model" else value for key, value in origin.items()}
    metadata = {"saelens": {}, "run": {"states": {"encoder": origin}}}
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=metadata)
    LatentTerms(tiny_encoder, sae).save(tmp_path)
    LatentTerms.load(tmp_path, encoder=tiny_encoder)
    warned = [str(one.message) for one in recwarn if "was trained on" in str(one.message)]
    assert len(warned) == (0 if fault is None else 2)
    assert all(re.search(fault, message) for message in warned)


def test_that_warning_is_given_once_and_names_the_line_of_the_caller(tiny_encoder, tiny_sae, tmp_path, recwarn):
    metadata = {"run": {"states": {"encoder": tiny_encoder.identity}}}
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=metadata)
    tuned = LatentTerms(tiny_encoder.at(1), sae).with_bm25(TUNED).with_bm25(PAPER)
    assert [one.filename for one in recwarn if "was trained on" in str(one.message)] == [__file__]
    assert tuned.bm25 == PAPER
    tuned.save(tmp_path)
    recwarn.clear()
    LatentTerms.load(tmp_path, encoder=tiny_encoder.at(2))
    assert [one.filename for one in recwarn if "was trained on" in str(one.message)] == [__file__]


@pytest.fixture
def alone(tmp_path, sentence_folder, tiny_sae):
    """A model saved with a retriever that has moved since, and the model as it was."""
    retriever = shutil.copytree(sentence_folder, tmp_path / "retriever")
    (retriever / "modeling.py").write_text("raise SystemExit")
    (retriever / "checkpoint-500").mkdir()
    (retriever / "checkpoint-500" / "model.safetensors").touch()
    model = LatentTerms(TokenEncoder(retriever, layer=2, max_length=9, dtype="float32"), tiny_sae)
    model.save(tmp_path / "model")
    model.save(tmp_path / "alone", with_retriever=True)
    shutil.move(retriever, tmp_path / "moved")
    return tmp_path / "alone", model


@pytest.mark.slow
def test_a_folder_that_stands_alone(alone, tmp_path):
    folder, model = alone
    shutil.move(folder, tmp_path / "on another machine")
    again = LatentTerms.load(tmp_path / "on another machine", dtype="float32")
    assert (again.config, again.identity) == (model.config, model.identity)
    assert relative(again.encode_documents(TEXTS), model.encode_documents(TEXTS)) < 1e-6
    assert again.encoder.replace(max_length=5).name == model.encoder.name
    again.save(tmp_path / "again", with_retriever=True)
    assert LatentTerms.load(tmp_path / "again", dtype="float32").identity == model.identity
    assert not list((tmp_path / "again").rglob("*.py"))  # no code, and nothing that the retriever does not name
    assert not list((tmp_path / "again").rglob("checkpoint*"))


@pytest.mark.slow
def test_a_retriever_that_has_moved(alone, tmp_path, sentence_folder):
    folder, model = alone
    with pytest.raises(FileNotFoundError, match=rf"model needs.*{model.encoder.name}.*encoder=.*with_retriever"):
        LatentTerms.load(tmp_path / "model")
    with pytest.raises(ValueError, match="with_retriever"):  # a model that nobody could load
        LatentTerms.load(folder).save(tmp_path / "again")
    encoder = TokenEncoder(tmp_path / "moved", layer=2, max_length=9, dtype="float32")
    assert LatentTerms.load(tmp_path / "model", encoder=encoder).sae.config == model.sae.config


@pytest.mark.parametrize("damage", ["vocabulary", "file more", "missing", "no folder"])
def test_a_damaged_retriever_is_noticed(alone, damage):
    folder, _ = alone
    (retriever,) = folder.glob("retriever-*")
    if damage == "vocabulary":
        (retriever / "tokenizer.json").write_text((retriever / "tokenizer.json").read_text().replace("cat", "car"))
    elif damage == "file more":
        (retriever / "1_Pooling" / "more.json").write_text("{}")
    elif damage == "missing":
        (retriever / "config.json").unlink()
    else:
        shutil.rmtree(retriever)
    with pytest.raises(ValueError, match=retriever.name):
        LatentTerms.load(folder)


def test_saving_again_removes_an_earlier_retriever(alone, tmp_path, model):
    folder, _ = alone
    (folder / "retriever-of-mine").mkdir()
    before = set(folder.iterdir())
    LatentTerms.load(folder).save(folder, with_retriever=True)  # the files that it was loaded from
    assert set(folder.iterdir()) == before
    model.save(folder)
    assert [path.name for path in folder.glob("retriever-*")] == ["retriever-of-mine"]
    assert LatentTerms.load(folder).encoder.name == model.encoder.name
