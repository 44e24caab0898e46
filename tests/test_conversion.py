import copy

import numpy as np
import pytest
import torch
from conftest import TEXTS
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, WeightedLayerPooling

from lib.conversion import STRATEGIES, from_sparse_encoder, load_sparse_encoder, term_matrix, to_sparse_encoder
from lib.encoder import TokenEncoder
from lib.index import BM25Index
from lib.pruning import prune
from lib.retriever import LatentTerms
from lib.sae import SparseAutoencoder
from lib.weighting import BM25Constants

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equal_rows(model: LatentTerms, encoder: SparseEncoder) -> None:
    for ours, theirs in (
        (model.encode_documents, encoder.encode_document),
        (model.encode_queries, encoder.encode_query),
    ):
        expected, found = ours(TEXTS), term_matrix(theirs(TEXTS))
        assert expected.nnz
        assert (found.dtype, found.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)


def there_and_back(model: LatentTerms, **settings) -> LatentTerms:
    encoder = to_sparse_encoder(model, **settings)
    assert_equal_rows(model, encoder)
    back = from_sparse_encoder(encoder, bm25=model.bm25)
    assert_equal_rows(back, encoder)
    return back


@pytest.mark.parametrize(("pooling", "phi"), STRATEGIES)
def test_every_pooling_goes_there_and_back(tiny_encoder, tiny_sae, pooling, phi):
    model = LatentTerms(tiny_encoder, tiny_sae, pooling, phi, BM25Constants(1.5, 0.5))
    back = there_and_back(model, sparse_rows=phi == "sqrt")
    ours, theirs = model.identity, back.identity
    assert ours == theirs  # encoder, weights and all
    assert back.bm25 == model.bm25
    assert (model.encode_documents(TEXTS) != back.encode_documents(TEXTS)).nnz == 0


def test_prompts_layer_length_and_special_tokens_go_there_and_back(sentence_folder, tiny_sae):
    settings = {"query_prompt": "query : ", "document_prompt": "title : ", "layer": 1, "max_length": 12}
    encoder = TokenEncoder(sentence_folder, dtype="float32", special_tokens=False, **settings)
    back = there_and_back(LatentTerms(encoder, tiny_sae))
    assert back.encoder.config == encoder.config


@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_prompt_that_is_not_counted_goes_there_and_back(sentence_folder, tiny_sae, special_tokens):
    settings = {"query_prompt": "query : ", "document_prompt": "the title : ", "special_tokens": special_tokens}
    encoder = TokenEncoder(sentence_folder, dtype="float32", include_prompt=False, **settings)
    model = LatentTerms(encoder, tiny_sae)
    back = there_and_back(model)
    assert back.encoder.config == encoder.config
    counted = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", **settings), tiny_sae)
    assert (counted.encode_queries(TEXTS) != model.encode_queries(TEXTS)).nnz


def test_other_architectures(modernbert_folder, plain_folder, tiny_sae):
    for folder in (modernbert_folder, plain_folder):
        there_and_back(LatentTerms(TokenEncoder(folder, dtype="float32"), tiny_sae))


def test_thresholds_go_there_and_back(tiny_encoder, tiny_sae):
    sae = SparseAutoencoder(**tiny_sae.tensors(), k=4, threshold=torch.linspace(2, 20, 64))
    back = there_and_back(LatentTerms(tiny_encoder, sae), k=64)
    assert torch.equal(back.sae.threshold, sae.threshold)
    encoder = to_sparse_encoder(
        LatentTerms(tiny_encoder, SparseAutoencoder(**tiny_sae.tensors(), k=2, threshold=sae.threshold + 15))
    )
    assert encoder[1].k == 32  # 16 times the average


def test_a_saved_encoder_becomes_a_model_that_ranks(tiny_encoder, tiny_sae, tmp_path):
    model = LatentTerms(tiny_encoder, tiny_sae)
    to_sparse_encoder(model).save_pretrained(str(tmp_path))
    loaded = load_sparse_encoder(tmp_path)
    back = from_sparse_encoder(loaded)
    assert back.encoder.name == str(tmp_path)
    assert_equal_rows(back, loaded)
    ids = [str(i) for i in range(len(TEXTS))]
    rankings = [
        BM25Index.build(docs, ids).search(queries, ["q"])
        for docs, queries in (
            (model.encode_documents(TEXTS), model.encode_queries(["a red cat"])),
            (term_matrix(loaded.encode_document(TEXTS)), term_matrix(loaded.encode_query(["a red cat"]))),
        )
    ]
    assert rankings[0].doc_ids == rankings[1].doc_ids


@pytest.mark.parametrize("top", [1, 5])
def test_a_text_may_have_fewer_terms_on_request(tiny_encoder, tiny_sae, top):
    model = LatentTerms(tiny_encoder, tiny_sae)
    encoder = to_sparse_encoder(model)
    assert encoder.max_active_dims is None
    all_k = LatentTerms(tiny_encoder, tiny_sae.with_k(top))  # of the library: the limit is that of a token, too
    for rows in (encoder.encode_document(TEXTS, max_active_dims=top), encoder.encode(TEXTS, max_active_dims=top)):
        found = term_matrix(rows)
        assert 0 < np.diff(found.indptr).max() <= top
        expected = prune(all_k.encode_documents(TEXTS), top=top)
        np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)
    assert_equal_rows(model, encoder)  # the limit was of one call


def test_what_a_sparse_encoder_cannot_say(tiny_encoder, tiny_sae):
    for pooling, phi in (("count", "sqrt"), ("sum", "log1p")):
        with pytest.raises(ValueError, match=f"pooling is '{pooling}' with phi '{phi}'; SparseTokenPooling has sum"):
            to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae, pooling, phi))
    late = copy.copy(tiny_encoder)
    late.late_interaction = True
    with pytest.raises(ValueError, match="is a late-interaction model; SparseEncoder reads the states of a Transf"):
        to_sparse_encoder(LatentTerms(late, tiny_sae))
    chunked = TokenEncoder(tiny_encoder.name, dtype="float32", long_texts="chunk")
    with pytest.raises(ValueError, match="long_texts is 'chunk', SparseEncoder cuts; load the model with 'cut'"):
        to_sparse_encoder(LatentTerms(chunked, tiny_sae))
    with pytest.raises(ValueError, match="k is 3, the autoencoder is Top-K with k = 4; use its with_k"):
        to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae), k=3)


@pytest.fixture
def made(tiny_encoder, tiny_sae) -> SparseEncoder:
    return to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae))


def test_what_latent_terms_cannot_say(made, sentence_folder, tiny_encoder):
    made.max_active_dims = 5
    with pytest.raises(ValueError, match="max_active_dims is 5; set it to None"):
        from_sparse_encoder(made)
    made.max_active_dims = None
    for name, wrong, message in (
        ("normalize_input", True, "normalize_input is True: each state is scaled"),
        ("W_dec", None, "has no decoder"),
    ):
        kept = getattr(made[1], name)
        setattr(made[1], name, wrong)
        with pytest.raises(ValueError, match=message):
            from_sparse_encoder(made)
        setattr(made[1], name, kept)
    stock = SparseEncoder(modules=[SentenceTransformer(sentence_folder)[0], Normalize()])
    with pytest.raises(ValueError, match="modules are Transformer, Normalize; they must be Transformer, SparseAuto"):
        from_sparse_encoder(stock)
    mean = SparseEncoder(modules=[made[0], WeightedLayerPooling(32, 3, 1), made[1], made[2]])
    with pytest.raises(ValueError, match=r"averages layers \[1.0, 1.0, 1.0\]; LatentTerms reads one"):
        from_sparse_encoder(mean)


def test_a_transformer_that_was_changed_is_noticed(made, tmp_path):
    with torch.no_grad():
        for weight in made[0].parameters():
            weight.mul_(1.01)
    with pytest.raises(ValueError, match=r"rows of documents would differ by .*% .* if it was changed since, save it"):
        from_sparse_encoder(made)
    made.save_pretrained(str(tmp_path))
    assert_equal_rows(from_sparse_encoder(load_sparse_encoder(tmp_path)), made)


def test_folders_that_are_not_loaded(made, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*modules\.json"):
        load_sparse_encoder(tmp_path)
    made.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    path = tmp_path / "model" / "modules.json"
    path.write_text(path.read_text().replace("lib.modules.token_pooling", "folder_code"))
    with pytest.raises(ValueError, match=r"names the module folder_code\.SparseTokenPooling, which may run any code"):
        load_sparse_encoder(tmp_path / "model")


def test_term_matrix():
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.bfloat16)
    for tensor in (dense, dense.to_sparse(), torch.stack([row.to_sparse() for row in dense])):
        matrix = term_matrix(tensor)
        assert (matrix.dtype, matrix.nnz) == (np.float32, 3)
        assert matrix.toarray().tolist() == dense.tolist()
    with pytest.raises(TypeError, match="embeddings are a list; encode with convert_to_tensor=True"):
        term_matrix([dense[0]])
