"""Latent Terms in the evaluators of others: BM25, with the statistics of the corpus, instead of a dot product.

sentence-transformers encodes queries and documents and calls `similarity`; mteb calls `index` and `search`. The two
classes answer these calls for a `LatentTerms` and for a `SparseEncoder`, and neither library needs a change.
"""

from collections.abc import Iterable, Mapping, Sequence
from weakref import ref

import numpy as np
import torch
from scipy.sparse import csr_array
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.model_card import SparseEncoderModelCardData

from lib.bm25.index import BM25Index
from lib.bm25.pruning import keep_top
from lib.bm25.ranking import strictly_falling, top_k
from lib.bm25.weighting import PAPER, BM25Constants, check_constants, check_query_weights
from lib.interop import optional_module
from lib.interop.conversion import term_matrix
from lib.latent_terms import LatentTerms
from lib.support.checks import check_ids, check_mapping, check_texts


class _Scored:
    """A model whose term rows are ranked with BM25."""

    def __init__(self, model: LatentTerms | SparseEncoder, bm25: BM25Constants | None = None):
        if not isinstance(model, LatentTerms | SparseEncoder):
            raise TypeError(f"model is a {type(model).__name__}; pass a LatentTerms or a SparseEncoder.")
        self.model = model
        self.bm25 = check_constants(getattr(model, "bm25", PAPER) if bm25 is None else bm25)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, {self.bm25})"

    def _rows(self, texts: Iterable[str], kind: str, *, progress: bool | None = None, **settings) -> csr_array:
        """Return the term weights of documents or queries, float32 [n_texts, width]."""
        texts = list(check_texts(texts))
        if isinstance(self.model, SparseEncoder):
            encode = self.model.encode_query if kind == "query" else self.model.encode_document
            return term_matrix(encode(texts, show_progress_bar=progress, save_to_cpu=True, **settings))
        encode = self.model.encode_queries if kind == "query" else self.model.encode_documents
        return encode(texts, progress=progress is not False)


class LatentTermsSearch(_Scored):
    """A model for `SparseInformationRetrievalEvaluator` and `SparseNanoBEIREvaluator`, scored with BM25.

        SparseInformationRetrievalEvaluator(queries, corpus, relevant_docs)(LatentTermsSearch(model))

    N, document frequencies and the average length are those of the documents that are scored together. The evaluator
    scores `corpus_chunk_size` documents at a time, 50,000 by default; it must be at least the size of the corpus, else
    `similarity` refuses the second chunk. A collection too large for one matrix of all scores is for `BM25Index`.

    Parameters
    ----------
    model : LatentTerms or SparseEncoder
    bm25 : BM25Constants, optional
        None is the constants of the `LatentTerms`, and the paper's for a `SparseEncoder`.
    """

    similarity_fn_name = "bm25"
    sparsity = staticmethod(SparseEncoder.sparsity)

    def __init__(self, model: LatentTerms | SparseEncoder, bm25: BM25Constants | None = None):
        super().__init__(model, bm25)
        card = getattr(model, "model_card_data", None)
        self.model_card_data = SparseEncoderModelCardData() if card is None else card
        self._scored: tuple = (None, None)

    def encode_query(self, sentences: Sequence[str], **settings) -> torch.Tensor:
        """Return the term weights of queries, a sparse tensor, float32 [n_texts, width], on the CPU.

        `settings` are those of `SparseEncoder.encode_query`. A `LatentTerms`, which has its own batches and prompts,
        takes `show_progress_bar` and `max_active_dims`, and refuses a prompt (ValueError). For either model,
        `max_active_dims` keeps the largest weights of a text and does not limit the latents of a token, as
        `SparseEncoder.encode_query` does.
        """
        return self._encode(sentences, "query", **settings)

    def encode_document(self, sentences: Sequence[str], **settings) -> torch.Tensor:
        """Return the term weights of documents, as `encode_query` does."""
        return self._encode(sentences, "document", **settings)

    def _encode(
        self,
        sentences: Sequence[str],
        kind: str,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        max_active_dims: int | None = None,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = True,
    ) -> torch.Tensor:
        if not (convert_to_sparse_tensor and save_to_cpu):
            raise ValueError("Rows are sparse tensors on the CPU; leave convert_to_sparse_tensor and save_to_cpu True.")
        settings = {}
        if isinstance(self.model, SparseEncoder):
            settings = {"prompt_name": prompt_name, "prompt": prompt, "batch_size": batch_size}
        elif prompt is not None or prompt_name is not None:
            raise ValueError(f"prompt is {prompt!r}, prompt_name {prompt_name!r}; set the encoder's {kind}_prompt.")
        rows = self._rows(sentences, kind, progress=show_progress_bar, **settings)
        return _tensor(rows if max_active_dims is None else keep_top(rows, max_active_dims))

    def similarity(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Return the BM25 scores, float32 [n_queries, n_docs], with the statistics of these documents.

        Both are [n_texts, width], sparse or dense, as `encode_query` and `encode_document` give them. No two scores of
        a query are equal: of equal ones the later document's is lowered by the least that a float32 can be
        (`strictly_falling`), so that evaluators rank documents as `BM25Index` does.

        ValueError for the same queries with other documents: a part of a corpus would have statistics of its own; and
        for weights out of range.
        """
        scored_queries, scored_documents = (weak and weak() for weak in self._scored)
        if scored_queries is queries and scored_documents is not documents:
            raise ValueError(
                "These queries were scored against other documents before, and BM25 needs the statistics of the whole "
                "corpus. Set corpus_chunk_size to at least its size; for a second corpus, encode the queries again."
            )
        self._scored = (ref(queries), ref(documents))
        index = BM25Index.build(term_matrix(documents), map(str, range(len(documents))), self.bm25)
        weighted = csr_array(check_query_weights(term_matrix(queries), self.bm25.k1).multiply(index.idf))
        scores = np.hstack([(weighted @ rows.T).toarray() for rows in index.impact_rows()])
        for row in scores:
            order = top_k(row, len(row))
            row[order] = strictly_falling(row[order])
        return torch.from_numpy(scores)


class MTEBSearch(_Scored):
    """The search protocol of mteb 2 (`mteb.models.SearchProtocol`), so that `mteb.evaluate` ranks with BM25.

        mteb.evaluate(MTEBSearch(model, "organisation/name"), tasks)

    A document is its title, a new line and its text, as in this package's collections; an instruction follows its query
    after a space, as in mteb. Of a task with given candidates, only those are ranked, with the statistics of all.

    Parameters
    ----------
    model : LatentTerms or SparseEncoder
    name : str
        Organisation and model, such as "me/latent-terms", under which mteb files the results.
    bm25 : BM25Constants, optional
        As in `LatentTermsSearch`.
    """

    def __init__(self, model: LatentTerms | SparseEncoder, name: str, bm25: BM25Constants | None = None):
        super().__init__(model, bm25)
        if len([part for part in name.split("/") if part]) != 2:
            raise ValueError(f"name is {name!r}; mteb needs an organisation and a model, such as 'me/latent-terms'.")
        self.name = name
        self._indexed: BM25Index | None = None

    @property
    def mteb_model_meta(self):
        """The model's metadata, a `mteb.models.ModelMeta`; needs the extra `mteb`."""
        kind = optional_module("mteb.models", "mteb").ModelMeta
        return kind.create_empty({"name": self.name, "framework": ["PyTorch"], "model_type": ["sparse"]})

    def index(self, corpus: Iterable[Mapping], **settings) -> None:
        """Encode and index a corpus: rows with id, text and perhaps title.

        Of mteb's settings only `show_progress_bar` of `encode_kwargs` is used.
        """
        corpus, ids = _records(corpus, "corpus")
        texts = [f"{row['title']}\n{row['text']}" if row.get("title") else row["text"] for row in corpus]
        documents = self._rows(texts, "document", progress=_progress(settings))
        self._indexed = BM25Index.build(documents, ids, self.bm25)

    def search(
        self,
        queries: Iterable[Mapping],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **settings,
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the `top_k` best documents of each query, by query id and document id.

        They are those of `Ranking.as_dict`, of which no two are equal, so that mteb measures our order.

        Parameters
        ----------
        queries : iterable of mapping
            Rows with id, text and perhaps instruction.
        top_k : int
            Number of documents per query.
        top_ranked : mapping, optional
            The only documents that are ranked for each query, by their ids. ValueError for a query that it lacks and
            for ids that are not in the corpus.
        """
        if self._indexed is None:
            raise ValueError("There is no index yet; call index with the corpus first.")
        queries, ids = _records(queries, "queries")
        if top_ranked is not None:
            check_mapping(top_ranked, "top_ranked", "{query_id: [doc_id, ...]}")
            if missing := [query_id for query_id in ids if query_id not in top_ranked]:
                raise ValueError(f"top_ranked lacks {missing[0]!r} ({len(missing)} of {len(queries)}); add candidates.")
        texts = [f"{row['text']} {row['instruction']}" if row.get("instruction") else row["text"] for row in queries]
        rows = self._rows(texts, "query", progress=_progress(settings))
        if top_ranked is None:
            return self._indexed.search(rows, ids, top_k).as_dict()
        scores: dict[str, dict[str, float]] = {}
        for row, query_id in enumerate(ids):
            scores |= self._indexed.search(rows[[row]], [query_id], top_k, allow=top_ranked[query_id]).as_dict()
        return scores


def _records(rows: Iterable[Mapping], what: str) -> tuple[list[Mapping], list[str]]:
    """Return rows with an id and a text each, and their ids; TypeError or ValueError if they are none."""
    records = list(rows)
    for position, row in enumerate(records):
        check_mapping(row, f"{what}[{position}]", "{'id': 'd1', 'text': 'Text.'}")
    return records, check_ids([row["id"] for row in records], what=f"the ids of {what}")


def _tensor(rows: csr_array) -> torch.Tensor:
    """Return csr [n_texts, width] as a sparse tensor of coordinates."""
    coordinates = rows.tocoo()
    indices, values = np.stack(coordinates.coords).astype(np.int64), coordinates.data
    return torch.sparse_coo_tensor(indices, values, rows.shape, check_invariants=True).coalesce()


def _progress(settings: Mapping) -> bool:
    return bool((settings.get("encode_kwargs") or {}).get("show_progress_bar", False))
