"""A retriever as its own configuration describes it: what loads it, its prompts, and how it reads a text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lib.encode.limits import Lengths, check_limits, check_vocabulary, count_embeddings, token_limits

PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}  # the first that a model has
LONG_TEXTS = ("cut", "chunk")
_MULTI_VECTOR = ("MultiVectorEncoder", "ColBERT")  # what sentence-transformers and PyLate call the model type
_PROBE = "Is this text read as the model reads it?"


class Passage(NamedTuple):
    """What a model reads at once: a text, or a chunk of a long one.

    Attributes
    ----------
    ids : np.ndarray, int64 [n]
    attended : np.ndarray, bool [n]
        False for tokens that attend to the others but are not attended to: those of most models' query expansion.
    positions : np.ndarray, int64 [n_states]
        The tokens whose states are given out.
    """

    ids: np.ndarray
    attended: np.ndarray
    positions: np.ndarray


def load(folder: str, device: str | None, max_length: int | None = None):
    """Load a `SentenceTransformer`, or a `MultiVectorEncoder` where the configuration is a late-interaction model's.

    Late-interaction folders are those of sentence-transformers' `MultiVectorEncoder`, of PyLate and of Stanford's
    ColBERT. No code in a folder is executed.

    Raises ValueError if the first module is not a Transformer, if the model merges tokens, if its parts do not fit
    (`check_vocabulary`; `check_limits` with `max_length`), and if it tokenizes otherwise than `Reader`.
    """
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer  # slow to import
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    local = Path(folder).is_dir()
    model_type = _json(folder, "config_sentence_transformers.json", local).get("model_type")
    architectures = _json(folder, "config.json", local).get("architectures") or []
    multi_vector = model_type in _MULTI_VECTOR or "HF_ColBERT" in architectures
    kind = MultiVectorEncoder if multi_vector else SentenceTransformer
    model = kind(folder, device=device, local_files_only=local)
    if not isinstance(model[0], Transformer):
        raise ValueError(f"{folder} begins with a {type(model[0]).__name__}; only a Transformer has token states.")
    merging = [type(module).__name__ for module in model if isinstance(module, BaseTokenPooling)]
    if merging:
        raise ValueError(f"{folder} merges tokens ({', '.join(merging)}); save it without that module.")
    check_vocabulary(model, folder)
    check_limits(model, folder, max_length)
    if multi_vector or _find(folder, "modules.json", local):  # others do not specify how texts are to be read
        check_reading(model)
    return model.eval()


def _find(folder: str, name: str, local: bool) -> str | None:
    from sentence_transformers.util import load_file_path

    return load_file_path(folder, name, local_files_only=local)


def _json(folder: str, name: str, local: bool) -> dict:
    path = _find(folder, name, local)
    return {} if path is None else json.loads(Path(path).read_text("utf-8"))


def _is_a(module, name: str) -> bool:
    """Whether a module is of a class of that name: sentence_transformers is too slow to import for `isinstance`."""
    return any(kind.__name__ == name for kind in type(module).__mro__)


def is_late_interaction(model) -> bool:
    """Whether the model embeds each token, not the text."""
    return _is_a(model, "MultiVectorEncoder")


def embedding_modules(model) -> list[torch.nn.Module]:
    """Return the modules that make embeddings of states, in float32, without the mask, which `Reader` applies."""
    return [module.float() for module in list(model)[1:] if not _is_a(module, "MultiVectorMask")]


def gives_unit_vectors(model) -> bool:
    """Whether the last module scales embeddings to norm 1."""
    return _is_a(list(model)[-1], "Normalize")


def configured_prompts(model) -> dict[str, str]:
    """Return the prompt of queries and of documents that the model's configuration has.

    It is the first that is not empty of those named "query", or "document", "passage", "corpus"; then the one that
    `default_prompt_name` names, unless that is for the other kind of texts; then "".
    """
    prompts = {}
    for kind, names in PROMPT_NAMES.items():
        other_names = {name for key in PROMPT_NAMES.keys() - {kind} for name in PROMPT_NAMES[key]}
        default = {model.default_prompt_name} - other_names
        prompts[kind] = next((model.prompts[name] for name in [*names, *default] if model.prompts.get(name)), "")
    return prompts


class Reader:
    """Texts of one kind to passages: prompt, tokenizer, query expansion, and the choice of states to give out.

    Parameters
    ----------
    model : SentenceTransformer or MultiVectorEncoder
    kind : {"query", "document"}
    prompt : str
    max_length : int
        Largest number of tokens of a passage before query expansion; a lower limit of the model takes precedence.
    special_tokens, include_prompt, long_texts
        As in `TokenEncoder`.
    """

    def __init__(
        self,
        model,
        kind: str,
        prompt: str,
        max_length: int,
        special_tokens: bool,
        include_prompt: bool,
        long_texts: str,
    ):
        self._tokenizer = model.tokenizer
        self._prompt, self.limit = prompt, min(max_length, token_limits(model)[kind])
        self._n_special = self._tokenizer.num_special_tokens_to_add()
        self._special_tokens = special_tokens
        self._scored = _scored_ids(model, kind)
        self._expansion = model[0].query_expansion if kind == "query" else None
        self._filler = None if self._expansion is None else self._expansion_id(self._expansion["token"])
        self._chunks = long_texts == "chunk" and self._expansion is None
        self._prompt_ids = np.array(self._tokenizer(prompt, add_special_tokens=False)["input_ids"], dtype=np.int64)
        self.prompt_length = self._count_prompt() if prompt else 0
        self._n_skipped = 0 if include_prompt else self.prompt_length
        self._n_embeddings = count_embeddings(model)
        self._exceeds = max(self._tokenizer.get_vocab().values()) >= self._n_embeddings
        self._check_ids([prompt], [[*self._prompt_ids, self._filler or 0]])

    def check_prompt(self) -> None:
        """Raise a ValueError if prompt and special tokens fill what is read of a text."""
        if self.limit <= self._n_special + len(self._prompt_ids):
            limits = f"{self.limit} tokens are read of a text, {self._n_special} special ones included"
            prompt = f"the prompt {self._prompt!r} has {len(self._prompt_ids)}"
            raise ValueError(f"{limits}; {prompt}. Raise max_length or shorten the prompt.")

    def _check_ids(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        """Raise a ValueError for a text with a token that has no embedding."""
        for text, row in zip(texts, ids, strict=True):
            if max(row, default=0) >= self._n_embeddings:
                token = self._tokenizer.convert_ids_to_tokens(int(max(row)))
                without = f"the token {token!r}, for which the model has no embedding"
                raise ValueError(f"{text[:80]!r} holds {without}; remove it from the text.")

    def _count_prompt(self) -> int:
        """Count the prompt's tokens as sentence-transformers does: with special ones before it, without one after."""
        ids = self._tokenizer(self._prompt)["input_ids"]
        return len(ids) - sum(last in self._tokenizer.all_special_ids for last in ids[-1:])

    def _expansion_id(self, token: str | None) -> int:
        """Return the id of the token that expands a query: the mask unless the model names another."""
        if token is not None:
            return self._tokenizer.convert_tokens_to_ids(token)
        mask = self._tokenizer.mask_token_id
        return self._tokenizer.eos_token_id if mask is None else mask

    def read(self, texts: Iterable[str], lengths: Lengths) -> Iterator[list[Passage]]:
        """Yield the passages of each text, one unless it is long and long texts are cut into chunks.

        `lengths` counts texts and tokens. Raises ValueError for a text with a token that has no embedding.
        """
        texts = iter(texts)
        while group := list(islice(texts, 256)):
            prompted = [(self._prompt + text).encode("utf-8", "replace").decode() for text in group]  # surrogates: "?"
            tokens = self._tokenizer(
                prompted,
                truncation=not self._chunks,
                max_length=None if self._chunks else self.limit,
                return_special_tokens_mask=True,
                verbose=False,
            )
            if self._exceeds:
                self._check_ids(group, tokens["input_ids"])
            self._count(prompted, tokens, lengths)
            for text, ids, special in zip(group, tokens["input_ids"], tokens["special_tokens_mask"], strict=True):
                ids, special = np.array(ids, dtype=np.int64), np.array(special, dtype=bool)
                parts = self._split(ids, special) if len(ids) > self.limit else [(ids, special)]
                blank = not text.strip()
                yield [self._passage(*part, blank) for part in parts]

    def _count(self, texts: Sequence[str], tokens, lengths: Lengths) -> None:
        """Add texts, and what the tokenizer made of them, to `lengths`."""
        ids = tokens["input_ids"]
        full = [] if self._chunks else [i for i, row in enumerate(ids) if len(row) == self.limit]
        if tokens.encodings is None:  # tokenizers in Python do not keep what they cut off
            n_cut = [len(self._tokenizer(texts[i], verbose=False)["input_ids"]) - self.limit for i in full]
        else:
            n_cut = [sum(len(part) - self._n_special for part in tokens.encodings[i].overflowing) for i in full]
        lengths.n_texts += len(ids)
        lengths.n_long += sum(len(row) > self.limit for row in ids) + sum(n > 0 for n in n_cut)
        lengths.n_tokens += sum(map(len, ids)) + sum(n_cut)
        lengths.n_cut += sum(n_cut)
        lengths.n_unknown += sum(row.count(self._tokenizer.unk_token_id) for row in ids)

    def _split(self, ids: np.ndarray, special: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Cut a text into chunks of nearly equal length, each with the prompt before it and the special tokens."""
        first, last = np.flatnonzero(~special)[[0, -1]]
        before, content, after = np.split(ids, [first, last + 1])
        n_prompt = len(self._prompt_ids)
        size = self.limit - len(before) - len(after) - n_prompt
        pieces = np.array_split(content[n_prompt:], -(-(len(content) - n_prompt) // size))
        openings = [content[:n_prompt]] + [self._prompt_ids] * (len(pieces) - 1)
        chunks = []
        for opening, piece in zip(openings, pieces, strict=True):
            special = np.repeat([True, False, True], [len(before), n_prompt + len(piece), len(after)])
            chunks.append((np.concatenate([before, opening, piece, after]), special))
        return chunks

    def _passage(self, ids: np.ndarray, special: np.ndarray, blank: bool) -> Passage:
        attended = np.ones(len(ids), dtype=bool)
        if self._expansion is not None and len(ids) < self._expansion["length"]:
            n = self._expansion["length"] - len(ids)
            ids = np.append(ids, np.full(n, self._filler))
            special = np.append(special, np.ones(n, dtype=bool))
            attended = np.append(attended, np.full(n, self._expansion["attend"]))
        given_out = (attended if self._scored is None else self._scored[ids]) & (not blank)
        if not self._special_tokens:
            given_out &= ~special
        given_out[: self._n_skipped] = False
        return Passage(ids, attended, np.flatnonzero(given_out))


def _scored_ids(model, kind: str) -> np.ndarray | None:
    """Return which token ids the model's mask (its skiplist) keeps in texts of a kind, bool by id; None without one."""
    masks = [module for module in model if _is_a(module, "MultiVectorMask")]
    if not masks:
        return None
    ids = torch.arange(max(model.tokenizer.get_vocab().values()) + 1)[None]
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for mask in masks:
        features = mask(features, task=kind)
    return features["attention_mask"][0].numpy().astype(bool)


def check_reading(model) -> None:
    """Raise a ValueError if the model tokenizes a text otherwise than `Reader` does with the model's settings."""
    limits, prompts = token_limits(model), configured_prompts(model)
    for kind, prompt in prompts.items():
        features = model.preprocess([_PROBE], prompt=prompt or None, task=kind)
        ids = features["input_ids"][0]
        attended = features.get("attention_mask", torch.ones_like(ids)[None])[0].bool()
        reader = Reader(model, kind, prompt, limits[kind], special_tokens=True, include_prompt=True, long_texts="cut")
        passage = next(reader.read([_PROBE], Lengths()))[0]
        if passage.ids.tolist() != ids.tolist() or passage.attended.tolist() != attended.tolist():
            raise ValueError(
                f"Of the {kind} {_PROBE!r} the model makes tokens {ids.tolist()}, TokenEncoder {passage.ids.tolist()}, "
                'without a chat template; save it with the modality "text" only, and with padding on the right.'
            )
