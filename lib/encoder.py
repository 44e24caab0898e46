"""Text to token states: a frozen dense retriever, read at one of its layers."""

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from lib.builtin.minilm import default_retriever
from lib.checks import check_choice, check_count, check_texts
from lib.storage import digest_arrays, digest_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WINDOW = 32  # forward passes whose texts are sorted by length: of twice as many, 2 % less would be padding


@dataclass(frozen=True)
class TokenStates:
    """The token states of a few consecutive texts, laid end to end.

    Attributes
    ----------
    states : torch.Tensor, float32 [n_tokens, d]
        Hidden states at the encoder's layer, on the encoder's device; padding is never among them.
    token_ids : np.ndarray, int64 [n_tokens]
        The tokenizer's id of each token.
    offsets : np.ndarray, int64 [n_texts + 1]
        Text i owns the rows `offsets[i]:offsets[i + 1]`; an empty text owns none.
    pooled : np.ndarray, float32 [n_texts, d_pooled]
        The model's own embedding of each text (of its prompt and special tokens too), from the same forward pass.
    """

    states: torch.Tensor
    token_ids: np.ndarray
    offsets: np.ndarray
    pooled: np.ndarray


class _Tokens(NamedTuple):
    """A tokenized text: all of its ids, int64, and the positions of those whose states are given out."""

    ids: np.ndarray
    kept: np.ndarray


def native_dtype(device: torch.device) -> str:
    """Name the fastest dtype that `device` computes natively: "bfloat16" or "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return "bfloat16" if any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
    return "float32"


def _locate(model: str | Path) -> tuple[str, str]:
    """Return name and place of a model: a folder's absolute path, else the hub id as it is."""
    folder = Path(model).expanduser()
    place = str(folder.resolve()) if folder.is_dir() else str(model)
    return place, place


class TokenEncoder:
    """A frozen Transformer retriever that gives the state of every token, and its own embedding of every text.

    Parameters
    ----------
    model : str or Path, optional
        A sentence-transformers or transformers encoder: a folder or a hub id. None is the packaged default, the
        official all-MiniLM-L6-v2 (d = 384, six layers).
    layer : int
        Which hidden states to read: -1 the final ones, 0 the embeddings, l the output of the l-th block.
    special_tokens : bool
        Whether the states of special tokens ([CLS], [SEP], ...) are among the states given out. The model always
        reads them.
    query_prompt, document_prompt : str, optional
        Put before each query or document; None is the model's own (its `prompts`), mostly "". The tokens of a prompt
        are read and given out like any other.
    max_length : int, optional
        Tokens of a text that are read, special tokens included; the rest is cut off. None is the model's own limit.
    dtype : {"float32", "bfloat16"}, optional
        What the model computes in; None is bfloat16 where the machine has it natively, else float32. States and
        embeddings are always given as float32.
    device : str, optional
        A torch device; None is the GPU if there is one.
    batch_tokens : int
        Budget of one forward pass, in tokens, padding included (one longer text is still read whole).

    Raises
    ------
    TypeError, ValueError
        For a layer that the model does not have and for a dtype, length or budget that is not allowed.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        layer: int = -1,
        special_tokens: bool = True,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_tokens: int = 2048,
    ):
        if dtype is not None:
            check_choice(dtype, DTYPES, "dtype")
        prompts = {"query": query_prompt, "document": document_prompt}
        for kind, prompt in prompts.items():
            if not isinstance(prompt, str | None):
                raise TypeError(f"{kind}_prompt is {prompt!r}; it must be a str, or None for the model's own.")
        self.batch_tokens = check_count(batch_tokens, "batch_tokens")
        self.name, folder = default_retriever() if model is None else _locate(model)
        from sentence_transformers import SentenceTransformer  # slow to import, and only those who encode need it

        self._model = SentenceTransformer(folder, device=device, local_files_only=Path(folder).is_dir()).eval()
        self.device = self._model.device
        self.dtype = dtype or native_dtype(self.device)
        transformer = self._model[0]
        self._backbone = transformer.auto_model.to(DTYPES[self.dtype])
        self._head = list(self._model)[1:]
        self.tokenizer = self._model.tokenizer
        self.n_layers = int(self._backbone.config.get_text_config().num_hidden_layers)
        self.d = int(self._backbone.config.get_text_config().hidden_size)
        self.layer = self.resolve_layer(layer)
        self.special_tokens = bool(special_tokens)
        own = self._model.prompts
        self.prompts = {kind: own.get(kind) or "" if prompt is None else prompt for kind, prompt in prompts.items()}
        own_limit = self._model.max_seq_length or self.tokenizer.model_max_length
        self.max_length = own_limit if max_length is None else min(self._check_max_length(max_length), own_limit)

    def _check_max_length(self, max_length: int) -> int:
        n_special = self.tokenizer.num_special_tokens_to_add()
        if check_count(max_length, "max_length") <= n_special:  # the tokenizer would then not truncate at all
            raise ValueError(f"max_length is {max_length}; {n_special} tokens are special, so it must be above that.")
        return max_length

    def resolve_layer(self, layer: int) -> int:
        """Return the number of a layer, 0 (embeddings) to `n_layers`; -1 is the final one. ValueError for others."""
        if not isinstance(layer, int) or isinstance(layer, bool) or not -1 <= layer <= self.n_layers:
            raise ValueError(
                f"layer is {layer!r}; {self.name} has layers 0 (embeddings) to {self.n_layers}, and -1 for the final."
            )
        return layer % (self.n_layers + 1)

    def at(self, layer: int) -> "TokenEncoder":
        """Return the same encoder reading another layer; the model is shared, not copied."""
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other.layer = self.resolve_layer(layer)
        return other

    @property
    def config(self) -> dict:
        """Everything but the weights that decides what a text's states are, JSON-able."""
        return {
            "model": self.name,
            "layer": self.layer,
            "special_tokens": self.special_tokens,
            "query_prompt": self.prompts["query"],
            "document_prompt": self.prompts["document"],
            "max_length": self.max_length,
            "dtype": self.dtype,
        }

    @cached_property
    def identity(self) -> dict:
        """The `config` and what else decides states and embeddings, JSON-able; the key of whatever is stored.

        That is the sha256 of all weights as they compute, and of the tokenizer and the modules behind the Transformer.
        """
        weights = {name: tensor.cpu().view(torch.uint8).numpy() for name, tensor in self._model.state_dict().items()}
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokenizer |= {"truncation": None, "padding": None}  # as the last call left them
        others = digest_json([tokenizer, *map(repr, self._head)])
        return self.config | {"weights": digest_arrays(weights), "tokenizer_and_head": others}

    def stream(
        self, texts: Iterable[str], kind: str = "document", *, progress: bool | None = None
    ) -> Iterator[TokenStates]:
        """Yield the token states of `texts`, a few consecutive texts at a time, in their order.

        Memory is bounded by one window of about 32 forward passes, whatever the number of texts.

        Parameters
        ----------
        texts : iterable of str
            A list is checked whole before the first forward pass; a generator as it is read.
        kind : {"document", "query"}
            Which prompt is put before each text.
        progress : bool, optional
            A progress bar on stderr; None shows it on a terminal only.

        Raises
        ------
        TypeError
            For a single `str` and for an element that is not one (its position is named).
        """
        return (block[self.layer] for block in self.stream_layers(texts, [self.layer], kind, progress=progress))

    def stream_layers(
        self, texts: Iterable[str], layers: Iterable[int], kind: str = "document", *, progress: bool | None = None
    ) -> Iterator[dict[int, TokenStates]]:
        """Yield the token states of `texts` at several layers, all from one forward pass; otherwise as `stream`.

        Parameters
        ----------
        layers : iterable of int
            Named as in the constructor, whose own `layer` does not matter here. They are the keys of what is yielded,
            -1 under its number `n_layers`; under each are the same token ids, offsets and embeddings.
        texts, kind, progress
            As in `stream`.

        Raises
        ------
        TypeError
            As in `stream`, and for layers that are a single int.
        ValueError
            For no layer, and for one that the model does not have.
        """
        check_choice(kind, self.prompts, "kind")
        if isinstance(layers, int):
            raise TypeError(f"layers is {layers} (int); pass a list of int, for example [{layers}].")
        numbers = sorted({self.resolve_layer(layer) for layer in layers})
        if not numbers:
            raise ValueError("layers is empty; name at least one, such as -1 for the final states.")
        return self._stream(check_texts(texts), numbers, self.prompts[kind], progress)

    def _stream(
        self, texts: Iterable[str], layers: list[int], prompt: str, progress: bool | None
    ) -> Iterator[dict[int, TokenStates]]:
        total = len(texts) if isinstance(texts, list) else None
        hidden = None if progress is None else not progress
        with tqdm(total=total, disable=hidden, unit="text", desc="encode", mininterval=1.0) as bar:
            for window in self._windows(texts, prompt):
                yield self._encode_window(window, layers)
                bar.update(len(window))

    def count_tokens(self, texts: Iterable[str], kind: str = "document") -> Iterator[int]:
        """Yield how many token states `stream` gives of each text, by the tokenizer alone: no forward pass.

        Parameters
        ----------
        texts, kind
            As in `stream`.

        Raises
        ------
        TypeError
            As in `stream`.
        """
        check_choice(kind, self.prompts, "kind")
        return (len(text.kept) for text in self._tokenize(check_texts(texts), self.prompts[kind]))

    def _windows(self, texts: Iterable[str], prompt: str) -> Iterator[list[_Tokens]]:
        """Tokenize, and cut the stream where a window holds enough batches' worth of tokens."""
        window, n_tokens = [], 0
        for tokens in self._tokenize(texts, prompt):
            window.append(tokens)
            n_tokens += len(tokens.ids)
            if n_tokens >= _WINDOW * self.batch_tokens:
                yield window
                window, n_tokens = [], 0
        if window:
            yield window

    def _tokenize(self, texts: Iterable[str], prompt: str) -> Iterator[_Tokens]:
        texts = iter(texts)
        while chunk := list(islice(texts, 256)):
            tokens = self.tokenizer(
                [(prompt + text).encode("utf-8", "replace").decode() for text in chunk],  # lone surrogates become "?"
                truncation=True,
                max_length=self.max_length,
                return_special_tokens_mask=True,
            )
            for text, ids, special in zip(chunk, tokens["input_ids"], tokens["special_tokens_mask"], strict=True):
                ids, special = np.array(ids, dtype=np.int64), np.array(special, dtype=bool)
                left_out = special & (not self.special_tokens) | (not text.strip())
                yield _Tokens(ids, np.flatnonzero(~left_out))

    def _encode_window(self, window: list[_Tokens], layers: list[int]) -> dict[int, TokenStates]:
        """Encode in batches of similar length, and put every text's rows where they belong in the window."""
        offsets = np.concatenate([[0], np.cumsum([len(text.kept) for text in window])])
        states = {layer: torch.empty(offsets[-1], self.d, dtype=torch.float32, device=self.device) for layer in layers}
        pooled: list[np.ndarray] = [np.empty(0)] * len(window)
        for batch in self._batches(window):
            read, embeddings = self._forward([window[i].ids for i in batch], layers)
            length = read[layers[0]].shape[1]
            source = torch.from_numpy(np.concatenate([row * length + window[i].kept for row, i in enumerate(batch)]))
            target = torch.from_numpy(np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in batch]))
            for layer, rows in read.items():
                rows = rows.flatten(0, 1)[source.to(self.device)]
                states[layer].index_copy_(0, target.to(self.device), rows.float())
            for i, embedding in zip(batch, embeddings, strict=True):
                pooled[i] = embedding
        shared = {
            "token_ids": np.concatenate([text.ids[text.kept] for text in window]),
            "offsets": offsets.astype(np.int64),
            "pooled": np.stack(pooled),
        }
        return {layer: TokenStates(states=rows, **shared) for layer, rows in states.items()}

    def _batches(self, window: list[_Tokens]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in sorted(range(len(window)), key=lambda i: len(window[i].ids)):
            # ascending length, so the newest text is the longest of its batch
            if batch and (len(batch) + 1) * len(window[i].ids) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @torch.no_grad()
    def _forward(self, ids: list[np.ndarray], layers: list[int]) -> tuple[dict[int, torch.Tensor], np.ndarray]:
        """Return the hidden states of a batch at `layers`, each [n_texts, length, d], and the texts' embeddings."""
        lengths = np.array([len(text) for text in ids])
        mask = np.arange(max(1, lengths.max())) < lengths[:, None]  # 1: all texts may be without a token
        padded = np.full(mask.shape, self.tokenizer.pad_token_id or 0)
        padded[mask] = np.concatenate(ids)  # on the left, padding would shift positions by the neighbours' lengths
        batch = {"input_ids": padded, "attention_mask": mask.astype(np.int64)}
        batch = {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()}
        out = self._backbone(**batch, output_hidden_states=layers != [self.n_layers], return_dict=True)
        features = {"token_embeddings": out.last_hidden_state.float(), **batch}
        for module in self._head:
            features = module(features)
        if "sentence_embedding" not in features:
            raise ValueError(
                f"{self.name} has no pooling, so no embedding of a text; add a sentence-transformers Pooling module."
            )
        read = {i: out.last_hidden_state if i == self.n_layers else out.hidden_states[i] for i in layers}
        return read, features["sentence_embedding"].float().cpu().numpy()
