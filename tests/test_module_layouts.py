"""The two modules as sentence-transformers' pull request 3796 describes them: names, defaults, keys, shapes, dtypes.

Written against the interface, with the library's own `Pooling` as the judge where it has the same sum; what these
modules do beyond it is in `test_modules.py` and `test_token_pooling.py`.
"""

import inspect
import json

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.testing import assert_close

from lib.interop.modules import SparseAutoEncoderTokenEncoder, SparseTokenPooling

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODER_DEFAULTS = {
    "variant": "standard",
    "output_format": "topk",
    "replace_token_embeddings": False,
    "has_decoder": True,
    "k_aux": 512,
    "frozen": False,
    "rms_scale": None,
    "token_batch_size": None,
}
POOLING_DEFAULTS = {
    "pooling_strategy": "sum",
    "include_prompt": True,
    "values_key": "token_sparse_values",
    "indices_key": "token_sparse_indices",
}
STRATEGIES = ["sum", "max", "max_log1p", "sum_sqrt"]


def make_encoder(**settings) -> SparseAutoEncoderTokenEncoder:
    """Four dimensions, eight latents, two of which a token may have."""
    encoder = SparseAutoEncoderTokenEncoder(**({"input_dim": 4, "hidden_dim": 8, "k": 2} | settings))
    draw = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "b_pre", "W_dec"):
            weight = getattr(encoder, name)
            if weight is not None:
                weight.copy_(torch.randn(weight.shape, generator=draw))
    return encoder.eval()


def tokens(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(values: torch.Tensor, indices: torch.Tensor, width: int) -> torch.Tensor:
    return torch.zeros(*values.shape[:-1], width, dtype=values.dtype).scatter(-1, indices, values)


def sparse_features(seed: int = 5, width: int = 6, **lengths) -> dict[str, torch.Tensor]:
    """Codes of 3 texts of up to 5 tokens, 2 latents each, a third of them silent."""
    draw = torch.Generator().manual_seed(seed)
    values = (torch.rand(3, 5, 2, generator=draw) - 0.3).relu()
    indices = torch.rand(3, 5, width, generator=draw).topk(2, dim=-1).indices
    return {"token_sparse_values": values, "token_sparse_indices": indices, **lengths}


LEFT = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)


class TestInterface:
    def test_parameters_and_defaults(self):
        ours = inspect.signature(SparseAutoEncoderTokenEncoder).parameters
        assert list(ours)[:11] == ["input_dim", "hidden_dim", "k", *ENCODER_DEFAULTS]
        assert {name: ours[name].default for name in ENCODER_DEFAULTS} == ENCODER_DEFAULTS
        ours = inspect.signature(SparseTokenPooling).parameters
        assert list(ours)[:5] == ["embedding_dimension", *POOLING_DEFAULTS]
        assert {name: ours[name].default for name in POOLING_DEFAULTS} == POOLING_DEFAULTS

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            (
                SparseAutoEncoderTokenEncoder(4, 8, 2),
                {"input_dim": 4, "hidden_dim": 8, "k": 2, "checkpoint_format_version": 1} | ENCODER_DEFAULTS,
            ),
            (SparseTokenPooling(8), {"embedding_dimension": 8} | POOLING_DEFAULTS),
        ],
    )
    def test_a_saved_configuration_has_their_keys_only(self, module, expected, tmp_path):
        assert isinstance(module, Module)
        assert module.get_config_dict() == expected
        assert repr(module) == f"{type(module).__name__}({module.get_config_dict()})"
        module.save(str(tmp_path))
        assert json.loads((tmp_path / "config.json").read_text()) == expected

    def test_settings_of_our_own_are_saved_where_they_matter(self):
        assert make_encoder(normalize_input=False).get_config_dict()["normalize_input"] is False
        pooling = SparseTokenPooling(8, sparse_rows=True, special_tokens=[1, 1])
        ours = {"sparse_rows": True, "special_tokens": (1, 1)}
        assert pooling.get_config_dict() == {"embedding_dimension": 8} | POOLING_DEFAULTS | ours

    def test_dimensions(self):
        assert make_encoder().get_embedding_dimension() == 8
        assert SparseTokenPooling(8).get_embedding_dimension() == 8
        for module in (make_encoder(), SparseTokenPooling(8)):
            with pytest.warns(FutureWarning, match="renamed to `get_embedding_dimension`"):
                assert module.get_sentence_embedding_dimension() == 8

    @pytest.mark.parametrize("variant", ["standard", "jumprelu"])
    @pytest.mark.parametrize("has_decoder", [True, False])
    def test_weights(self, variant, has_decoder):
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
        assert encoder.target_norm == 2.0

    @pytest.mark.parametrize("strategy", ["mean", "", None])
    def test_unknown_choices(self, strategy):
        with pytest.raises(ValueError, match="pooling_strategy must be one of"):
            SparseTokenPooling(8, pooling_strategy=strategy)
        with pytest.raises(ValueError, match="variant must be either 'standard' or 'jumprelu'"):
            make_encoder(variant=strategy)
        with pytest.raises(ValueError, match="output_format must be one of: 'topk', 'dense', 'both'"):
            make_encoder(output_format=strategy)


class TestTokenEncoder:
    def test_one_token_by_hand(self):
        encoder = make_encoder(input_dim=2, hidden_dim=3, k=2)
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

    def test_the_same_tokens_padded_flattened_and_packed(self):
        encoder, padded = make_encoder(), tokens(2, 3, 4)
        bounds = torch.tensor([0, 3, 6], dtype=torch.int32)
        given = {
            "padded": {"token_embeddings": padded, "attention_mask": torch.ones(2, 3)},
            "flattened": {"token_embeddings": padded.view(6, 4)},
            "packed": {"token_embeddings": padded.view(6, 4), "cu_seq_lens_q": bounds},
            "packed, batch of 1": {"token_embeddings": padded.view(1, 6, 4), "cu_seq_lens_q": bounds},
        }
        expected = encoder.encode_tokens(padded.view(6, 4))
        rows = []
        for features in given.values():
            before = features["token_embeddings"]
            out = encoder(features)
            assert out is features
            assert out["backbone_token_embeddings"] is before
            assert out["token_sparse_values"].shape == (*before.shape[:-1], 2)
            assert_close(out["token_sparse_values"].view(6, 2), expected[0], rtol=0, atol=1e-6)
            assert torch.equal(out["token_sparse_indices"].view(6, 2), expected[1])
            if before.ndim == 3 or "cu_seq_lens_q" in out:
                rows.append(SparseTokenPooling(8)(out)["sentence_embedding"])
        for row in rows[1:]:
            assert_close(row, rows[0], rtol=0, atol=1e-6)

    def test_a_batch_of_one_keeps_its_rank(self):
        out = make_encoder(output_format="dense")({"token_embeddings": tokens(1, 3, 4)})
        assert out["token_sparse_values"].shape == (1, 3, 2)
        assert out["token_sparse_embeddings"].shape == (1, 3, 8)

    def test_jumprelu_silences_what_is_not_above_its_threshold(self):
        standard, jumprelu = make_encoder(k=8), make_encoder(k=8, variant="jumprelu")
        with torch.no_grad():
            jumprelu.theta.fill_(0.7)
        given = tokens(20, 4)
        codes = [dense(*module.encode_tokens(given), 8) for module in (standard, jumprelu)]
        assert (codes[0] >= 0).all()
        assert (codes[0] == 0).any()  # the ReLU, where fewer than k are above 0
        assert_close(codes[1], torch.where(codes[0] > 0.7, codes[0], 0.0))
        assert (codes[0] != codes[1]).any()

    def test_max_active_dims_overrides_k_for_one_call(self):
        encoder, given = make_encoder(), tokens(6, 4)
        for n in (1, 2, 5, 8):
            out = encoder({"token_embeddings": given}, max_active_dims=n)
            assert out["token_sparse_values"].shape == out["token_sparse_indices"].shape == (6, n)
            assert torch.equal(out["token_sparse_values"], encoder.encode_tokens(given, k=n)[0])
        assert encoder.k == 2
        for n in (0, -1, 9):
            with pytest.raises(ValueError, match="k must be"):
                encoder({"token_embeddings": given}, max_active_dims=n)

    @pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
    @pytest.mark.parametrize("training", [False, True])
    def test_token_batch_size_changes_memory_not_values(self, size, training):
        whole, parts = make_encoder().train(training), make_encoder(token_batch_size=size).train(training)
        seen, encode = [], parts.encode_pre_act
        parts.encode_pre_act = lambda x: seen.append(len(x)) or encode(x)
        expected, found = ({**module({"token_embeddings": tokens(7, 4)})} for module in (whole, parts))
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            assert_close(found[key], tensor, rtol=0, atol=1e-6)
        assert sum(seen) == 7
        assert max(seen) == min(size, 7)

    @pytest.mark.parametrize(("output_format", "replace"), [("topk", False), ("dense", False), ("both", True)])
    def test_dense_output(self, output_format, replace):
        encoder, given = make_encoder(output_format=output_format, replace_token_embeddings=replace), tokens(2, 3, 4)
        out = encoder({"token_embeddings": given})
        codes = dense(out["token_sparse_values"], out["token_sparse_indices"], 8)
        assert ("token_sparse_embeddings" in out) == (output_format != "topk")
        assert_close(out["token_embeddings"], codes if replace else given)
        assert torch.equal(out["backbone_token_embeddings"], given)
        if output_format != "topk":
            assert_close(out["token_sparse_embeddings"], codes)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_training_adds_input_and_reconstruction(self, frozen):
        encoder, given = make_encoder(frozen=frozen).train(), tokens(2, 3, 4).requires_grad_()
        out = encoder({"token_embeddings": given, "attention_mask": RIGHT[:2, :3]})
        assert_close(out["sae_input_normalized"], encoder.normalize(given.view(6, 4)))
        codes = dense(out["token_sparse_values"].view(6, 2), out["token_sparse_indices"].view(6, 2), 8)
        assert_close(out["sae_output_decoded"], encoder.decode(codes))
        (out["sae_output_decoded"] - out["sae_input_normalized"]).square().mean().backward()
        for name in ("W_enc", "b_enc", "b_pre", "W_dec"):
            gradient = getattr(encoder, name).grad
            assert gradient is None if frozen else gradient.abs().sum() > 0
        assert given.grad.abs().sum() > 0  # a retriever in front could be trained through it

    @pytest.mark.parametrize(("has_decoder", "training"), [(True, False), (False, True), (False, False)])
    def test_no_reconstruction_otherwise(self, has_decoder, training):
        out = make_encoder(has_decoder=has_decoder).train(training)({"token_embeddings": tokens(2, 3, 4)})
        assert not [key for key in out if key.startswith("sae_")]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_weights_of_another_dtype_say_what_is_computed_in(self, dtype):
        encoder = make_encoder().to(dtype).train()
        out = encoder({"token_embeddings": tokens(2, 3, 4).to(dtype)})
        for key in ("token_sparse_values", "sae_input_normalized", "sae_output_decoded"):
            assert out[key].dtype == dtype
        expected = make_encoder().train()({"token_embeddings": tokens(2, 3, 4)})
        assert_close(out["sae_input_normalized"].float(), expected["sae_input_normalized"], rtol=0.01, atol=0.01)
        (out["sae_output_decoded"] - out["sae_input_normalized"]).square().sum().backward()
        assert encoder.W_enc.grad.dtype == dtype

    def test_states_of_half_precision_are_computed_in_the_dtype_of_the_weights(self):
        given = tokens(6, 4).half()
        values, _ = make_encoder().encode_tokens(given)
        assert values.dtype == torch.float32
        assert_close(values, make_encoder().encode_tokens(given.float())[0])

    @pytest.mark.parametrize("with_mean", [False, True])
    def test_saved_and_loaded(self, with_mean, tmp_path):
        encoder = make_encoder(variant="jumprelu", rms_scale=0.5, frozen=True, k_aux=3, token_batch_size=2)
        if with_mean:
            encoder.data_mean = tokens(4, seed=9)
        encoder.save(str(tmp_path))
        loaded = SparseAutoEncoderTokenEncoder.load(str(tmp_path)).eval()
        assert loaded.get_config_dict() == encoder.get_config_dict()
        assert (loaded.data_mean is not None) == with_mean
        assert not any(weight.requires_grad for weight in loaded.parameters())
        for found, expected in zip(
            loaded.encode_tokens(tokens(6, 4)), encoder.encode_tokens(tokens(6, 4)), strict=True
        ):
            assert torch.equal(found, expected)


class TestPooling:
    @pytest.mark.parametrize("mask", [LEFT, RIGHT, LEFT.bool(), RIGHT.float(), None])
    @pytest.mark.parametrize("include_prompt", [True, False])
    @pytest.mark.parametrize("prompt_length", [None, 1, torch.tensor([2]), torch.tensor([1, 1, 1]), 3, 9])
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_it_counts_the_tokens_that_their_pooling_counts(self, mask, include_prompt, prompt_length, strategy):
        features = sparse_features()
        features |= {} if mask is None else {"attention_mask": mask}
        features |= {} if prompt_length is None else {"prompt_length": prompt_length}
        codes = dense(features["token_sparse_values"], features["token_sparse_indices"], 6)
        judge = Pooling(6, pooling_mode="max" if strategy.startswith("max") else "mean", include_prompt=include_prompt)
        found = SparseTokenPooling(6, strategy, include_prompt=include_prompt)(dict(features))["sentence_embedding"]
        given = {**features, "token_embeddings": codes, "token_weights_sum": torch.ones(3)}  # a mean over 1 is a sum
        expected = judge(given)["sentence_embedding"].clamp(min=0)  # of no token, their maximum is -inf
        expected = {"max_log1p": torch.log1p, "sum_sqrt": torch.sqrt}.get(strategy, torch.clone)(expected)
        assert_close(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("prompt_length", [0, 1, 4])
    def test_packed_rows_are_the_padded_ones(self, strategy, prompt_length):
        features = sparse_features(attention_mask=RIGHT, prompt_length=prompt_length)
        real = RIGHT.bool()
        bounds = torch.cat([torch.zeros(1), RIGHT.sum(dim=1).cumsum(0)]).to(torch.int32)
        flat = {key: features[key][real] for key in ("token_sparse_values", "token_sparse_indices")}
        pooling = SparseTokenPooling(6, strategy, include_prompt=False)
        expected = pooling(dict(features))["sentence_embedding"]
        for lead in ((), (1,)):
            packed = {key: tensor.view(*lead, 12, 2) for key, tensor in flat.items()}
            found = pooling({**packed, "cu_seq_lens_q": bounds, "prompt_length": prompt_length})["sentence_embedding"]
            assert found.shape == (3, 6)
            assert_close(found, expected, rtol=0, atol=1e-6)

    def test_strategies_by_hand(self):
        features = {
            "token_sparse_values": torch.tensor([[[1.0, 2.0], [3.0, 0.0], [5.0, 4.0]]]),
            "token_sparse_indices": torch.tensor([[[0, 2], [0, 1], [3, 2]]]),
        }
        sums = torch.tensor([[4.0, 0.0, 6.0, 5.0]])
        largest = torch.tensor([[3.0, 0.0, 4.0, 5.0]])
        expected = {"sum": sums, "max": largest, "max_log1p": largest.log1p(), "sum_sqrt": sums.sqrt()}
        for strategy, row in expected.items():
            assert_close(SparseTokenPooling(4, strategy)(dict(features))["sentence_embedding"], row)

    def test_silent_latents_and_texts_without_tokens(self):
        features = sparse_features(attention_mask=RIGHT)
        features["token_sparse_values"] -= 5  # none is above 0
        assert not SparseTokenPooling(6)(features)["sentence_embedding"].any()
        features = sparse_features(attention_mask=torch.tensor([[0] * 5, [1] * 5, [0] * 5]))
        rows = SparseTokenPooling(6, include_prompt=False)(features | {"prompt_length": 1})["sentence_embedding"]
        assert rows.any(dim=1).tolist() == [False, True, False]

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_gradients_reach_the_activations_that_count(self, strategy):
        features = sparse_features(attention_mask=LEFT)
        values = features["token_sparse_values"].requires_grad_()
        SparseTokenPooling(6, strategy)(features)["sentence_embedding"].sum().backward()
        assert torch.isfinite(values.grad).all()
        assert values.grad[(values > 0) & LEFT[..., None].bool()].sum() > 0
        assert not values.grad[~LEFT.bool()].any()

    def test_other_keys(self):
        given = sparse_features()
        features = {"v": given["token_sparse_values"], "i": given["token_sparse_indices"]}
        found = SparseTokenPooling(6, values_key="v", indices_key="i")(features)
        assert found is features
        assert_close(found["sentence_embedding"], SparseTokenPooling(6)(given)["sentence_embedding"])

    def test_a_mask_of_other_tokens_is_refused_unless_there_are_bounds(self):
        for shape in ((3, 9), (15,), (2, 5)):
            features = sparse_features(attention_mask=torch.zeros(shape))
            with pytest.raises(ValueError, match=r"attention_mask has shape \(.*\), the tokens \(3, 5\); give"):
                SparseTokenPooling(6)(features)
        flat = {key: tensor.view(15, 2) for key, tensor in sparse_features().items()}
        packed = {**flat, "cu_seq_lens_q": torch.tensor([0, 5, 10, 15]), "attention_mask": torch.zeros(3, 9)}
        found = SparseTokenPooling(6)(packed)["sentence_embedding"]
        assert_close(found, SparseTokenPooling(6)(sparse_features())["sentence_embedding"])

    def test_flattened_codes_need_bounds(self):
        flat = {key: tensor.view(15, 2) for key, tensor in sparse_features().items()}
        message = r"Expected padded sparse token values to be \[B, T, K\]; got \(15, 2\).* the Transformer makes it"
        with pytest.raises(ValueError, match=message):
            SparseTokenPooling(6)(flat)

    @pytest.mark.parametrize("bounds", [[1, 15], [0, 9, 4, 15], [[0, 15]], []])
    def test_bounds_that_are_none(self, bounds):
        flat = {key: tensor.view(15, 2) for key, tensor in sparse_features().items()}
        flat["token_embeddings"], flat["cu_seq_lens_q"] = tokens(15, 4), torch.tensor(bounds)
        for module in (SparseTokenPooling(6), make_encoder()):
            with pytest.raises(ValueError, match=r"cu_seq_lens_q is \[.*; it must begin with 0 and never decrease"):
                module(flat)

    def test_saved_and_loaded(self, tmp_path):
        pooling = SparseTokenPooling(6, "max_log1p", include_prompt=False)
        pooling.save(str(tmp_path))
        loaded = SparseTokenPooling.load(str(tmp_path))
        assert loaded.get_config_dict() == pooling.get_config_dict()
        features = sparse_features(attention_mask=LEFT, prompt_length=1)
        rows = [module(dict(features))["sentence_embedding"].numpy() for module in (pooling, loaded)]
        np.testing.assert_array_equal(*rows)
