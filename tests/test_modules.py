"""The token encoder as sentence-transformers' pull request 3796 describes it: names, defaults, keys, shapes, dtypes."""

import copy
import inspect
import itertools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXTS
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module
from torch.testing import assert_close

from lib.interop.modules import MissingFeatureError, SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.interop.modules.features import origin_of

pytestmark = pytest.mark.usefixtures("one_thread")

D, WIDTH, K = 8, 24, 3
LENGTHS = [5, 2, 7, 1]
BOUNDS = torch.tensor([0, 5, 7, 14, 15], dtype=torch.int32)
N = 15


DEFAULTS = {
    "variant": "standard",
    "output_format": "topk",
    "replace_token_embeddings": False,
    "has_decoder": True,
    "k_aux": 512,
    "frozen": False,
    "rms_scale": None,
    "token_batch_size": None,
}


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


def test_parameters_defaults_and_saved_keys_are_those_of_the_pull_request(tmp_path):
    parameters = inspect.signature(SparseAutoEncoderTokenEncoder).parameters
    assert list(parameters)[:11] == ["input_dim", "hidden_dim", "k", *DEFAULTS]
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    module = SparseAutoEncoderTokenEncoder(4, 8, 2)
    assert isinstance(module, Module)
    expected = {"input_dim": 4, "hidden_dim": 8, "k": 2, "checkpoint_format_version": 1} | DEFAULTS
    assert module.get_config_dict() == expected
    module.save(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text()) == expected
    ours = SparseAutoEncoderTokenEncoder(4, 8, 2, normalize_input=False).get_config_dict()
    assert ours == expected | {"normalize_input": False}  # a setting of ours is saved where it matters
    assert (module.get_embedding_dimension(), module.target_norm) == (8, 2.0)


@pytest.mark.parametrize("variant", ["standard", "jumprelu"])
@pytest.mark.parametrize("has_decoder", [True, False])
def test_weights(variant, has_decoder):
    encoder = SparseAutoEncoderTokenEncoder(4, 8, 2, variant=variant, has_decoder=has_decoder)
    shapes = {"W_enc": (4, 8), "b_enc": (8,), "b_pre": (4,)}
    shapes |= {"W_dec": (8, 4)} if has_decoder else {}
    shapes |= {"theta": (8,)} if variant == "jumprelu" else {}
    assert {name: tuple(weight.shape) for name, weight in encoder.named_parameters()} == shapes
    assert (encoder.W_dec is None, encoder.theta is None) == (not has_decoder, variant == "standard")
    assert encoder.data_mean is None
    assert encoder.state_dict().keys() == shapes.keys()
    encoder.data_mean = torch.ones(4)
    assert "data_mean" in dict(encoder.named_buffers())


def test_one_token_by_hand():
    encoder = make(input_dim=2, hidden_dim=3, k=2)
    with torch.no_grad():
        encoder.W_enc.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]))
        encoder.b_enc.copy_(torch.tensor([0.0, -0.5, 0.25]))
        encoder.b_pre.copy_(torch.tensor([0.2, 0.0]))
    # [3, 4] has norm 5, so x = sqrt(2) [0.6, 0.8]; pre = [x0 - 0.2, 2 x1 - 0.5, 0.2 - x0 + 0.25]
    x = 2**0.5 * torch.tensor([0.6, 0.8])
    features = encoder({"token_embeddings": torch.tensor([[[3.0, 4.0]]])})
    assert_close(features["token_sparse_values"], torch.stack([2 * x[1] - 0.5, x[0] - 0.2]).view(1, 1, 2))
    assert features["token_sparse_indices"].tolist() == [[[1, 0]]]
    encoder.data_mean = torch.tensor([3.0, 3.0])  # [3, 4] becomes [0, 1], and x = [0, sqrt(2)]
    values, indices = encoder.encode_tokens(torch.tensor([[3.0, 4.0]]))
    assert_close(values, torch.tensor([[2 * 2**0.5 - 0.5, 0.45]]))
    assert indices.tolist() == [[1, 2]]
    encoder.rms_scale, encoder.data_mean = 5.0, None  # scaling to one norm cancels it
    values, indices = encoder.encode_tokens(torch.tensor([[3.0, 4.0]]))
    assert_close(values, torch.stack([2 * x[1] - 0.5, x[0] - 0.2]).view(1, 2))
    assert indices.tolist() == [[1, 0]]


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
    few_values, few_indices = module.encode_tokens(tokens, k=1)
    assert_close(few_values, values[:, :1])
    assert torch.equal(few_indices, indices[:, :1])


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
        given = padded(tokens, side)
        features = module(given)
        assert features is given
        assert features["token_sparse_values"].shape == (4, 7, K)
        for key in keys:
            assert_close(features[key][features["attention_mask"].bool()], flat[key], atol=1e-6, rtol=0)


def test_a_token_alone_has_the_same_codes():
    module, tokens = make(), draw(N, D)
    values, indices = module.encode_tokens(tokens)
    alone = [module.encode_tokens(token[None]) for token in tokens]
    alone_values, alone_indices = (torch.cat(parts) for parts in zip(*alone, strict=True))
    assert_close(alone_values, values, atol=1e-6, rtol=0)
    assert torch.equal(alone_indices, indices)
    assert module.encode_tokens(tokens[:0])[0].shape == (0, K)


@pytest.mark.parametrize("size", [1, 4, N, 100])
def test_token_batch_size_changes_memory_not_values(size):
    whole, parts = make().train(), make(token_batch_size=size).train()
    sizes, encode = [], parts.encode_pre_act
    parts.encode_pre_act = lambda x: sizes.append(len(x)) or encode(x)
    expected, features = ({**module({"token_embeddings": draw(N, D)})} for module in (whole, parts))
    assert expected.keys() == features.keys()
    for key, tensor in expected.items():
        assert_close(features[key], tensor, rtol=0, atol=1e-5)
    assert (sum(sizes), max(sizes)) == (N, min(size, N))


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
    module, tokens = make().double().train(), draw(N, D).requires_grad_()
    features = module({"token_embeddings": tokens[None], "cu_seq_lens_q": BOUNDS})
    x, x_hat = features["sae_input_normalized"], features["sae_output_decoded"]
    assert x.shape == x_hat.shape == (N, D)
    assert_close(x, module.normalize(tokens).double())
    assert_close(x.norm(dim=1), torch.full((N,), D**0.5, dtype=torch.float64), atol=1e-5, rtol=0)
    codes = dense(features["token_sparse_values"][0], features["token_sparse_indices"][0])
    assert_close(x_hat, module.decode(codes))
    (x - x_hat).square().sum().backward(retain_graph=True)
    assert tokens.grad.abs().sum() > 0  # a retriever in front could be trained through it
    gradients = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    module.zero_grad()
    pre = module.encode_pre_act(x)
    z = torch.where(pre >= pre.topk(K).values[:, -1:], pre, 0).relu()
    (x - z @ module.W_dec - module.b_pre).square().sum().backward()
    assert gradients.keys() == {"W_enc", "b_enc", "W_dec", "b_pre"}
    for name, weight in module.named_parameters():
        assert_close(gradients[name], weight.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_computed_in(dtype):
    module, tokens = make().to(dtype).train(), draw(N, D)
    features, expected = module({"token_embeddings": tokens.to(dtype)}), make().train()({"token_embeddings": tokens})
    for key in ("token_sparse_values", "sae_input_normalized", "sae_output_decoded"):
        assert features[key].dtype == dtype
    assert_close(features["sae_input_normalized"].float(), expected["sae_input_normalized"], rtol=0.01, atol=0.01)
    (features["sae_output_decoded"] - features["sae_input_normalized"]).square().sum().backward()
    assert module.W_enc.grad.dtype == dtype


def test_states_of_half_precision_are_computed_in_the_dtype_of_the_weights():
    tokens = draw(N, D).half()
    values, _ = make().encode_tokens(tokens)
    assert values.dtype == torch.float32
    assert_close(values, make().encode_tokens(tokens.float())[0])


def test_without_training_or_decoder_nothing_is_reconstructed():
    tokens = draw(N, D)
    for module in (make(), make(has_decoder=False).train()):
        assert not {"sae_input_normalized", "sae_output_decoded"} & module({"token_embeddings": tokens}).keys()
    assert module.W_dec is None
    with pytest.raises(ValueError, match="has_decoder"):
        module.decode(tokens)
    with pytest.raises(ValueError, match="has_decoder"):
        module.decode_codes(*module.encode_tokens(tokens))


def test_a_new_module_can_be_trained_and_a_frozen_one_cannot():
    module = SparseAutoEncoderTokenEncoder(D, WIDTH, K, "jumprelu")
    assert_close(module.W_dec.norm(dim=1), torch.ones(WIDTH))
    assert torch.equal(module.W_enc, module.W_dec.T)
    assert not module.theta.any()
    assert all(weight.requires_grad for weight in module.parameters())
    assert not any(weight.requires_grad for weight in make(frozen=True).parameters())


def test_max_active_dims_replaces_k_for_one_call():
    module, tokens = make(), draw(N, D)
    for n in (1, 5, WIDTH):
        features = module({"token_embeddings": tokens}, max_active_dims=n)
        assert features["token_sparse_values"].shape == features["token_sparse_indices"].shape == (N, n)
        assert torch.equal(features["token_sparse_values"], module.encode_tokens(tokens, n)[0])
    assert module.k == K
    for n in (0, -1, WIDTH + 1):
        with pytest.raises(ValueError, match=f"k is {n}"):
            module({"token_embeddings": tokens}, max_active_dims=n)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_dim", 0),
        ("hidden_dim", -1),
        ("k", 0),
        ("k", 2.5),
        ("k", 25),
        ("groups", 5),
        ("variant", "gated"),
        ("output_format", "csr"),
        ("k_aux", -1),
        ("k_aux", "8"),
        ("token_batch_size", 0),
        *(("rms_scale", scale) for scale in (0, -1.5, float("nan"), float("inf"), "1", True)),
        ("trained_on", {"name": "a model"}),
        ("trained_on", "a model"),
        ("checkpoint_format_version", 2),
        ("checkpoint_format_version", "1"),
    ],
)
def test_settings_that_are_not_allowed(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name}.*{re.escape(repr(value))}"):
        make(**{name: value})


def test_features_that_do_not_fit():
    module = make()
    for kind in (KeyError, ValueError, MissingFeatureError):
        with pytest.raises(kind, match=r"'token_embeddings'.*'input_ids'"):
            module({"input_ids": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"size 9.*size 8"):
        module({"token_embeddings": draw(N, 9)})
    for shape in ((D,), (9,), (1, 2, 3, D)):
        with pytest.raises(ValueError, match=rf"token_embeddings.*\({shape[0]},"):
            module({"token_embeddings": draw(*shape)})
    for shape in ((2, N, D), (N + 1, D)):
        with pytest.raises(ValueError, match=rf"token_embeddings.*{re.escape(str(shape))}.*15 tokens"):
            module({"token_embeddings": draw(*shape), "cu_seq_lens_q": BOUNDS})


@pytest.mark.parametrize("mean", [draw(D + 1), torch.tensor(1.0)])  # a number would be subtracted from every dimension
def test_a_mean_of_another_size(mean):
    module = make()
    module.data_mean = mean
    with pytest.raises(ValueError, match=rf"data_mean.*{re.escape(str(tuple(mean.shape)))}"):
        module.encode_tokens(draw(N, D))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("{", "JSON"),
        ("[1, 2]", "list"),
        ({"rms_scale": [1.0, 2.0]}, "rms_scale"),
        ({"k": "three"}, "'three'"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"checkpoint_format_version": 2}, "checkpoint_format_version"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(tmp_path, change, named):
    module = make()
    module.save(tmp_path)
    text = change if isinstance(change, str) else json.dumps(module.get_config_dict() | change)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json.*{named}"):
        SparseAutoEncoderTokenEncoder.load(str(tmp_path))
    if "learning_rate" in text:  # a checkpoint may hold keys of the library that wrote it
        assert SparseAutoEncoderTokenEncoder.from_checkpoint(tmp_path).k == K
    else:
        with pytest.raises(ValueError, match=named):
            SparseAutoEncoderTokenEncoder.from_checkpoint(tmp_path)


def test_save_and_load(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    module = make(variant="jumprelu", rms_scale=0.5, token_batch_size=7, normalize_input=False, k_aux=5)
    module.data_mean = draw(D)
    module.save("~/folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["config.json", "model.safetensors"]
    loaded = SparseAutoEncoderTokenEncoder.load(str(tmp_path), subfolder="folder")
    assert loaded.get_config_dict() == module.get_config_dict()
    assert loaded.state_dict().keys() == module.state_dict().keys() >= {"theta", "data_mean"}
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(ValueError, match="pickle"):
        module.save(tmp_path / "folder", safe_serialization=False)
    (tmp_path / "folder" / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "folder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors.*pickle"):
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
    with pytest.raises(ValueError, match="give k"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(bare)
    assert SparseAutoEncoderTokenEncoder.from_checkpoint(bare, k=4).k == 4


def test_checkpoints_that_are_refused(tmp_path):
    path = tmp_path / "sae.safetensors"
    with pytest.raises(FileNotFoundError, match=r"sae\.safetensors"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(path)
    torch.save(make().state_dict(), path)
    with pytest.raises(ValueError, match=r"sae\.safetensors.*pickle"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(path)
    tensors = make().state_dict()
    for wrong, named in (
        ({"W_enc": draw(D)}, "W_enc"),
        ({"b_enc": draw(WIDTH + 1)}, "b_enc"),
        ({"another": draw(2)}, "another"),
        ({"theta": draw(2)}, "theta"),
        ({"rms_scale": draw(2)}, r"rms_scale.*sae\.safetensors.*\(2,\)"),
        ({"rms_scale": torch.tensor(-1.0)}, r"rms_scale.*sae\.safetensors.*-1\.0"),
    ):
        save_file(tensors | wrong, path)
        with pytest.raises(ValueError, match=named):
            SparseAutoEncoderTokenEncoder.from_checkpoint(path, k=K)
    save_file({name: tensor for name, tensor in tensors.items() if name != "b_pre"}, path)
    with pytest.raises(ValueError, match="b_pre"):
        SparseAutoEncoderTokenEncoder.from_checkpoint(path, k=K)


@pytest.fixture(scope="module")
def encoder(sentence_folder) -> SparseEncoder:
    """A SparseEncoder of the tiny retriever, with prompts."""
    modules = [SentenceTransformer(sentence_folder)[0], make(input_dim=32), SparseTokenPooling(WIDTH)]
    return SparseEncoder(modules=modules, prompts={"query": "query : ", "document": ""})


def matrix(embeddings: torch.Tensor) -> np.ndarray:
    return embeddings.to_dense().numpy()


@pytest.mark.slow  # a process imports sentence-transformers
def test_the_snippet_of_the_model_card_runs_in_a_fresh_process_and_gives_the_same(fresh, encoder, tmp_path):
    copy.deepcopy(encoder).save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- token-sae\n" in card
    assert "# Token SAE Sparse Encoder" in card
    assert "`latent-terms`" in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    script = snippet.replace('SparseEncoder("sparse_encoder_model_id"', 'SparseEncoder("model"')
    assert script != snippet
    script += f"""
import json, numpy
from lib.interop.conversion import load_sparse_encoder
texts = json.loads({json.dumps(TEXTS)!r})
for name, encoder in (("stock", model), ("own", load_sparse_encoder("model"))):
    numpy.save(name, encoder.encode_query(texts).to_dense().numpy())
"""
    run = fresh.run(script, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"[3, {WIDTH}]" in run.stdout
    expected = matrix(encoder.encode_query(TEXTS))
    assert np.count_nonzero(expected)
    for name in ("stock", "own"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-5)
    assert not list(tmp_path.rglob("*.bin"))
    weights = load_file(tmp_path / "model" / "1_SparseAutoEncoderTokenEncoder" / "model.safetensors")
    assert weights.keys() == {"W_enc", "b_enc", "W_dec", "b_pre"}


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


@pytest.mark.slow
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
    with pytest.warns(UserWarning, match=rf"{name} \(\w{{12}}\).* other \(\w{{12}}\)"):
        behind(tmp_path / "other", sae)


def test_modules_that_do_not_fit_each_other_are_refused_early(sentence_folder):
    transformer = SentenceTransformer(sentence_folder)[0]
    with pytest.raises(ValueError, match=r"Transformer .*32.*SparseAuto.* 8"):
        SparseEncoder(modules=[transformer, make(), SparseTokenPooling(WIDTH)])
    with pytest.raises(ValueError, match=r"24.*SparseTokenPooling.* 25"):
        SparseEncoder(modules=[transformer, make(input_dim=32), SparseTokenPooling(WIDTH + 1)])


@pytest.mark.parametrize("settings", [{}, {"groups": 3}, {"variant": "jumprelu"}, {"token_batch_size": 4}])
def test_frozen_weights_give_the_same_codes_and_gradients_without_a_dense_backward_pass(settings):
    tokens, weights = draw(N, D), draw(N, 18)
    results = []
    for frozen in (False, True):
        x = tokens.clone().requires_grad_()
        values, indices = make(frozen=frozen, k=18, **settings).encode_tokens(x)
        assert (values == 0).any()  # whose gradient is 0
        (values * weights).sum().backward()
        results.append((values, indices, x.grad))
    for expected, result in zip(*results, strict=True):
        assert_close(result, expected)
