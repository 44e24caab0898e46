"""Public functions, each the first call of a fresh process, with a hub of our own that speaks the hub's protocol."""

import ast
import inspect
import io
import json
import re
import socket
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS
from fresh import COMPILER, ROOT, Parent
from local_hub import LocalHub
from scipy.sparse import csr_array
from test_foreign import checkpoint, sparsify_folder

import lib
from lib import Collection, Searcher
from lib.bm25.index import BM25Index
from lib.interop.engines import ENGINES, TARGETS, Engine
from lib.latent_terms import LatentTerms

pytestmark = pytest.mark.slow

PREPARE = """
import json, sys
import numpy as np
from scipy.sparse import csr_array

rows = csr_array(np.array([[1, 2], [0, 1]], np.float32))
values = np.arange(9) / 9
texts, retriever, splade = json.loads(sys.argv[1])
ids = ["a", "b"]

def raises(kind, call, *arguments, **settings):
    try:
        call(*arguments, **settings)
    except kind:
        return
    raise AssertionError(f"no {kind}")

def little():
    from lib import load_collection
    return load_collection("data/little", "train")

def little_index():
    from lib import BM25Index
    return BM25Index.build(rows, ids)

def frames():
    import pandas as pd
    rows = {"query_id": ["q", "r"], "measure": "R@1"}
    return {name: pd.DataFrame(rows | {"value": [0.5, x]}) for name, x in (("a", 0.1), ("b", 0.2))}

"""

# What comes before a method that is called on an object.
OBJECTS = {
    "BM25Index": "index = BM25Index.build(rows, ids)",
    "Ranking": 'ranking = Ranking(["q"], [["a", "b"]], [[2, 1]])',
}
SMALL = '"--width", "40", "--k", "3", "--epochs", "1", "--batch-tokens", "16", "--cache", "states"'

# Each runs in a process of its own, in the folder `place`. A key is what it calls, by the module in lib that it is
# imported from first, or as a method of a class that lib exports; what varies comes after a comma.
CALLS = {
    "load_collection, limit": 'load_collection("limit/46")',
    "load_collection, pydoc": 'import sysconfig; sysconfig.get_path = lambda _: "library"; load_collection("pydoc/2")',
    "load_collection, a folder": 'load_collection("data/little", "train").self_matches',
    "load_collection, the mirror": 'import os; os.environ["LATENT_TERMS_DATA"] = "data"; '
    'load_collection("little/train")',
    "load_collection, ir_datasets": 'raises(ValueError, load_collection, "none")',
    "BM25Index.load": 'assert len(BM25Index.load("me/index")) == 2',
    "BM25Index.load, a folder": 'assert len(BM25Index.load("index", verify=False)) == 2',
    "BM25Index.build": "BM25Index.build(rows, ids)",
    "BM25Index.add": 'index.add(rows, ["c", "d"])',
    "BM25Index.impact_rows": "next(index.impact_rows())",
    "BM25Index.search": 'index.search(rows, ["q", "r"], k=1, allow=["a"])',
    "BM25Index.search_one": "index.search_one(rows[[0]], 1)",
    "BM25Index.scores": "index.scores(rows[[0]])",
    "BM25Index.most": "index.most(rows)",
    "BM25Index.error_bound": "index.error_bound(rows)",
    "BM25Index.explain": 'index.explain(rows[[0]], "a")',
    "BM25Index.save": 'index.save("saved")',
    "BM25Index.push_to_hub": 'index.push_to_hub("me/new")',
    "BM25Index.push_to_hub, a branch": 'index.push_to_hub("me/new", revision="wide")',
    "Ranking.top": "ranking.top(1)",
    "Ranking.above": "ranking.above(1)",
    "Ranking.exclude": 'ranking.exclude({"q": "a"})',
    "Ranking.as_dict": "ranking.as_dict()",
    "Ranking.write_trec": 'ranking.write_trec("again.trec.gz")',
    "Ranking.read_trec": 'Ranking.read_trec("run.trec")',
    "bm25.ranking.top_k": "top_k(np.ones(3, np.float32), 2)",
    "bm25.weighting.BM25Constants": "BM25Constants()",
    "bm25.weighting.Vocabulary": 'Vocabulary("latents", 2)',
    "bm25.weighting.Weights": "Weights()",
    "bm25.pruning.keep_top": "keep_top(rows, 1)",
    "bm25.pruning.keep_mass": "keep_mass(rows, 0.5)",
    "bm25.pruning.drop_frequent": "drop_frequent(rows, 0.5)",
    "evaluate": 'from lib import Ranking; evaluate(Ranking(["q"], [["a"]], [[1]]), {"q": {"a": 1}}, ["nDCG@10"])',
    "evaluation.measures.per_query": "from lib import Ranking; "
    'per_query(Ranking(["q"], [["a"]], [[1]]), {"q": {"a": 1}}, ["R@1"])',
    "evaluation.measures.bootstrap_interval": "bootstrap_interval(values)",
    "evaluation.measures.resampled_means": "resampled_means([values])",
    "evaluation.measures.wilson_interval": "wilson_interval(1, 2)",
    "evaluation.measures.deviation_interval": "deviation_interval(0.1, 5)",
    "evaluation.measures.compare": 'compare(frames(), "a", "R@1")',
    "evaluation.measures.summarise": 'summarise(frames(), "a", "R@1")',
    "evaluation.measures.holm": "holm(values)",
    "evaluation.baselines.analyze": "analyze(texts)",
    "evaluation.baselines.Words": "Words.of(texts).encode(texts)",
    "evaluation.baselines.LexicalBM25": 'LexicalBM25(texts, ids).search(texts, ["q", "r"])',
    "evaluation.baselines.dense_search": 'dense_search(rows.toarray(), ids, rows.toarray(), ["q", "r"])',
    "evaluation.baselines.inner_product_search": 'inner_product_search(rows, ids, rows, ["q", "r"])',
    "evaluation.fusion.fuse": 'from lib import Ranking; fuse([Ranking(["q"], [["a"]], [[1]])], "relative scores")',
    "evaluation.feedback.Feedback": "Feedback()",
    "evaluation.feedback.feedback_search": "from lib import BM25Index; "
    'feedback_search(BM25Index.build(rows, ids), rows, rows, ["q", "r"])',
    "evaluation.fusion.min_max": "min_max(values[::-1], 1)",
    "evaluation.fusion.reciprocal_ranks": "reciprocal_ranks(values, 1)",
    "evaluation.fusion.relative_scores": "relative_scores(values, 1)",
    "evaluation.late_interaction.in_bytes": "import torch; in_bytes(torch.eye(2))",
    "evaluation.late_interaction.StoredStates": "StoredStates(np.eye(2, dtype=np.int8), np.arange(3), ids)",
    "evaluation.splade.folder_of_wheel": "from pathlib import Path; "
    'raises(FileNotFoundError, folder_of_wheel, Path("none.whl"))',
    "learned.pairs.Pairs": 'Pairs(texts, ["cats", "dogs"]).digest',
    "learned.models.Splare": "Splare()",
    "learned.retriever.LearnedRetriever": 'LearnedRetriever.load("me/sparse").encode_queries(texts)',
    "learned.train.FinetuneConfig": "FinetuneConfig()",
    "learned.train.finetune": "from lib.learned.pairs import Pairs; from lib.learned.train import FinetuneConfig; "
    'pairs, config = Pairs(texts, ["cats", "dogs"]), FinetuneConfig(batch_size=2, steps=1); '
    'finetune("dense", pairs, "finetuned", base=retriever, config=config)',
    "evaluation.tuning.check_training": "check_training([little()])",
    "evaluation.tuning.tune_bm25": "tune_bm25([(little(), rows, rows)])",
    "evaluation.tuning.tune_weights": "parts = np.ones((2, 3, 2), np.float32); tune_weights([(little(), parts)])",
    "evaluation.tuning.ndcg_on_grid": "from lib.evaluation.tuning import GRID; "
    "ndcg_on_grid(little(), rows, rows, GRID)",
    "inspect.vocabulary.rank_frequency": "rank_frequency([3, 1])",
    "inspect.vocabulary.word_counts": "word_counts(texts)",
    "inspect.vocabulary.latent_token_matrix": "one = np.array([[1]]); latent_token_matrix(one, one / 2, one[0], 3, 4)",
    "inspect.vocabulary.top_tokens": "top_tokens(rows, 0, ids)",
    "inspect.vocabulary.word_terms": 'word_terms([["a"]], [["a", "b"]])',
    "inspect.vocabulary.growth": "growth(np.array([1, 2]), 2, [1, 2])",
    "inspect.vocabulary.spaced_ranks": "spaced_ranks(9)",
    "inspect.vocabulary.fit_zipf": "fit_zipf(1000 // np.arange(1, 99), 2)",
    "support.store.Store": 'Store("store").get("a", {}, lambda: {"x": np.ones(2)})',
    "data.training_text.LocalText": 'LocalText("text").identity',
    "data.training_text.GivenText": "GivenText(texts).identity",
    "data.training_text.StreamedText": 'next(iter(StreamedText("text")))',
    "encode.packaged.locate": 'locate("all-MiniLM-L6-v2")',
    "TokenEncoder": 'TokenEncoder("me/retriever")',
    "SparseAutoencoder.load": 'SparseAutoencoder.load("me/sae")',
    "sae.training.TrainingConfig": "TrainingConfig(width=8, k=2)",
    "sae.trainer.train": "import torch; from lib.sae.training import TrainingConfig; "
    'train(torch.randn(64, 4), TrainingConfig(8, 2, batch_tokens=16, epochs=1), checkpoints="checkpoints")',
    "sae.foreign.read_saelens": 'read_saelens("saelens")',
    "sae.foreign.read_sparsify": 'read_sparsify("sparsify")',
    "sae.foreign.read_checkpoint": 'read_checkpoint("checkpoint.safetensors")',
    "Searcher.load": 'Searcher.load("searcher").search(["the cat"], ["q"])',
    "latent_terms.packaged_models": "packaged_models()",
    "LatentTerms.load": 'LatentTerms.load("alone").encode_queries(["the cat"])',
    "LatentTerms.from_pretrained": 'LatentTerms.from_pretrained("me/terms")',
    "interop.conversion.load_sparse_encoder": 'load_sparse_encoder("me/sparse")',
    "interop.engines.rounding_loss": "from lib import BM25Index; rounding_loss(BM25Index.build(rows, ids), rows)",
    "evaluation.splade.Splade": "Splade(splade).encode_queries(texts)",
    "evaluation.splade.splade_terms": "from lib.evaluation.splade import Splade; "
    "splade_terms(Splade(splade), little())",
    "evaluation.splade.splade_ranking": "from lib.evaluation.splade import Splade; "
    "splade_ranking(Splade(splade), little(), 1)",
    "interop.modules.SparseAutoEncoderTokenEncoder": "Coder = SparseAutoEncoderTokenEncoder; "
    'Coder.from_checkpoint("checkpoint.safetensors"); Coder(input_dim=4, hidden_dim=8, k=2).save("coder")',
    "interop.modules.SparseTokenPooling": 'SparseTokenPooling(8).save("pooling")',
    "interop.ray_data.encode_corpus": 'raises((ImportError, ValueError), encode_corpus, "out", [], "alone", workers=1)',
    "__main__.main, join": 'sys.argv[1:] = ["join", "alone", "alone", "joined"]; main()',
    "__main__.main, tune": 'import shutil; shutil.copytree("alone", "tuned"); '
    'sys.argv[1:] = ["tune", "tuned", "--collections", "data/little/train"]; main()',
    "__main__.main, index": 'sys.argv[1:] = ["index", "text/a.txt", "indexed", "--model", "alone"]; main()',
    "__main__.main, search": 'sys.argv[1:] = ["search", "searcher", "the cat"]; main()',
    "__main__.main, train": f'sys.argv[1:] = ["train", "text", "trained", "--model", retriever, {SMALL}]; main()',
}
CALLS |= {f"interop.engines.write, {name}": f'write(little_index(), "out", "{name}")' for name in TARGETS}
CALLS |= {f"interop.engines.request, {name}": f'request(little_index(), rows[[0]], "{name}")' for name in TARGETS}
CALLS |= {
    "interop.engines.ENGINES, impact-index": 'ENGINES["impact-index"](little_index(), "impacts")',
    "interop.engines.ENGINES, seismic": 'ENGINES["seismic"](little_index())',
    "interop.engines.ENGINES, qdrant": 'from qdrant_client import QdrantClient; client = QdrantClient(":memory:"); '
    'ENGINES["qdrant"](little_index(), client).search(rows, ["q", "r"])',
    "interop.engines.ENGINES, qdrant-edge": 'ENGINES["qdrant-edge"](little_index(), "shard")',
}  # Milvus takes a client, too, whose import takes long

# Each runs in a process whose only call so far was LatentTerms.load; `model`, its `encoder` and `sae` are given.
LOADED = """
from lib import LatentTerms
model = LatentTerms.load("alone", dtype="float32")
encoder, sae = model.encoder, model.sae
"""
SPARSE = 'from sentence_transformers import SparseEncoder; encoder = SparseEncoder("sparse", trust_remote_code=True)'
SEARCHER = "from lib import Searcher; searcher = Searcher.build(model, texts, ids); "
SEARCHES = {
    "build": "",
    "of_blocks": "(block,), words = model.stream(texts), searcher.words; "
    "Searcher.of_blocks(model, [(block.terms, words.encode(texts), block.embeddings)], words, ids)",
    "encode_queries": "searcher.encode_queries(texts)",
    "search": 'searcher.search(texts, ["q", "r"])',
    "search_encoded": 'searcher.search_encoded(*searcher.encode_queries(texts), ["q", "r"])',
    "parts": "list(searcher.parts(*searcher.encode_queries(texts)))",
    "explain": 'searcher.explain("the cat", "a")',
    "save": 'searcher.save("saved searcher", with_retriever=True)',
}
STATES = "states = next(encoder.stream(texts)).states; "
METHODS = {
    "LatentTerms.encode_documents": "model.encode_documents(texts)",
    "LatentTerms.encode_queries": "model.encode_queries(texts)",
    "LatentTerms.stream": "next(model.stream(texts))",
    "LatentTerms.encode_states": "model.encode_states(next(encoder.stream(texts)))",
    "LatentTerms.index": "model.index(csr_array((2, sae.width), dtype=np.float32), ids)",
    "LatentTerms.with_bm25": "model.with_bm25(model.bm25)",
    "LatentTerms.save": 'model.save("saved model", "int8", with_retriever=True)',
    "LatentTerms.push_to_hub": 'model.push_to_hub("me/a")',
    "LatentTerms.push_to_hub, with its retriever": 'model.push_to_hub("me/b", with_retriever=True)',
    "LatentTerms.with_weights": "model.with_weights(model.weights)",
    "LatentTerms.show": "model.show(texts[0])._repr_html_()",
    "LatentTerms.steer": "model.steer(model.encode_queries(texts), {0: 0.0}, more=texts)",
    "inspect.correlations.correlate": "correlate(model, model.encode_documents(texts))",
    "inspect.hierarchy.hierarchy": "hierarchy(model, texts)",
    "inspect.labelling.label_latents": "label_latents(model, texts)",
    "inspect.search.Search": "from types import SimpleNamespace; docs = SimpleNamespace(doc_ids=ids, doc_texts=texts); "
    'Search(model, model.index(model.encode_documents(texts), ids), docs).query.value = "the cat"',
    "latent_terms.join_models": "join_models([model, model])",
    "SparseAutoencoder.tensors": "sae.tensors()",
    "SparseAutoencoder.with_k": "sae.with_k(1)",
    "SparseAutoencoder.to": 'sae.to("cpu")',
    "SparseAutoencoder.normalize": f"{STATES}sae.normalize(states)",
    "SparseAutoencoder.encode": f"{STATES}sae.encode(states)",
    "SparseAutoencoder.decode": f"{STATES}sae.decode(sae.encode(states))",
    "SparseAutoencoder.save": 'sae.save("saved sae", "float16")',
    "SparseAutoencoder.weight_writer": 'sae.weight_writer("int8")("int8.safetensors")',
    "SparseAutoencoder.from_weights": 'sae.weight_writer()("weights.safetensors"); '
    'sae.from_weights("weights.safetensors", sae.config)',
    "SparseAutoencoder.push_to_hub": 'sae.push_to_hub("me/s")',
    "sae.foreign.write_saelens": 'write_saelens(sae, "written")',
    "TokenEncoder.resolve_layer": "encoder.resolve_layer(-1)",
    "TokenEncoder.at": "next(encoder.at(1).stream(texts))",
    "TokenEncoder.with_long_texts": 'encoder.with_long_texts("chunk")',
    "TokenEncoder.replace": "encoder.replace(batch_tokens=64)",
    "TokenEncoder.named": 'encoder.named("me/name")',
    "TokenEncoder.copy_files": 'from pathlib import Path; Path("f").touch(); encoder.copy_files(Path("f"))',
    "TokenEncoder.stream": "next(encoder.stream(texts))",
    "TokenEncoder.stream_layers": "next(encoder.stream_layers(texts, [1, 2]))",
    "TokenEncoder.count_tokens": "list(encoder.count_tokens(texts))",
    "TokenEncoder.token_ids": "list(encoder.token_ids(texts))",
    "TokenEncoder.log_lengths": "from lib.encode.limits import Lengths; encoder.log_lengths(Lengths())",
    "encode.states.cache_states": "from lib.data.training_text import GivenText; "
    'cache_states("cache", encoder, GivenText(texts))',
    "evaluation.late_interaction.MaxSim": 'MaxSim(encoder.stream(texts, "query"), 1).add(next(encoder.stream(texts)))',
    "evaluation.late_interaction.late_interaction_search": "late_interaction_search(encoder, texts, ids, texts, ids)",
    "evaluation.late_interaction.rerank": "from lib import Ranking; "
    "from lib.evaluation.late_interaction import StoredStates; "
    'first, states = Ranking(["q"], [ids], [[2, 1]]), StoredStates.build(encoder.stream(texts), ids); '
    'rerank(first, states, encoder.stream(["the cat"], "query"))',
    "inference_free.InferenceFreeQueries": "InferenceFreeQueries.build(model, texts).encode(texts)",
    **{f"Searcher.{name}": f"{SEARCHER}{call}" for name, call in SEARCHES.items()},
    "interop.conversion.term_matrix": "import torch; term_matrix(torch.eye(2))",
    "interop.conversion.from_sparse_encoder": f"{SPARSE}; from_sparse_encoder(encoder)",
    "interop.conversion.to_sparse_encoder": "to_sparse_encoder(model)",
    "interop.conversion.special_tokens": "special_tokens(encoder.tokenizer)",
    "interop.conversion.token_encoder": "token_encoder(model.sae)",
    "interop.evaluators.LatentTermsSearch": "LatentTermsSearch(model).encode_document(texts)",
    "interop.evaluators.MTEBSearch": 'search = MTEBSearch(model, "me/terms"); '
    'search.index([{"id": "a", "text": "the cat"}]); search.search([{"id": "q", "text": "a cat"}], top_k=1)',
    "interop.losses.TokenReconstructionLoss": "from sentence_transformers import SentenceTransformer, SparseEncoder; "
    "from lib.interop.modules import SparseAutoEncoderTokenEncoder as Coder, SparseTokenPooling as Pooling; "
    "modules = [SentenceTransformer(retriever)[0], Coder(input_dim=32, hidden_dim=48, k=4), Pooling(48)]; "
    "TokenReconstructionLoss(SparseEncoder(modules=modules))",
}

# Modules in which everything is public. Of others, it is what READMEs and notebooks import and what packages export.
PUBLIC = ["bm25.pruning", "inspect.vocabulary", "interop.conversion", "interop.evaluators", "interop.losses"]
PUBLIC += [f"evaluation.{name}" for name in ("baselines", "fusion", "late_interaction", "measures", "splade", "tuning")]
PAPER = ("lib.studies", "lib.report", "lib.benchmarks")


def imports_of(key: str) -> str:
    """The import that a call begins with, and, for a method, an object of its class."""
    path, _, name = key.partition(",")[0].rpartition(".")
    if path and not path[0].isupper():
        return f"from lib.{path} import {name}\n"
    exported = path or name
    if exported not in OBJECTS or inspect.ismethod(getattr(getattr(lib, exported), name)):
        return f"from lib import {exported}\n"
    return f"from lib import {exported}\n{OBJECTS[exported]}\n"


def imported() -> list:
    """What the Python of README.md, lib/README.md and the notebooks imports from the library."""
    pages = [(ROOT / name).read_text() for name in ("README.md", "lib/README.md")]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    blocks += [path.read_text() for path in (ROOT / "notebooks").glob("*.py")]
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    library = [node for node in nodes if node.module.partition(".")[0] == "lib" and not node.module.startswith(PAPER)]
    return [getattr(import_module(node.module), alias.name) for node in library for alias in node.names]


def named() -> list:
    """Classes that lib/README.md names, and functions that it names with arguments or with their module."""
    page = (ROOT / "lib/README.md").read_text()
    names = set(re.findall(r"`(?:lib\.[\w.]+\.)?(\w+)\(|`lib\.[\w.]+\.(\w+)`|`([A-Z]\w+)`", page))
    names = {name for alternatives in names for name in alternatives}
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "lib").rglob("*.py"))]
    modules = [".".join(path.parts) for path in paths if "__" not in path.name]
    values = [value for name in modules if not name.startswith(PAPER) for value in defined_in(name)]
    return [value for value in values if value.__name__ in names]


def defined_in(name: str) -> list:
    """The public functions and classes of a module."""
    values = [value for name_, value in vars(import_module(name)).items() if name_[0] != "_" and callable(value)]
    return [value for value in values if getattr(value, "__module__", None) == name]


def public_names() -> set[str]:
    """Names of functions, of classes that do something, and of the methods of those classes that lib exports."""
    values = imported() + named() + [value for name in PUBLIC for value in defined_in(f"lib.{name}")]
    for module in map(import_module, ("lib", "lib.interop.engines", "lib.interop.modules")):
        values += [getattr(module, name) for name in module.__all__]
    no_calls = (tuple, Exception, Engine, Collection)
    values = [value for value in values if inspect.isclass(value) or inspect.isfunction(value)]
    names = {value.__name__ for value in values if not (inspect.isclass(value) and issubclass(value, no_calls))}
    for exported in (getattr(lib, name) for name in lib.__all__ if name[0].isupper() and name != "Collection"):
        methods = inspect.getmembers(exported, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
        names |= {f"{exported.__name__}.{name}" for name, _ in methods if name[0] != "_"}
    return names


def index() -> BM25Index:
    return BM25Index.build(csr_array(np.array([[1, 2], [0, 1]], np.float32)), ["a", "b"])


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_encoder, tiny_sae, sentence_folder):
    """A folder with what the calls read, and a hub that has it, too."""
    from lib.interop.conversion import to_sparse_encoder
    from lib.sae.foreign import write_saelens

    folder, hub = tmp_path_factory.mktemp("place"), LocalHub()
    model = LatentTerms(tiny_encoder.named("me/retriever"), tiny_sae)
    index().save(folder / "index")
    model.save(folder / "model")
    model.save(folder / "alone", with_retriever=True)
    Searcher.build(model, TEXTS[:2], ["a", "b"]).save(folder / "searcher", with_retriever=True)
    tiny_sae.save(folder / "sae")
    write_saelens(tiny_sae, folder / "saelens")
    sparsify_folder(folder / "sparsify")
    checkpoint(folder / "checkpoint.safetensors")
    to_sparse_encoder(model).save_pretrained(str(folder / "sparse"))
    index().search(csr_array(np.eye(2, dtype=np.float32)), ["q", "r"]).write_trec(folder / "run.trec")
    write_data(folder)
    for name, source in {"terms": "model", "index": "index", "sae": "sae", "sparse": "sparse"}.items():
        hub.add(f"me/{name}", folder / source)
    hub.add("me/retriever", sentence_folder)
    yield folder, hub
    hub.shutdown()
    hub.server_close()


def write_data(folder: Path) -> None:
    """A library of two modules, a training text, and a collection in BEIR layout."""
    for name in ("library", "text", "data/little/qrels"):
        (folder / name).mkdir(parents=True)
    body = " ".join(["word"] * 20)
    for name in ("first", "second"):
        (folder / f"library/{name}.py").write_text(f'"""The {name} of two modules.\n\n{body}"""\n')
    (folder / "text/a.txt").write_text("\n".join(TEXTS))
    for name, ids in (("corpus", "ab"), ("queries", "ac")):
        lines = [json.dumps({"_id": id_, "text": f"the cat {id_}"}) for id_ in ids]
        (folder / f"data/little/{name}.jsonl").write_text("\n".join(lines))
    (folder / "data/little/qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\na\tb\t1\nc\ta\t1\n")


@pytest.fixture(scope="module")
def loaded(place, tmp_path_factory):
    """The parent of processes that have called LatentTerms.load and nothing else."""
    folder, hub = place
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    parent = Parent(f"{COMPILER}\nimport os; os.chdir({str(folder)!r}){LOADED}", PYTHONPATH=str(ROOT), **environment)
    yield parent
    parent.close()


@pytest.fixture(scope="module")
def given(sentence_folder, splade_folder) -> str:
    return json.dumps([TEXTS[:2], sentence_folder, splade_folder])


def test_every_public_name_has_a_call():
    public = public_names()
    assert {"LatentTerms.push_to_hub", "read_sparsify", "cache_states", "tune_bm25", "write", "MTEBSearch"} <= public
    keys = [name.partition(",")[0].split(".") for name in [*CALLS, *METHODS]]
    called = {name for key in keys for name in (key[-1], ".".join(key[-2:]), key[-2:][0])}  # a class by its methods
    assert sorted(public - called) == []
    assert {name.partition(", ")[2] for name in CALLS if "ENGINES" in name} == ENGINES.keys() - {"milvus"}


@pytest.mark.parametrize("name", CALLS)
def test_a_first_call(fresh, place, given, tmp_path, name):
    folder, hub = place
    script = PREPARE + imports_of(name) + CALLS[name]
    process = fresh.run(script, given, folder=folder, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr[-1500:]


@pytest.mark.parametrize("name", METHODS)
def test_a_first_call_after_a_model_was_loaded(loaded, place, given, name):
    script = PREPARE + imports_of(name) * (not name[0].isupper()) + METHODS[name]
    process = loaded.run(script, given, folder=place[0])
    assert process.returncode == 0, process.stderr[-1500:]


def test_what_is_pushed_is_loaded(fresh, place, tmp_path):
    folder, hub = place
    before = len(hub.requests)
    script = """
from lib import BM25Index, LatentTerms
model = LatentTerms.load("alone")
print(model.push_to_hub("me/both", with_retriever=True))
BM25Index.load("index").push_to_hub("me/both")
model.push_to_hub("me/both", with_retriever=True, dtype="float16")
again = LatentTerms.load("me/both")
assert again.identity["encoder"] == model.identity["encoder"]
assert again.encoder.name == "me/retriever"
assert len(BM25Index.load("me/both")) == 2
"""
    process = fresh.run(script, folder=folder, **hub.environment(tmp_path))
    assert process.returncode == 0, process.stderr[-1500:]
    assert process.stdout.startswith(f"{hub.endpoint}/me/both/commit/")
    stored = hub.repositories["me/both"]["main"]
    assert len([name for name in stored if name.startswith("sae-")]) == 1
    assert len({name.split("/")[0] for name in stored if name.startswith("retriever-")}) == 1
    assert not [request for request in hub.requests[before:] if "me/retriever" in request]


OUT_OF_REACH = """
import time
from lib import BM25Index, LatentTerms, TokenEncoder
index = BM25Index.load("index")
for call in (
    lambda: BM25Index.load("me/index"),
    lambda: TokenEncoder("me/retriever"),
    lambda: LatentTerms.load("model"),
    lambda: index.push_to_hub("me/new"),
):
    try:
        call()
    except ConnectionError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_hub_out_of_reach(fresh, place, tmp_path, kind):
    folder, _ = place
    with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts, and never answers
        port = 9 if kind == "closed" else listening.getsockname()[1]
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "1"}
        process = fresh.run(OUT_OF_REACH, folder=folder, HF_HOME=str(tmp_path), **hub)
    assert "Retry" not in process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 4, process.stderr[-1500:]
    names = ("me/index", "me/retriever", "model needs the retriever me/retriever", "me/new")
    for line, name in zip(lines, names, strict=True):
        assert name in line
        assert f"http://127.0.0.1:{port}" in line
        assert "HF_HUB_OFFLINE" in line
    assert "with_retriever=True" in lines[2]


def test_what_was_fetched_is_read_without_the_hub(fresh, place, tmp_path, sentence_folder):
    """With one repository whose weights are a pickle, and the hub in reach, closed, and not to be asked."""
    import torch
    from safetensors.torch import load_file

    folder, hub = place
    files = hub.repositories["me/pickled"]["main"]
    hub.add("me/pickled", sentence_folder)
    buffer = io.BytesIO()
    torch.save(load_file(f"{sentence_folder}/model.safetensors"), buffer)
    files["pytorch_model.bin"] = buffer.getvalue()
    del files["model.safetensors"]
    script = """
from lib import LatentTerms, TokenEncoder
model = LatentTerms.from_pretrained("me/terms", encoder=TokenEncoder("me/pickled"))
print(model.encode_queries(["the cat"]).sum())
try:
    model.save("copied", with_retriever=True)
except ValueError as error:
    print(error)
"""
    outputs = []
    for change in ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        process = fresh.run(script, folder=folder, **hub.environment(tmp_path) | change)
        assert process.returncode == 0, process.stderr[-1500:]
        outputs.append(process.stdout)
    assert len(set(outputs)) == 1
    assert "pytorch_model.bin are a pickle" in outputs[0]
