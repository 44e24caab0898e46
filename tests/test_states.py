import json
import logging
import os
import shutil
import time

import numpy as np
import pytest
import torch
from conftest import TEXTS
from hypothesis import given
from hypothesis import strategies as st

import lib.encode.states
from lib.data.training_text import GivenText
from lib.encode.encoder import TokenEncoder
from lib.encode.states import RUN, EncodedStates, StoredStates, TrainingText, cache_states


class Texts(list):
    """A corpus: what can be read again and has an identity."""

    identity = "these texts"


CORPUS = Texts(f"{text} {i}" if text.strip() else text for i in range(6) for text in TEXTS)


@pytest.fixture
def encoder(sentence_folder):
    return TokenEncoder(sentence_folder, dtype="float32", long_texts="chunk")  # as a training text is read


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(lib.encode.states, "CHUNK", 4)


def numbered(n: int, d: int = 2) -> torch.Tensor:
    """States that say which they are."""
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, d).contiguous()


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=5).filter(any), st.integers(1, 300), st.integers(0, 3), st.data()
)
def test_an_epoch_of_stored_states_has_every_state_once_in_windows_of_the_size_asked(lengths, size, epoch, data):
    n = sum(lengths)
    source = StoredStates(numbered(n).split(lengths))
    windows = list(source.windows(size, 7, epoch))
    assert (source.n, source.d) == (n, 2)
    assert [len(window) for window in windows] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert torch.cat(windows)[:, 0].sort().values.tolist() == list(range(n))
    # how the states are cut into files changes nothing, nor where one begins to read
    expected = list(StoredStates([numbered(n)]).windows(size, 7, epoch))
    assert all(map(torch.equal, windows, expected))
    first = data.draw(st.integers(0, len(windows)))
    later = list(source.windows(size, 7, epoch, first))
    assert len(later) == len(windows) - first
    assert all(map(torch.equal, later, windows[first:]))


def test_windows_mix_the_whole_corpus_and_differ_by_epoch_and_seed():
    source = StoredStates([numbered(100 * RUN)])
    first = next(source.windows(20 * RUN, 0, 0))[:, 0]
    # 20 runs of 100, from all over: were they consecutive, they would span a fifth
    assert first.max() - first.min() > 60 * RUN
    assert len(torch.unique(first // RUN)) == 20
    for seed, epoch in ((0, 1), (1, 0)):
        assert not torch.equal(next(source.windows(20 * RUN, seed, epoch))[:, 0], first)


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any), st.integers(1, 90), st.integers(0, 9), st.data()
)
def test_an_epoch_of_whole_texts_has_every_text_once(lengths, size, beyond, data):
    n = max(1, sum(lengths) - beyond)  # the last ones may be longer than what there is of them
    source = StoredStates([numbered(n)], lengths=lengths)
    windows = list(source.whole_texts(size, 7, 1))
    states, texts = (torch.cat(part) for part in zip(*windows, strict=True))
    assert [len(window) for window, _ in windows] == [size] * (n // size) + [n % size] * (n % size > 0)
    places = states[:, 0].long()
    assert places.sort().values.tolist() == list(range(n))
    # tokens of a text are together, in order, and no two texts have a number
    starts = np.cumsum([0, *(length for length in lengths if length)])
    assert torch.equal(texts, torch.from_numpy(np.searchsorted(starts, places.numpy(), side="right") - 1))
    assert len(texts.unique_consecutive()) == len(texts.unique())
    first = data.draw(st.integers(0, len(windows)))
    later = list(source.whole_texts(size, 7, 1, first))
    assert len(later) == len(windows) - first
    assert all(
        torch.equal(a, b) for pair in zip(later, windows[first:], strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([4, 5], "have 9 tokens, the states are 10"), ([12, -2], "-2.*at least 0"), ([5.0, 5.0], r"5\.0.*integers")],
)
def test_lengths_that_are_not_those_of_the_states_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        StoredStates([numbered(10)], lengths=lengths)


def test_texts_that_are_not_known_are_not_read():
    with pytest.raises(ValueError, match="lengths="):
        StoredStates([numbered(10)]).whole_texts(5, 0, 0)


def test_the_identity_of_states_in_memory_is_where_texts_end_too():
    identities = [StoredStates([numbered(10)], lengths=each).identity for each in (None, [4, 6], [6, 4])]
    assert identities[0] != identities[1] != identities[2] != identities[0]


def test_the_states_of_a_text_are_where_its_length_says(encoder, tmp_path):
    source = cache_states(tmp_path, encoder, CORPUS)[3]
    (states, texts), *_ = source.whole_texts(source.n, 0, 0)
    for number in texts.unique()[:5].tolist():
        text = [passage for passage, n in zip(CORPUS, source.lengths, strict=True) if n][number]
        alone = torch.cat([block.states for block in encoder.stream([text])])
        torch.testing.assert_close(states[texts == number].float(), alone, rtol=0.02, atol=0.02)  # kept in bfloat16


@pytest.mark.slow
def test_encoded_states_know_their_texts(encoder, tmp_path):
    lengths = list(encoder.count_tokens(CORPUS))
    source = EncodedStates(TrainingText(encoder, CORPUS, 200), 3)
    expected = np.repeat(np.arange(len(lengths)), lengths)[:200]
    for first in (0, 2):
        states, texts = zip(*source.whole_texts(30, 0, 0, first), strict=True)
        assert torch.cat(texts).tolist() == expected[30 * first :].tolist()
        assert torch.equal(torch.cat(states), torch.cat(list(source.windows(30, 0, 0, first))))


@pytest.mark.parametrize("parts", [[], [torch.zeros(3)], [torch.zeros(2, 2), torch.zeros(1, 2, 2)]])
def test_what_is_not_states(parts):
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        StoredStates(parts)


def test_the_identity_of_states_in_memory_is_their_content():
    states = numbered(10)
    assert StoredStates([states]).identity == StoredStates([states.clone()]).identity
    assert StoredStates([states]).identity != StoredStates([states + 1]).identity
    assert StoredStates([states]).identity != StoredStates([states.bfloat16()]).identity


def test_a_text_is_counted_before_it_is_encoded(encoder, tmp_path, monkeypatch):
    states = torch.cat([block.states for block in encoder.stream(CORPUS)])
    plan = tmp_path / "new" / "plan.json"
    text = TrainingText(encoder, CORPUS, plan=plan)
    assert text.n == len(states) == text.ends[-1]
    assert len(text.ends) == -(-len(CORPUS) // 4)
    assert TrainingText(encoder, CORPUS, max_tokens=50).n == 50
    assert TrainingText(encoder, CORPUS, max_tokens=10**6).n == text.n
    # with a plan nothing is counted again
    monkeypatch.setattr(TokenEncoder, "count_tokens", lambda *_: 1 / 0)
    assert np.array_equal(TrainingText(encoder, CORPUS, plan=plan).ends, text.ends)


def test_a_corpus_without_tokens_is_refused(encoder):
    for corpus in (Texts(), Texts(["", " "])):
        with pytest.raises(ValueError, match="no token"):
            TrainingText(encoder, corpus)


UNSPACED = {
    "Chinese": "深度学习模型把文本读作词元" * 60,
    "no spaces": "thecat,thedog.acow:" * 40,
    "words of several tokens": "cats cows birds dogs trees " * 40,
    "English": "the cat sat on a red mat . " * 40,
}


@pytest.mark.slow
@pytest.mark.parametrize("text", UNSPACED.values(), ids=UNSPACED)
@pytest.mark.parametrize("max_words", [10, 180])
def test_every_token_of_a_text_is_trained_on_whatever_the_language(sentence_folder, tmp_path, text, max_words):
    encoder = TokenEncoder(sentence_folder, dtype="float32", special_tokens=False)
    expected = sum(len(encoder.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in text.split(" "))
    corpus = GivenText([text], max_words)
    assert TrainingText(encoder, corpus).n == expected >= 240
    states = cache_states(tmp_path, encoder, corpus)[3]
    assert states.n == len(torch.cat(states.read(0, states.n))) == expected
    assert states.identity["encoder"]["long_texts"] == "chunk"


@pytest.mark.slow
def test_passages_that_fit_are_read_as_they_were(encoder, tmp_path):
    short = Texts(text for text in CORPUS if len(text.split()) < 40)
    by_way = {way: cache_states(tmp_path, encoder, short, long_texts=way)[3] for way in ("chunk", "cut")}
    assert by_way["chunk"].identity != by_way["cut"].identity
    assert torch.equal(*(torch.cat(states.read(0, states.n)) for states in by_way.values()))


@pytest.mark.parametrize("states", ["cache", "encode"])
def test_what_is_cut_off_is_logged_once_for_the_whole_text(encoder, tmp_path, caplog, states):
    if states == "cache":
        cache_states(tmp_path, encoder, CORPUS, long_texts="cut")
    else:
        list(EncodedStates(TrainingText(encoder, CORPUS, long_texts="cut"), 3).windows(100, 0, 0))
    counted, encoded = [line for line in caplog.messages if "cut off" in line]
    assert counted == encoded
    assert counted.startswith("6 of 54 documents")


def test_chunks_of_long_passages_are_smaller(monkeypatch):
    monkeypatch.setattr(lib.encode.states, "CHUNK_BYTES", 10)
    passages = ["a", "bb", "c" * 20, "字" * 4, "d", "e", "f", "g", "h"]
    sizes = [len(chunk) for chunk in lib.encode.states._chunks(passages)]
    assert sizes == [3, 1, 4, 1]  # at ten bytes, or at four passages


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 70])
def test_encoded_states_are_those_of_the_text_in_its_order(encoder, limit):
    expected = torch.cat([block.states for block in encoder.stream(CORPUS)])[:limit]
    source = EncodedStates(TrainingText(encoder, CORPUS, limit), 3)
    assert source.n == len(expected)
    for size in (7, 64, 10_000):
        windows = list(source.windows(size, 0, 0))
        assert [len(window) for window in windows[:-1]] == [size] * (len(windows) - 1)
        torch.testing.assert_close(torch.cat(windows), expected, rtol=1e-4, atol=1e-4)  # other batches
        for first in range(0, len(windows), max(1, len(windows) // 5)):
            later = list(source.windows(size, 0, 1, first))
            assert len(later) == len(windows) - first
            assert all(map(torch.equal, later, windows[first:]))  # to the bit: a run is resumed here


@pytest.mark.slow
def test_a_cache_holds_the_states_of_every_layer(encoder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    sources = cache_states(tmp_path, encoder, CORPUS, [-1, 1])
    assert list(sources) == [1, 3]
    for layer, source in sources.items():
        wanted = torch.cat([block.states for block in encoder.at(layer).stream(CORPUS)])
        got = torch.cat(source.read(0, source.n))
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), wanted, rtol=2**-7, atol=1e-3)
        assert source.identity["encoder"]["layer"] == layer
    size = sources[1].n * 32 * 2 * 2
    assert f"{size / 1e9:.2f} GB in {tmp_path}" in caplog.text
    finer = cache_states(tmp_path, encoder, CORPUS, [1], dtype="float16")[1]
    assert finer.identity != sources[1].identity
    wanted = torch.cat([block.states for block in encoder.at(1).stream(CORPUS)])
    torch.testing.assert_close(torch.cat(finer.read(0, finer.n)).float(), wanted, rtol=2**-10, atol=1e-4)


@pytest.mark.slow
def test_a_cache_is_written_once_and_goes_on_where_a_kill_left_it(encoder, tmp_path, monkeypatch):
    def digest() -> dict:
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.npy")}

    cache_states(tmp_path, encoder, CORPUS, [1, 2])
    expected = digest()
    folder = next(tmp_path.iterdir())
    for path in sorted((folder / "layer-02").iterdir())[3:]:  # killed between the layers of a chunk
        path.unlink()
    encoded, stream = [], TokenEncoder.stream_layers
    monkeypatch.setattr(
        TokenEncoder,
        "stream_layers",
        lambda self, texts, *rest, **more: encoded.append(texts) or stream(self, texts, *rest, **more),
    )
    cache_states(tmp_path, encoder, CORPUS, [1, 2])
    assert digest() == expected
    assert [text for chunk in encoded for text in chunk] == CORPUS[12:]
    encoded.clear()
    cache_states(tmp_path, encoder, CORPUS, [1, 2])
    assert encoded == []


def test_a_full_disk_is_noticed_before_anything_is_encoded(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    monkeypatch.setattr(TokenEncoder, "stream_layers", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match=r"0\.00 GB"):
        cache_states(tmp_path, encoder, CORPUS)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_state_too_large_for_float16_is_an_error(encoder, tmp_path, monkeypatch):
    encoder._backbone.encoder.layer[-1].output.LayerNorm.weight.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"float16.*bfloat16"):
        cache_states(tmp_path, encoder, CORPUS, dtype="float16")
    assert not list(tmp_path.rglob("*.npy"))


def test_the_counts_of_a_cache_are_json(encoder, tmp_path):
    source = cache_states(tmp_path, encoder, CORPUS, max_tokens=100)[3]
    counts = json.loads(next(tmp_path.rglob("plan.json")).read_text())
    assert source.n == 100 <= sum(map(sum, counts))
    assert source.lengths.tolist() == list(encoder.count_tokens(CORPUS))[: len(source.lengths)]


@pytest.mark.slow
def test_a_file_that_is_cut_short_or_of_another_size_is_encoded_again(encoder, tmp_path):
    cache_states(tmp_path, encoder, CORPUS)
    paths = sorted(tmp_path.rglob("*.npy"))
    expected = [path.read_bytes() for path in paths]
    paths[2].write_bytes(expected[2][:-10])
    cache_states(tmp_path, encoder, CORPUS)
    assert [path.read_bytes() for path in paths] == expected
    paths[4].write_bytes(expected[5])
    cache_states(tmp_path, encoder, CORPUS)
    assert [path.read_bytes() for path in paths] == expected


def test_no_descriptor_stays_open_for_a_file(encoder, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    source = cache_states(tmp_path, encoder, CORPUS)[3]
    assert len(list(tmp_path.rglob("*.npy"))) > 10
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert next(source.windows(10**6, 0, 0)).shape == (source.n, 32)


def test_a_file_that_cannot_be_written_is_named(encoder, tmp_path, monkeypatch):
    save = lib.encode.states.save_parts
    monkeypatch.setattr(lib.encode.states, "save_parts", lambda path, parts: save("/dev/full", parts))
    with pytest.raises(OSError, match=r"000000\.npy .*No space left on device"):
        cache_states(tmp_path, encoder, CORPUS)
    assert not list(tmp_path.rglob("*npy*"))


@pytest.mark.slow
@pytest.mark.parametrize("states", ["cache", "encode"])
@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_a_text_that_changes_after_it_was_counted_is_an_error(encoder, tmp_path, change, states):
    corpus = Texts(CORPUS)

    def read() -> None:
        if states == "encode":
            list(source.windows(100, 0, 0))
        else:
            cache_states(tmp_path, encoder, corpus)

    if states == "encode":
        source = EncodedStates(TrainingText(encoder, corpus), 3)
    else:  # counted, and then killed
        cache_states(tmp_path, encoder, corpus)
        for path in sorted(tmp_path.rglob("*.npy"))[3:]:
            path.unlink()
    read()
    for path in sorted(tmp_path.rglob("*.npy"))[3:]:
        path.unlink()
    if change == "gone":
        del corpus[-8:]
    else:
        corpus[-1] = "" if change == "shorter" else f"{corpus[-1]} the cat"
    with pytest.raises(ValueError, match=r"Chunk \d+ .*changed"):
        read()


def test_a_text_that_only_grows_at_its_end_is_read_as_far_as_it_was_counted(encoder):
    corpus = Texts(CORPUS[:8])
    source = EncodedStates(TrainingText(encoder, corpus), 3)
    before = torch.cat(list(source.windows(10, 0, 0)))
    corpus += CORPUS[8:]
    assert torch.equal(torch.cat(list(source.windows(10, 0, 0))), before)


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_is_removed_later(encoder, tmp_path):
    cache_states(tmp_path, encoder, CORPUS)
    expected = set(tmp_path.rglob("*"))
    folder = next(tmp_path.iterdir())
    old, new = (folder / "layer-03" / f".000001.npy.0123456{i}.tmp" for i in range(2))
    older = folder / ".plan.json.01234567.tmp"
    for path in (old, new, older):
        path.write_bytes(b"half")
    for path in (old, older):
        os.utime(path, (time.time() - 4000,) * 2)
    cache_states(tmp_path, encoder, CORPUS)
    assert set(tmp_path.rglob("*")) == expected | {new}  # which another process may be writing


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["", "[[1, 2", "{}", "[1]", '[["1"]]', "[[-1]]", "[[1.5]]", "[[true]]", "\xff"])
def test_a_damaged_plan_is_made_again(encoder, tmp_path, damage):
    cache_states(tmp_path, encoder, CORPUS)
    expected = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    plan = next(tmp_path.rglob("plan.json"))
    plan.write_bytes(damage.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"plan\.json"):
        cache_states(tmp_path, encoder, CORPUS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == expected
