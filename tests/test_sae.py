import copy
import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lib.sae.autoencoder
import lib.sae.codes
import lib.sae.selection
from lib.bm25.pooling import pool
from lib.sae.activations.pursuit import FinishedPursuit
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import Codes, FinishedBoosted, FinishedJumpReLU, FinishedTopK, largest_codes
from lib.support.packed import can_pack

SHAPES = {"W_enc": (12, 5), "b_enc": (12,), "W_dec": (12, 5), "b_pre": (5,)}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def states(n: int, d: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def dense(codes: Codes, width: int) -> np.ndarray:
    """Codes as [n, width]; two entries of one latent in a row would be an error and fail here."""
    assert all(len(set(row)) == len(row) for row in codes.indices.tolist())
    return torch.zeros(len(codes.values), width).scatter(1, codes.indices, codes.values).numpy()


def reference(model: SparseAutoencoder, h: torch.Tensor) -> np.ndarray:
    """ReLU(TopK(W_enc (h - b_pre) + b_enc)) in float64, dense [n, width]."""
    W_enc, b_enc, b_pre = (t.double().numpy() for t in (model.W_enc, model.b_enc, model.b_pre))
    pre = (h.double().numpy() - b_pre) @ W_enc.T + b_enc
    kth = np.sort(pre, axis=1)[:, -model.k, None]
    return np.maximum(pre, 0) * (pre >= kth)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_encode_is_the_dense_formula(k):
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(k)), states(200)
    codes, expected = model.encode(h), reference(model, h)
    assert codes.indices.dtype == torch.int64
    assert codes.values.dtype == torch.float32
    assert codes.indices.shape == codes.values.shape == (200, k)
    np.testing.assert_allclose(dense(codes, 12), expected, rtol=0, atol=1e-5)
    for indices, values, row in zip(codes.indices, codes.values, expected, strict=True):
        assert set(indices[values > 0].tolist()) == set(np.flatnonzero(row).tolist())


def test_worked_codes():
    # pre-activations of h = (2, -1) with b_pre = (1, 0), so h - b_pre = (1, -1):
    #   latent 0: (1, 0) -> 1;  latent 1: (0, 1) -> -1;  latent 2: (1, -1) -> 2, + b_enc 0.5 = 2.5;  latent 3: -4
    # k = 3 selects latents 2, 0, 1; latent 1 is negative, so its code is 0.
    # h_hat = 2.5 * (0, 2) + 1 * (3, 0) + 0 + (1, 0) = (4, 5)
    model = SparseAutoencoder(
        W_enc=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [-4.0, 0.0]]),
        b_enc=torch.tensor([0.0, 0.0, 0.5, 0.0]),
        W_dec=torch.tensor([[3.0, 0.0], [9.0, 9.0], [0.0, 2.0], [9.0, 9.0]]),
        b_pre=torch.tensor([1.0, 0.0]),
        activation=FinishedTopK(3),
    )
    codes = model.encode(torch.tensor([[2.0, -1.0]]))
    assert codes.indices.tolist() == [[2, 0, 1]]
    assert codes.values.tolist() == [[2.5, 1.0, 0.0]]
    assert model.decode(codes).tolist() == [[4.0, 5.0]]


CENTRE = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.25])


@pytest.mark.parametrize("activation", [FinishedTopK(3), FinishedJumpReLU(3, torch.linspace(0, 1, 12))])
@pytest.mark.parametrize("centre", [torch.zeros(5), CENTRE])
def test_with_a_centre_states_are_scaled_first(activation, centre):
    model = SparseAutoencoder(**weights(), activation=activation, centre=centre)
    plain, h = SparseAutoencoder(**weights(), activation=activation), states(50) * 7
    x = (h - centre).double()
    x = (x * 5**0.5 / x.norm(dim=1, keepdim=True)).float()
    assert (model.scales, plain.scales) == (True, False)
    torch.testing.assert_close(model.normalize(h), x)
    assert plain.normalize(h) is h
    np.testing.assert_allclose(dense(model.encode(h), 12), dense(plain.encode(x), 12), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decode(model.encode(h)), plain.decode(plain.encode(x)))  # of x, not of h
    assert "scaled" in repr(model)
    with pytest.raises(ValueError, match=r"\(50, 4\).*\[n, 5\]"):
        model.normalize(h[:, :4])


def test_a_centre_is_kept_by_all_that_copies_and_by_files(tmp_path):
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(3), centre=CENTRE), states(30)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "half", "float16")
    loaded = SparseAutoencoder.load(tmp_path / "whole")
    for other in (loaded, model.to("cpu"), model.with_k(4).with_k(3)):
        assert torch.equal(other.centre, CENTRE)
        assert torch.equal(other.encode(h).values, model.encode(h).values)
    assert torch.equal(SparseAutoencoder.load(tmp_path / "half").centre, CENTRE)
    plain = SparseAutoencoder(**weights(), activation=FinishedTopK(3))
    assert model.identity != plain.identity


def test_a_centre_that_does_not_fit():
    with pytest.raises(ValueError, match=r"centre .*\(4,\).*\(5,\)"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(3), centre=torch.zeros(4))
    with pytest.raises(ValueError, match="centre"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(3), centre=CENTRE / 0)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_decode_is_the_dense_product(k):
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(k))
    codes = model.encode(states(50))
    expected = dense(codes, 12).astype(np.float64) @ model.W_dec.double().numpy() + model.b_pre.double().numpy()
    got = model.decode(codes)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([0.0, 1e-6, 1.0, 1e4]), st.floats(-3, 3))
def test_codes_are_never_negative_and_at_most_k_are_active(seed, k, scale, bias):
    model = SparseAutoencoder(**weights(seed) | {"b_enc": torch.full((12,), bias)}, activation=FinishedTopK(k))
    codes = model.encode(states(20, seed=seed) * scale)
    assert (codes.values >= 0).all()
    assert ((dense(codes, 12) > 0).sum(axis=1) <= k).all()
    assert np.isfinite(np.sqrt(codes.values.numpy())).all()


def test_all_negative_pre_activations_give_an_empty_code():
    model = SparseAutoencoder(**weights() | {"b_enc": torch.full((12,), -1e3)}, activation=FinishedTopK(4))
    codes = model.encode(states(3))
    assert codes.values.tolist() == [[0.0] * 4] * 3
    torch.testing.assert_close(model.decode(codes), model.b_pre.expand(3, 5))


@pytest.mark.parametrize("rows_at_once", [0, 1, 7, 40])
def test_chunks_change_nothing(monkeypatch, rows_at_once):
    # thresholds of whole chunks here; blocks of Top-K are those of `lib.sae.selection`
    model, h = SparseAutoencoder(**weights(), activation=FinishedJumpReLU(3, torch.full((12,), 0.5))), states(40)
    together = dense(model.encode(h), 12)
    sizes, largest = [], lib.sae.codes.largest_codes
    monkeypatch.setattr(lib.sae.codes, "_CHUNK", 12 * rows_at_once + 3)  # at least one row, whatever the width
    monkeypatch.setattr(lib.sae.codes, "largest_codes", lambda pre, m: sizes.append(len(pre)) or largest(pre, m))
    np.testing.assert_allclose(dense(model.encode(h), 12), together, rtol=0, atol=1e-5)
    assert max(sizes) == max(1, rows_at_once)
    assert sum(sizes) == 40


def test_neighbours_and_order_change_nothing():
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(3)), states(30)
    together = dense(model.encode(h), 12)
    alone = np.concatenate([dense(model.encode(row[None]), 12) for row in h])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
    np.testing.assert_allclose(dense(model.encode(h.flip(0)), 12)[::-1], together, rtol=0, atol=1e-5)
    np.testing.assert_allclose(dense(model.encode(torch.cat([h * 100, h])), 12)[30:], together, rtol=0, atol=1e-5)


def test_encode_changes_neither_the_states_nor_the_weights():
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(3)), states(10)
    before, copies = h.clone(), {name: tensor.clone() for name, tensor in model.tensors().items()}
    first, second = model.encode(h), model.encode(h)
    assert torch.equal(h, before)
    assert torch.equal(first.values, second.values)
    assert all(torch.equal(tensor, copies[name]) for name, tensor in model.tensors().items())


def test_no_states():
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3))
    codes = model.encode(torch.empty(0, 5))
    assert codes.indices.shape == codes.values.shape == (0, 3)
    assert model.decode(codes).shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_states_of_another_dtype_are_computed_with_in_float32(dtype):
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(3)), states(10).to(dtype)
    codes = model.encode(h)
    assert codes.values.dtype == torch.float32
    np.testing.assert_allclose(dense(codes, 12), reference(model, h), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 6), (5,), (1, 3, 5)])
def test_states_of_another_size(shape):
    with pytest.raises(ValueError, match=r"\[n, 5\]"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(3)).encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("b_enc", (11,)), ("b_enc", (12, 1)), ("W_dec", (5, 12)), ("W_dec", (12, 6)), ("b_pre", (12,)), ("W_enc", (60,))],
)
def test_shapes_that_do_not_fit(name, shape):
    with pytest.raises(ValueError, match=rf"{name} .*\({shape[0]},"):
        SparseAutoencoder(**weights() | {name: torch.zeros(shape)}, activation=FinishedTopK(3))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(name, bad):
    wrong = weights()
    wrong[name].view(-1)[-1] = bad
    with pytest.raises(ValueError, match=f"{name} .*NaN"):
        SparseAutoencoder(**wrong, activation=FinishedTopK(3))


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (13, ValueError), (2.0, TypeError)])
def test_bad_k(k, error):
    with pytest.raises(error, match=f"k is {k}"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(k))


def test_round_trip_in_float32_is_exact(tmp_path):
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3), metadata={"layer": 6, "note": "ü"})
    model.save(tmp_path / "sae")
    loaded = SparseAutoencoder.load(tmp_path / "sae")
    assert (loaded.width, loaded.d, loaded.k, loaded.metadata) == (12, 5, 3, {"layer": 6, "note": "ü"})
    assert all(torch.equal(tensor, loaded.tensors()[name]) for name, tensor in model.tensors().items())
    assert torch.equal(loaded.encode(states(9)).values, model.encode(states(9)).values)
    assert loaded.config == model.config
    assert repr(loaded) == "SparseAutoencoder(d=5, width=12, topk, k=3)"


def test_round_trip_in_float16_is_within_its_precision(tmp_path):
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3))
    model.save(tmp_path, "float16")
    for name, tensor in SparseAutoencoder.load(tmp_path).tensors().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.tensors()[name].half().float())
        torch.testing.assert_close(tensor, model.tensors()[name], rtol=2**-11, atol=1e-7)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.integers(0, 2**31), st.lists(st.sampled_from([0.0, 1e-42, 1e-6, 1.0, 1e6, 1e37]), min_size=12, max_size=12))
def test_in_int8_no_weight_is_off_by_more_than_half_a_step_of_its_row(seed, sizes):
    tensors = weights(seed)
    tensors["W_enc"] *= torch.tensor(sizes)[:, None]
    model = SparseAutoencoder(**tensors, activation=FinishedTopK(3))
    with TemporaryDirectory() as folder:
        model.save(folder, "int8")
        loaded = SparseAutoencoder.load(folder).tensors()
    for name, tensor in model.tensors().items():
        if name in ("b_enc", "b_pre"):
            assert torch.equal(loaded[name], tensor)
        else:
            step = tensor.abs().amax(dim=1, keepdim=True).double() / 127
            assert loaded[name].dtype == torch.float32
            assert ((loaded[name] - tensor.double()).abs() <= 0.501 * step + 2e-36).all()


def test_values_too_large_for_float16_are_not_saved(tmp_path):
    model = SparseAutoencoder(**weights() | {"b_pre": torch.full((5,), 1e5)}, activation=FinishedTopK(3))
    with pytest.raises(ValueError, match=r"b_pre .*float16"):
        model.save(tmp_path / "sae", "float16")
    assert not (tmp_path / "sae").exists()


def test_an_unknown_dtype_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="int4"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(3)).save(tmp_path / "sae", "int4")
    assert not (tmp_path / "sae").exists()


@pytest.fixture
def saved(tmp_path):
    SparseAutoencoder(**weights(), activation=FinishedTopK(3)).save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    return tmp_path, path


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:100], lambda data: b"", flip_last_byte])
def test_spoilt_weights_are_named(saved, spoil):
    folder, path = saved
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=path.name):
        SparseAutoencoder.load(folder)


def test_missing_weights_are_named(saved):
    folder, path = saved
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} .*missing"):
        SparseAutoencoder.load(folder)


def test_an_altered_manifest_is_named(saved):
    folder, _ = saved
    manifest = json.loads((folder / "sae.json").read_text())
    (folder / "sae.json").write_text(json.dumps(manifest | {"k": 4}))
    with pytest.raises(ValueError, match="checksum"):
        SparseAutoencoder.load(folder)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr(lib.sae.autoencoder, "FORMAT_VERSION", 2)
        SparseAutoencoder(**weights(), activation=FinishedTopK(3)).save(tmp_path)
    with pytest.raises(ValueError, match="version 2"):
        SparseAutoencoder.load(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        SparseAutoencoder.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"sae\.json"):
        SparseAutoencoder.load(tmp_path)


def test_to_keeps_everything():
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3), metadata={"a": 1})
    moved = model.to("cpu")
    assert moved.config == model.config
    assert all(torch.equal(tensor, moved.tensors()[name]) for name, tensor in model.tensors().items())


# jumprelu: a threshold for each latent


def jump(seed: int = 0, lowest: float = 0.0) -> SparseAutoencoder:
    threshold = lowest + 3 * torch.rand(12, generator=torch.Generator().manual_seed(seed))
    return SparseAutoencoder(**weights(seed), activation=FinishedJumpReLU(3, threshold))


def jump_reference(model: SparseAutoencoder, h: torch.Tensor) -> np.ndarray:
    """pre [pre > threshold] in float64, dense [n, width]."""
    W_enc, b_enc, b_pre, threshold = (
        t.double().numpy() for t in (model.W_enc, model.b_enc, model.b_pre, model.activation.threshold)
    )
    pre = (h.double().numpy() - b_pre) @ W_enc.T + b_enc
    return pre * (pre > threshold)


def test_worked_jumprelu_codes():
    # pre-activations of h = 2 with b_pre = 1, so h - b_pre = 1: 1, 2, 3 and -1; thresholds 1, 1.5, 3.5, 0:
    # 1 is not above 1; 2 is above 1.5; 3 is not above 3.5; -1 is not above 0. h_hat = 2 * 5 + 1 = 11
    model = SparseAutoencoder(
        W_enc=torch.tensor([[1.0], [2.0], [3.0], [-1.0]]),
        b_enc=torch.zeros(4),
        W_dec=torch.tensor([[9.0], [5.0], [9.0], [9.0]]),
        b_pre=torch.tensor([1.0]),
        activation=FinishedJumpReLU(1, torch.tensor([1.0, 1.5, 3.5, 0.0])),
    )
    codes = model.encode(torch.tensor([[2.0]]))
    assert (codes.indices.tolist(), codes.values.tolist()) == ([[1]], [[2.0]])
    assert model.decode(codes).tolist() == [[11.0]]
    assert model.config["activation"] == "jumprelu"
    assert repr(model) == "SparseAutoencoder(d=1, width=4, jumprelu, k=1)"


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True)  # in float32, a tie but for rounding may fall either way
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 12), st.sampled_from([0.0, 1.0, 30.0]))
def test_jumprelu_codes_are_the_dense_formula_whatever_the_chunks(seed, n, rows_at_once, lowest):
    model, h = jump(seed, lowest), states(n, seed=seed)
    expected = jump_reference(model, h)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.sae.codes, "_CHUNK", 12 * rows_at_once)
        codes = model.encode(h)
    assert codes.indices.dtype == torch.int64
    assert codes.values.dtype == torch.float32
    assert codes.values.shape == codes.indices.shape == (n, max(1, (expected > 0).sum(axis=1).max()))
    assert (codes.values >= 0).all()
    np.testing.assert_allclose(dense(codes, 12), expected, rtol=0, atol=1e-5)  # no latent twice, padding included
    np.testing.assert_allclose(
        model.decode(codes).numpy(), expected @ model.W_dec.double().numpy() + model.b_pre.numpy(), rtol=0, atol=1e-4
    )


def test_neighbours_change_no_jumprelu_code():
    model, h = jump(), states(30)
    together = dense(model.encode(h), 12)
    alone = np.concatenate([dense(model.encode(row[None]), 12) for row in h])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
    loud = torch.cat([h * 100, h, torch.zeros(3, 5)])  # the loud ones have most of the 12 latents
    assert model.encode(loud).values.shape[1] > model.encode(h).values.shape[1]
    np.testing.assert_allclose(dense(model.encode(loud), 12)[30:60], together, rtol=0, atol=1e-5)


def test_pooling_takes_no_notice_of_what_fills_up_the_codes(monkeypatch):
    model, h = jump(), states(30)
    monkeypatch.setattr(lib.sae.codes, "_CHUNK", 12 * 4)
    indices, values = (tensor.numpy() for tensor in model.encode(h))
    offsets = np.array([0, 10, 10, 30])
    for pooling, reduce in (("sum", np.sum), ("count", lambda z, axis: (z > 0).sum(axis))):
        expected = [reduce(jump_reference(model, h)[a:b], axis=0) for a, b in ((0, 10), (10, 10), (10, 30))]
        np.testing.assert_allclose(
            pool(indices, values, offsets, 12, pooling).toarray(), expected, rtol=1e-5, atol=1e-5
        )


def test_nothing_above_its_threshold_and_no_states():
    model = jump(lowest=1e3)
    codes = model.encode(states(3))
    assert (codes.values.tolist(), codes.indices.shape) == ([[0.0]] * 3, (3, 1))
    torch.testing.assert_close(model.decode(codes), model.b_pre.expand(3, 5))
    codes = model.encode(torch.empty(0, 5))
    assert codes.indices.shape == codes.values.shape == (0, 1)


def test_nan_states_are_not_silently_empty():
    assert jump().encode(torch.full((1, 5), torch.nan)).values.isnan().all()


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (torch.zeros(11), r"threshold .*\(11,\).*\(12,\)"),
        (torch.full((12,), torch.inf), "threshold .*NaN"),
        (torch.full((12,), -0.5), "threshold .*-0.5"),
    ],
)
def test_bad_thresholds(threshold, message):
    with pytest.raises(ValueError, match=message):
        SparseAutoencoder(**weights(), activation=FinishedJumpReLU(3, threshold))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_round_trip_with_thresholds(tmp_path, dtype):
    model = jump()
    model.save(tmp_path, dtype)
    loaded = SparseAutoencoder.load(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.activation.threshold, model.activation.threshold)  # in float32 either way
    if dtype == "float32":
        assert torch.equal(loaded.encode(states(9)).values, model.encode(states(9)).values)
    moved = loaded.to("cpu")
    assert torch.equal(moved.activation.threshold, model.activation.threshold)


def test_the_configuration_of_a_plain_autoencoder():
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3), metadata={"a": 1})
    assert model.config == {"activation": "topk", "d": 5, "width": 12, "k": 3, "metadata": {"a": 1}}
    assert list(model.tensors()) == ["W_enc", "b_enc", "W_dec", "b_pre"]


@pytest.mark.parametrize("name", ["topk", "gated"])
def test_weights_and_configuration_that_differ(tmp_path, name):
    model = jump()
    model.weight_writer()(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=name):
        SparseAutoencoder.from_weights(tmp_path / "a.safetensors", model.config | {"activation": name})


def test_another_k():
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(3), metadata={"a": 1}), states(20)
    for k in (1, 5, np.int64(12)):
        other = model.with_k(k)
        assert (other.k, other.metadata, type(other.k)) == (k, {"a": 1}, int)
        np.testing.assert_allclose(dense(other.encode(h), 12), reference(other, h), rtol=0, atol=1e-5)
    assert model.k == 3
    with pytest.raises(ValueError, match=r"k is 13.* 12"):
        model.with_k(13)
    with pytest.raises(ValueError, match="Thresholds"):
        jump().with_k(2)


@pytest.mark.parametrize("groups", [1, 3])
def test_codes_of_given_pre_activations_are_those_of_the_search(groups):
    model, h = SparseAutoencoder(**weights(), activation=FinishedTopK(6, groups)), states(20)
    pre = ((h - model.b_pre) @ model.W_enc.T + model.b_enc).requires_grad_()
    codes = largest_codes(pre, 6, groups)
    codes.values.sum().backward()
    expected = dense(model.encode(h), 12)
    np.testing.assert_allclose(dense(Codes(codes.indices, codes.values.detach()), 12), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(pre.grad, expected > 0)


def test_the_identity_is_computed_once():
    model = SparseAutoencoder(**weights(), activation=FinishedTopK(3))
    assert model.identity is model.identity
    assert model.to("cpu") is model
    assert model.with_k(2).identity == model.identity | {"k": 2}
    assert SparseAutoencoder(**weights(seed=1), activation=FinishedTopK(3)).identity != model.identity


def test_what_finds_other_codes_with_the_same_weights_has_another_identity():
    activations = FinishedTopK(3), FinishedPursuit(3), FinishedBoosted(3)
    identities = [SparseAutoencoder(**weights(), activation=activation).identity for activation in activations]
    assert all(one != other for one, other in itertools.combinations(identities, 2))


# What the search in bfloat16 makes of the weights


@pytest.fixture
def roundings(monkeypatch) -> list[int]:
    """Search in bfloat16; return a list to which the width is added whenever an encoder is rounded."""
    widths, append = [], lib.sae.selection._append

    def counted(rows, column, dtype):
        if isinstance(column, torch.Tensor):
            widths.append(len(rows))
        return append(rows, column, dtype)

    monkeypatch.setattr(lib.sae.codes, "native_dtype", lambda _: "bfloat16")
    monkeypatch.setattr(lib.sae.selection, "_append", counted)
    return widths


def wide(k: int = 4, groups: int = 2) -> SparseAutoencoder:
    W_enc = torch.randn(512, 24, generator=torch.Generator().manual_seed(3))
    return SparseAutoencoder(W_enc, torch.zeros(512), W_enc, torch.zeros(24), FinishedTopK(k, groups))


def same(codes: Codes, others: Codes) -> bool:
    return torch.equal(codes.indices, others.indices) and torch.equal(codes.values, others.values)


def test_the_encoder_is_rounded_once(roundings, tmp_path):
    model, h = wide(), states(40, 24)
    codes = model.encode(h)
    assert all(same(model.encode(h[i : i + 3]), Codes(*(part[i : i + 3] for part in codes))) for i in range(0, 40, 3))
    for other in (model.with_k(2), model.to("cpu")):
        other.encode(h)
    with ThreadPoolExecutor(4) as threads:
        assert all(same(other, codes) for other in threads.map(model.encode, [h] * 8))
    once = [256, 256] * (1 + can_pack())  # for long input, and for short if that has another form
    assert roundings == once
    model.save(tmp_path)
    for n, other in enumerate(
        (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), SparseAutoencoder.load(tmp_path))
    ):
        assert same(other.encode(h), codes)
        assert roundings == once + [256, 256] * (n + 1)
    assert len(pickle.dumps(model)) == len(pickle.dumps(wide()))


@pytest.mark.parametrize("n", [0, 1, 5, 16])
def test_the_form_for_short_input_changes_nothing(roundings, monkeypatch, n):
    h = states(n, 24)
    codes = wide().encode(h)
    monkeypatch.setattr(lib.sae.selection, "can_pack", lambda: False)
    assert same(wide().encode(h), codes)


@pytest.mark.parametrize("n", [5, 40])
def test_weights_that_change_are_rounded_again(roundings, n):
    weight = torch.nn.Parameter(torch.randn(512, 24))
    model, h = SparseAutoencoder(weight, torch.zeros(512), weight, torch.zeros(24), FinishedTopK(4)), states(n, 24)
    before = model.encode(h)
    optimizer = torch.optim.SGD([weight], 1.0)
    weight.sum().backward()
    optimizer.step()
    model.b_enc.add_(torch.arange(512) / 100)
    fresh = SparseAutoencoder(
        **{name: part.clone() for name, part in model.tensors().items()}, activation=FinishedTopK(4)
    )
    assert same(model.encode(h), fresh.encode(h))
    assert not same(model.encode(h), before)
    assert roundings == [512] * 3
    with pytest.raises(AttributeError):
        model.W_enc = weight


@torch.inference_mode()
def test_weights_made_in_inference_mode(roundings):
    model, h = wide(), states(5, 24)
    assert same(model.encode(h), model.encode(h))
    assert roundings == [256, 256]


FORK = """
import multiprocessing, torch
import lib.sae.codes
from lib.sae.autoencoder import SparseAutoencoder
from lib.sae.codes import FinishedTopK

lib.sae.codes.native_dtype = lambda _: "bfloat16"
torch.set_num_threads(2)  # with one, there is nothing to wait for
W_enc, states = torch.randn(20_000, 64), torch.randn(600, 64)
model = SparseAutoencoder(W_enc, torch.zeros(20_000), W_enc, torch.zeros(64), FinishedTopK(8, groups=2))

def encode():
    return [part for n in (600, 5) for part in model.encode(states[:n])]

def in_child(equal):
    equal.value = all(map(torch.equal, encode(), expected))

expected = encode()
context = multiprocessing.get_context("fork")
equal = context.Value("b", False)
child = context.Process(target=in_child, args=[equal], daemon=True)
child.start()
child.join(30)
assert equal.value, child.exitcode
"""


@pytest.mark.slow
def test_a_fork_of_a_process_that_has_encoded_encodes(fresh):
    run = fresh.run(FORK)
    assert run.returncode == 0, run.stderr
