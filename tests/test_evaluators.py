import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers.sparse_encoder.evaluation import (
    SparseInformationRetrievalEvaluator,
    SparseNanoBEIREvaluator,
)

from lib.bm25.pruning import keep_top
from lib.bm25.weighting import BM25Constants
from lib.evaluation.measures import evaluate
from lib.interop.conversion import term_matrix, to_sparse_encoder
from lib.interop.evaluators import LatentTermsSearch, MTEBSearch
from lib.latent_terms import LatentTerms

pytestmark = pytest.mark.usefixtures("one_thread")
CORPUS = {
    "d0": "the old cat sat on a red mat .",
    "d1": "a bird sang in the tree and the river ran , the fish swam",
    "d2": "two cows : zebra",
    "d3": "the big dog ran and ran . " * 5,
    "d4": "is the stone old ?",
    "d5": "a small house",
    "d6": "",
}
QUERIES = {"q0": "a cat on a mat", "q1": "small house ?", "q2": "the fish swam in the river", "q3": "old stone"}
RELEVANT = {"q0": {"d0"}, "q1": {"d5", "d4"}, "q2": {"d1"}, "q3": {"d4"}}
TEXTS, QUESTIONS = list(CORPUS.values()), list(QUERIES.values())
QRELS = {query: dict.fromkeys(docs, 1) for query, docs in RELEVANT.items()}
BM25 = BM25Constants(k1=1.5, b=0.4)


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae, bm25=BM25)


@pytest.fixture(scope="module")
def ranking(model):
    """What this package itself ranks, all documents of each query."""
    index = model.index(model.encode_documents(TEXTS), list(CORPUS))
    return index.search(model.encode_queries(QUESTIONS), list(QUERIES), len(CORPUS))


def scores_of(ranking) -> np.ndarray:
    return np.array([[dict(ranking[query])[doc] for doc in CORPUS] for query in QUERIES])


def evaluator(**settings):
    return SparseInformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, write_csv=False, **settings)


def test_rows_and_scores_are_those_of_this_package(model, ranking):
    search = LatentTermsSearch(model)
    queries, documents = search.encode_query(QUESTIONS), search.encode_document(TEXTS)
    assert queries.is_sparse
    assert queries.dtype == torch.float32
    assert (term_matrix(queries) != model.encode_queries(QUESTIONS)).nnz == 0
    assert (term_matrix(documents) != model.encode_documents(TEXTS)).nnz == 0
    scores = search.similarity(queries, documents)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, scores_of(ranking), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(search.similarity(queries.to_dense(), documents.to_dense()), scores, rtol=0, atol=0)
    assert (queries.to_dense() @ documents.to_dense().T - scores).abs().max() > 0.1  # BM25 is no dot product


def test_their_evaluator_measures_what_ours_does(model, ranking):
    scorer = evaluator(name="tiny")
    values = scorer(LatentTermsSearch(model))
    expected = evaluate(ranking, QRELS, ["nDCG@10", "R@1", "R@3", "P@1"])
    assert scorer.primary_metric == "tiny_bm25_ndcg@10"
    assert values["tiny_bm25_ndcg@10"] == pytest.approx(expected["nDCG@10"], abs=1e-6)
    assert values["tiny_bm25_recall@3"] == pytest.approx(expected["R@3"], abs=1e-6)
    assert values["tiny_bm25_precision@1"] == pytest.approx(expected["P@1"], abs=1e-6)
    rows = model.encode_documents(TEXTS)
    assert values["tiny_corpus_active_dims"] == pytest.approx(np.diff(rows.indptr).mean())


def test_other_constants_give_other_scores(model):
    search = LatentTermsSearch(model, BM25Constants(k1=0.5, b=1.0))
    queries, documents = search.encode_query(QUESTIONS), search.encode_document(TEXTS)
    theirs = LatentTermsSearch(model).similarity(queries, documents)
    assert (search.similarity(queries, documents) - theirs).abs().max() > 0.01
    assert "k1=0.5" in repr(search)


def test_a_corpus_in_parts_is_refused_and_whole_again_is_not(model):
    search = LatentTermsSearch(model)
    with pytest.raises(ValueError, match="corpus_chunk_size"):
        evaluator(corpus_chunk_size=4)(search)
    whole = evaluator(corpus_chunk_size=len(CORPUS))
    assert whole(search) == whole(search)


def test_nano_beir_scores_each_corpus_with_its_own_statistics(model):
    names = {"msmarco": list(CORPUS), "nq": ["d0", "d1", "d4", "d5"]}

    class Local(SparseNanoBEIREvaluator):
        def _load_dataset(self, name, **settings):
            settings = {key: value for key, value in settings.items() if key != "truncate_dim"}
            corpus = {doc: CORPUS[doc] for doc in names[name]}
            human = self._get_human_readable_name(name)
            return SparseInformationRetrievalEvaluator(QUERIES, corpus, RELEVANT, name=human, **settings)

    values = Local(list(names), write_csv=False)(LatentTermsSearch(model))
    for name, docs in names.items():
        index = model.index(model.encode_documents([CORPUS[doc] for doc in docs]), docs)
        ranking = index.search(model.encode_queries(QUESTIONS), list(QUERIES), 10)
        key = next(key for key in values if name.upper() in key.upper() and key.endswith("_bm25_ndcg@10"))
        assert values[key] == pytest.approx(evaluate(ranking, QRELS, ["nDCG@10"])["nDCG@10"], abs=1e-6)
    assert "NanoBEIR_mean_bm25_ndcg@10" in values


def test_a_sparse_encoder_is_scored_the_same(model):
    encoder = to_sparse_encoder(model)
    search = LatentTermsSearch(encoder, BM25)
    expected = evaluator()(LatentTermsSearch(model))["bm25_ndcg@10"]
    assert evaluator()(search)["bm25_ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert search.model_card_data is encoder.model_card_data
    assert evaluator()(encoder)["dot_ndcg@10"] > 0  # as it is scored without


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["document", "query"])
@pytest.mark.parametrize("top", [1, 3, 40])
def test_max_active_dims_keeps_the_largest_weights_of_a_text_and_all_of_a_token(model, kind, top):
    rows = model.encode_documents(TEXTS) if kind == "document" else model.encode_queries(TEXTS)
    expected = keep_top(rows, top).toarray()
    for encoder in (model, to_sparse_encoder(model)):
        few = getattr(LatentTermsSearch(encoder), f"encode_{kind}")(TEXTS, max_active_dims=top)
        np.testing.assert_allclose(few.to_dense(), expected, rtol=0, atol=1e-5)


def test_what_would_be_ignored_is_refused(model):
    search = LatentTermsSearch(model)
    with pytest.raises(ValueError, match=r"'query: '.*query_prompt"):
        evaluator(query_prompt="query: ")(search)
    with pytest.raises(ValueError, match="convert_to_sparse_tensor"):
        search.encode_query(["a cat"], convert_to_sparse_tensor=False)
    with pytest.raises(TypeError, match="single str"):
        search.encode_query("a cat")
    with pytest.raises(TypeError, match=r"dict.*LatentTerms"):
        LatentTermsSearch({})
    with pytest.raises(TypeError, match="BM25Constants"):
        LatentTermsSearch(model, (8, 0.7))


def corpus_rows() -> list[dict]:
    return [{"id": doc, "title": "", "text": text} for doc, text in CORPUS.items()]


def query_rows() -> list[dict]:
    return [{"id": query, "text": text} for query, text in QUERIES.items()]


SAME = {f"d{number}": "the old cat" for number in range(9, -1, -1)}  # ten equal documents, d9 the first


@pytest.mark.parametrize("question", ["old cat", "zebra"])  # of positive scores and of zeros
@pytest.mark.parametrize(("relevant", "rank"), [("d9", 1), ("d5", 5), ("d0", 10)])
def test_equal_documents_keep_their_order_in_the_evaluator_of_sentence_transformers(model, question, relevant, rank):
    scorer = SparseInformationRetrievalEvaluator({"q": question}, SAME, {"q": {relevant}}, write_csv=False)
    assert scorer(LatentTermsSearch(model))["bm25_mrr@10"] == pytest.approx(1 / rank)


@pytest.mark.slow  # importing mteb takes seconds
class TestMTEBSearch:
    @pytest.mark.parametrize("candidates", [None, {"q": set(SAME), "z": list(SAME)}])
    @pytest.mark.parametrize(("relevant", "rank"), [("d9", 1), ("d5", 5), ("d0", 10)])
    def test_equal_documents_keep_their_order_in_mteb(self, model, relevant, rank, candidates):
        from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

        search = MTEBSearch(model, "me/tiny")
        search.index([{"id": doc, "text": text} for doc, text in SAME.items()])
        rows = [{"id": "q", "text": "old cat"}, {"id": "z", "text": "zebra"}]
        run = search.search(rows, top_k=10, top_ranked=candidates)
        measured = calculate_retrieval_scores(run, {"q": {relevant: 1}, "z": {relevant: 1}}, [1, 3, 10])
        assert measured.mrr["MRR@10"] == pytest.approx(1 / rank, abs=1e-5)
        assert measured.ndcg["NDCG@10"] == pytest.approx(1 / np.log2(1 + rank), abs=1e-5)
        assert measured.recall["Recall@3"] == (rank <= 3)

    @pytest.mark.parametrize(
        ("corpus", "message"),
        [
            ({"d1": {"text": "a"}}, r"corpus\[0\] is a str; .*'id'"),
            (pd.DataFrame({"id": ["d1"], "text": ["a"]}), r"corpus\[0\] is a str; .*'id'"),
            ([("d1", "a")], r"corpus\[0\] is a tuple"),
            ([{"id": 1, "text": "a"}], r"ids of corpus\[0\] is 1"),
        ],
    )
    def test_rows_are_dicts_with_ids_of_str(self, model, corpus, message):
        search = MTEBSearch(model, "me/tiny")
        with pytest.raises(TypeError, match=message):
            search.index(corpus)
        search.index(corpus_rows())
        with pytest.raises(TypeError, match=message.replace("corpus", "queries")):
            search.search(corpus, top_k=1)
        with pytest.raises(TypeError, match=r"top_ranked is a list; .*query_id"):
            search.search(query_rows(), top_k=1, top_ranked=["d1"])
        with pytest.raises(TypeError, match="allow is a single str"):
            search.search(query_rows(), top_k=1, top_ranked=dict.fromkeys(QUERIES, "d1"))

    def test_ranks_as_this_package_does(self, model, ranking):
        search = MTEBSearch(model, "me/tiny")
        search.index(corpus_rows(), encode_kwargs={"batch_size": 4}, num_proc=None)
        scores = search.search(query_rows(), top_k=3, encode_kwargs={}, num_proc=None)
        assert scores == {query: dict(ranking.top(3)[query]) for query in QUERIES}
        assert {type(score) for of_query in scores.values() for score in of_query.values()} == {float}

    def test_joins_titles_and_instructions(self, model):
        search = MTEBSearch(model, "me/tiny")
        search.index([{"id": "a", "title": "the old cat", "text": "sat"}, {"id": "b", "text": "two cows"}])
        scores = search.search([{"id": "q", "text": "cat", "instruction": "old or new"}], top_k=2)
        index = model.index(model.encode_documents(["the old cat\nsat", "two cows"]), ["a", "b"])
        assert scores["q"] == dict(index.search_one(model.encode_queries(["cat old or new"])))

    def test_ranks_only_given_candidates_with_the_statistics_of_all(self, model, ranking):
        search = MTEBSearch(model, "me/tiny")
        search.index(corpus_rows())
        candidates = {query: ["d4", "d0", "d2"] for query in QUERIES}
        scores = search.search(query_rows(), top_k=2, top_ranked=candidates)
        for query in QUERIES:
            expected = [(doc, score) for doc, score in ranking[query] if doc in candidates[query]]
            assert scores[query] == dict(expected[:2])

    def test_each_query_has_its_candidates(self, model):
        search = MTEBSearch(model, "me/tiny")
        search.index(corpus_rows())
        candidates = {"q0": ["d4"], "q1": [], "q3": ["d0"]}
        with pytest.raises(ValueError, match=r"'q2' \(1 of 4"):
            search.search(query_rows(), top_k=2, top_ranked=candidates)
        scores = search.search(query_rows(), top_k=2, top_ranked=candidates | {"q2": ["d1"]})
        assert {query: set(docs) for query, docs in scores.items()} == {
            "q0": {"d4"},
            "q1": set(),
            "q2": {"d1"},
            "q3": {"d0"},
        }

    def test_refuses(self, model):
        with pytest.raises(ValueError, match="call index"):
            MTEBSearch(model, "me/tiny").search(query_rows(), top_k=3)
        with pytest.raises(ValueError, match="'tiny'"):
            MTEBSearch(model, "tiny")


@pytest.mark.slow  # importing mteb takes seconds
def test_a_local_task_of_mteb_is_measured_as_here(model, ranking):
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.models_protocols import SearchProtocol

    class LocalTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalTask",
            description="A few sentences.",
            reference=None,
            dataset={"path": "none", "revision": "none"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2024-01-01", "2024-01-01"),
            domains=["Written"],
            task_subtypes=[],
            license="cc-by-4.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **settings):
            corpus, queries = Dataset.from_list(corpus_rows()), Dataset.from_list(query_rows())
            split = {"corpus": corpus, "queries": queries, "relevant_docs": QRELS, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    search = MTEBSearch(model, "me/tiny")
    assert isinstance(search, SearchProtocol)
    assert search.mteb_model_meta.name == "me/tiny"
    result = mteb.evaluate(search, LocalTask(), cache=None, show_progress_bar=False, co2_tracker=False)
    (scores,) = result.task_results[0].scores["test"]
    assert scores["ndcg_at_10"] == pytest.approx(evaluate(ranking, QRELS, ["nDCG@10"])["nDCG@10"], abs=1e-5)
    assert result.model_name == "me/tiny"
