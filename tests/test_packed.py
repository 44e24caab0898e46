import copy
import pickle

import pytest
import torch

from lib.encode import encoder as encoder_module
from lib.encode.encoder import TokenEncoder
from lib.support.packed import PackedLinear, can_pack, pack_layers


def layers(bias: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 96, bias), torch.nn.GELU(), torch.nn.Linear(96, 32, bias))
    return model.to(torch.bfloat16)


def rows(n: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(2, n, 48, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 7, 16, 300])
def test_packed_layers_compute_the_same_bits(n, bias):
    packed = pack_layers(layers(bias))
    assert [type(layer) is PackedLinear for layer in packed] == [can_pack(), False, can_pack()]
    assert torch.equal(packed(rows(n)), layers(bias)(rows(n)))


@torch.no_grad()
def test_packed_layers_compute_the_same_bits_at_the_size_of_a_retriever():
    torch.manual_seed(0)
    sizes = ((384, 1_536), (1_536, 384))
    plain = torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes)).bfloat16()
    h = torch.randn(2_048, 384).bfloat16()
    packed = pack_layers(copy.deepcopy(plain))
    for n in (1, 10, 200, 2_048):
        assert torch.equal(packed(h[:n]), plain(h[:n]))


@torch.no_grad()
def test_weights_that_change_are_packed_again():
    packed, plain = pack_layers(layers()), layers()
    before = packed(rows(3))
    for model in (packed, plain):
        model[0].weight.mul_(2)
    assert torch.equal(packed(rows(3)), plain(rows(3))) and not torch.equal(packed(rows(3)), before)
    plain.load_state_dict(layers().state_dict())
    packed.load_state_dict(plain.state_dict())
    assert torch.equal(packed(rows(3)), before)
    assert torch.equal(packed.float()(rows(3, torch.float32)), plain.float()(rows(3, torch.float32)))


@torch.no_grad()
def test_copies_and_pickles_leave_the_packed_form_out():
    packed = pack_layers(layers())
    empty = len(pickle.dumps(packed))
    expected = packed(rows(3))
    assert len(pickle.dumps(packed)) == empty
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(other(rows(3)), expected)
    assert list(packed.state_dict()) == list(layers().state_dict())


def test_gradients_are_those_of_the_layers():
    packed, plain = pack_layers(layers()), layers()
    with torch.no_grad():
        packed(rows(3))
    for model in (packed, plain):
        model(rows(3)).float().square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(packed.parameters(), plain.parameters(), strict=True))


def test_a_retriever_reads_the_same_states_packed(monkeypatch):
    texts = ["", "a cat", "how to open a file in Python, and how to close it again"]
    packed = TokenEncoder(dtype="bfloat16")
    monkeypatch.setattr(encoder_module, "pack_layers", lambda model: model)
    plain = TokenEncoder(dtype="bfloat16")
    assert packed.identity == plain.identity
    for some in (texts, texts[1:2]):
        (ours,), (theirs,) = packed.stream(some, progress=False), plain.stream(some, progress=False)
        assert torch.equal(ours.states, theirs.states) and (ours.pooled == theirs.pooled).all()
