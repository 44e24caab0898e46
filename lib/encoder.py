"""Text to token states: a frozen dense retriever, read at one of its layers."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from lib.builtin.minilm import default_retriever
from lib.checks import check_choice, check_count, check_texts
from lib.storage import digest_arrays, digest_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        self._model = SentenceTransformer(folder, device=device, local_files_only=Path(folder).is_dir()).eval()
        self.device = self._model.device
        self.dtype = dtype or native_dtype(self.device)
        transformer = self._model[0]
        self._backbone = transformer.auto_model.to(DTYPES[self.dtype])
        self._head = list(self._model)[1:]
        self.tokenizer = self._model.tokenizer
        self.n_layers = int(self._backbone.config.get_text_config().num_hidden_layers)
        self.d = int(self._backbone.config.get_text_config().hidden_size)
        self.layer = self._check_layer(layer)
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

    def _check_layer(self, layer: int) -> int:
        if not isinstance(layer, int) or isinstance(layer, bool) or not -1 <= layer <= self.n_layers:
            raise ValueError(
                f"layer is {layer!r}; {self.name} has layers 0 (embeddings) to {self.n_layers}, and -1 for the final."
            )
        return layer % (self.n_layers + 1)

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

        Memory is bounded by one window of about 16 forward passes, whatever the number of texts.

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
        check_choice(kind, self.prompts, "kind")
        texts = check_texts(texts)
        return self._stream(texts, self.prompts[kind], progress)

    def _stream(self, texts: Iterable[str], prompt: str, progress: bool | None) -> Iterator[TokenStates]:
        total = len(texts) if isinstance(texts, list) else None
        hidden = None if progress is None else not progress
        with tqdm(total=total, disable=hidden, unit="text", desc="encode", mininterval=1.0) as bar:
            for window in self._windows(texts, prompt):
                yield self._encode_window(window)
                bar.update(len(window))

    def _windows(self, texts: Iterable[str], prompt: str) -> Iterator[list[dict]]:
        """Tokenize, and cut the stream where a window holds 16 batches' worth of tokens."""
        window, n_tokens = [], 0
        for tokens in self._tokenize(texts, prompt):
            window.append(tokens)
            n_tokens += len(tokens["ids"])
            if n_tokens >= 16 * self.batch_tokens:
                yield window
                window, n_tokens = [], 0
        if window:
            yield window

    def _tokenize(self, texts: Iterable[str], prompt: str) -> Iterator[dict]:
        texts = iter(texts)
        while chunk := list(islice(texts, 256)):
            tokens = self.tokenizer(
                [(prompt + text).encode("utf-8", "replace").decode() for text in chunk],  # lone surrogates become "?"
                truncation=True,
                max_length=self.max_length,
                return_special_tokens_mask=True,
            )
            for text, ids, special in zip(chunk, tokens["input_ids"], tokens["special_tokens_mask"], strict=True):
                yield {"ids": ids, "special": special, "empty": not text.strip()}

    def _encode_window(self, window: list[dict]) -> TokenStates:
        """Encode in batches of similar length, then put every text's rows back in the order of the window."""
        order = sorted(range(len(window)), key=lambda i: len(window[i]["ids"]))
        states: list[torch.Tensor] = [torch.empty(0)] * len(window)
        pooled: list[np.ndarray] = [np.empty(0)] * len(window)
        for batch in self._batches(order, window):
            for i, text_states, text_pooled in zip(batch, *self._forward([window[i] for i in batch]), strict=True):
                keep = [] if window[i]["empty"] else self._kept(window[i])
                states[i], pooled[i] = text_states[keep], text_pooled
        lengths = [len(s) for s in states]
        ids = chain.from_iterable(
            [] if text["empty"] else [text["ids"][j] for j in self._kept(text)] for text in window
        )
        return TokenStates(
            states=torch.cat(states),
            token_ids=np.fromiter(ids, np.int64, sum(lengths)),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            pooled=np.stack(pooled),
        )

    def _kept(self, text: dict) -> list[int]:
        return [j for j, special in enumerate(text["special"]) if self.special_tokens or not special]

    def _batches(self, order: list[int], window: list[dict]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in order:  # ascending length, so the newest text is the longest of its batch
            if batch and (len(batch) + 1) * len(window[i]["ids"]) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @torch.no_grad()
    def _forward(self, texts: list[dict]) -> tuple[list[torch.Tensor], np.ndarray]:
        ids = [text["ids"] for text in texts]
        padded = self.tokenizer.pad(
            {"input_ids": ids},
            padding="max_length",
            max_length=max(1, *map(len, ids)),  # 1: without special tokens, all texts may be without a token
            padding_side="right",  # on the left it would shift positions by the lengths of the neighbours
            return_tensors="pt",
        ).to(self.device)
        final_layer = self.layer == self.n_layers
        out = self._backbone(**padded, output_hidden_states=not final_layer, return_dict=True)
        chosen = out.last_hidden_state if final_layer else out.hidden_states[self.layer]
        features = {"token_embeddings": out.last_hidden_state.float(), **padded}
        for module in self._head:
            features = module(features)
        if "sentence_embedding" not in features:
            raise ValueError(
                f"{self.name} has no pooling, so no embedding of a text; add a sentence-transformers Pooling module."
            )
        mask = padded["attention_mask"].bool()
        rows = [row[kept].float() for row, kept in zip(chosen, mask, strict=True)]
        return rows, features["sentence_embedding"].float().cpu().numpy()
