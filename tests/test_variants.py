"""What holds for every way to train an autoencoder. A new entry of `ACTIVATIONS` is checked as it stands.

`CHECKS` are functions of a spec, such as "ortsae:chunk=7"; `tests/test_recipes.py` runs them on the toy of
CONTRIBUTING.md.
"""

import json
from dataclasses import replace

import pytest
import torch
from test_kernels import BATCHES, FLOAT64, draw_problem
from test_trainer import StopAt, digest, sparse_states

import lib.sae.activations.pursuit
from lib.encode.states import StoredStates
from lib.sae.activations import ACTIVATIONS, activation_of, spec_of
from lib.sae.activations.afa import up_to_the_norm
from lib.sae.activations.choice import zipf_shares
from lib.sae.activations.kron import products
from lib.sae.activations.ortsae import OrtSAE
from lib.sae.activations.pursuit import pursue
from lib.sae.activations.subspace import Subspace
from lib.sae.activations.topk import TopK
from lib.sae.autoencoder import SparseAutoencoder, join
from lib.sae.boosting import Residuals, boost
from lib.sae.foreign import write_saelens
from lib.sae.kernels import Weights, loss_and_gradients, reference_loss, unexplained
from lib.sae.trainer import TrainingStopped, train
from lib.sae.training import NORMALISATIONS, Normalisation, TrainableAutoencoder, TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT32 = torch.float32
WIDTH, D, K = 32, 8, 4
SETTINGS = [
    "kron:m=2:n=8",
    "gated:coefficient=3",
    "matryoshka:widths=3,20",
    "ortsae:chunk=7",
    "ortsae:chunk=32:coefficient=3",
    "jumprelu:bandwidth=1.5",
    "variational:coefficient=0.01:noise=0.1",
    "endtoend:coefficient=1",
]
FAST = ("topk", "batchtopk", "jumprelu")  # the others are checked by `make test` only
SPECS = [pytest.param(spec, marks=() if spec in FAST else pytest.mark.slow) for spec in (*ACTIVATIONS, *SETTINGS)]


def config_of(spec: str, **changes) -> TrainingConfig:
    settings = {"epochs": 4, "batch_tokens": 128, "learning_rate": 1e-2, "dead_tokens": 300, "buffer_batches": 3}
    return TrainingConfig(WIDTH, K, activation=spec, **settings | changes)


def problem(spec: str, kind: str, n: int = 12):
    """Random states, and weights of the shapes that the activation has, near where it starts; all in float64."""
    states, noise, mean = draw_problem(7, n, D, WIDTH, kind)
    activation = activation_of(spec, WIDTH if kind == "k = width" else K)
    initial = activation.initial(states - mean, noise.W_dec, mean)
    weights = [noise.W_enc, noise.b_enc, noise.W_dec, noise.b_pre]
    if initial.W_enc.shape != noise.W_enc.shape:
        weights[:2] = initial.W_enc, initial.b_enc
    return states, activation, Weights(*weights, initial.extra), mean


def texts_of(states: torch.Tensor, length: int = 24) -> StoredStates:
    """States as a source that knows where texts end; at 24 tokens, the ends of batches of 128 cut texts."""
    return StoredStates([states], lengths=[length] * -(-len(states) // length))


def check_gradients(spec: str) -> None:
    """Loss and every gradient are those of autograd on the dense form, in float64."""
    for kind in BATCHES:
        for share in (0, 3):
            try:
                states, activation, weights, mean = problem(spec, kind)
            except ValueError:
                assert kind == "one token"  # no threshold to start from
                continue
            dead = torch.arange(WIDTH) % 4 < share
            activation = activation.at(5, torch.arange(len(states)) // 5)
            step = loss_and_gradients(states, weights, activation, mean, dead, 1 / 32, FLOAT64)
            trained = [tensor for tensor in weights if tensor is not None]
            leaves = [tensor.clone().requires_grad_() for tensor in trained]
            loss = reference_loss(states, Weights(*leaves), activation, mean, dead, 1 / 32)
            torch.testing.assert_close(step.fvu + step.auxk / 32 + step.penalty, loss.detach(), rtol=1e-9, atol=1e-9)
            expected = torch.autograd.grad(loss, leaves, allow_unused=True)
            for name, gradient, wanted in zip(Weights._fields, step.gradients, expected, strict=False):
                if wanted is None or gradient is None:
                    assert wanted is None or not wanted.any(), name
                    continue
                if kind == "twin latents" and name != "b_pre":  # which of the twins has their gradient is arbitrary
                    continue
                torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-9, msg=lambda text, n=name: n + text)


def check_what_is_active(spec: str) -> None:
    """The activations of a step are those of the dense form."""
    states, activation, weights, mean = problem(spec, "plain", n=40)
    activation = activation.at(5, torch.arange(40) // 7)
    step = loss_and_gradients(states, weights, activation, mean, torch.zeros(WIDTH, dtype=torch.bool), 0.0, FLOAT64)
    codes, _ = activation.dense(states - weights.b_pre, weights)
    actual = torch.zeros(40, WIDTH, dtype=FLOAT64).scatter_add_(1, step.indices, step.values)
    torch.testing.assert_close(actual, codes[-1], rtol=1e-12, atol=1e-12)


def check_invariants(spec: str) -> None:
    """After each step decoder rows have norm 1, weights are finite, and nothing is left to constrain."""
    normalise, steps = TrainableAutoencoder.normalise_decoder, []

    def checked(model: TrainableAutoencoder) -> None:
        normalise(model)
        torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(WIDTH))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        model.activation.constrain(model.weights())
        for parameter, old in zip(model.parameters(), before, strict=True):
            assert torch.isfinite(parameter).all()
            torch.testing.assert_close(parameter.detach(), old)
        steps.append(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainableAutoencoder, "normalise_decoder", checked)
        train(texts_of(sparse_states(512)), config_of(spec, epochs=2))
    assert len(steps) in (0, 8)  # 0: not trained


def check_it_learns(spec: str) -> None:
    """The finished autoencoder reconstructs, with about k latents a token."""
    states = sparse_states(1_024)
    sae = train(texts_of(states), config_of(spec, epochs=8))
    codes = sae.encode(states)
    left = (states - sae.decode(codes)).square().sum() / (states - states.mean(dim=0)).square().sum()
    assert left < 0.6
    assert 0.3 * K < (codes.values > 0).sum().item() / len(states) < 2 * K


def check_resuming(spec: str, tmp_path) -> None:
    """A run that is stopped twice ends at the same bits."""
    states, config, rows, again = texts_of(sparse_states(512)), config_of(spec), [], []
    uninterrupted = train(states, config, log=rows.append)
    for n in (1, 8):
        try:
            train(states, config, checkpoints=tmp_path, every=1e9, stopped=StopAt(n))
        except TrainingStopped:
            continue
    resumed = train(states, config, checkpoints=tmp_path, log=again.append)
    assert digest(resumed) == digest(uninterrupted)
    assert again == rows
    assert resumed.metadata == uninterrupted.metadata


def check_saving(spec: str, tmp_path) -> None:
    """What is loaded is what was saved: weights, settings, codes; in float16 the codes are near."""
    sae = train(texts_of(sparse_states(512)), config_of(spec, epochs=1))
    sae.save(tmp_path / "a")
    loaded, fresh = SparseAutoencoder.load(tmp_path / "a"), sparse_states(64)
    assert (repr(loaded), loaded.identity) == (repr(sae), sae.identity)
    assert loaded.metadata == json.loads(json.dumps(sae.metadata))
    for one, other in zip(sae.encode(fresh), loaded.encode(fresh), strict=True):
        assert torch.equal(one, other)
    sae.save(tmp_path / "b", "float16")
    assert SparseAutoencoder.load(tmp_path / "b").encode(fresh).indices.shape[0] == 64


def dense(sae: SparseAutoencoder, states: torch.Tensor) -> torch.Tensor:
    codes = sae.encode(states)
    assert (codes.values >= 0).all()
    assert codes.values.dtype == torch.float32
    assert all(len(set(row)) == len(row) for row in codes.indices.tolist())
    return torch.zeros(len(states), sae.width).scatter_(1, codes.indices, codes.values)


def check_batches(spec: str) -> None:
    """The codes of a token do not depend on its neighbours, their number or their order."""
    sae, states = train(texts_of(sparse_states(512)), config_of(spec, epochs=1)), sparse_states(40)
    together = dense(sae, states)
    assert (together > 0).any()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    loud = torch.cat([states, 1_000 * states[:5]])
    for other in (
        torch.cat([dense(sae, state[None]) for state in states]),
        dense(sae, states[order])[order.argsort()],
        dense(sae, loud)[:40],
    ):
        torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-5)


def check_normalisation(spec: str) -> None:
    """What is saved does on states what the trained weights do on normalised ones."""
    states = 3 * sparse_states(256)
    for kind in NORMALISATIONS:
        normalise = Normalisation.of(states, kind)
        model = TrainableAutoencoder.initial(normalise(states), config_of(spec, normalisation=kind))
        model.b_pre.data += 0.1
        saved, plain = (model.finished(each, 0.5) for each in (normalise, Normalisation(torch.zeros(16), 1.0)))
        torch.testing.assert_close(dense(saved, states), dense(plain, normalise(states)), rtol=1e-3, atol=1e-3)


def check_spec(spec: str) -> None:
    """A spec names one activation, and the configuration holds its shortest form; k is checked."""
    activation = activation_of(spec, K)
    assert activation_of(spec_of(spec, activation), K) == activation
    assert config_of(spec).activation == spec_of(spec, activation)
    with pytest.raises(ValueError, match="k is 33"):
        replace(config_of(spec), k=33)


CHECKS = [function for name, function in globals().items() if name.startswith("check_")]


def run_check(check, spec: str, tmp_path) -> None:
    check(spec, tmp_path) if check.__code__.co_argcount == 2 else check(spec)


def test_fast_ones_are_there():
    assert set(FAST) <= ACTIVATIONS.keys()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", SPECS)
def test_every_variant(spec, check, tmp_path):
    run_check(check, spec, tmp_path)


def test_the_penalty_of_ortsae_by_hand():
    # rows at 0, 60 and 180 degrees: cosines .5 (1, 2), -1 (1, 3), -.5 (2, 3): the largest are .5, .5, -.5
    W_dec = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [-1.0, 0.0]])
    assert OrtSAE(1, coefficient=3.0).overlap(W_dec).item() == pytest.approx(3 * (0.25 + 0.25 + 0) / 3)
    assert OrtSAE(1, chunk=1).overlap(W_dec).item() == 0
    chunks = [torch.cat(OrtSAE(2, chunk=8).at(step).chunks(torch.zeros(20, 1))) for step in (0, 0, 1)]
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[0], chunks[2])
    assert torch.equal(chunks[2].sort().values, torch.arange(20))


def nearest(sae: SparseAutoencoder) -> float:
    """The mean cosine of a row of the decoder with the row nearest to it."""
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1)
    return (rows @ rows.T).fill_diagonal_(0).amax(dim=1).mean().item()


def test_ortsae_keeps_directions_apart():
    states = sparse_states(512)
    assert nearest(train(states, config_of("ortsae:coefficient=1"))) < nearest(train(states, config_of("topk"))) - 0.02


def test_the_loss_of_matryoshka_is_the_mean_over_its_prefixes():
    states, activation, weights, mean = problem("matryoshka:widths=3,20", "plain", n=40)
    step = loss_and_gradients(states, weights, activation, mean, torch.zeros(WIDTH, dtype=torch.bool), 0.0, FLOAT64)
    z = torch.zeros(40, WIDTH, dtype=FLOAT64).scatter_add_(1, step.indices, step.values)
    parts = [z[:, :m] @ weights.W_dec[:m] + weights.b_pre for m in (3, 20, WIDTH)]
    torch.testing.assert_close(step.fvu, sum(unexplained(states, part, mean) for part in parts) / 3)
    assert activation_of("matryoshka", 2).bounds(32) == [2, 4, 8, 16, 32]
    assert activation_of("matryoshka", 1).bounds(3) == [1, 3]


@pytest.mark.slow
def test_a_prefix_of_matryoshka_reconstructs_better_than_one_of_topk():
    states, left = sparse_states(1_024), []
    for spec in ("matryoshka:widths=8", "topk"):
        sae = train(states, config_of(spec, epochs=8))
        codes = sae.encode(states)
        first = codes._replace(values=codes.values * (codes.indices < 8))
        left.append(unexplained(states, sae.decode(first), states.mean(dim=0)).item())
    assert left[0] < left[1] - 0.05


def test_the_subspace_has_the_share_of_the_variance():
    # variances 8, 1, 1 (times 1/2): the first direction has .8, the first two .9, so that .85 needs two
    centred = torch.diag(torch.tensor([8.0, 1.0, 1.0]).sqrt()).repeat(2, 1)
    centred[3:] *= -1
    directions, mean = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
    for share, rank in ((0.5, 1), (0.85, 2), (1.0, 3)):
        weights = Subspace(2, share=share).initial(centred, directions, mean)
        assert torch.linalg.matrix_rank(weights.W_dec, atol=1e-4) == rank
        torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(10))
        assert torch.equal(weights.W_enc, weights.W_dec)
        assert weights.W_enc.data_ptr() != weights.W_dec.data_ptr()


def test_zipf_shares():
    # 1, 1/2, 1/3, 1/4 sum to 25/12; for k = 1 shares are 12/25 of them
    torch.testing.assert_close(zipf_shares(4, 1, 0.0), torch.tensor([12, 6, 4, 3], dtype=FLOAT64) / 25)
    # for k = 3 the first is cut off at 1: of the 2 that are left, 1/2 has 12/13 and 1/3 8/13, 1/4 has 6/13
    torch.testing.assert_close(zipf_shares(4, 3, 0.0), torch.tensor([13, 12, 8, 6], dtype=FLOAT64) / 13)
    assert zipf_shares(1_000, 16, 10.0).sum().item() == pytest.approx(16)


def test_aux_zipf_loss_is_for_those_that_are_rarer_than_their_rank():
    # shares 12/25, 6/25, 4/25, 3/25: idle after 10 / share = 20.8, 41.7, 62.5, 83.3 tokens, by rank of silence
    activation = activation_of("mutualchoice:offset=0", 1)
    assert activation.idle(torch.tensor([84, 5, 61, 40]), 1_000).tolist() == [True, False, False, False]
    assert activation.idle(torch.tensor([83, 5, 64, 43]), 1_000).tolist() == [False, False, True, True]
    assert activation.idle(torch.tensor([83, 5, 61, 40]), 60).tolist() == [True, False, True, False]
    assert activation_of("topk", 1).idle(torch.tensor([83, 59]), 60).tolist() == [True, False]


def test_feature_choice_gives_each_latent_its_number_of_tokens():
    # n k = 10 among 4 latents by Zipf's law: 4.8, 2.4, 1.6, 1.2, rounded; all pre-activations are above 0
    generator = torch.Generator().manual_seed(0)
    weights = Weights(torch.rand(4, 3, generator=generator), torch.zeros(4), None, None)
    choice = activation_of("featurechoice:offset=0", 1).choose(torch.rand(10, 3, generator=generator), weights, FLOAT32)
    assert choice.indices[choice.mask].bincount().tolist() == [5, 2, 2, 1]


def test_top_afa_by_hand():
    # squares 9, 16 + 9, ... of z = 4, 3, 2, 1: lengths 4, 5, 5.39, 5.48. Nearest to 5.1 is 5, to 0.1 is 4, to 9 is 5.48
    z = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(3, 4)
    kept = up_to_the_norm(z, torch.tensor([5.1, 0.1, 9.0]))
    assert kept.tolist() == [[4, 3, 0, 0], [4, 0, 0, 0], [4, 3, 2, 1]]


def test_products_of_factors_by_hand():
    # one head, p = (4, -1), q = (9, 0, 1): products 36, 0, 4 and nothing of the negative factor
    assert products(torch.tensor([[4.0, -1.0, 9.0, 0.0, 1.0]]), 2, 3).tolist() == [[36, 0, 4, 0, 0, 0]]


def test_the_penalty_of_variational_by_hand():
    # pre 3, 4; an entry of the state has mean square (9 + 16) / 2, s^2 a quarter of it; KL (9 + 16) / (2 s^2) = 4
    eye = torch.eye(2)
    weights = Weights(eye, torch.zeros(2), eye, torch.zeros(2))
    activation = activation_of("variational:coefficient=0.5", 1)
    (z,), penalty = activation.dense(torch.tensor([[3.0, 4.0]]), weights)
    assert penalty.item() == pytest.approx(0.5 / 2 * 4)
    others, _ = activation.at(1).dense(torch.tensor([[3.0, 4.0]]), weights)
    assert not torch.equal(z, others[0]) and torch.equal(z, activation.dense(torch.tensor([[3.0, 4.0]]), weights)[0][0])


def test_the_penalty_of_endtoend_by_hand():
    # texts (1, 0), (3, 0) and (0, 2) have the means (2, 0) and (0, 2); of what is reconstructed they are (1, 1) and
    # (0, 1): the cosines are 1 / sqrt 2 and 1
    states = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    weights = Weights(torch.eye(2), torch.zeros(2), torch.tensor([[0.5, 0.5], [0.0, 0.5]]), torch.zeros(2))
    activation = activation_of("endtoend:coefficient=2", 2).at(0, torch.tensor([7, 7, 4]))
    assert activation.dense(states, weights)[1].item() == pytest.approx(2 - (1 / 2**0.5 + 1))


@pytest.mark.slow
def test_endtoend_keeps_embeddings_better_than_topk_on_the_same_batches():
    topics = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(16, 0)
    states = sparse_states(1_024) + topics
    states -= states.mean(dim=0)
    lost = []
    for spec in ("endtoend", "endtoend:coefficient=0"):
        sae = train(texts_of(states, 16), config_of(spec, epochs=8))
        means = (part.reshape(64, 16, -1).mean(dim=1) for part in (states, sae.decode(sae.encode(states))))
        lost.append(1 - torch.cosine_similarity(*means).mean().item())
    assert lost[0] < 0.8 * lost[1]


def test_without_weight_on_embeddings_endtoend_is_topk():
    states, activation, weights, mean = problem("endtoend:coefficient=0", "plain", n=40)
    dead = torch.arange(WIDTH) % 4 < 1
    of_texts = activation.at(5, torch.arange(40) // 7)
    steps = [loss_and_gradients(states, weights, each, mean, dead, 1 / 32, FLOAT64) for each in (of_texts, TopK(K))]
    for one, other in zip(steps[0].gradients[:4], steps[1].gradients[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_nothing_is_divided_by_zero_where_nothing_is_active():
    states, activation, weights, mean = problem("endtoend", "all negative")
    weights = weights._replace(b_pre=torch.zeros_like(weights.b_pre))
    of_texts = activation.at(0, torch.zeros(len(states), dtype=torch.int64))
    none_dead = torch.zeros(WIDTH, dtype=torch.bool)
    step = loss_and_gradients(states, weights, of_texts, mean, none_dead, 0.0, FLOAT64)
    assert all(torch.isfinite(gradient).all() for gradient in step.gradients[:4])


def test_gradient_selects_what_moves_the_embedding():
    # the text's mean is along x: of two equal activations the one along y moves its direction, the one along x does not
    weights = Weights(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
    states = torch.tensor([[2.0, 1.9], [2.0, -1.9]])
    chosen = activation_of("gradient", 1).at(0, torch.tensor([0, 0])).choose(states, weights, FLOAT32)
    assert chosen.indices[0].item() == 1
    assert activation_of("topk", 1).choose(states, weights, FLOAT32).indices[0].item() == 0


@pytest.mark.parametrize("spec", ["endtoend", "gradient"])
def test_states_that_do_not_say_where_texts_end_are_refused(spec, tmp_path):
    with pytest.raises(ValueError, match=rf"'{spec}' reads whole texts.*lengths=.*cache_states"):
        train(sparse_states(512), config_of(spec), checkpoints=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_pursuit_by_hand():
    # rows (1, 0), (.6, .8); x = (1, 2): pre 1, 2.2. The second is first, and leaves (1, 2) - 2.2 (.6, .8), (-.32, .24),
    # of which the first latent has -.32: not active
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    for falls in (None, W @ W.T):
        codes = pursue(torch.tensor([[1.0, 2.0]]), W, torch.zeros(2), W, 2, falls)
        assert codes.indices.tolist() == [[1, 0]]
        torch.testing.assert_close(codes.values, torch.tensor([[2.2, 0.0]]))


def test_pursuit_looks_up_what_it_would_multiply(monkeypatch):
    states, sae = sparse_states(300), train(sparse_states(512), config_of("pursuit"))
    looked_up = sae.encode(states)
    monkeypatch.setattr(lib.sae.activations.pursuit, "_WIDEST", 0)
    multiplied = sae.encode(states)
    assert (looked_up.indices == multiplied.indices).float().mean() > 0.999  # but for ties within rounding
    torch.testing.assert_close(sae.decode(looked_up), sae.decode(multiplied), rtol=1e-4, atol=1e-4)


def test_pursuit_reconstructs_better_than_topk_with_the_same_decoder():
    states = sparse_states(512)
    left = []
    for spec in ("pursuit", "topk"):
        sae = train(states, config_of(spec))
        left.append(unexplained(states, sae.decode(sae.encode(states)), states.mean(dim=0)).item())
    assert left[0] < left[1]


def test_boosting_reconstructs_what_the_parts_do_one_after_the_other(tmp_path):
    states, config = sparse_states(512), replace(config_of("topk", normalisation="scaled"), k=2)
    first = train(states, config)
    source = Residuals(StoredStates([states]), first)
    assert source.identity != Residuals(StoredStates([states]), train(states, replace(config, k=1))).identity
    second = train(source, config)
    residual = states - first.decode(first.encode(states))
    boosted = boost([first, second])
    assert (boosted.width, boosted.k, boosted.activation.name) == (2 * WIDTH, 4, "boosted")
    both = torch.cat([dense(first, states), dense(second, residual)], dim=1)
    torch.testing.assert_close(dense(boosted, states), both, rtol=1e-3, atol=1e-4)
    h_hat = boosted.decode(boosted.encode(states))
    torch.testing.assert_close(h_hat, states - residual + second.decode(second.encode(residual)), rtol=1e-3, atol=1e-3)
    left = [unexplained(states, each, states.mean(dim=0)) for each in (h_hat, states - residual)]
    assert left[0] < 0.8 * left[1]
    boosted.save(tmp_path)
    assert torch.equal(SparseAutoencoder.load(tmp_path).encode(states).values, boosted.encode(states).values)
    with pytest.raises(ValueError, match=r"Part 1 was not trained .* --after"):
        boost([second, first])
    with pytest.raises(ValueError, match="Part 2"):
        boost([first, first])
    (left_of_texts, texts), (window, numbers) = (
        next(each.whole_texts(100, 0, 0)) for each in (Residuals(texts_of(states), first), texts_of(states))
    )
    assert torch.equal(texts, numbers)
    torch.testing.assert_close(left_of_texts, window - first.decode(first.encode(window)))
    third = Residuals(source, second).identity["less"]
    assert third == [first.identity, second.identity]
    with pytest.raises(ValueError, match="two or more topk"):
        boost([first, train(states, config_of("kron"))])
    with pytest.raises(ValueError, match="scales each state"):
        Residuals(StoredStates([states]), train(states, replace(config, normalisation="per-token")))


def test_itda_is_made_of_states_and_measures_in_one_step():
    states, rows, steps = sparse_states(512), [], []
    sae = train(states, config_of("itda"), log=rows.append, stopped=lambda: steps.append(1))
    assert [row["step"] for row in rows] == [1] and len(steps) == 1  # though there is more than one batch
    near = torch.nn.functional.normalize(states - sae.b_pre, dim=1) @ sae.W_dec.T
    torch.testing.assert_close(near.amax(dim=0), torch.ones(WIDTH))


def test_adaptivek_gives_more_latents_to_what_is_harder(tmp_path):
    states = sparse_states(1_024)
    sae = train(states, config_of("adaptivek", epochs=8))
    codes = sae.encode(states)
    numbers = (codes.values > 0).sum(dim=1)
    assert len(numbers.unique()) > 1
    assert numbers.max() <= 4 * K
    doubled = SparseAutoencoder(sae.W_enc / 2, sae.b_enc, sae.W_dec * 2, sae.b_pre * 2, sae.activation.rescaled(0.5))
    assert torch.equal((doubled.encode(2 * states).values > 0).sum(dim=1), numbers)


@pytest.mark.parametrize("spec", ["kron", "pursuit", "topafa"])
def test_a_kind_that_others_do_not_have_is_not_written_for_them(spec, tmp_path):
    sae = train(texts_of(sparse_states(512)), config_of(spec, epochs=1))
    with pytest.raises(ValueError, match=f"{sae.activation.name}.*SAELens"):
        write_saelens(sae, tmp_path / "out")
    with pytest.raises(ValueError, match="topk"):
        join([sae, sae])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orthosae", r"(?s)orthosae.*ortsae: .*subspace: "),
        ("topk:chunk=8", r"'chunk'.*'topk'.*none"),
        ("ortsae:widths=8", r"'widths'.*'ortsae'.*coefficient, chunk"),
        ("ortsae:k=8", "'k' is no setting"),
        ("ortsae:step=8", "'step' is no setting"),
        ("ortsae:chunk=many", "chunk of 'ortsae' is 'many'.*chunk=2048"),
        ("ortsae:chunk=0", "chunk is 0"),
        ("ortsae:coefficient=nan", "coefficient is nan"),
        ("matryoshka:widths=8,4", r"widths are \[8, 4\].*ascend"),
        ("matryoshka:widths=8,32", "below the width, 32"),
        ("subspace:share=0", "share is 0.0"),
        ("kron:m=3", r"width is 32; heads have 3 \* 4 latents.* 24"),
        ("kron:n=1", "n is 1"),
        ("gated:coefficient=-1", "coefficient is -1.0"),
        ("topafa:coefficient=-1", "coefficient is -1.0"),
        ("mutualchoice:offset=-1", "offset is -1.0"),
        ("variational:coefficient=-1", "coefficient is -1.0"),
        ("variational:noise=0", "noise is 0.0"),
        ("endtoend:coefficient=nan", "coefficient is nan"),
        ("endtoend:texts=1", "'texts' is no setting of 'endtoend'; it has coefficient"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        config_of(spec)
