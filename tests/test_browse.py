"""The page: its data by hand, its folder, and the page itself in a real browser."""

import json
import re
import shutil
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.bm25.weighting import INNER_PRODUCT
from lib.browse.data import DIGITS, Page, packed, title_of
from lib.browse.write import MARKER, STATIC, write_page
from lib.inference_free import InferenceFreeQueries
from lib.latent_terms import LatentTerms

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with chromedriver here: apt-get install chromium-driver"
)
HOSTILE = 'the cat <script>window.hit = 1</script> & "two" \'dogs\' <img src=x onerror="window.hit = 2">'
TEXTS = [
    "the old cat sat on a red mat .",
    HOSTILE,
    "",
    "\u05e9\u05dc\u05d5\u05dd the dog \u202e ran",
    "a bird \U0001f600 sang in the tree",
    "the stone house " * 625,
    "\ud800 cat\nline two\tdog </script>",
    "is the river blue ?",
] + [f"a small fish swam {colour}" for colour in ("red", "green", "blue") * 20]
IDS = ["plain", "<b>id</b>", "empty/id", "rtl", "emoji", "long", "half", "q&a"] + [f"fish/{i}" for i in range(60)]


@pytest.fixture(scope="module")
def model(tiny_encoder, tiny_sae):
    return LatentTerms(tiny_encoder, tiny_sae)


@pytest.fixture(scope="module")
def page(model):
    return Page(model, "a/<i>collection</i>", IDS, TEXTS)


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory):
    return write_page(page, tmp_path_factory.mktemp("browse") / "the page").parent


@cache
def shard(folder, name):
    text = (folder / "data" / f"{name}.js").read_text("utf-8")
    assert text.startswith(f'page.receive("{name}",')
    return json.loads(text[len(f'page.receive("{name}",') : -3])


def unpacked(text, n):
    values = [DIGITS.index(digit) for digit in text]
    return [sum(v * 64 ** (n - 1 - i) for i, v in enumerate(values[j : j + n])) for j in range(0, len(values), n)]


def test_numbers_are_packed_to_the_base_64():
    numbers = [0, 1, 63, 64, 64**4 - 1]
    assert unpacked(packed(np.array(numbers), 4), 4) == numbers
    assert packed(np.array([1, 65]), 2) == "ABBB"
    assert packed(np.array([], np.int64), 5) == ""


def test_titles():
    assert title_of("heapq.heappush", "heapq.heappush\nPush item") == "heapq.heappush Push item"
    assert title_of("7", "A text") == "7: A text"
    assert title_of("7", " \n") == "7"
    assert title_of("7", "word " * 100) == f"7: {'word ' * 100}"[:79] + "…"


def test_documents_are_whole_and_their_tokens_are_those_of_the_model(model, folder):
    documents = shard(folder, "documents-0") + shard(folder, "documents-1")
    assert [document[0] for document in documents] == IDS
    for (_, text, lengths, codes), original in zip(documents, TEXTS, strict=True):
        assert text == original.encode("utf-8", "replace").decode()
        assert sum(lengths) <= len(text)
        assert len(unpacked(codes, 4)) == len(lengths)
    _, text, lengths, codes = documents[0]
    ends = np.cumsum(lengths)
    tokens = [text[end - length : end] for end, length in zip(ends[1::2], lengths[1::2], strict=True)]
    assert tokens == text.split()
    shown = model.show(TEXTS[0])
    strongest = [token.latents[0][0] for token in shown.tokens if token.latents]
    assert [code >> 6 for code in unpacked(codes, 4)[::2]] == strongest


def test_the_postings_are_the_index(model, page, folder):
    index = model.index(page.reading.terms, IDS)
    dense = np.vstack([rows.toarray() for rows in index.impact_rows()])
    for latent, (idf, codes) in enumerate(shard(folder, "postings-0")):
        assert idf == pytest.approx(index.idf[latent], abs=1e-4)
        found = np.zeros(len(IDS))
        for code in unpacked(codes, 5):
            found[code // 1024] = code % 1024 / 1023 * dense.max()
        np.testing.assert_allclose(found, dense[:, latent], atol=0.01)


def test_a_latent_knows_its_words_places_and_neighbours(model, page, folder):
    latents = shard(folder, "latents-0")
    firings = shard(folder, "names")["firings"]
    assert len(latents) == len(firings) == 64
    assert any(not latent for latent in latents), "one that is never active has nothing to show"
    for number, latent in enumerate(latents):
        assert bool(latent) == bool(firings[number])
        if latent:
            assert latent["documents"]
            assert bool(latent["words"]) == bool(latent["places"])  # neither if it is active in special tokens only
            assert number not in {other for other, _ in latent["similar"] + latent["together"]}
            assert all(firings[other] for other, _ in latent["similar"])
    strongest = int(np.argmax(firings))
    document, token = latents[strongest]["places"][0]
    codes = unpacked((shard(folder, "documents-0") + shard(folder, "documents-1"))[document][3], 4)
    assert token < len(codes) // 2
    parents = {number: latent["parent"] for number, latent in enumerate(latents) if latent and latent["parent"]}
    assert all(firings[parent] >= firings[child] for child, parent in parents.items())


def test_the_page_is_reproducible_byte_for_byte(model, folder, tmp_path):
    again = write_page(Page(model, "a/<i>collection</i>", IDS, TEXTS), tmp_path / "again").parent
    files = [sorted(path.relative_to(root) for path in root.rglob("*")) for root in (folder, again)]
    assert files[0] == files[1]
    for name in files[0]:
        assert (folder / name).is_dir() or (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_what_is_in_a_folder_is_replaced_only_if_it_is_a_page_and_asked_for(model, tmp_path):
    small = Page(model, "small", ["a", "b"], ["the cat", "a dog"])
    (tmp_path / "empty").mkdir()
    index = write_page(small, tmp_path / "empty")
    assert index.is_file()
    with pytest.raises(FileExistsError, match="--force"):
        write_page(small, tmp_path / "empty")
    (tmp_path / "empty" / "data" / "stale.js").touch()
    write_page(small, tmp_path / "empty", replace=True)
    assert not (tmp_path / "empty" / "data" / "stale.js").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for replace in (False, True):
        with pytest.raises(FileExistsError, match="something else"):
            write_page(small, tmp_path / "mine", replace=replace)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]
    assert (tmp_path / "empty" / MARKER).is_file()


def test_models_and_collections_that_a_page_cannot_hold(model, tiny_encoder, tiny_sae):
    with pytest.raises(ValueError, match="'count'"):
        Page(LatentTerms(tiny_encoder, tiny_sae, pooling="count"), "c", IDS, TEXTS)
    with pytest.raises(ValueError, match=r"65,537 documents.*sample"):
        Page(model, "c", ["x"] * 65_537, ["x"] * 65_537)
    with pytest.raises(ValueError, match="doc_ids repeats 'x'"):
        Page(model, "c", ["x", "x"], ["a", "b"])
    with pytest.raises(ValueError, match="c has no documents"):
        Page(model, "c", [], [])


def test_the_command_makes_a_page_of_a_collection_or_of_texts(model, tmp_path, monkeypatch, capsys):
    from lib.__main__ import main

    texts = tmp_path / "my texts.jsonl"
    texts.write_text('{"_id": "a/1", "text": "the cat"}\n{"text": "a dog"}\n')
    monkeypatch.setattr(LatentTerms, "load", lambda *_: model)

    def browse(*arguments):
        monkeypatch.setattr("sys.argv", ["lib", "browse", "-o", str(tmp_path / "page"), *map(str, arguments)])
        main()

    browse("--texts", texts)
    assert "index.html is written" in capsys.readouterr().out
    documents = shard(tmp_path / "page", "documents-0")
    assert [document[:2] for document in documents] == [["a/1", "the cat"], ["2", "a dog"]]
    assert shard(tmp_path / "page", "about")["collection"] == "my texts.jsonl"
    with pytest.raises(SystemExit, match="--texts"):
        browse("--texts", texts, "--collection", "pydoc/20", "--force")


def test_the_page_never_makes_html_of_text_and_names_no_other_place():
    sources = {path.name: path.read_text("utf-8") for path in STATIC.iterdir()}
    script = sources["page.js"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", script)
    for name, source in sources.items():
        places = set(re.findall(r"[a-z]+://[^\s\"'<>)]+", source))
        assert places <= {"http://www.w3.org/2000/svg"}, name  # which is a name, and not fetched


# What of a page's text has too little contrast: WCAG's ratio of luminances, backgrounds composed from the root on.
LOW_CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
const linear = (value) => value <= 10.31475 ? value / 3294.6 : ((value / 255 + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const ground = (node) =>
  node ? over(numbers(getComputedStyle(node).backgroundColor), ground(node.parentElement)) : [255, 255, 255];
const low = [];
for (const node of document.querySelectorAll("body *")) {
  const shown = node.checkVisibility() && !node.closest(".hidden, .skip");
  if (!shown || ![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
  const below = ground(node), style = getComputedStyle(node);
  const ink = over(numbers(node.closest("svg") ? style.fill : style.color), below);
  const [dark, light] = [luminance(ink), luminance(below)].sort((a, b) => a - b);
  const ratio = (light + .05) / (dark + .05);
  if (ratio < 4.5) low.push([node.nodeName, node.textContent.slice(0, 30), ratio]);
}
return low;
"""


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser, folder):
    from selenium.webdriver.support.ui import WebDriverWait

    def visit(hash_: str):
        if not browser.current_url.startswith(folder.as_uri()):
            browser.get(f"{folder.as_uri()}/index.html{hash_}")
        else:
            browser.execute_script("location.hash = arguments[0]", hash_)
        wanted = (
            "return location.hash === arguments[0] && document.getElementById('main').dataset.view === arguments[0]"
        )
        WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(wanted, hash_))
        return browser.find_element("id", "main")

    yield visit
    assert browser.execute_script("return window.hit") is None
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            assert message["params"]["request"]["url"].startswith((folder.as_uri(), "data:", "chrome:", "about:"))


@pytest.mark.slow
@needs_browser
def test_every_document_is_shown_whole_and_not_executed(open_page, browser):
    for number, text in enumerate(TEXTS[:8]):
        main = open_page(f"#/document/{number}")
        if text:
            shown = browser.execute_script("return document.querySelector('.text').textContent")
            assert shown == text.encode("utf-8", "replace").decode()
        else:
            assert "empty" in main.text
        assert browser.execute_script("return document.querySelector('h1').textContent") == IDS[number]
    assert browser.execute_script("return document.querySelectorAll('main script, main img').length") == 0


@pytest.mark.slow
@needs_browser
def test_a_token_leads_to_its_latent_by_mouse_and_by_keys(open_page, browser, folder):
    from selenium.webdriver.common.keys import Keys

    open_page("#/document/0")
    tokens = browser.find_elements("css selector", ".token")
    assert [token.text for token in tokens] == TEXTS[0].split()
    tokens[2].click()
    assert "cat" in browser.find_element("css selector", ".beside").text
    tokens[2].send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.text == "sat"
    code = unpacked(shard(folder, "documents-0")[0][3], 4)[6]
    link = browser.find_element("css selector", ".beside a")
    assert link.get_attribute("href").endswith(f"#/latent/{code >> 6}")
    main = open_page(f"#/latent/{code >> 6}")
    assert f"latent {code >> 6}" in main.text
    assert browser.find_elements("css selector", "mark")
    assert browser.find_element("css selector", "svg[role=img]").get_attribute("aria-label").startswith("Rank")


@pytest.mark.slow
@needs_browser
def test_a_family_is_a_tree_from_the_broadest_latent_down(open_page, browser, folder):
    latents = shard(folder, "latents-0")
    depth = {number: 0 for number, latent in enumerate(latents) if latent and latent["parent"] is None}
    for _ in latents:
        depth |= {n: depth[of["parent"]] + 1 for n, of in enumerate(latents) if of and of["parent"] in depth}
    deepest = max(depth, key=depth.get)
    assert depth[deepest] >= 1, "no latent of this model has a broader one"
    open_page(f"#/latent/{deepest}")
    above = (
        "return [...document.querySelectorAll('.tree a')].filter((a) => a.closest('li').querySelector('.tree strong'))"
    )
    links = browser.execute_script(f"{above}.map((a) => a.hash)")
    expected, parent = [], latents[deepest]["parent"]
    while parent is not None:
        expected, parent = [f"#/latent/{parent}", *expected], latents[parent]["parent"]
    assert links == expected
    open_page(expected[0])
    child = browser.find_element("css selector", ".tree .tree a").get_attribute("href")
    assert child.endswith(f"#/latent/{latents[int(expected[0].split('/')[-1])]['children'][0]}")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("text", ["the old Cat", "a red bird ?", "zebra quilt", "fish"])
def test_a_query_is_ranked_as_the_index_ranks_it(open_page, browser, model, page, text):
    known = InferenceFreeQueries.build(model, TEXTS, page.n_query_latents)
    index = model.index(page.reading.terms, IDS)
    main = open_page(f"#/query/{text.replace(' ', '%20').replace('?', '%3F')}")
    words = [word for word in text.split() if any(word.lower() in other for other in TEXTS)]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#results details')].map((node) => "
        "[Number(node.dataset.document), Number(node.querySelector('.score').textContent)])"
    )
    if not words:
        assert "No word of the query" in main.text
        assert shown == []
        return
    scores = index.scores(known.encode([" ".join(words)]))
    assert len(shown) == 20
    np.testing.assert_allclose([score for _, score in shown], np.sort(scores)[::-1][:20], rtol=0.01, atol=0.02)
    np.testing.assert_allclose([score for _, score in shown], scores[[doc for doc, _ in shown]], rtol=0.01, atol=0.02)


@pytest.mark.slow
@needs_browser
def test_maxima_are_ranked_by_the_inner_product(browser, tiny_encoder, tiny_sae, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    model = LatentTerms(tiny_encoder, tiny_sae, "max", "log1p", INNER_PRODUCT)
    page = Page(model, "c", IDS, TEXTS)
    write_page(page, tmp_path / "page")
    table, largest = shard(tmp_path / "page", "query"), np.zeros((1, tiny_sae.width), np.float32)
    for row in [*table["words"]["red"], *table["words"]["cat"], *table["always"]]:
        latents = table["latents"][row]
        largest[0, latents] = np.maximum(largest[0, latents], table["weights"][row])
    scores = page.index.scores(csr_array(np.log1p(largest)))
    browser.get(f"{(tmp_path / 'page').as_uri()}/index.html#/query/red%20cat")
    found = "return [...document.querySelectorAll('#results .score')].map((node) => Number(node.textContent))"
    shown = WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(found))
    np.testing.assert_allclose(shown, np.sort(scores)[::-1][: len(shown)], rtol=0.01, atol=0.02)
    for name in ("browser", "performance"):
        browser.get_log(name)  # the next test reads its own


@pytest.mark.slow
@needs_browser
def test_a_silenced_latent_changes_the_ranking_and_comes_back(open_page, browser):
    open_page("#/query/the%20old%20cat")
    first = browser.find_element("id", "results").text
    slide = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    for slider in browser.find_elements("css selector", ".slider input"):
        assert browser.execute_script("return arguments[0].labels.length", slider) == 1
        browser.execute_script(slide, slider, 0)
    assert browser.find_element("id", "results").text != first
    assert "×0" in browser.find_element("css selector", ".slider output").text
    browser.find_element("xpath", "//button[text()='Reset']").click()
    assert browser.find_element("id", "results").text == first
    summary = browser.find_element("css selector", "#results summary")
    browser.execute_script("arguments[0].parentNode.open = true", summary)
    assert browser.execute_script("return document.querySelectorAll('#results caption').length") <= 1


@pytest.mark.slow
@needs_browser
def test_latents_are_found_by_word_and_bad_addresses_are_said_to_be_bad(open_page, browser, folder):
    labels = shard(folder, "names")["labels"]
    main = open_page("#/latents/cat")
    n_links = len(main.find_elements("css selector", "section:first-child li"))
    assert n_links == sum(any(w.startswith("cat") for w in re.findall(r"\w+", label)) for label in labels)
    for hash_ in ("#/latent/64", "#/latent/x", "#/latent/", "#/document/999", "#/constructor", "#/document/-1"):
        assert "Not found" in open_page(hash_).text
    assert "no token" in open_page(f"#/latent/{labels.index('')}").text
    assert browser.execute_script("return document.title").endswith("a/<i>collection</i>")


@pytest.mark.slow
@needs_browser
def test_the_forms_and_lists_lead_on(open_page, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    main = open_page("#/")
    assert len(main.find_elements("css selector", "li")) > 10
    field = browser.find_element("id", "query")
    field.clear()
    field.send_keys("red/fish\n")
    WebDriverWait(browser, 120).until(lambda driver: "red/fish" in driver.find_element("tag name", "h1").text)
    main = open_page("#/documents/1")
    assert "51 to 68 of 68" in main.text
    assert len(main.find_elements("css selector", "li")) == 18


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window_and_all_fields_have_names(open_page, browser, width):
    browser.set_window_size(max(500, width), 800)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        for hash_ in ("#/", "#/document/5", "#/query/the%20old%20cat", "#/latents/cat"):
            open_page(hash_)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, hash_
            unnamed = "return [...document.querySelectorAll('input')].filter((node) => !node.labels.length).length"
            assert browser.execute_script(unnamed) == 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(open_page, browser, folder, scheme):
    latent = int(np.argmax(shard(folder, "names")["firings"]))
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        for hash_ in ("#/", "#/document/0", f"#/latent/{latent}", "#/query/the%20old%20cat", "#/latents/cat"):
            open_page(hash_)
            assert browser.execute_script(LOW_CONTRAST) == [], hash_
        browser.execute_script("document.querySelector('h1').style.color = 'var(--line)'")  # the check sees what is low
        assert {name for name, _, _ in browser.execute_script(LOW_CONTRAST)} & {"H1", "BDI"}
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
@needs_browser
def test_the_page_works_behind_http_server_too(browser, folder):
    from selenium.webdriver.support.ui import WebDriverWait

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"
        browser.get_log("performance")
        browser.get(f"{place}#/document/0")
        view = "return document.getElementById('main').dataset.view === '#/document/0'"
        WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(view))
        assert browser.execute_script("return document.querySelector('.text').textContent") == TEXTS[0]
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert requests and all(url.startswith((place, "data:", "chrome:", "about:")) for url in requests)
        browser.get("about:blank")
        server.shutdown()
