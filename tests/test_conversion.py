import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import sentence_transformers.util.environment
import torch
from conftest import TEXTS, VOCABULARY
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, WeightedLayerPooling
from test_reading import save_decoder

import lib
from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.bm25.weighting import BM25Constants
from lib.encode.encoder import TokenEncoder
from lib.interop.conversion import from_sparse_encoder, load_sparse_encoder, term_matrix, to_sparse_encoder
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.latent_terms import LatentTerms
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedJumpReLU, FinishedTopK
from lib.sae.foreign import read_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equal_rows(model: LatentTerms, encoder: SparseEncoder) -> None:
    for expected, embeddings in (
        (model.encode_documents(TEXTS), encoder.encode_document(TEXTS)),
        (model.encode_queries(TEXTS), encoder.encode_query(TEXTS)),
    ):
        rows = term_matrix(embeddings)
        assert expected.nnz
        assert (rows.dtype, rows.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(rows.toarray(), expected.toarray(), rtol=1e-6, atol=1e-5)


def there_and_back(model: LatentTerms, **settings) -> LatentTerms:
    encoder = to_sparse_encoder(model, **settings)
    assert_equal_rows(model, encoder)
    average = model.sae.k if isinstance(model.sae.activation, FinishedJumpReLU) else None
    back = from_sparse_encoder(encoder, k=average, bm25=model.bm25)
    assert_equal_rows(back, encoder)
    return back


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "phi"), [("sum", "sqrt"), ("max", "log1p"), ("count", "identity")])
def test_every_pooling_goes_there_and_back(tiny_encoder, tiny_sae, pooling, phi):
    model = LatentTerms(tiny_encoder, tiny_sae, pooling, phi, BM25Constants(1.5, 0.5))
    back = there_and_back(model, sparse_rows=phi == "sqrt")
    assert model.identity == back.identity  # encoder, weights and all
    assert back.bm25 == model.bm25
    assert (model.encode_documents(TEXTS) != back.encode_documents(TEXTS)).nnz == 0


@pytest.mark.slow
def test_prompts_layer_length_and_special_tokens_go_there_and_back(sentence_folder, tiny_sae):
    settings = {"query_prompt": "query : ", "document_prompt": "title : ", "layer": 1, "max_length": 12}
    encoder = TokenEncoder(sentence_folder, dtype="float32", special_tokens=False, **settings)
    back = there_and_back(LatentTerms(encoder, tiny_sae))
    assert back.encoder.config == encoder.config


@pytest.mark.slow
@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_prompt_that_is_not_counted_goes_there_and_back(sentence_folder, tiny_sae, special_tokens):
    settings = {"query_prompt": "query : ", "document_prompt": "the title : ", "special_tokens": special_tokens}
    encoder = TokenEncoder(sentence_folder, dtype="float32", include_prompt=False, **settings)
    model = LatentTerms(encoder, tiny_sae)
    back = there_and_back(model)
    assert back.encoder.config == encoder.config
    counted = LatentTerms(TokenEncoder(sentence_folder, dtype="float32", **settings), tiny_sae)
    assert (counted.encode_queries(TEXTS) != model.encode_queries(TEXTS)).nnz


@pytest.mark.slow
def test_other_architectures(modernbert_folder, plain_folder, tiny_sae):
    for folder in (modernbert_folder, plain_folder):
        there_and_back(LatentTerms(TokenEncoder(folder, dtype="float32"), tiny_sae))


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ending", [True, False])
def test_a_decoder_only_retriever_goes_there_and_back(tmp_path, tiny_sae, side, ending):
    folder = save_decoder(tmp_path, "qwen2", ending)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": side}))
    model = LatentTerms(TokenEncoder(folder, dtype="float32", document_prompt="title: "), tiny_sae)
    encoder = to_sparse_encoder(model)
    assert encoder.tokenizer.padding_side == side
    texts = [text for text in TEXTS if text.strip()]  # blanks are tokens of this tokenizer
    back = from_sparse_encoder(encoder)
    for kind in ("documents", "queries"):
        expected = getattr(model, f"encode_{kind}")(texts).toarray()
        encode = encoder.encode_document if kind == "documents" else encoder.encode_query
        for batch_size in (1, 32):
            rows = term_matrix(encode(texts, batch_size=batch_size)).toarray()
            np.testing.assert_allclose(rows, expected, atol=2e-5)
        np.testing.assert_allclose(getattr(back, f"encode_{kind}")(texts).toarray(), expected, atol=1e-6)


@pytest.mark.slow
def test_thresholds_go_there_and_back(tiny_encoder, tiny_sae):
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedJumpReLU(4, torch.linspace(2, 20, 64)))
    back = there_and_back(LatentTerms(tiny_encoder, sae), k=64)
    assert torch.equal(back.sae.activation.threshold, sae.activation.threshold)
    assert back.sae.k == 4  # the average, not the limit of 64
    with pytest.raises(ValueError, match=r"64.*give k"):
        from_sparse_encoder(to_sparse_encoder(back, k=64))
    encoder = to_sparse_encoder(
        LatentTerms(
            tiny_encoder,
            SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedJumpReLU(2, sae.activation.threshold + 15)),
        )
    )
    assert encoder[1].k == 32  # 16 times the average


@pytest.mark.slow
@pytest.mark.parametrize("activation", [FinishedTopK(4), FinishedJumpReLU(4, torch.linspace(2, 20, 64) / 5)])
@pytest.mark.parametrize("centre", [torch.zeros(32), torch.linspace(-1, 1, 32)])
def test_scaled_states_go_there_and_back(tiny_encoder, tiny_sae, tmp_path, activation, centre):
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=activation, centre=centre)
    model = LatentTerms(tiny_encoder, sae)
    back = there_and_back(model, k=None if isinstance(activation, FinishedTopK) else 64)
    assert back.identity == model.identity
    plain = LatentTerms(tiny_encoder, SparseAutoencoder(**tiny_sae.tensors(), activation=activation))
    assert plain.identity != model.identity
    assert (plain.encode_documents(TEXTS) != model.encode_documents(TEXTS)).nnz
    back.save(tmp_path)
    loaded = LatentTerms.load(tmp_path, encoder=tiny_encoder)
    assert (loaded.encode_documents(TEXTS) != model.encode_documents(TEXTS)).nnz == 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"rms_scale": 0.2}, {"variant": "jumprelu"}, {"k": 7, "rms_scale": 3.0}])
@pytest.mark.parametrize("mean", [False, True])
def test_modules_with_the_default_normalisation_become_a_model(sentence_folder, tmp_path, settings, mean):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        coder = SparseAutoEncoderTokenEncoder(**{"input_dim": 32, "hidden_dim": 64, "k": 4} | settings)
    if "variant" in settings:
        coder.k, coder.theta.data = 64, torch.linspace(0.2, 2, 64)
    coder.b_enc.data, coder.b_pre.data = torch.linspace(-0.5, 0.5, 64), torch.linspace(0.5, -0.5, 32)
    coder.data_mean = torch.linspace(-1, 1, 32) if mean else None
    modules = [
        SentenceTransformer(sentence_folder)[0],
        coder,
        SparseTokenPooling(64, "sum_sqrt", special_tokens=(1, 1)),
    ]
    encoder = SparseEncoder(modules=modules)
    model = from_sparse_encoder(encoder, k=4 if "variant" in settings else None)
    assert_equal_rows(model, encoder)
    coder.save(tmp_path)  # and as a file
    read = LatentTerms(model.encoder, read_checkpoint(tmp_path, k=4 if "variant" in settings else None))
    assert read.identity == model.identity
    assert_equal_rows(read, encoder)


@pytest.mark.slow
def test_a_model_has_weights_of_its_own(converted):
    model = from_sparse_encoder(converted)
    before = model.encode_documents(TEXTS)
    with torch.no_grad():
        for weight in converted[1].parameters():
            weight.add_(1)  # as a further step of training would
    assert (model.encode_documents(TEXTS) != before).nnz == 0


def test_where_no_text_has_a_term_nothing_is_divided_by_zero(tiny_encoder, tiny_sae, recwarn):
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedJumpReLU(4, torch.full((64,), 1e6)))
    model = LatentTerms(tiny_encoder, sae)
    encoder = to_sparse_encoder(model)
    assert not model.encode_documents(TEXTS).nnz
    assert not from_sparse_encoder(encoder, k=4).encode_queries(TEXTS).nnz
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "query : ", "document": "title : "}, None),
        ({"query": "query : ", "passage": "title : "}, None),  # "document" is there, and empty
        ({"passage": "title : ", "corpus": "small "}, None),
        ({"corpus": "title : "}, "corpus"),
        ({"task": "two : "}, "task"),
        ({"query": "query : "}, "query"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_prompts_are_looked_up_as_the_library_does(converted, prompts, default, whole):
    converted.prompts = ({"query": "", "document": ""} if whole else {}) | prompts
    converted.default_prompt_name = default
    assert_equal_rows(from_sparse_encoder(converted), converted)


@pytest.mark.slow
def test_a_model_in_bfloat16_is_compared_in_float32(plain_folder, tiny_sae):
    model = LatentTerms(TokenEncoder(plain_folder, dtype="bfloat16"), tiny_sae)
    exact = LatentTerms(TokenEncoder(plain_folder, dtype="float32"), tiny_sae)
    rows = term_matrix(to_sparse_encoder(model).encode_document(TEXTS))
    assert abs(rows - exact.encode_documents(TEXTS)).max() < 1e-4


@pytest.mark.slow
def test_what_it_was_trained_on_goes_along(sentence_folder, tiny_encoder, tiny_sae, tmp_path, recwarn):
    def warned() -> list[str]:
        return [str(warning.message) for warning in recwarn if "was trained on" in str(warning.message)]

    trained = {"run": {"states": {"encoder": tiny_encoder.identity}}}
    sae = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=trained)
    encoder = to_sparse_encoder(LatentTerms(tiny_encoder, sae))
    assert encoder[1].trained_on["name"] == Path(sentence_folder).name
    encoder.save_pretrained(str(tmp_path), create_model_card=False)
    assert (
        str(Path(sentence_folder).parent) not in (tmp_path / "1_SparseAutoEncoderTokenEncoder/config.json").read_text()
    )
    back = from_sparse_encoder(load_sparse_encoder(tmp_path))
    assert back.sae.metadata["trained_on"] == encoder[1].trained_on
    assert not warned()
    with pytest.warns(UserWarning, match=r"layer 3 .*layer 1 "):
        LatentTerms(back.encoder.at(1), back.sae)

    elsewhere = SparseAutoencoder(**tiny_sae.tensors(), activation=FinishedTopK(4), metadata=trained)
    with pytest.warns(UserWarning, match="layer 1 "):
        model = LatentTerms(tiny_encoder.at(1), elsewhere)
    assert to_sparse_encoder(model)[2].trained_on is None


@pytest.mark.slow
def test_the_default_retriever_is_noted_by_its_name(packaged_encoder):
    directions = torch.randn(64, 384, generator=torch.Generator().manual_seed(6))
    sae = SparseAutoencoder(directions, torch.zeros(64), directions, torch.zeros(384), FinishedTopK(8))
    encoder = to_sparse_encoder(LatentTerms(packaged_encoder, sae))
    assert encoder[1].trained_on["name"] == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.slow
def test_an_autoencoder_behind_another_retriever_is_noticed_on_the_way_back(converted):
    converted[1].trained_on = {"name": "me/another", "fingerprint": "0" * 64}
    with pytest.warns(UserWarning, match="me/another"):
        back = from_sparse_encoder(converted)
    assert back.sae.metadata == {"trained_on": converted[1].trained_on}


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("top", [1, 5])
def test_a_text_may_have_fewer_terms_on_request(tiny_encoder, tiny_sae, top):
    model = LatentTerms(tiny_encoder, tiny_sae)
    encoder = to_sparse_encoder(model)
    assert encoder.max_active_dims is None
    all_k = LatentTerms(tiny_encoder, tiny_sae.with_k(top))  # of the library: the limit is that of a token, too
    for rows in (encoder.encode_document(TEXTS, max_active_dims=top), encoder.encode(TEXTS, max_active_dims=top)):
        few = term_matrix(rows)
        assert 0 < np.diff(few.indptr).max() <= top
        expected = keep_top(all_k.encode_documents(TEXTS), top)
        np.testing.assert_allclose(few.toarray(), expected.toarray(), rtol=1e-6, atol=1e-5)
    assert_equal_rows(model, encoder)  # the limit was of one call


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, [f"label {i}" for i in range(63)] + ["last"]])
def test_decode_gives_latents_not_word_pieces(tiny_encoder, tiny_sae, tmp_path, labels):
    model = LatentTerms(tiny_encoder, tiny_sae)
    terms = model.encode_documents(TEXTS)
    encoder = to_sparse_encoder(model, labels=labels)
    encoder.save_pretrained(str(tmp_path))
    assert "label 60" not in (tmp_path / "README.md").read_text() + repr(encoder)
    for each in (encoder, copy.deepcopy(encoder), load_sparse_encoder(tmp_path)):
        rows = each.encode_document(TEXTS)
        for row, pairs, few in zip(terms, each.decode(rows), each.decode(rows.to_dense(), top_k=2), strict=True):
            order = np.argsort(-row.data, kind="stable")
            names = [f"latent {latent}" for latent in row.indices[order].tolist()]
            if labels is not None:
                names = [f"{name}: {labels[int(name.split()[1])]}" for name in names]
            assert [name for name, _ in pairs] == names
            np.testing.assert_allclose([weight for _, weight in pairs], row.data[order], rtol=1e-5)
            assert few == pairs[:2]
    assert encoder.decode(torch.zeros(64)) == []
    with pytest.raises(ValueError, match=r"\(3, 65\).*64"):
        encoder.decode(torch.zeros(3, 65))
    with pytest.raises(ValueError, match="top_k"):
        encoder.decode(torch.zeros(64), top_k=0)


@pytest.mark.parametrize(("labels", "error"), [(["a"], ValueError), ("a" * 64, TypeError), ([1] * 64, TypeError)])
def test_labels_that_do_not_fit(labels, error):
    with pytest.raises(error, match="labels"):
        SparseTokenPooling(64, labels=labels)


def test_what_a_sparse_encoder_cannot_say(tiny_encoder, tiny_sae):
    late = copy.copy(tiny_encoder)
    late.late_interaction = True
    with pytest.raises(ValueError, match="late-interaction"):
        to_sparse_encoder(LatentTerms(late, tiny_sae))
    chunked = TokenEncoder(tiny_encoder.name, dtype="float32", long_texts="chunk")
    with pytest.raises(ValueError, match="'chunk'"):
        to_sparse_encoder(LatentTerms(chunked, tiny_sae))
    with pytest.raises(ValueError, match=r"k is 3.*with_k"):
        to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae), k=3)


@pytest.fixture
def converted(tiny_encoder, tiny_sae) -> SparseEncoder:
    return to_sparse_encoder(LatentTerms(tiny_encoder, tiny_sae))


@pytest.mark.slow
def test_what_latent_terms_cannot_say(converted, sentence_folder, tiny_encoder):
    converted.max_active_dims = 5
    with pytest.raises(ValueError, match="max_active_dims is 5"):
        from_sparse_encoder(converted)
    converted.max_active_dims = None
    converted[-1].top = (40, 400)
    with pytest.raises(ValueError, match=r"top is \(40, 400\).*keep_top"):
        from_sparse_encoder(converted)
    converted[-1].top = None
    with pytest.raises(ValueError, match="k is 3"):
        from_sparse_encoder(converted, k=3)
    without_decoder = copy.deepcopy(converted)
    without_decoder[1].W_dec = None
    with pytest.raises(ValueError, match="decoder"):
        from_sparse_encoder(without_decoder)
    stock = SparseEncoder(modules=[SentenceTransformer(sentence_folder)[0], Normalize()])
    with pytest.raises(ValueError, match="Transformer, Normalize;"):
        from_sparse_encoder(stock)
    mean = SparseEncoder(modules=[converted[0], WeightedLayerPooling(32, 3, 1), converted[1], converted[2]])
    with pytest.raises(ValueError, match=r"\[1.0, 1.0, 1.0\]"):
        from_sparse_encoder(mean)


@pytest.mark.slow
def test_a_transformer_that_was_changed_is_noticed(converted, tmp_path):
    with torch.no_grad():
        for weight in converted[0].parameters():
            weight.mul_(1.01)
    with pytest.raises(ValueError, match=r"documents .*%"):
        from_sparse_encoder(converted)
    converted.save_pretrained(str(tmp_path))
    assert_equal_rows(from_sparse_encoder(load_sparse_encoder(tmp_path)), converted)


@pytest.mark.slow
def test_folders_that_are_not_loaded(converted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"modules\.json"):
        load_sparse_encoder(tmp_path)
    converted.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    path = tmp_path / "model" / "modules.json"
    path.write_text(path.read_text().replace("lib.interop.modules.token_pooling", "folder_code"))
    with pytest.raises(ValueError, match=r"folder_code\.SparseTokenPooling"):
        load_sparse_encoder(tmp_path / "model")


@pytest.fixture
def saved(converted, tmp_path) -> Path:
    converted.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"path": "../model/1_SparseAutoEncoderTokenEncoder"}, ValueError),
        ({"path": "/etc"}, ValueError),
        ({"path": "9_None"}, FileNotFoundError),
        ({"type": "sentence_transformers.util.pytorch_cos_sim"}, ValueError),
        ({"type": "sentence_transformers.SparseEncoder"}, ValueError),
        ({"type": "sentence_transformers.nothing.Here"}, ValueError),
        ({"type": "sentence_transformers.models.Nothing"}, ValueError),
        ({"type": None}, ValueError),
    ],
)
def test_modules_that_are_not_loaded(saved, change, error):
    path = saved / "modules.json"
    entries = json.loads(path.read_text())
    entries[1] |= change
    path.write_text(json.dumps(entries))
    (value,) = change.values()
    with pytest.raises(error, match=rf"modules\.json|{value}") as raised:
        load_sparse_encoder(saved)
    assert value is None or value in str(raised.value)


def test_damaged_folders_are_not_loaded(saved):
    config, modules = saved / "config_sentence_transformers.json", saved / "modules.json"
    whole = modules.read_text()
    for text in ("{}", "[", "[1]"):
        modules.write_text(text)
        with pytest.raises(ValueError, match=r"modules\.json"):
            load_sparse_encoder(saved)
    modules.write_text(whole)
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"config_sentence_transformers\.json"):
        load_sparse_encoder(saved)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"config_sentence_transformers\.json"):
        load_sparse_encoder(saved)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_sparse_encoder(saved / "missing")


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.txt"])
def test_an_encoder_is_loaded_from_the_hub(converted, saved, tmp_path, monkeypatch, tokenizer):
    requests = []
    if tokenizer == "vocab.txt":  # as older repositories have it
        (saved / "tokenizer.json").unlink()
        (saved / tokenizer).write_text("\n".join(VOCABULARY) + "\n", "utf-8")
        config = saved / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "BertTokenizer"}))

    def download(repo_id, *, revision, token, allow_patterns, **_):
        requests.append((repo_id, revision, token))
        for path in saved.rglob("*"):  # what the patterns leave is enough
            if path.is_file() and any(path.match(pattern) for pattern in allow_patterns):
                copied = tmp_path / "cache" / path.relative_to(saved)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.symlink_to(path)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_sparse_encoder("me/terms", revision="v1", token="secret")
    assert requests == [("me/terms", "v1", "secret")]
    for encode in ("encode_document", "encode_query"):
        rows, expected = (term_matrix(getattr(model, encode)(TEXTS)).toarray() for model in (loaded, converted))
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    with pytest.raises(ValueError, match="'v1'"):
        load_sparse_encoder(saved, revision="v1")


@pytest.fixture
def strangers(tmp_path) -> Path:
    """A folder with another package called lib, that has our modules' names and leaves a trace when it is imported."""
    folder = tmp_path / "strangers"
    for name in ("lib", "lib/interop", "lib/interop/modules"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    for name in ("token_encoder", "token_pooling"):
        (folder / "lib/interop/modules" / f"{name}.py").write_text("")
    return folder


def run_python(script: str, path: Path, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_saved_encoder_says_what_it_requires(converted, tmp_path, monkeypatch):
    for encoder in (converted, copy.deepcopy(converted)):
        encoder.save_pretrained(str(tmp_path / "model"))
        config = json.loads((tmp_path / "model/config_sentence_transformers.json").read_text())
        assert config["requirements"]["latent-terms"]["specifier"] == f">={lib.__version__}"
    SparseEncoder(str(tmp_path / "model"), trust_remote_code=True).save_pretrained(str(tmp_path / "again"))
    assert load_sparse_encoder(tmp_path / "again")._get_model_config()["requirements"] == config["requirements"]
    monkeypatch.setattr(sentence_transformers.util.environment, "get_installed_version", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install.*latent-terms"):
        SparseEncoder(str(tmp_path / "model"), trust_remote_code=True)


@pytest.mark.slow  # a process imports sentence-transformers
def test_without_this_package_another_called_lib_is_not_imported(fresh, saved, strangers, tmp_path):
    script = f"""
import importlib.metadata
installed = importlib.metadata.version
def version(name):
    if name == "latent-terms":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)
importlib.metadata.version = version
from sentence_transformers import SparseEncoder
SparseEncoder({str(saved)!r}, trust_remote_code=True)
"""
    run = fresh.run(script, folder=tmp_path, PYTHONPATH=str(strangers), HF_HUB_OFFLINE="1")
    assert re.search(r"ImportError: .*latent-terms.*pip install", run.stderr, re.DOTALL)
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["none", "no __init__", "beside the script"])
def test_the_snippet_of_the_card_stops_before_another_lib_is_imported(converted, strangers, tmp_path, change):
    converted.save_pretrained(str(tmp_path / "model"))
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "model/README.md").read_text(), flags=re.DOTALL)
    assert snippet.index("find_spec") < snippet.index("sentence_transformers")
    ours = Path(__file__).parent.parent
    if change == "no __init__":
        (strangers / "lib/__init__.py").unlink()
    path, cwd = (ours, strangers) if change == "beside the script" else (strangers, tmp_path)
    run = run_python(snippet, path, cwd)
    assert re.search(r"ImportError: .*latent-terms", run.stderr)
    assert not (tmp_path / "imported").exists()
    check = snippet.partition("from sentence_transformers")[0]
    assert run_python(check, ours, tmp_path).returncode == 0  # ours is let through


def test_term_matrix():
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.bfloat16)
    for tensor in (dense, dense.to_sparse(), torch.stack([row.to_sparse() for row in dense])):
        matrix = term_matrix(tensor)
        assert (matrix.dtype, matrix.nnz) == (np.float32, 3)
        assert matrix.toarray().tolist() == dense.tolist()
    with pytest.raises(TypeError, match=r"list.*convert_to_tensor"):
        term_matrix([dense[0]])
