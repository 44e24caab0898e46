"""What a retriever can read: whether tokenizer, embeddings, positions and limits agree, and what is cut off."""

import logging
import warnings
from dataclasses import dataclass

import torch

UNLIMITED = 10**9  # a tokenizer that knows no limit says 1e30
UNKNOWN_SHARE = 0.1  # of the tokens that a pass reads; English text has below 1 % in WordPiece
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")  # what transformers calls learned positions
_logger = logging.getLogger(__name__)


@dataclass
class Lengths:
    """How long the texts of one pass are, and how much of them is not read.

    Attributes
    ----------
    n_texts, n_long : int
        Texts, and those with more tokens than are read at once.
    n_tokens, n_cut, n_unknown : int
        Tokens of all texts, prompts and special ones included; those of them that are cut off; and those that are read
        as the tokenizer's unknown token.
    """

    n_texts: int = 0
    n_long: int = 0
    n_tokens: int = 0
    n_cut: int = 0
    n_unknown: int = 0

    def log(self, kind: str, limit: int) -> None:
        """Log what was cut off or unknown, as a warning, and what was read in chunks; nothing if there was none."""
        texts = {"document": "documents", "query": "queries"}[kind]
        long = f"{self.n_long:,} of {self.n_texts:,} {texts} have more than {limit} tokens"
        if self.n_cut:
            share = f"{self.n_cut:,} of {self.n_tokens:,} tokens ({self.n_cut / self.n_tokens:.1%})"
            _logger.warning("%s: %s were cut off. long_texts='chunk' reads them, too.", long, share)
        elif self.n_long:
            _logger.info("%s, and are read in chunks; no token was cut off.", long)
        n_read = self.n_tokens - self.n_cut
        if self.n_unknown > UNKNOWN_SHARE * n_read:
            share = f"{self.n_unknown:,} of {n_read:,} tokens that are read of {self.n_texts:,} {texts}"
            _logger.warning("%s are unknown to the tokenizer; take a retriever for their language.", share)


def token_limits(model) -> dict[str, int]:
    """Return the largest number of tokens that the model reads of a query and of a document."""
    transformer = model[0]
    limit = transformer.max_seq_length or model.tokenizer.model_max_length
    query, expansion = transformer.query_length or limit, transformer.query_expansion
    if expansion:
        query = expansion["length"] if expansion["strategy"] == "fixed" else max(query, expansion["length"])
    return {"query": query, "document": transformer.document_length or limit}


def count_embeddings(model) -> int:
    """Return for how many token ids the model has embeddings."""
    return len(model[0].auto_model.get_input_embeddings().weight)


def count_positions(model) -> int | None:
    """Return how many tokens the model has positions for; None if positions are computed, such as rotary ones."""
    for name, module in model[0].auto_model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            # RoBERTa and MPNet count from padding_idx + 1, BART and OPT from their offset
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None


def check_limits(model, name: str, max_length: int | None) -> None:
    """Raise a ValueError if the model would read more tokens than it has positions for, or states no limit.

    Where it states none, `max_length` becomes its limit.
    """
    if max(token_limits(model).values()) > UNLIMITED:
        if max_length is None:
            raise ValueError(f"{name} states no limit of its tokens; pass max_length, such as 512.")
        model[0].max_seq_length = max_length
    positions, expansion = count_positions(model), model[0].query_expansion
    for kind, limit in token_limits(model).items():
        n_read = min(limit, max_length or limit)
        if kind == "query" and expansion:
            n_read = max(n_read, expansion["length"])
        if positions is not None and n_read > positions:
            raise ValueError(
                f"{name} would read up to {n_read} tokens of a {kind}, but its {type(model[0].auto_model).__name__} "
                f"has positions for {positions}; pass max_length={positions}, or lower what its configuration states."
            )


def check_vocabulary(model, name: str) -> None:
    """Raise a ValueError if the tokenizer does not read its own words, or gives ids that have no embedding.

    Special tokens without an embedding are allowed if no text gets them by itself; `Reader` refuses a text that holds
    one.

    Warns
    -----
    UserWarning
        If the tokenizer has less than half as many entries as the model has embeddings.
    """
    tokenizer, n_embeddings = model.tokenizer, count_embeddings(model)
    ids, added = set(tokenizer.get_vocab().values()), tokenizer.added_tokens_decoder
    files = "put the retriever's own tokenizer files (tokenizer.json and others) into its folder"
    words = sorted(ids - added.keys() - set(tokenizer.all_special_ids))
    sample = [text for i in words[:: max(1, len(words) // 64)] if (text := tokenizer.decode([i]).strip())]
    read = tokenizer(sample, add_special_tokens=False)["input_ids"] if sample else []
    n_read = sum(bool(set(row) - {tokenizer.unk_token_id}) for row in read)
    if not sample or n_read < len(sample) / 2:
        entries = f"has {len(ids)} entries, and reads {n_read} of {len(sample)} of them that it was given as text"
        raise ValueError(f"The tokenizer of {name} {entries}; {files}.")
    inserted = {tokenizer.pad_token_id or 0, *tokenizer("")["input_ids"]}  # into every text or batch
    beyond = sorted(i for i in ids if i >= n_embeddings and (i in inserted or i not in added or not added[i].special))
    if beyond:
        last = f"{beyond[-1]} ({tokenizer.convert_ids_to_tokens(beyond[-1])!r})"
        raise ValueError(
            f"The tokenizer of {name} has ids up to {last}, the model embeddings for ids up to {n_embeddings - 1}; "
            f"{files}, or resize the embeddings."
        )
    if len(ids) < n_embeddings / 2:
        entries = f"The tokenizer of {name} has {len(ids)} entries, the model {n_embeddings} embeddings"
        warnings.warn(f"{entries}. If it is another model's tokenizer, {files}.", stacklevel=4)
