"""The activations an autoencoder can be trained with: what makes of its pre-activations the few that are not 0.

Each is a class with its equation, in which pre = W_enc (h - b_pre) + b_enc, and an entry of `ACTIVATIONS`. In training
they differ, in which latents are active, in further terms of the loss, in where weights start; each ends as a form of
`lib.sae.codes`, in which the codes of a token depend on no other token.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import get_args, get_origin

from lib.sae.activations.adaptive import AdaptiveK
from lib.sae.activations.afa import TopAFA
from lib.sae.activations.choice import FeatureChoice, MutualChoice
from lib.sae.activations.endtoend import EndToEnd
from lib.sae.activations.gated import Gated
from lib.sae.activations.gradient import GradientAware
from lib.sae.activations.itda import ITDA
from lib.sae.activations.kron import Kron
from lib.sae.activations.matryoshka import Matryoshka
from lib.sae.activations.ortsae import OrtSAE
from lib.sae.activations.pursuit import Pursuit
from lib.sae.activations.subspace import Subspace
from lib.sae.activations.thresholds import BatchTopK, JumpReLU
from lib.sae.activations.topk import AbsTopK, TopK
from lib.sae.activations.variational import Variational
from lib.sae.kernels import Activation

ACTIVATIONS: dict[str, type[Activation]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "jumprelu": JumpReLU,
    "abstopk": AbsTopK,
    "matryoshka": Matryoshka,
    "ortsae": OrtSAE,
    "subspace": Subspace,
    "gated": Gated,
    "mutualchoice": MutualChoice,
    "featurechoice": FeatureChoice,
    "topafa": TopAFA,
    "kron": Kron,
    "pursuit": Pursuit,
    "adaptivek": AdaptiveK,
    "itda": ITDA,
    "variational": Variational,
    "endtoend": EndToEnd,
    "gradient": GradientAware,
}
_NOT_SETTINGS = ("k", "budgets", "step", "texts")  # of the configuration, or of the run


def activation_of(spec: str, k: int, budgets: Sequence[int] = ()) -> Activation:
    """Return the activation that `spec` names, with its settings.

    Raises ValueError for an unknown name, a setting that the activation does not have or that is not as it asks, k
    below 1, and budgets that it does not have or that are not as it asks; TypeError if k or a budget is not an integer.

    Parameters
    ----------
    spec : str
        A key of `ACTIVATIONS`, perhaps with settings: "topk", "ortsae:coefficient=0.5:chunk=4096",
        "matryoshka:widths=512,2048".
    k : int
        Latents a token has, or has on average, or at which the activation aims; its class says so.
    budgets : sequence of int
        Of an activation that has budgets, see `TopK`; () is none.
    """
    name, *settings = spec.split(":")
    if name not in ACTIVATIONS:
        about = "\n".join(f"  {name}: {_summary(kind)}" for name, kind in ACTIVATIONS.items())
        raise ValueError(f"The activation is {name!r}; choose one of\n{about}")
    kind = ACTIVATIONS[name]
    values = dict(_setting(name, kind, text) for text in settings)
    if not budgets:
        return kind(k, **values)
    if not hasattr(kind, "budgets"):
        with_budgets = [name for name, kind in ACTIVATIONS.items() if hasattr(kind, "budgets")]
        raise ValueError(f"budgets are {list(budgets)}; {name!r} has none, {', '.join(with_budgets)} has.")
    return kind(k, **values | {"budgets": tuple(budgets)})


def spec_of(name: str, activation: Activation) -> str:
    """Return the shortest `spec` by which `activation_of` gives that activation, of the kind that `name` names."""
    parts = [name.partition(":")[0]]
    for setting, field in _settings(type(activation)).items():
        value = getattr(activation, setting)
        if value != field.default:
            parts.append(f"{setting}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ":".join(parts)


def _summary(kind: type[Activation]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _settings(kind: type[Activation]) -> Mapping:
    return {
        field.name: field for field in fields(kind) if field.name not in _NOT_SETTINGS and field.default is not MISSING
    }


def _setting(name: str, kind: type[Activation], text: str) -> tuple[str, object]:
    """Return name and value of a setting given as "name=value"."""
    allowed = _settings(kind)
    setting, _, value = text.partition("=")
    if setting not in allowed:
        has = f"it has {', '.join(allowed)}" if allowed else "it has none"
        raise ValueError(f"{setting!r} is no setting of {name!r}; {has}.")
    type_ = allowed[setting].type
    try:
        if get_origin(type_) is tuple:
            return setting, tuple(get_args(type_)[0](part) for part in value.split(","))
        return setting, type_(value)
    except ValueError as error:
        example = f"{setting}={'512,2048' if get_origin(type_) is tuple else allowed[setting].default}"
        raise ValueError(f"{setting} of {name!r} is {value!r}; give a number, such as {example}.") from error
