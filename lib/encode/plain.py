"""The commonest layout of sentence-transformers without it: Transformer, mean, norm 1, as the packaged retrievers have.

sentence_transformers imports scikit-learn, pandas and datasets, which takes longer than to load such a model.
"""

import json
from pathlib import Path

import torch
from torch.nn.functional import normalize

from lib.encode.limits import check_limits, check_vocabulary

_PLACES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
_MODULES = [(f"sentence_transformers.models.{kind}", path) for kind, path in _PLACES.items()]


class Transformer(torch.nn.Module):
    """The Transformer of `PlainModel`; its attributes have sentence-transformers' names."""

    query_length = document_length = query_expansion = None

    def __init__(self, folder: str, max_seq_length: int):
        from transformers import AutoModel  # slow to import

        super().__init__()
        self.model, self.max_seq_length = AutoModel.from_pretrained(folder, local_files_only=True), max_seq_length

    @property
    def auto_model(self) -> torch.nn.Module:
        """The model of transformers."""
        return self.model


class Pooling(torch.nn.Module):
    """e = sum_t m_t h_t / sum_t m_t, with m the attention mask."""

    def __init__(self, d: int):
        super().__init__()
        self.d = d

    def __repr__(self) -> str:  # as that of sentence-transformers: it is part of an encoder's identity
        return f"Pooling({ {'embedding_dimension': self.d, 'pooling_mode': 'mean', 'include_prompt': True} })"

    def forward(self, features: dict) -> dict:
        """Add the embeddings, [n, d], to the features."""
        states, mask = features["token_embeddings"], features["attention_mask"].unsqueeze(-1)
        mask = mask.to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return features | {"sentence_embedding": mean}


class Normalize(torch.nn.Module):
    """e / |e|."""

    def __repr__(self) -> str:
        name = "sentence_embedding"
        return f"Normalize({ {'module_input_name': name, 'module_output_name': name} })"

    def forward(self, features: dict) -> dict:
        """Scale the embeddings."""
        return features | {"sentence_embedding": normalize(features["sentence_embedding"], dim=-1)}


class PlainModel(torch.nn.Sequential):
    """A model of these three modules, to `TokenEncoder` what a `SentenceTransformer` is: equal to the bit."""

    default_prompt_name = None

    def __init__(self, folder: str, max_seq_length: int):
        from transformers import AutoTokenizer

        transformer = Transformer(folder, max_seq_length)
        super().__init__(transformer, Pooling(transformer.model.config.hidden_size), Normalize())
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer.model_max_length = max_seq_length
        self.prompts: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self[0].model.device


def load(folder: str, device: str | None, max_length: int | None = None) -> PlainModel | None:
    """Load a model of this layout, with the errors of `backbones.load`; None if the folder holds another.

    None, too, if no device is named and there is a GPU: sentence-transformers knows which to take.
    """
    if not _is_plain(Path(folder)) or (device is None and torch.accelerator.is_available()):
        return None
    model = PlainModel(folder, _json(Path(folder) / "sentence_bert_config.json")["max_seq_length"])
    if model.tokenizer.padding_side != "right" or model.tokenizer.chat_template:
        return None
    check_vocabulary(model, folder)
    check_limits(model, folder, max_length)
    return model.to(device or "cpu").eval()


def _is_plain(folder: Path) -> bool:
    modules = [(module.get("type"), module.get("path")) for module in _json(folder / "modules.json")]
    pooling = _json(folder / "1_Pooling" / "config.json")
    reading = _json(folder / "sentence_bert_config.json")
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode") and value}
    return (
        modules == _MODULES
        and modes == {"pooling_mode_mean_tokens"}
        and pooling.get("include_prompt", True)
        and _json(folder / "config.json").get("model_type") in ("bert", "mpnet")
        and isinstance(reading.get("max_seq_length"), int)
        and reading == {"max_seq_length": reading["max_seq_length"], "do_lower_case": False}
        and _json(folder / "config_sentence_transformers.json").keys() == {"__version__"}
        and (folder / "model.safetensors").is_file()
    )


def _json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
