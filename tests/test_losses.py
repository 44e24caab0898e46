import pytest
import torch
from conftest import TEXTS
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.losses.csr import CSRReconstructionLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from torch.testing import assert_close

from lib.interop.losses import TokenReconstructionLoss
from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling
from lib.sae.activations import activation_of
from lib.sae.kernels import Weights, reference_loss

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINED = [text for text in TEXTS if text.strip()]


def make(folder, **settings) -> SparseEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        sae = SparseAutoEncoderTokenEncoder(**({"input_dim": 32, "hidden_dim": 48, "k": 4, "k_aux": 512} | settings))
    return SparseEncoder(
        modules=[SentenceTransformer(folder)[0], sae, SparseTokenPooling(48, "sum_sqrt")], device="cpu"
    )


def states(encoder: SparseEncoder) -> torch.Tensor:
    """The normalised token states of the texts, one text at a time: [n, 32] without padding."""
    encoder.eval()
    with torch.no_grad():
        tokens = [encoder[0](encoder.preprocess([text]))["token_embeddings"][0] for text in TRAINED]
    return encoder[1].normalize(torch.cat(tokens))


@pytest.mark.parametrize("dead", [0, 5, 40])
def test_the_loss_and_its_gradients_are_those_of_the_trainer_of_this_package(sentence_folder, dead):
    encoder = make(sentence_folder)
    loss = TokenReconstructionLoss(encoder, auxk=0.5, dead_tokens=10)
    loss.silent[:dead] = 10
    sae, x = encoder[1], states(encoder)
    encoder.train()
    parts = loss([encoder.preprocess(TRAINED)])
    sum(parts.values()).backward()
    named = {name: weight.detach().clone().requires_grad_() for name, weight in sae.named_parameters()}
    weights = Weights(named["W_enc"].T, named["b_enc"], named["W_dec"], named["b_pre"])
    mask = torch.arange(48) < dead
    expected = reference_loss(x, weights, activation_of("topk", 4), x.mean(dim=0), mask, 0.5)
    expected.backward()
    assert_close(sum(parts.values()), expected)
    assert bool(parts["auxk"] > 0) == (dead > 0)
    for name, weight in sae.named_parameters():
        assert_close(weight.grad, named[name].grad, atol=1e-5, rtol=1e-4)
    assert all(weight.grad is None for weight in encoder[0].parameters())


def test_the_larger_k_and_its_gradients_are_those_of_the_csr_loss_of_sentence_transformers(sentence_folder):
    """The library's loss is not divided by the variance, and reads sentences: here each token is one."""
    encoder, x = make(sentence_folder), states(make(sentence_folder))
    library = SparseAutoEncoder(32, 48, k=4, k_aux=48, dead_threshold=0)
    with torch.no_grad():
        library.encoder.weight.copy_(encoder[1].W_enc.T)
        library.latent_bias.copy_(torch.linspace(-0.1, 0.1, 48))
        encoder[1].b_enc.copy_(library.latent_bias)
    expected = CSRReconstructionLoss(encoder).compute_loss_from_embeddings([library({"sentence_embedding": x})])
    parts = TokenReconstructionLoss(encoder.train(), larger=1 / 8)([encoder.preprocess(TRAINED)])
    variance = x.var(dim=0, correction=0).mean()
    for name, other in (("fvu", "reconstruction_loss_k"), ("fvu_4k", "reconstruction_loss_4k")):
        assert_close(parts[name] * variance, expected[other], atol=1e-6, rtol=1e-6)
    (variance * (parts["fvu"] + parts["fvu_4k"])).backward()
    (expected["reconstruction_loss_k"] + expected["reconstruction_loss_4k"]).backward()
    tied = encoder[1].W_enc.grad.T + encoder[1].W_dec.grad  # the library's decoder is the encoder's transpose
    assert_close(tied, library.encoder.weight.grad, atol=1e-6, rtol=1e-5)
    assert_close(encoder[1].b_enc.grad, library.latent_bias.grad, atol=1e-6, rtol=1e-5)


def test_jointly_trained_the_retriever_has_gradients(sentence_folder):
    encoder = make(sentence_folder).train()
    TokenReconstructionLoss(encoder, joint=True)([encoder.preprocess(TRAINED)])["fvu"].backward()
    assert encoder[0].training
    assert any(weight.grad is not None and weight.grad.any() for weight in encoder[0].parameters())


def test_thresholds_stay_as_they_are(sentence_folder):
    encoder = make(sentence_folder, variant="jumprelu").train()
    encoder[1].theta.data.fill_(0.1)
    sum(TokenReconstructionLoss(encoder)([encoder.preprocess(TRAINED)]).values()).backward()
    assert encoder[1].theta.grad is None
    assert encoder[1].W_enc.grad.any()


def test_a_mask_of_other_tokens_is_refused(sentence_folder):
    encoder = make(sentence_folder).train()
    loss, features = TokenReconstructionLoss(encoder), encoder.preprocess(TRAINED)
    wrong = torch.ones(len(TRAINED), 3)

    class Careless(torch.nn.Module):
        def forward(self, features):
            return {**features, "attention_mask": wrong}

    encoder.append(Careless())
    with pytest.raises(ValueError, match=rf"attention_mask.*\({len(TRAINED)}, 3\)"):
        loss([features])


def test_without_a_mask_all_tokens_count(sentence_folder):
    encoder = make(sentence_folder).train()
    loss, features = TokenReconstructionLoss(encoder), encoder.preprocess(TRAINED[:1])
    expected = loss([dict(features)])["fvu"]  # of one text, no token is padding

    class Maskless(torch.nn.Module):
        def forward(self, features):
            return {key: tensor for key, tensor in features.items() if key != "attention_mask"}

    encoder.append(Maskless())
    assert_close(loss([dict(features)])["fvu"], expected)


def test_latents_die_by_tokens_not_by_steps(sentence_folder):
    encoder = make(sentence_folder)
    loss = TokenReconstructionLoss(encoder, dead_tokens=1)
    n = len(states(encoder))
    encoder.train()
    features = encoder.preprocess(TRAINED)
    loss([dict(features)])
    active = loss.silent == 0
    assert 0 < active.sum() < 48
    assert (loss.silent[~active] == n).all()  # padding is not counted
    loss([dict(features), dict(features)])
    assert (loss.silent[~active] == 3 * n).all()
    encoder.eval()
    loss([dict(features)])
    assert (loss.silent[~active] == 3 * n).all()  # evaluation changes nothing


def test_evaluation_gives_the_loss_of_training(sentence_folder):
    encoder = make(sentence_folder)
    loss = TokenReconstructionLoss(encoder, auxk=0)
    losses = []
    for mode in (True, False):
        encoder.train(mode)
        losses.append(loss([encoder.preprocess(TRAINED)])["fvu"])
    assert_close(*losses)  # so there is no dropout in training either
    assert encoder[0].training is False


@pytest.mark.slow
def test_the_trainer_lowers_the_loss(sentence_folder, tmp_path):
    encoder = make(sentence_folder)
    before = {name: weight.clone() for name, weight in encoder[0].named_parameters()}
    arguments = SparseEncoderTrainingArguments(
        tmp_path,
        max_steps=30,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    texts = Dataset.from_dict({"text": TRAINED})
    trainer = SparseEncoderTrainer(
        encoder, arguments, train_dataset=texts, eval_dataset=texts, loss=TokenReconstructionLoss(encoder)
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5 * first
    assert [entry["fvu"] for entry in trainer.state.log_history if "fvu" in entry]
    assert all(torch.equal(weight, before[name]) for name, weight in encoder[0].named_parameters())
    encoder.save_pretrained(str(tmp_path / "model"))
    assert "TokenReconstructionLoss" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_models_that_cannot_be_trained(sentence_folder):
    for settings, remedy in (({"has_decoder": False}, "has_decoder"), ({"frozen": True}, "frozen=False")):
        with pytest.raises(ValueError, match=remedy):
            TokenReconstructionLoss(make(sentence_folder, **settings))
    stock = SparseEncoder(modules=[SentenceTransformer(sentence_folder)[0], Normalize()])
    with pytest.raises(ValueError, match=r"Transformer, Normalize"):
        TokenReconstructionLoss(stock)
    with pytest.raises(ValueError, match="auxk is -1"):
        TokenReconstructionLoss(make(sentence_folder), auxk=-1)
    with pytest.raises(ValueError, match="dead_tokens is 0"):
        TokenReconstructionLoss(make(sentence_folder), dead_tokens=0)
