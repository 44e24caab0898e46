"""Autoencoders joined into one with a group of latents for each: the same codes side by side, in every form."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conversion import there_and_back
from test_sae import dense, states, weights

from lib.__main__ import main
from lib.bm25.weighting import PAPER, BM25Constants
from lib.encode.encoder import TokenEncoder
from lib.interop.conversion import to_sparse_encoder
from lib.interop.losses import TokenReconstructionLoss
from lib.interop.modules import SparseAutoEncoderTokenEncoder
from lib.latent_terms import LatentTerms, join_models
from lib.sae.autoencoder import SparseAutoencoder, join, part_of
from lib.sae.boosting import boost
from lib.sae.codes import FinishedJumpReLU, FinishedTopK
from lib.sae.foreign import read_checkpoint, write_saelens

pytestmark = pytest.mark.usefixtures("one_thread")


def parts_of(n: int, k: int = 3) -> list[SparseAutoencoder]:
    return [
        SparseAutoencoder(**weights(seed), activation=FinishedTopK(k), metadata={"seed": seed}) for seed in range(n)
    ]


def other_seed(sae: SparseAutoencoder, **changes) -> SparseAutoencoder:
    """The same autoencoder with latents of its own."""
    tensors = {name: tensor.roll(1, 0) * 1.25 for name, tensor in sae.tensors().items()}
    return SparseAutoencoder(**tensors, activation=FinishedTopK(sae.k), **changes)


@given(n=st.integers(2, 4), k=st.integers(1, 12), scale=st.sampled_from([0.01, 1.0, 100.0]), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_codes_are_those_of_the_parts_side_by_side(n, k, scale, seed):
    parts, h = parts_of(n, k), states(20, seed=seed) * scale
    joined = join(parts)
    codes, each = joined.encode(h), [part.encode(h) for part in parts]
    assert (joined.width, joined.k, joined.activation.groups) == (12 * n, k * n, n)
    expected = np.concatenate([dense(part_codes, 12) for part_codes in each], axis=1)
    np.testing.assert_allclose(dense(codes, 12 * n), expected, rtol=0, atol=2e-6 * max(1, scale) * 12)
    mean = torch.stack([part.decode(part_codes) for part, part_codes in zip(parts, each, strict=True)]).mean(dim=0)
    torch.testing.assert_close(joined.decode(codes), mean, rtol=1e-4, atol=1e-4 * max(1, scale))
    last = part_of(joined, n - 1)
    np.testing.assert_allclose(dense(last.encode(h), 12), expected[:, -12:], rtol=0, atol=2e-6 * max(1, scale) * 12)
    torch.testing.assert_close(last.W_dec, parts[-1].W_dec)


def test_worked_codes():
    # d = 1, h = 2: latents 0 and 1 have 2 - 1 + 0 = 1 and 2 (2 - 1) = 2, latents 2 and 3 have 3 (2 - 3) + 9 = 6 and
    # -(2 - 3) = 1. One of each pair: 2 and 6. h_hat = mean of 2 * 5 + 1 = 11 and 6 * 2 + 3 = 15
    first = SparseAutoencoder(
        *(torch.tensor(t) for t in ([[1.0], [2.0]], [0.0, 0.0], [[7.0], [5.0]], [1.0])), activation=FinishedTopK(1)
    )
    second = SparseAutoencoder(
        *(torch.tensor(t) for t in ([[3.0], [-1.0]], [9.0, 0.0], [[2.0], [7.0]], [3.0])), activation=FinishedTopK(1)
    )
    joined = join([first, second])
    codes = joined.encode(torch.tensor([[2.0]]))
    assert (codes.indices.tolist(), codes.values.tolist()) == ([[1, 2]], [[2.0, 6.0]])
    assert joined.decode(codes).tolist() == [[13.0]]


def test_another_k_is_divided_among_the_parts():
    parts, h = parts_of(2, 6), states(30)
    few = join(parts).with_k(4)
    expected = np.concatenate([dense(part.with_k(2).encode(h), 12) for part in parts], axis=1)
    np.testing.assert_allclose(dense(few.encode(h), 24), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="groups is 2, k 5"):
        few.with_k(5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        part_of(few, 2)
    with pytest.raises(ValueError, match="boosted"):
        part_of(boost(parts), 0)
    assert part_of(parts[0], 0).identity == parts[0].identity


def test_groups_are_kept_by_all_that_copies_and_by_files(tmp_path):
    joined = join(parts_of(2))
    joined.save(tmp_path)
    for other in (joined.to("cpu"), joined.with_k(6), SparseAutoencoder.load(tmp_path)):
        assert other.config == joined.config
        assert torch.equal(other.encode(states(9)).indices, joined.encode(states(9)).indices)
    assert (joined.config["activation"], joined.config["groups"]) == ("topk", 2)
    assert repr(joined) == "SparseAutoencoder(d=5, width=24, topk, k=6, groups=2)"
    assert joined.metadata == {"parts": [{"seed": 0}, {"seed": 1}]}


@pytest.mark.parametrize(("groups", "k"), [(5, 5), (2, 3), (0, 2)])
def test_groups_that_do_not_fit(groups, k):
    with pytest.raises(ValueError, match=f"groups is {groups}"):
        SparseAutoencoder(**weights(), activation=FinishedTopK(k, groups))


def test_parts_that_cannot_be_joined():
    (part,) = parts_of(1)
    scaled = SparseAutoencoder(**weights(), activation=FinishedTopK(3), centre=torch.zeros(5))
    jump = SparseAutoencoder(**weights(), activation=FinishedJumpReLU(3, torch.ones(12)))
    for parts in ([], [part], [part, part.with_k(2)], [scaled, scaled], [jump, jump], [join([part, part])] * 2):
        with pytest.raises(ValueError, match="two or more"):
            join(parts)
    layers = [
        SparseAutoencoder(
            **weights(), activation=FinishedTopK(3), metadata={"run": {"states": {"encoder": {"layer": layer}}}}
        )
        for layer in (1, 2)
    ]
    with pytest.raises(ValueError, match="different retrievers"):
        join(layers)
    assert join([layers[0]] * 2).metadata["run"] == {"states": {"encoder": {"layer": 1}}}


# with a retriever


@pytest.fixture
def models(tiny_encoder, tiny_sae) -> list[LatentTerms]:
    return [LatentTerms(tiny_encoder, sae, bm25=BM25Constants(1, 0)) for sae in (tiny_sae, other_seed(tiny_sae))]


def test_terms_are_those_of_the_parts_side_by_side(models):
    joined = join_models(models)
    expected = sp.hstack([model.encode_documents(TEXTS) for model in models]).toarray()
    np.testing.assert_allclose(joined.encode_documents(TEXTS).toarray(), expected, rtol=1e-4, atol=1e-4)
    assert joined.bm25 == PAPER
    few = join_models(models, 4)
    assert (few.sae.k, few.encode_documents(TEXTS).nnz < joined.encode_documents(TEXTS).nnz) == (4, True)
    plain = SparseAutoencoder(**joined.sae.tensors(), activation=FinishedTopK(joined.sae.k))
    assert LatentTerms(joined.encoder, plain).identity != joined.identity


def test_models_that_cannot_be_joined(models, sentence_folder):
    other = LatentTerms(TokenEncoder(sentence_folder, layer=1, dtype="float32"), models[1].sae)
    for changed in (other, LatentTerms(models[1].encoder, models[1].sae, phi="log1p")):
        with pytest.raises(ValueError, match="models differ"):
            join_models([models[0], changed])


@pytest.mark.slow
def test_a_sparse_encoder_has_groups_too(models, tmp_path):
    model = join_models(models)
    back = there_and_back(model)
    assert back.identity == model.identity
    coder = to_sparse_encoder(model)[1]
    tokens = states(20, 32)
    values, indices = coder.encode_tokens(tokens)
    actual = torch.zeros(20, 128).scatter(1, indices, values)
    np.testing.assert_allclose(actual, dense(model.sae.encode(tokens), 128), rtol=1e-5, atol=1e-4)
    assert coder.get_config_dict()["groups"] == 2
    coder.save(tmp_path)
    loaded = SparseAutoEncoderTokenEncoder.load(str(tmp_path))
    assert torch.equal(loaded.encode_tokens(tokens)[1], indices)
    torch.testing.assert_close(loaded.encode_tokens(tokens, 2)[0], model.sae.with_k(2).encode(tokens).values)
    read = read_checkpoint(tmp_path)
    assert (read.activation.groups, read.k) == (2, model.sae.k)
    with pytest.raises(ValueError, match=r"k is 3.*groups=2"):
        loaded({"token_embeddings": tokens}, max_active_dims=3)
    for groups, variant in ((3, "standard"), (2, "jumprelu")):
        with pytest.raises(ValueError, match=f"groups is {groups}"):
            SparseAutoEncoderTokenEncoder(32, 64, 6, variant, groups=groups)


def test_a_module_with_groups_is_trained(models):
    encoder = to_sparse_encoder(join_models(models))
    encoder[1].frozen = False
    for weight in encoder[1].parameters():
        weight.requires_grad_(True)
    losses = TokenReconstructionLoss(encoder)([encoder.preprocess(["the cat sat on a mat", "a dog"])])
    losses["fvu"].backward()
    assert encoder[1].W_enc.grad.isfinite().all()
    assert all(part.any() for part in encoder[1].W_enc.grad.chunk(2, dim=1))


def test_saelens_has_no_groups(tmp_path):
    with pytest.raises(ValueError, match="groups"):
        write_saelens(join(parts_of(2)), tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


@pytest.mark.slow
def test_the_join_command(models, tmp_path, monkeypatch, capsys):
    folders = [tmp_path / "a", tmp_path / "b"]
    for model, folder in zip(models, folders, strict=True):
        model.save(folder)

    def run(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["lib", "join", *map(str, arguments)])
        main()

    run(*folders, tmp_path / "joined", "--k", 4, "--stored", "float16")
    assert f"is written to {tmp_path / 'joined'}" in capsys.readouterr().out
    loaded_model = LatentTerms.load(tmp_path / "joined", dtype="float32")
    assert (loaded_model.sae.width, loaded_model.sae.k, loaded_model.sae.activation.groups) == (128, 4, 2)
    for name, tensor in join_models(models, 4).sae.tensors().items():
        assert torch.equal(loaded_model.sae.tensors()[name], tensor.half().float())
    run(*folders, tmp_path / "without", "--no-special-tokens")
    without = LatentTerms.load(tmp_path / "without", dtype="float32")
    assert (without.encoder.special_tokens, loaded_model.encoder.special_tokens) == (False, True)
    assert without.encoder.identity == models[0].encoder.identity | {"special_tokens": False}
    assert without.encode_documents(["dog"]).nnz < join_models(models).encode_documents(["dog"]).nnz
    run(*folders, tmp_path / "short", "--max-length", 5)
    short = LatentTerms.load(tmp_path / "short", dtype="float32")
    assert short.encoder.identity == models[0].encoder.identity | {"max_length": 5}
    for arguments, message in (
        ((*folders, tmp_path / "joined"), "FileExistsError: .* holds a model; give another folder"),
        ((folders[0], tmp_path / "c"), "ValueError: The parts are .*; give two or more"),
        ((*folders, tmp_path / "c", "--k", 5), "ValueError: groups is 2, k 5"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments)
    assert not (tmp_path / "c").exists()
