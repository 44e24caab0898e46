"""Products with finished weights in bfloat16, which oneDNN keeps in the order in which it multiplies.

A product with few rows takes most of its time to bring the other matrix into that order. torch keeps it for compiled
models, by operations that it does not document. The bits are those of other products.
"""

from functools import cache

import torch
from torch.nn.functional import linear

from lib.support.devices import CPU, native_dtype


@cache
def can_pack() -> bool:
    """Whether this machine multiplies bfloat16, and this torch can keep a matrix packed."""
    native = native_dtype(CPU) == "bfloat16" and torch.backends.mkldnn.is_available()
    return native and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def pack(weights: torch.Tensor) -> torch.Tensor:
    """Return weights, bfloat16 [n_out, n_in], packed for `multiply`, which alone can read them."""
    return torch.ops.mkldnn._reorder_linear_weight(weights)


def multiply(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return rows weights^T + bias, bfloat16 [..., n_out], of rows, bfloat16 [..., n_in]."""
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")


class PackedLinear(torch.nn.Linear):
    """A finished linear layer, with its parameters under their names; they are packed at the first product.

    The packed form takes as much memory as the weights. Copies and pickles leave it out, and it is computed again if
    the weights were changed in place, or by `to`, but for `.data` and numpy, which torch does not count. With gradients
    it is the layer that it was made of.
    """

    def __init__(self, layer: torch.nn.Linear):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self._packed: tuple[tuple, torch.Tensor, torch.Tensor] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_packed": None}

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `rows` weight^T + bias."""
        weight = self.weight
        if torch.is_grad_enabled() or weight.dtype != torch.bfloat16 or weight.device != CPU:
            return linear(rows, weight, self.bias)
        version = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        packed = self._packed
        if packed is None or packed[0] != version:
            self._packed = packed = version, pack(weight.detach()), weight.detach()  # kept, so is its address
        return multiply(rows, packed[1], self.bias)


def pack_layers(model: torch.nn.Module) -> torch.nn.Module:
    """Put a `PackedLinear` in the place of each linear layer of a model, if the machine can, and return the model."""
    if can_pack():
        for module in list(model.modules()):
            for name, layer in module.named_children():
                if type(layer) is torch.nn.Linear:
                    setattr(module, name, PackedLinear(layer))
    return model
