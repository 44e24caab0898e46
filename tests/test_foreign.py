"""Folders in the layouts of SAELens and sparsify, written by hand; `test_foreign_parity.py` has the libraries' own."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.codes import FinishedJumpReLU, FinishedTopK
from lib.sae.foreign import read_checkpoint, read_saelens, read_sparsify, write_saelens

pytestmark = pytest.mark.usefixtures("one_thread")
D, WIDTH, K = 5, 20, 3
PLAIN = {
    "d_in": D,
    "d_sae": WIDTH,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
}
SPARSIFY = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": WIDTH,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}
SAELENS = {  # name to what makes it differ from PLAIN
    "topk": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": False},
    "topk that rescales": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "topk of raw input": {
        "architecture": "topk",
        "k": K,
        "rescale_acts_by_decoder_norm": True,
        "apply_b_dec_to_input": False,
    },
    "topk of before rescaling": {"architecture": "topk", "k": K},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu of raw input": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "batchtopk": {"architecture": "batchtopk", "k": 2.6, "rescale_acts_by_decoder_norm": True},
    "standard": {"architecture": "standard"},
}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states(n: int = 300) -> torch.Tensor:
    return draw(n, D, seed=9)


def tensors_of(architecture: str) -> dict[str, torch.Tensor]:
    tensors = {
        "W_enc": draw(D, WIDTH, seed=1),
        "b_enc": draw(WIDTH, seed=2),
        "W_dec": draw(WIDTH, D, seed=3) * torch.linspace(0.2, 2, WIDTH)[:, None],
        "b_dec": draw(D, seed=4),
    }
    if architecture == "jumprelu":
        tensors["threshold"] = draw(WIDTH, seed=5)  # some below 0
    if architecture == "batchtopk":
        tensors["topk_threshold"] = torch.tensor(0.8, dtype=torch.float64)
    return tensors


def saelens_folder(folder, name: str = "topk", *, metadata=None, drop=(), **changes):
    config = PLAIN | SAELENS[name] | changes
    config["metadata"] = {"sae_lens_version": "6.54.12", "sae_lens_training_version": None} | (metadata or {})
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))
    save_file(tensors_of(config["architecture"]), folder / "sae_weights.safetensors")
    return folder


def sparsify_folder(folder, *, dtype=torch.float32, **changes):
    tensors = tensors_of("topk")
    named = {"encoder.weight": tensors["W_enc"].T.contiguous(), "encoder.bias": tensors["b_enc"]}
    named |= {"W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(SPARSIFY | changes))
    save_file({key: tensor.to(dtype) for key, tensor in named.items()}, folder / "sae.safetensors")
    return folder


def dense(sae: SparseAutoencoder, h: torch.Tensor) -> np.ndarray:
    codes = sae.encode(h)
    return torch.zeros(len(h), sae.width).scatter(1, codes.indices, codes.values).numpy()


def expected_saelens(name: str, h: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, width] and states [n, d] as SAELens defines them, in float64."""
    config = PLAIN | SAELENS[name]
    t = {key: value.double().numpy() for key, value in tensors_of(config["architecture"]).items()}
    h = h.double().numpy()
    norms = np.linalg.norm(t["W_dec"], axis=1) if config.get("rescale_acts_by_decoder_norm") else np.ones(WIDTH)
    pre = ((h - t["b_dec"] * config["apply_b_dec_to_input"]) @ t["W_enc"] + t["b_enc"]) * norms
    if config["architecture"] == "topk":
        active = pre >= np.sort(pre, axis=1)[:, -K, None]
    else:
        active = pre > t.get("threshold", t.get("topk_threshold", 0.0))
    codes = np.maximum(pre, 0) * active
    return codes, (codes / norms) @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("name", SAELENS)
def test_saelens_folders_encode_and_decode_as_defined(tmp_path, name):
    given = None if SAELENS[name]["architecture"] in ("topk", "batchtopk") else 4
    sae, h = read_saelens(saelens_folder(tmp_path / "sae", name), k=given), states()
    codes, reconstructed = expected_saelens(name, h)
    assert 0 < np.count_nonzero(codes) < codes.size
    np.testing.assert_allclose(dense(sae, h), codes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(h)).numpy(), reconstructed, rtol=0, atol=1e-5)
    assert sae.k == {"topk": K, "batchtopk": 3}.get(SAELENS[name]["architecture"], 4)
    assert sae.metadata["saelens"]["d_sae"] == WIDTH


def test_a_latent_that_writes_nothing_is_read_where_norms_are_folded(tmp_path):
    folder = saelens_folder(tmp_path / "sae", "topk that rescales")
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"][7] = 0
    save_file(tensors, folder / "sae_weights.safetensors")
    assert (dense(read_saelens(folder), states())[:, 7] == 0).all()


def test_k_of_thresholds_is_given_or_found_where_saelens_keeps_it(tmp_path):
    folder = saelens_folder(tmp_path / "sae", "jumprelu")
    with pytest.raises(ValueError, match=r"jumprelu.* k"):
        read_saelens(folder)
    details = {"training_architecture_details": {"k": 7.4}}
    folder = saelens_folder(tmp_path / "sae", "jumprelu", metadata=details)
    assert read_saelens(folder).k == 7
    assert read_saelens(folder, k=5).k == 5
    with pytest.raises(ValueError, match=r"k is 5.*with_k"):
        read_saelens(saelens_folder(tmp_path / "other"), k=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparsify_folders_encode_as_defined(tmp_path, dtype):
    sae, h = read_sparsify(sparsify_folder(tmp_path / "layers.5", dtype=dtype)), states()
    t = {key: value.to(dtype).double().numpy() for key, value in tensors_of("topk").items()}
    pre = np.maximum((h.double().numpy() - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 0)
    codes = pre * (pre >= np.sort(pre, axis=1)[:, -K, None])
    np.testing.assert_allclose(dense(sae, h), codes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(h)).numpy(), codes @ t["W_dec"] + t["b_dec"], rtol=0, atol=1e-5)
    assert sae.metadata["sparsify"] == SPARSIFY


def test_sparsify_gives_the_number_of_latents_as_a_multiple_of_d(tmp_path):
    assert read_sparsify(sparsify_folder(tmp_path, num_latents=0, expansion_factor=4)).width == WIDTH
    with pytest.raises(ValueError, match=r"num_latents .*\(5, 40\).*\(5, 20\)"):
        read_sparsify(sparsify_folder(tmp_path, num_latents=0, expansion_factor=8))


def ours(jumprelu: bool) -> SparseAutoencoder:
    tensors = tensors_of("topk")
    weights = {"W_enc": tensors["W_enc"].T, "b_enc": tensors["b_enc"], "W_dec": tensors["W_dec"]}
    activation = FinishedJumpReLU(K, draw(WIDTH, seed=5).abs()) if jumprelu else FinishedTopK(K)
    return SparseAutoencoder(**weights, b_pre=tensors["b_dec"], activation=activation, metadata={"run": {"seed": 1}})


def checkpoint(path, tensors=(), **changes):
    """A file in the layout of pull request 3796 with its configuration in its metadata."""
    config = {"input_dim": D, "hidden_dim": WIDTH, "k": K, "normalize_input": False} | changes
    given = tensors_of("jumprelu")
    named = {"W_enc": given["W_enc"], "b_enc": given["b_enc"], "b_pre": given["b_dec"], "W_dec": given["W_dec"]}
    if config.get("variant") == "jumprelu":
        named["theta"] = given["threshold"]
    text = json.dumps({key: value for key, value in config.items() if value is not None})
    save_file(named | dict(tensors), path, {"config": text})
    return path


@pytest.mark.parametrize("variant", ["standard", "jumprelu"])
def test_checkpoints_of_the_modules_encode_as_defined(tmp_path, variant):
    path, h = checkpoint(tmp_path / "sae.safetensors", variant=variant), states()
    sae = read_checkpoint(path, k=4 if variant == "jumprelu" else None)
    t = {key: value.double().numpy() for key, value in tensors_of("jumprelu").items()}
    pre = (h.double().numpy() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    active = pre >= np.sort(pre, axis=1)[:, -K, None] if variant == "standard" else pre > t["threshold"]
    codes = np.maximum(pre, 0) * active
    np.testing.assert_allclose(dense(sae, h), codes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(h)).numpy(), codes @ t["W_dec"] + t["b_dec"], rtol=0, atol=1e-5)
    assert (sae.k, sae.metadata["checkpoint"]["hidden_dim"]) == (K if variant == "standard" else 4, WIDTH)


def test_folders_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_saelens(ours(jumprelu=False), "~/saelens")
    sparsify_folder(tmp_path / "layers.5")
    checkpoint(tmp_path / "sae.safetensors")
    assert read_saelens("~/saelens").width == read_sparsify("~/layers.5").width == WIDTH
    assert read_checkpoint("~/sae.safetensors").width == WIDTH
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("variant", ["standard", "jumprelu"])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("scaling", ["none", "rms", "norm"])
def test_a_folder_of_the_module_is_read(tmp_path, variant, mean, scaling):
    from lib.interop.modules import SparseAutoEncoderTokenEncoder

    k = K if variant == "standard" else WIDTH
    module = SparseAutoEncoderTokenEncoder(D, WIDTH, k, variant, rms_scale=0.3 if scaling == "rms" else None)
    module.normalize_input = scaling != "none"  # without it, a mean is saved but not read
    module.data_mean = draw(D, seed=8) if mean else None
    with torch.no_grad():
        for seed, weight in enumerate(module.parameters()):
            weight.copy_(draw(*weight.shape, seed=seed))
        module.save(tmp_path)
        h = states() * 3
        expected = torch.zeros(len(h), WIDTH)
        values, indices = module.encode_tokens(h)
        expected.scatter_(1, indices, values)
        x_hat = module.decode(expected)
    sae = read_checkpoint(tmp_path, k=4 if variant == "jumprelu" else None)
    assert sae.scales == (scaling != "none")  # what scales to one norm cancels one factor for all
    np.testing.assert_allclose(dense(sae, h), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(sae.decode(sae.encode(h)), x_hat, rtol=0, atol=1e-4)
    if sae.scales:
        with pytest.raises(ValueError, match="scales"):
            write_saelens(sae, tmp_path / "saelens")
        assert not (tmp_path / "saelens").exists()


def test_checkpoints_without_a_word_of_variant_and_normalisation(tmp_path):
    path = checkpoint(tmp_path / "sae.safetensors", variant="jumprelu", normalize_input=None)
    config = {"input_dim": D, "hidden_dim": WIDTH, "k": K}
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(path) | {"rms_scale": torch.tensor(2.0)}, bare, {"config": json.dumps(config)})
    by_norm, by_rms = read_checkpoint(path, k=4), read_checkpoint(bare, k=4)
    assert (by_norm.activation.name, by_norm.scales) == ("jumprelu", True)
    assert (by_rms.activation.name, by_rms.scales) == ("jumprelu", True)
    assert torch.equal(by_norm.activation.threshold, by_rms.activation.threshold)
    assert torch.equal(by_norm.W_enc, by_rms.W_enc)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_format_version": 2}, "checkpoint_format_version 2"),
        ({"rms_scale": -1}, "rms_scale.* -1"),
        ({"tensors": {"rms_scale": torch.ones(2)}}, r"rms_scale.*\(2,\)"),
        ({"tensors": {"data_mean": torch.ones(D + 1)}, "normalize_input": True}, r"centre .*\(6,\)"),
        ({"variant": "gated"}, "gated.*jumprelu"),
        ({"k": None}, "give k"),
        ({"variant": "jumprelu"}, "give k"),  # there, k is a limit
        ({"k": WIDTH + 1}, "k is 21.* 20"),
        ({"hidden_dim": 40}, r"hidden_dim .*\(5, 40\).*\(5, 20\)"),
        ({"tensors": {"theta": torch.ones(WIDTH)}, "variant": "standard"}, "theta.* W_dec"),
        ({"tensors": {"b_pre": torch.ones(D + 1)}}, r"b_pre .*\(6,\)"),
    ],
)
def test_checkpoints_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(checkpoint(tmp_path / "sae.safetensors", **changes))


def test_checkpoints_that_are_no_safetensors_or_say_k_twice(tmp_path):
    path = checkpoint(tmp_path / "sae.safetensors")
    with pytest.raises(ValueError, match=r"k is 5.* 3.*with_k"):
        read_checkpoint(path, k=5)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        read_checkpoint(tmp_path)
    torch.save(load_file(path), tmp_path / "sae.pt")
    with pytest.raises(ValueError, match="safetensors"):
        read_checkpoint(tmp_path / "sae.pt")


@pytest.mark.parametrize("jumprelu", [False, True])
def test_what_is_written_as_saelens_is_read_back_the_same(tmp_path, jumprelu):
    sae = ours(jumprelu)
    write_saelens(sae, tmp_path / "sae", metadata={"model_name": "a retriever", "hook_name": "layer 6"})
    again = read_saelens(tmp_path / "sae")
    assert again.config == sae.config
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in sae.tensors().items())
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["metadata"]["model_name"] == "a retriever"
    assert set(SAELENS[config["architecture"]]) | set(PLAIN) | {"metadata"} == set(config)
    assert {path.name for path in (tmp_path / "sae").iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    with pytest.raises(FileExistsError, match=r"cfg\.json"):
        write_saelens(sae, tmp_path / "sae")


def test_a_write_that_fails_leaves_no_configuration(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"a part")
        raise OSError("no space left")

    monkeypatch.setattr("lib.sae.foreign.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        write_saelens(ours(False), tmp_path / "sae")
    assert not list((tmp_path / "sae").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "layer_norm.*'none'"),
        ({"normalize_activations": "expected_average_only_in"}, "expected_average_only_in"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
        ({"drop": ("apply_b_dec_to_input",)}, "apply_b_dec_to_input"),
        ({"drop": ("k",)}, "entry k"),
        ({"k": WIDTH + 1}, "k is 21.* 20"),
        ({"k": 2.5}, "k is 2.5"),
        ({"d_sae": 40}, r"d_sae .*\(5, 40\).*\(5, 20\)"),
        ({"metadata": {"sae_lens_version": "5.3.0"}}, "5.3.0.* 6"),
        ({"metadata": {"sae_lens_version": None}}, "None"),
        ({"drop": ("metadata",)}, "metadata"),
    ],
)
def test_what_saelens_would_encode_otherwise_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_saelens(saelens_folder(tmp_path / "sae", **changes))


@pytest.mark.parametrize("architecture", ["gated", "abstopk", "matching_pursuit", "jumprelu_transcoder"])
def test_other_architectures_of_saelens_are_refused(tmp_path, architecture):
    with pytest.raises(ValueError, match=architecture):
        read_saelens(saelens_folder(tmp_path / "sae", architecture=architecture))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "groupmax.*topk"),
        ({"transcode": True}, "transcode"),
        ({"skip_connection": True}, "skip_connection"),
        ({"signed": True}, "signed"),
        ({"d_in": 6}, r"d_in .*\(6, 20\)"),
    ],
)
def test_what_sparsify_would_encode_otherwise_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_sparsify(sparsify_folder(tmp_path, **changes))


@pytest.mark.parametrize(
    ("read", "make", "name"),
    [
        (read_saelens, saelens_folder, "sae_weights.safetensors"),
        (read_sparsify, sparsify_folder, "sae.safetensors"),
    ],
)
class TestDamagedFolders:
    def test_that_are_not_there(self, tmp_path, read, make, name):
        with pytest.raises(FileNotFoundError, match=r"missing.*cfg.json"):
            read(tmp_path / "missing")
        make(tmp_path / "layers.3")
        with pytest.raises(FileNotFoundError, match=r"cfg\.json"):
            read(tmp_path)

    def test_that_lack_safetensors(self, tmp_path, read, make, name):
        folder = make(tmp_path / "sae")
        (folder / name).rename(folder / "sae.pt")
        with pytest.raises(FileNotFoundError, match=name):
            read(folder)

    def test_that_are_cut(self, tmp_path, read, make, name):
        folder = make(tmp_path / "sae")
        (folder / name).write_bytes((folder / name).read_bytes()[:-8])
        with pytest.raises(ValueError, match=name):
            read(folder)
        (folder / "cfg.json").write_text("{")
        with pytest.raises(ValueError, match=r"cfg.json.*JSON"):
            read(folder)
        (folder / "cfg.json").write_text("[]")
        with pytest.raises(ValueError, match=r"cfg.json.*list"):
            read(folder)

    def test_with_other_tensors(self, tmp_path, read, make, name):
        folder = make(tmp_path / "sae")
        tensors = load_file(folder / name)
        save_file({key: tensor for key, tensor in tensors.items() if key != "W_dec"}, folder / name)
        with pytest.raises(ValueError, match="W_dec"):
            read(folder)
        save_file(tensors | {"scaling_factor": torch.ones(WIDTH)}, folder / name)
        with pytest.raises(ValueError, match="scaling_factor"):
            read(folder)
        save_file(tensors | {"b_dec": torch.full((D,), torch.nan)}, folder / name)
        with pytest.raises(ValueError, match=r"b_pre.*NaN"):
            read(folder)


BLOCK_5 = ("blocks.5.hook_resid_post", 6)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        BLOCK_5,
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.2.hook_normalized_resid_post", 3),
        ("model.layers.5", 6),
        ("transformer.h.11", 12),
        ("encoder.layer.0", 1),
        ("embeddings", 0),
        ("blocks.5.hook_mlp_out", None),
        ("layers.5.mlp", None),
        ("blocks.5.attn.hook_z", None),
        ("something", None),
    ],
)
def test_saelens_says_what_it_was_trained_on(tmp_path, hook, layer):
    facts = {"model_name": "gpt2", "hook_name": hook}
    sae = read_saelens(saelens_folder(tmp_path / "sae", metadata=facts))
    sae.save(tmp_path / "ours")
    expected = {"model": "gpt2", "layer": layer, "hook": hook}
    for each in (sae, SparseAutoencoder.load(tmp_path / "ours"), sae.with_k(2)):
        origin = each.metadata["run"]["states"]["encoder"]
        assert origin == {key: value for key, value in expected.items() if value is not None}


def test_what_is_not_said_is_not_known(tmp_path):
    assert read_saelens(saelens_folder(tmp_path / "none")).metadata.keys() == {"saelens"}
    folder = saelens_folder(tmp_path / "block", metadata={"hook_layer": 0})
    assert read_saelens(folder).metadata["run"]["states"]["encoder"]["layer"] == 1
    top = saelens_folder(tmp_path / "top", model_name="gpt2", hook_name=BLOCK_5[0])  # as older versions have them
    assert read_saelens(top).metadata["run"]["states"]["encoder"]["model"] == "gpt2"
    assert read_sparsify(sparsify_folder(tmp_path / "sae")).metadata == {"sparsify": SPARSIFY}


@pytest.mark.parametrize("place", ["layers.5", "layers.5/seed1"])
def test_sparsify_says_it_by_the_folder_and_the_configuration_of_the_run(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    folder = sparsify_folder(tmp_path / place)
    assert read_sparsify(folder).metadata["run"]["states"]["encoder"] == {"layer": 6, "hook": "layers.5"}
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m", "hookpoints": ["layers.5"]}))
    assert read_sparsify(folder).metadata["run"]["states"]["encoder"]["model"] == "EleutherAI/pythia-160m"
    named = sparsify_folder(tmp_path / "named", hookpoint="layers.2", model="me/a")
    expected = {"model": "me/a", "layer": 3, "hook": "layers.2"}
    assert read_sparsify(named).metadata["run"]["states"]["encoder"] == expected


def test_those_of_different_layers_are_not_joined(tmp_path):
    hooks = ("layers.1", "layers.1", "layers.2")
    parts = [
        read_saelens(saelens_folder(tmp_path / str(i), metadata={"hook_name": hook})) for i, hook in enumerate(hooks)
    ]
    assert join(parts[:2]).metadata["run"] == parts[0].metadata["run"]
    with pytest.raises(ValueError, match="'layer': 3"):
        join(parts[1:])
