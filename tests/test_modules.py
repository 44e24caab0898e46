import copy
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXTS
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from torch.testing import assert_close

from lib.interop.modules import MissingFeatureError, SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.features import origin_of

pytestmark = pytest.mark.usefixtures("one_thread")

D, WIDTH, K = 8, 24, 3
LENGTHS = [5, 2, 7, 1]
BOUNDS = torch.tensor([0, 5, 7, 14, 15], dtype=torch.int32)
N = 15


def draw(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def make(**settings) -> SparseAutoEncoderTokenEncoder:
    """A module with random weights, in evaluation mode."""
    module = SparseAutoEncoderTokenEncoder(**({"input_dim": D, "hidden_dim": WIDTH, "k": K} | settings))
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(draw(*weight.shape).abs() * 0.3 if name == "theta" else draw(*weight.shape))
    return module.eval()


def padded(tokens: torch.Tensor, side: str = "right") -> dict[str, torch.Tensor]:
    """The features of packed tokens [N, m]: padded with large numbers, which nothing may read."""
    texts = [tokens[a:b] for a, b in itertools.pairwise(BOUNDS)]
    embeddings = torch.full((len(LENGTHS), max(LENGTHS), tokens.shape[1]), 100.0)
    mask = torch.zeros(embeddings.shape[:2], dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(len(text)) if side == "right" else slice(max(LENGTHS) - len(text), None)
        embeddings[row, place], mask[row, place] = text, 1
    return {"token_embeddings": embeddings, "attention_mask": mask}


def codes_by_hand(module, tokens, k) -> np.ndarray:
    """Dense codes [n, width], one token and one latent at a time."""
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    codes = np.zeros((len(tokens), module.hidden_dim))
    for row, h in zip(codes, tokens.double().numpy(), strict=True):
        if module.normalize_input:
            h = h - weights["data_mean"] if "data_mean" in weights else h * (module.rms_scale or 1.0)
            h = h * np.sqrt(len(h)) / np.linalg.norm(h)
        pre = (h - weights["b_pre"]) @ weights["W_enc"] + weights["b_enc"]
        if "theta" in weights:
            pre[pre <= weights["theta"]] = 0
        for latent in np.argsort(-pre)[:k]:
            row[latent] = max(pre[latent], 0)
    return codes


def dense(values: torch.Tensor, indices: torch.Tensor, width: int = WIDTH) -> torch.Tensor:
    return torch.zeros(*values.shape[:-1], width, dtype=values.dtype).scatter(-1, indices, values)


@pytest.mark.parametrize("variant", ["standard", "jumprelu"])
@pytest.mark.parametrize("normalisation", ["norm", "mean", "rms", "mean and rms", "none"])
def test_codes_are_those_of_the_equations(variant, normalisation):
    module = make(variant=variant, rms_scale=0.1 if "rms" in normalisation else None)
    module.normalize_input = normalisation != "none"
    if "mean" in normalisation:
        module.data_mean = draw(D)
    tokens = draw(N, D) * 5
    values, indices = module.encode_tokens(tokens)
    assert (values.shape, indices.shape, indices.dtype) == ((N, K), (N, K), torch.int64)
    assert (values >= 0).all()
    assert_close(dense(values, indices).double(), torch.from_numpy(codes_by_hand(module, tokens, K)), atol=1e-5, rtol=0)
    few = module.encode_tokens(tokens, k=1)
    assert_close(few[0], values[:, :1])
    assert torch.equal(few[1], indices[:, :1])


def test_padded_flattened_and_packed_give_the_same_codes():
    module, tokens = make(), draw(N, D)
    flat = module({"token_embeddings": tokens})
    keys = ("token_sparse_values", "token_sparse_indices")
    for form in (tokens, tokens[None]):
        packed = module({"token_embeddings": form, "cu_seq_lens_q": BOUNDS})
        assert packed["backbone_token_embeddings"] is form
        for key in keys:
            assert packed[key].shape == (*form.shape[:-1], K)
            assert_close(packed[key].view(N, K), flat[key], atol=1e-6, rtol=0)
    for side in ("left", "right"):
        features = module(padded(tokens, side))
        assert features["token_sparse_values"].shape == (4, 7, K)
        for key in keys:
            assert_close(features[key][features["attention_mask"].bool()], flat[key], atol=1e-6, rtol=0)


def test_tokens_in_chunks_and_a_token_alone_have_the_same_codes():
    module, tokens = make(), draw(N, D)
    values, indices = module.encode_tokens(tokens)
    chunked = make(token_batch_size=4).encode_tokens(tokens)
    alone = [module.encode_tokens(token[None]) for token in tokens]
    for other in (chunked, [torch.cat(parts) for parts in zip(*alone, strict=True)]):
        assert_close(other[0], values, atol=1e-6, rtol=0)
        assert torch.equal(other[1], indices)
    assert module.encode_tokens(tokens[:0])[0].shape == (0, K)


@pytest.mark.parametrize("output_format", ["topk", "dense", "both"])
@pytest.mark.parametrize("replace", [False, True])
def test_output_formats(output_format, replace):
    features = padded(draw(N, D))
    given = features["token_embeddings"]
    features = make(output_format=output_format, replace_token_embeddings=replace)(features)
    expected = dense(features["token_sparse_values"], features["token_sparse_indices"])
    assert ("token_sparse_embeddings" in features) == (replace or output_format != "topk")
    assert torch.equal(features["token_embeddings"], expected if replace else given)
    assert torch.equal(features.get("token_sparse_embeddings", expected), expected)
    assert torch.equal(features["backbone_token_embeddings"], given)


def test_training_gives_what_a_loss_needs_and_the_gradients_of_the_dense_form():
    module, tokens = make().double().train(), draw(N, D)
    features = module({"token_embeddings": tokens[None], "cu_seq_lens_q": BOUNDS})
    x, x_hat = features["sae_input_normalized"], features["sae_output_decoded"]
    assert x.shape == x_hat.shape == (N, D)
    assert_close(x.norm(dim=1), torch.full((N,), D**0.5, dtype=torch.float64), atol=1e-5, rtol=0)
    codes = dense(features["token_sparse_values"][0], features["token_sparse_indices"][0])
    assert_close(x_hat, module.decode(codes))
    (x - x_hat).square().sum().backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    module.zero_grad()
    pre = module.encode_pre_act(x)
    z = torch.where(pre >= pre.topk(K).values[:, -1:], pre, 0).relu()
    (x - z @ module.W_dec - module.b_pre).square().sum().backward()
    assert found.keys() == {"W_enc", "b_enc", "W_dec", "b_pre"}
    for name, weight in module.named_parameters():
        assert_close(found[name], weight.grad)


def test_without_training_or_decoder_nothing_is_reconstructed():
    tokens = draw(N, D)
    for module in (make(), make(has_decoder=False).train()):
        assert not {"sae_input_normalized", "sae_output_decoded"} & module({"token_embeddings": tokens}).keys()
    assert module.W_dec is None
    with pytest.raises(ValueError, match="without a decoder; make it with has_decoder=True"):
        module.decode(tokens)
    with pytest.raises(ValueError, match="without a decoder; make it with has_decoder=True"):
        module.decode_codes(*module.encode_tokens(tokens))


def test_a_new_module_can_be_trained_and_a_frozen_one_cannot():
    module = SparseAutoEncoderTokenEncoder(D, WIDTH, K, "jumprelu")
    assert_close(module.W_dec.norm(dim=1), torch.ones(WIDTH))
    assert torch.equal(module.W_enc, module.W_dec.T)
    assert not module.theta.any()
    assert all(weight.requires_grad for weight in module.parameters())
    assert not any(weight.requires_grad for weight in make(frozen=True).parameters())


def test_max_active_dims_takes_the_place_of_k():
    module, tokens = make(), draw(N, D)
    features = module({"token_embeddings": tokens}, max_active_dims=5)
    assert torch.equal(features["token_sparse_values"], module.encode_tokens(tokens, 5)[0])
    with pytest.raises(ValueError, match="k must be <= hidden_dim, got k=25, hidden_dim=24"):
        module({"token_embeddings": tokens}, max_active_dims=25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_dim": 0}, "input_dim must be a positive integer, got 0"),
        ({"hidden_dim": -1}, "hidden_dim must be a positive integer, got -1"),
        ({"k": 0}, "k must be a positive integer, got 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"k": 25}, "k must be <= hidden_dim, got k=25"),
        ({"variant": "gated"}, "variant must be either 'standard' or 'jumprelu', got 'gated'"),
        ({"output_format": "csr"}, "output_format must be one of: 'topk', 'dense', 'both', got 'csr'"),
        ({"k_aux": -1}, "k_aux must be a non-negative integer, got -1"),
        ({"k_aux": 2.5}, "k_aux must be a non-negative integer, got 2.5"),
        ({"k_aux": "8"}, "k_aux must be a non-negative integer, got '8'"),
        ({"token_batch_size": 0}, "token_batch_size is 0"),
        *(
            ({"rms_scale": scale}, f"rms_scale of SparseAuto.* is {scale!r}; it must be one finite number above 0")
            for scale in (0, -1.5, float("nan"), float("inf"), "1", True)
        ),
        ({"trained_on": {"name": "a model"}}, "trained_on must have name and fingerprint, .*got {'name': 'a model'}"),
        ({"trained_on": "a model"}, "trained_on must have name and fingerprint"),
        ({"checkpoint_format_version": 2}, "has checkpoint_format_version 2; this package reads 1. Upgrade"),
        ({"checkpoint_format_version": "1"}, "has checkpoint_format_version '1'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**settings)


def test_features_that_make_no_sense():
    module = make()
    for kind in (KeyError, ValueError, MissingFeatureError):
        with pytest.raises(kind, match=r"lack 'token_embeddings', which the Transformer .* they hold 'input_ids'"):
            module({"input_ids": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="have size 9, this autoencoder reads size 8"):
        module({"token_embeddings": draw(N, 9)})
    for shape in ((D,), (9,), (1, 2, 3, D)):
        with pytest.raises(ValueError, match=rf"\[B, T, D\]; got \({shape[0]},"):
            module({"token_embeddings": draw(*shape)})
    with pytest.raises(ValueError, match=r"flattened token_embeddings to be rank 2; got \(2, 15, 8\)"):
        module({"token_embeddings": draw(2, N, D), "cu_seq_lens_q": BOUNDS})
    with pytest.raises(ValueError, match="as cu_seq_lens_q ends at 15 tokens"):
        module({"token_embeddings": draw(N + 1, D), "cu_seq_lens_q": BOUNDS})


def test_a_mean_of_another_size():
    module = make()
    module.data_mean = draw(D + 1)
    with pytest.raises(ValueError, match=r"data_mean has shape \(9,\), not \(8,\)"):
        module({"token_embeddings": draw(N, D)})
    module.data_mean = torch.tensor(1.0)  # would be taken off every dimension
    with pytest.raises(ValueError, match=r"data_mean has shape \(\), not \(8,\)"):
        module.encode_tokens(draw(N, D))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[1, 2]", "config.json holds a list, not an object"),
        ({"rms_scale": [1.0, 2.0]}, r"config.json gives no autoencoder: rms_scale of .* is \[1.0, 2.0\]"),
        ({"k": "three"}, "config.json gives no autoencoder: k is 'three'"),
        ({"learning_rate": 1e-3}, "config.json gives no autoencoder: .*unexpected keyword argument 'learning_rate'"),
        ({"checkpoint_format_version": 2}, "config.json gives no autoencoder: .* checkpoint_format_version 2; this"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(tmp_path, change, message):
    module = make()
    module.save(tmp_path)
    text = change if isinstance(change, str) else json.dumps(module.get_config_dict() | change)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        SparseAutoEncoderTokenEncoder.load(str(tmp_path))
    if "learning_rate" in text:  # of others, who may say more
        assert SparseAutoEncoderTokenEncoder.from_checkpoint(tmp_path).k == K
    else:
        with pytest.raises(ValueError, match=message.replace("config.json gives", "gives").replace("config.json ", "")):
            SparseAutoEncoderTokenEncoder.from_checkpoint(tmp_path)


def test_save_and_load(tmp_path):
    module = make(variant="jumprelu", rms_scale=0.5, token_batch_size=7, normalize_input=False, k_aux=5)
    module.data_mean = draw(D)
    module.save(tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["config.json", "model.safetensors"]
    loaded = SparseAutoEncoderTokenEncoder.load(str(tmp_path), subfolder="folder")
    assert loaded.get_config_dict() == module.get_config_dict()
    assert loaded.state_dict().keys() == module.state_dict().keys() >= {"theta", "data_mean"}
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(ValueError, match="safe_serialization is False, which writes a pickle"):
        module.save(tmp_path / "folder", safe_serialization=False)
    (tmp_path / "folder" / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "folder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks config.json or model.safetensors; a pickle .* is not read"):
        SparseAutoEncoderTokenEncoder.load(str(tmp_path), subfolder="folder")


def test_from_checkpoint(tmp_path):
    module = make(k=5, normalize_input=False)
    module.save(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = SparseAutoEncoderTokenEncoder.from_checkpoint(path)
        assert loaded.get_config_dict() == module.get_config_dict() | {"frozen": True}
        assert torch.equal(loaded.W_enc, module.W_enc)
        assert not any(weight.requires_grad for weight in loaded.parameters())
    tensors = module.state_dict() | {"rms_scale": torch.tensor(0.25), "theta": draw(WIDTH).abs()}
    bare = tmp_path / "bare" / "sae.safetensors"
    bare.parent.mkdir()
    save_file(tensors, bare, {"config": json.dumps({"k": 2, "learning_rate": 1e-3})})
    loaded = SparseAutoEncoderTokenEncoder.from_checkpoint(bare, frozen=False, has_decoder=False)
    assert (loaded.k, loaded.variant, loaded.rms_scale, loaded.W_dec) == (2, "jumprelu", 0.25, None)
    assert torch.equal(loaded.theta, tensors["theta"])
    assert loaded.W_enc.requires_grad
    save_file(tensors, bare, {"config": json.dumps({"k": 2, "rms_scale": None})})
    assert SparseAutoEncoderTokenEncoder.from_checkpoint(bare).rms_scale == 0.25
    assert SparseAutoEncoderTokenEncoder.from_checkpoint(bare, rms_scale=2.0).rms_scale == 2.0
    save_file(tensors, bare)
    with pytest.raises(ValueError, match="does not say how many latents a token may have; give k"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(bare)
    assert SparseAutoEncoderTokenEncoder.from_checkpoint(bare, k=4).k == 4


def test_checkpoints_that_are_refused(tmp_path):
    path = tmp_path / "sae.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file .*sae\.safetensors"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(path)
    torch.save(make().state_dict(), path)
    with pytest.raises(ValueError, match=r"not a safetensors file .* pickle can run code .* refused"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(path)
    tensors = make().state_dict()
    for wrong, message in (
        ({"W_enc": draw(D)}, r"no matrix W_enc \[D, width\]"),
        ({"b_enc": draw(WIDTH + 1)}, r"b_enc in .* has shape \(25,\), not \(24,\)"),
        ({"another": draw(2)}, r"holds .*'another'.*, its configuration asks for"),
        ({"rms_scale": draw(2)}, r"rms_scale of .*sae.safetensors is \(2,\); it must be one finite number above 0"),
        ({"rms_scale": torch.tensor(-1.0)}, r"rms_scale of .*sae.safetensors is -1.0"),
    ):
        save_file(tensors | wrong, path)
        with pytest.raises(ValueError, match=message):
            SparseAutoEncoderTokenEncoder.from_checkpoint(path, k=K)


@pytest.fixture(scope="module")
def encoder(sentence_folder) -> SparseEncoder:
    """A SparseEncoder of the tiny retriever, with prompts."""
    modules = [SentenceTransformer(sentence_folder)[0], make(input_dim=32), SparseTokenPooling(WIDTH)]
    return SparseEncoder(modules=modules, prompts={"query": "query : ", "document": ""})


def matrix(embeddings: torch.Tensor) -> np.ndarray:
    return embeddings.to_dense().numpy()


def test_a_sparse_encoder_is_the_same_in_a_fresh_process(encoder, tmp_path):
    encoder.save_pretrained(str(tmp_path / "model"))
    script = f"""
import json, numpy
from sentence_transformers import SparseEncoder
from lib.interop.conversion import load_sparse_encoder
stock = SparseEncoder("model", trust_remote_code=True)
texts = json.loads({json.dumps(TEXTS)!r})
for name, model in (("stock", stock), ("own", load_sparse_encoder("model"))):
    numpy.save(name, model.encode_query(texts).to_dense().numpy())
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = matrix(encoder.encode_query(TEXTS))
    assert np.count_nonzero(expected)
    for name in ("stock", "own"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))
    assert set(load_file(tmp_path / "model" / "1_SparseAutoEncoderTokenEncoder" / "model.safetensors")) == {
        *("W_enc", "b_enc", "W_dec", "b_pre")
    }


def test_the_model_card_has_tags_and_a_snippet_that_runs(encoder, tmp_path):
    copy.deepcopy(encoder).save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- token-sae\n" in card
    assert "# Token SAE Sparse Encoder" in card
    assert "modules of the package `latent-terms`, which must be installed" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    script = snippet.replace('SparseEncoder("sparse_encoder_model_id"', 'SparseEncoder("model"')
    assert script != snippet
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert f"[3, {WIDTH}]" in done.stdout


def test_sparse_encoder_passes_max_active_dims_and_include_prompt_on(encoder):
    assert encoder.max_active_dims is None  # k is of a token, not of a text
    assert encoder.get_embedding_dimension() == WIDTH
    assert (np.count_nonzero(matrix(encoder.encode(TEXTS, max_active_dims=2)), axis=1) <= 2).all()
    with_prompt = matrix(encoder.encode_query(TEXTS[:2]))
    try:
        encoder.set_pooling_include_prompt(False)
        assert encoder[2].include_prompt is False
        assert (matrix(encoder.encode_query(TEXTS[:2])) < with_prompt).any()
    finally:
        encoder.set_pooling_include_prompt(True)


def test_another_retriever_than_the_one_it_was_trained_on_is_noticed(sentence_folder, tmp_path):
    def behind(folder, sae):
        return SparseEncoder(modules=[SentenceTransformer(str(folder))[0], sae, SparseTokenPooling(WIDTH)])

    other = SentenceTransformer(sentence_folder)
    with torch.no_grad():
        other[0].auto_model.encoder.layer[1].output.dense.bias += 1
    other.save_pretrained(str(tmp_path / "other"))
    sae = make(input_dim=32)
    sae.trained_on = origin_of(behind(sentence_folder, sae), sae)
    sae.save(tmp_path)
    sae = SparseAutoEncoderTokenEncoder.from_checkpoint(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        behind(sentence_folder, sae)
        assert origin_of(behind(sentence_folder, sae).bfloat16(), sae)["fingerprint"] == sae.trained_on["fingerprint"]
    name = Path(sentence_folder).name  # where on this machine it was is nothing to save
    assert sae.trained_on["name"] == name
    pattern = rf"trained on the states of {name} \(\w{{12}}\); before it is other \(\w{{12}}\)"
    with pytest.warns(UserWarning, match=pattern):
        behind(tmp_path / "other", sae)


def test_modules_that_do_not_fit_each_other_are_refused_early(sentence_folder):
    transformer = SentenceTransformer(sentence_folder)[0]
    with pytest.raises(ValueError, match=r"Transformer has embedding dimension 32, SparseAuto.* behind it reads 8"):
        SparseEncoder(modules=[transformer, make(), SparseTokenPooling(WIDTH)])
    with pytest.raises(ValueError, match="has embedding dimension 24, SparseTokenPooling behind it reads 25"):
        SparseEncoder(modules=[transformer, make(input_dim=32), SparseTokenPooling(WIDTH + 1)])
