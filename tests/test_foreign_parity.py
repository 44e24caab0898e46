"""Against SAELens and sparsify themselves; collected where both are installed (the extra `bench`), see conftest.py.

It checks that the folders which `test_foreign.py` writes by hand are those that the libraries write.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_foreign import SAELENS, WIDTH, dense, ours, saelens_folder, sparsify_folder, states

from lib.sae.foreign import read_saelens, read_sparsify, write_saelens

pytestmark = pytest.mark.usefixtures("one_thread")


class TestSAELens:
    @pytest.mark.parametrize("name", [name for name in SAELENS if name != "batchtopk"])
    def test_folders_written_by_hand_load_and_encode_the_same(self, tmp_path, name):
        from sae_lens import SAE

        folder = saelens_folder(tmp_path / "sae", name)
        theirs = SAE.load_from_disk(folder)
        sae = read_saelens(folder, k=None if name.startswith("topk") else 4)
        np.testing.assert_allclose(dense(sae, states()), theirs.encode(states()).detach(), rtol=0, atol=1e-5)
        actual = sae.decode(sae.encode(states()))
        np.testing.assert_allclose(actual, theirs(states()).detach(), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", [name for name in SAELENS if "before" not in name])
    def test_folders_written_by_hand_are_as_the_library_writes_them(self, tmp_path, name):
        from sae_lens import SAE, TrainingSAE

        library = TrainingSAE if name == "batchtopk" else SAE
        folder = saelens_folder(tmp_path / "sae", name)
        library.load_from_disk(folder).save_model(tmp_path / "theirs")
        by_hand, theirs = (load_file(path / "sae_weights.safetensors") for path in (folder, tmp_path / "theirs"))
        assert {key: tensor.shape for key, tensor in by_hand.items()} == {
            key: tensor.shape for key, tensor in theirs.items()
        }
        configs = [json.loads((path / "cfg.json").read_text()) for path in (folder, tmp_path / "theirs")]
        assert set(configs[0]) <= set(configs[1])
        assert name == "batchtopk" or set(configs[0]) == set(configs[1])

    def test_batchtopk_is_what_the_library_saves_for_inference(self, tmp_path):
        from sae_lens import SAE, TrainingSAE

        training = TrainingSAE.load_from_disk(saelens_folder(tmp_path / "training", "batchtopk"))
        training.save_inference_model(tmp_path / "inference")
        theirs = SAE.load_from_disk(tmp_path / "inference").encode(states()).detach()
        for folder in ("training", "inference"):
            sae = read_saelens(tmp_path / folder)
            np.testing.assert_allclose(dense(sae, states()), theirs, rtol=0, atol=1e-5)
            assert sae.k == 3

    @pytest.mark.parametrize("jumprelu", [False, True])
    def test_what_we_write_encodes_and_decodes_the_same_there(self, tmp_path, jumprelu):
        from sae_lens import SAE

        sae = ours(jumprelu)
        write_saelens(sae, tmp_path / "sae", metadata={"model_name": "a retriever"})
        theirs = SAE.load_from_disk(tmp_path / "sae")
        assert theirs.cfg.metadata.model_name == "a retriever"
        np.testing.assert_allclose(theirs.encode(states()).detach(), dense(sae, states()), rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            theirs(states()).detach(), sae.decode(sae.encode(states())).numpy(), rtol=0, atol=1e-5
        )
        theirs.save_model(tmp_path / "again")
        again = read_saelens(tmp_path / "again")
        assert (again.k, again.metadata) == (sae.k, sae.metadata)
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in sae.tensors().items())


class TestSparsify:
    def test_what_the_library_saves_encodes_the_same(self, tmp_path):
        from sparsify import SparseCoder

        folder = sparsify_folder(tmp_path / "layers.5")
        theirs = SparseCoder.load_from_disk(folder)
        theirs.save_to_disk(tmp_path / "theirs")
        assert set(load_file(folder / "sae.safetensors")) == set(load_file(tmp_path / "theirs" / "sae.safetensors"))
        assert json.loads((folder / "cfg.json").read_text()) == json.loads((tmp_path / "theirs/cfg.json").read_text())
        sae = read_sparsify(tmp_path / "theirs")
        values, indices, _ = theirs.encode(states())
        expected = torch.zeros(len(values), WIDTH).scatter(1, indices, values).detach()
        np.testing.assert_allclose(dense(sae, states()), expected, rtol=0, atol=1e-5)
        decoded = theirs.decode(values, indices).detach()
        np.testing.assert_allclose(sae.decode(sae.encode(states())), decoded, rtol=0, atol=1e-5)
