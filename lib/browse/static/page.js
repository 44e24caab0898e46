"use strict";
// The page of one model and one collection. Data come in scripts that call page.receive, since a page that is opened
// from disk may not fetch. Texts only ever become text nodes, so that nothing in a document is executed.

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"; // as in data.py
const VALUE = new Map([...DIGITS].map((digit, value) => [digit, value]));
const LATENTS_A_SHARD = 512, DOCUMENTS_A_SHARD = 64, TOKEN_LATENTS = 2, STEPS = 63, IMPACTS = 1023;
const SLIDERS = 12, RESULTS = 20;
const JOINED = {sum: (a, b) => a + b, max: Math.max};
const PHI = {sqrt: Math.sqrt, log1p: Math.log1p, identity: (w) => w};
const FAMILY = "a broader latent is strong in at least half of the tokens in which this one is";

const page = {
  waiting: new Map(),
  receive(name, content) {
    page.waiting.get(name).resolve(content);
  },
  load(name) {
    if (!page.waiting.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, {resolve, reject}));
      page.waiting.set(name, entry);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onerror = () => entry.reject(new Error(`data/${name}.js is missing; write the page anew.`));
      document.head.append(script);
    }
    return page.waiting.get(name).promise;
  },
};

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

function unpacked(text, digits) {
  const numbers = [];
  for (let start = 0; start < text.length; start += digits) {
    let number = 0;
    for (let i = start; i < start + digits; i++) number = number * 64 + VALUE.get(text[i]);
    numbers.push(number);
  }
  return numbers;
}

// -- data ------------------------------------------------------------------------------------------------------------

async function latentOf(latent) {
  return (await page.load(`latents-${Math.floor(latent / LATENTS_A_SHARD)}`))[latent % LATENTS_A_SHARD];
}

async function documentOf(number) {
  const shard = await page.load(`documents-${Math.floor(number / DOCUMENTS_A_SHARD)}`);
  const [id, text, lengths, codes] = shard[number % DOCUMENTS_A_SHARD];
  const characters = Array.from(text), numbers = unpacked(codes, 4), tokens = [];
  let place = 0;
  for (let i = 0; i < lengths.length; i += 2) {
    const start = place + lengths[i], end = start + lengths[i + 1];
    const own = numbers.slice((i / 2) * TOKEN_LATENTS, (i / 2 + 1) * TOKEN_LATENTS).filter((code) => code % 64);
    tokens.push({start, end, latents: own.map((code) => [Math.floor(code / 64), (code % 64) / STEPS])});
    place = end;
  }
  return {id, characters, tokens};
}

async function postingsOf(latent) {
  const shard = await page.load(`postings-${Math.floor(latent / LATENTS_A_SHARD)}`);
  const [idf, codes] = shard[latent % LATENTS_A_SHARD];
  return {idf, postings: unpacked(codes, 5)};
}

// w_j(q) = phi(sum_{t in q} E_tj) as in lib.inference_free, or phi(max_{t in q} E_tj), from the tokens of the words of
// the collection
async function queryOf(text) {
  const [about, table] = await Promise.all([page.load("about"), page.load("query")]);
  const joined = new Map(), unknown = [];
  const add = (rows) => rows.forEach((row) => table.latents[row].forEach((latent, i) => {
    joined.set(latent, JOINED[about.pooling](joined.get(latent) ?? 0, table.weights[row][i]));
  }));
  const words = text.match(/[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu) ?? [];
  for (const word of words) {
    const form = [word, word.toLowerCase()].find((each) => Object.hasOwn(table.words, each));
    if (form === undefined) unknown.push(word);
    else add(table.words[form]);
  }
  if (unknown.length < words.length) add(table.always);
  const weights = new Map([...joined].map(([latent, value]) => [latent, PHI[about.phi](value)]));
  return {weights, unknown};
}

// score(q, d) = sum_j f_j w_j(q) idf_j impact_jd
async function partsOf(weights) {
  const about = await page.load("about");
  const latents = [...weights.keys()].sort((a, b) => a - b);
  const found = await Promise.all(latents.map(postingsOf));
  return latents.map((latent, i) => {
    const step = weights.get(latent) * found[i].idf * about.impact / IMPACTS;
    const scores = found[i].postings.map((code) => [Math.floor(code / 1024), (code % 1024) * step]);
    return {latent, worth: weights.get(latent) * found[i].idf, scores};
  });
}

function ranked(parts, factors) {
  const scores = new Map();
  for (const {latent, scores: own} of parts) {
    const factor = factors.get(latent) ?? 1;
    if (factor) for (const [doc, score] of own) scores.set(doc, (scores.get(doc) ?? 0) + factor * score);
  }
  return [...scores].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

// -- parts of views --------------------------------------------------------------------------------------------------

let names; // labels and firings of all latents

function nameOf(latent) {
  return names.labels[latent] || `latent ${latent} ${names.firings[latent] ? "(no label)" : "(never active here)"}`;
}

function latentLink(latent) {
  return element("a", {href: `#/latent/${latent}`}, element("bdi", {}, nameOf(latent)));
}

function latentList(pairs, what) {
  if (!pairs.length) return element("p", {class: "quiet"}, "None.");
  return element("ul", {class: "plain"}, pairs.map(([latent, value]) => element("li", {}, latentLink(latent),
    value == null ? null : element("small", {}, ` ${what} ${value}`))));
}

function table(caption, headers, rows) {
  const head = headers.map((header) => element("th", {scope: "col", class: header.number && "number"}, header.text));
  return element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, head)),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell, i) =>
      element("td", {class: headers[i].number ? "number" : headers[i].bars && "bars"}, cell))))));
}

function bar(share) {
  const node = element("span", {class: "bar", "aria-hidden": "true"});
  node.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  return node;
}

function documentLink(number, titles) {
  return element("a", {href: `#/document/${number}`}, element("bdi", {}, titles[number] || "(no title)"));
}

// The text with each token shaded, by one latent or by its strongest; a token can be clicked, and reached by arrows.
function shadedText(doc, only, show) {
  const text = element("div", {class: "text", dir: "auto", role: "group", "aria-label": "Text; arrow keys go from token to token"});
  const nodes = [];
  let place = 0;
  const slice = (start, end) => doc.characters.slice(start, end).join("");
  const choose = (i, focus) => {
    nodes.forEach((node, j) => {
      node.classList.toggle("chosen", i === j);
      node.tabIndex = i === j ? 0 : -1;
    });
    if (focus) nodes[i].focus();
    show(doc.tokens[i], slice(doc.tokens[i].start, doc.tokens[i].end));
  };
  doc.tokens.forEach((token, i) => {
    text.append(slice(place, token.start));
    const own = only == null ? token.latents[0] : token.latents.find(([latent]) => latent === only);
    const node = element("span", {class: "token", role: "button", tabindex: i ? -1 : 0, onclick: () => choose(i)}, slice(token.start, token.end));
    node.title = token.latents.map(([latent]) => nameOf(latent)).join("\n");
    node.style.setProperty("--strength", own ? (0.12 + 0.45 * own[1]).toFixed(2) : 0);
    node.addEventListener("mouseenter", () => show(token, node.textContent));
    text.append(node);
    nodes.push(node);
    place = token.end;
  });
  text.append(slice(place));
  text.addEventListener("keydown", (event) => {
    const current = nodes.indexOf(document.activeElement);
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (current < 0) return;
    if (step && nodes[current + step]) choose(current + step, true);
    if (step || event.key === " ") event.preventDefault();
    if (event.key === "Enter" || event.key === " ") choose(current);
  });
  return text;
}

function zipfCurve(points, rank, firings) {
  const create = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    return node;
  };
  const [width, height, left, below] = [420, 170, 34, 24];
  const [mostRank, mostFirings] = [points.at(-1)[0], points[0][1]];
  const x = (r) => left + (width - left - 10) * (Math.log(r) / Math.log(Math.max(2, mostRank)));
  const y = (f) => height - below - (height - below - 10) * (Math.log(f) / Math.log(Math.max(2, mostFirings)));
  const said = `Rank ${rank} of ${mostRank} by frequency: active in ${firings} tokens.`;
  const drawing = create("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said});
  drawing.append(create("line", {class: "axis", x1: left, x2: width, y1: height - below, y2: height - below}),
    create("line", {class: "axis", x1: left, x2: left, y1: 0, y2: height - below}),
    create("path", {class: "curve", d: "M" + points.map(([r, f]) => `${x(r).toFixed(1)} ${y(f).toFixed(1)}`).join("L")}),
    create("circle", {class: "here", cx: x(rank), cy: y(firings), r: 5}),
    create("text", {x: width - 10, y: height - 6, "text-anchor": "end"}, `rank, of ${mostRank.toLocaleString("en")}`),
    create("text", {x: 12, y: height - below, transform: `rotate(-90 12 ${height - below})`}, "tokens"));
  return drawing;
}

// -- views: each returns a title and nodes ---------------------------------------------------------------------------

async function startView() {
  const [about, titles] = await Promise.all([page.load("about"), page.load("titles")]);
  const quality = about.auc == null ? null : element("p", {},
    `How far labels can be trusted: on texts that they were not made from, the words of a label predict where its latent fires with a median AUC of ${about.auc}; labels drawn at random reach ${about.control} (1 is perfect, 0.5 is chance). Each latent's page has its own.`);
  return [null, [
    element("h1", {}, `What ${about.model} reads in ${about.collection}`),
    element("p", {}, `A dense retriever turns each token of a text into a vector. A sparse autoencoder takes that vector apart into a few of ${about.width.toLocaleString("en")} latents, at most ${about.k} a token; ${about.active.toLocaleString("en")} of them are active in these ${about.documents.toLocaleString("en")} documents. Documents are ranked by the latents that they share with a query, as BM25 ranks by words.`),
    element("p", {}, "Search documents above to see which latents make a ranking, and to make some stronger or silent. Or open a latent to see what it reads."),
    quality,
    element("h2", {}, "Latents to begin with"), latentList(about.shown.map((latent) => [latent])),
    element("h2", {}, "Documents"),
    element("ul", {class: "plain"}, titles.slice(0, 10).map((_, i) => element("li", {}, documentLink(i, titles)))),
  ]];
}

async function latentsView(word) {
  const about = await page.load("about");
  const start = word.trim().toLowerCase();
  if (!start) return ["Latents", [element("h1", {}, "Latents"),
    element("p", {}, "Find latents by a word above: those whose label has it, and those that it activates."),
    latentList(about.shown.map((latent) => [latent]))]];
  const named = [];
  names.labels.forEach((label, latent) => {
    if (label.toLowerCase().split(/[^\p{L}\p{N}_]+/u).some((part) => part.startsWith(start))) named.push(latent);
  });
  named.sort((a, b) => names.firings[b] - names.firings[a]);
  const {weights} = await queryOf(start);
  const activated = [...weights].sort((a, b) => b[1] - a[1]).slice(0, 20);
  return [`Latents: ${word}`, [element("h1", {}, "Latents for ", element("bdi", {}, `“${word}”`)),
    element("div", {class: "columns"},
      element("section", {}, element("h2", {}, `With the word in the label (${named.length})`),
        latentList(named.slice(0, 60).map((latent) => [latent, names.firings[latent].toLocaleString("en")]), "tokens:")),
      element("section", {}, element("h2", {}, "Activated by the word, strongest first"),
        latentList(activated.map(([latent, weight]) => [latent, weight.toFixed(2)]), "weight"))),
  ]];
}

async function contextOf([number, token], latent) {
  const doc = await documentOf(number), titles = await page.load("titles");
  const {start, end} = doc.tokens[token] ?? {start: 0, end: 0};
  const piece = (from, to) => doc.characters.slice(Math.max(0, from), to).join("").replace(/\s+/g, " ");
  return element("li", {class: "context"}, element("span", {dir: "auto"}, start > 60 ? "…" : "", piece(start - 60, start),
    element("mark", {}, piece(start, end)), piece(end, end + 60), end + 60 < doc.characters.length ? "…" : ""), " ",
  element("small", {}, element("a", {href: `#/document/${number}/${latent}`}, element("bdi", {}, titles[number]))));
}

// The broader latents of one, the broadest outermost, and two levels of narrower ones, as nested lists.
async function familyTree(latent, own) {
  const list = (items) => element("ul", {class: "tree"}, items);
  const below = async (members, levels) => members.length && levels ? list(await Promise.all(members.map(async (child) =>
    element("li", {}, latentLink(child), await below((await latentOf(child)).children, levels - 1))))) : null;
  const narrower = await below(own.children, 2);
  if (own.parent == null && !narrower) return element("p", {class: "quiet"}, `None: ${FAMILY}.`);
  let tree = list(element("li", {}, element("strong", {}, element("bdi", {}, nameOf(latent))), narrower));
  for (let parent = own.parent; parent != null; parent = (await latentOf(parent)).parent) tree = list(element("li", {}, latentLink(parent), tree));
  return tree;
}

async function latentView(text) {
  const latent = Number(text), about = await page.load("about");
  if (!Number.isInteger(latent) || latent < 0 || latent >= about.width || !text) return missing(`There is no latent ${text}; they are 0 to ${about.width - 1}.`);
  const [own, titles] = await Promise.all([latentOf(latent), page.load("titles")]);
  const heading = element("h1", {}, element("bdi", {}, nameOf(latent)), " ", element("small", {}, `latent ${latent}`));
  if (!own.words) return [`Latent ${latent}`, [heading, element("p", {}, "This latent is active in no token of these documents.")]];
  const rank = 1 + names.firings.filter((n) => n > names.firings[latent]).length;
  const agreement = own.auc == null ? "The agreement of the label was not measured: the latent fires in too few held-out texts, or in nearly all." :
    `Held-out agreement of the label: AUC ${own.auc.toFixed(2)}${own.control == null ? "" : `; of a random label ${own.control.toFixed(2)}`}.`;
  return [`${nameOf(latent)}`, [heading,
    element("p", {}, `Active in ${names.firings[latent].toLocaleString("en")} tokens of ${own.n.toLocaleString("en")} documents. ${agreement}`),
    element("h2", {}, "Where it is strongest"),
    own.places.length ? element("ul", {class: "plain"}, await Promise.all(own.places.map((place) => contextOf(place, latent)))) :
      element("p", {class: "quiet"}, "In special tokens, which stand in no text."),
    element("div", {class: "columns"},
      element("section", {}, element("h2", {}, "Words"), table("Share of its activation", [{text: "word"}, {text: "%", number: true}, {text: "", bars: true}],
        own.words.map(([word, share]) => [element("bdi", {}, word), `${share}`, bar(share / 100)]))),
      element("section", {}, element("h2", {}, "Documents where it weighs most"),
        element("ul", {class: "plain"}, own.documents.map(([doc, weight]) => element("li", {}, documentLink(doc, titles), element("small", {}, ` weight ${weight}`)))))),
    element("div", {class: "columns"},
      element("section", {}, element("h2", {}, "Similar direction"), latentList(own.similar, "cosine")),
      element("section", {}, element("h2", {}, "Active together"), latentList(own.together, "Jaccard")),
      own.seeds.length ? element("section", {}, element("h2", {}, "In autoencoders of other seeds"), latentList(own.seeds, "cosine")) : null),
    element("h2", {}, "Family"), await familyTree(latent, own),
    element("h2", {}, "Frequency"), zipfCurve(about.zipf, rank, names.firings[latent]),
  ]];
}

async function documentView(text, only) {
  const number = Number(text), about = await page.load("about");
  if (!Number.isInteger(number) || number < 0 || number >= about.documents || !text) return missing(`There is no document ${text}; they are 0 to ${about.documents - 1}.`);
  const doc = await documentOf(number), chosen = only ? Number(only) : null;
  const beside = element("div", {class: "beside", role: "status"});
  const show = (token, shown) => beside.replaceChildren(element("strong", {}, element("bdi", {}, shown)),
    ...token.latents.flatMap(([latent], i) => [i ? " · " : ": ", latentLink(latent)]));
  beside.append(chosen == null ? "Choose a token to see its strongest latents." : "Shaded by ", chosen == null ? "" : latentLink(chosen));
  const counts = new Map();
  for (const token of doc.tokens) for (const [latent, shade] of token.latents) counts.set(latent, (counts.get(latent) ?? 0) + shade);
  const heaviest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([latent]) => [latent]);
  const turn = element("nav", {"aria-label": "Neighbouring documents"},
    number ? element("a", {href: `#/document/${number - 1}`}, "← previous") : null,
    number + 1 < about.documents ? element("a", {href: `#/document/${number + 1}`}, "next →") : null,
    chosen == null ? null : element("a", {href: `#/document/${number}`}, "shade by the strongest latents"));
  const empty = doc.characters.length ? null : element("p", {class: "quiet"}, "The text is empty.");
  return [doc.id || "Document", [element("h1", {}, element("bdi", {}, doc.id || "(no id)")), turn, empty ?? shadedText(doc, chosen, show), empty ? null : beside,
    element("h2", {}, "Its strongest latents"), latentList(heaviest)]];
}

async function documentsView(text) {
  const titles = await page.load("titles"), size = 50, last = Math.floor((titles.length - 1) / size);
  const number = Math.min(last, Math.max(0, Math.floor(Number(text)) || 0)), first = number * size;
  const items = titles.slice(first, first + size).map((_, i) => element("li", {}, documentLink(first + i, titles)));
  return ["Documents", [element("h1", {}, `Documents ${first + 1} to ${first + items.length} of ${titles.length.toLocaleString("en")}`),
    element("nav", {"aria-label": "Parts of the list"}, number ? element("a", {href: `#/documents/${number - 1}`}, "← previous") : null,
      number < last ? element("a", {href: `#/documents/${number + 1}`}, "next →") : null),
    element("ul", {class: "plain"}, items)]];
}

async function queryView(text) {
  document.getElementById("query").value = text;
  const [{weights, unknown}, titles, about] = await Promise.all([queryOf(text), page.load("titles"), page.load("about")]);
  const parts = (await partsOf(weights)).sort((a, b) => b.worth - a.worth || a.latent - b.latent);
  const factors = new Map(), before = new Map(ranked(parts, factors).map(([doc], rank) => [doc, rank]));
  const results = element("ol", {id: "results", class: "plain"});
  const update = () => {
    const order = ranked(parts, factors), most = order[0]?.[1] ?? 1;
    const open = new Set([...results.querySelectorAll("details[open]")].map((node) => node.dataset.document));
    results.replaceChildren(...order.slice(0, RESULTS).map(([doc, score], rank) => {
      const moved = before.get(doc) - rank;
      const said = moved > 0 ? `▲ ${moved}` : moved < 0 ? `▼ ${-moved}` : "";
      const details = element("details", {"data-document": doc, open: open.has(String(doc))},
        element("summary", {}, `${rank + 1}. `, documentLink(doc, titles), " ", element("span", {class: "score"}, score.toFixed(2)), " ",
          said ? element("span", {class: "moved", "aria-label": moved > 0 ? `up ${moved}` : `down ${-moved}`}, said) : null));
      const fill = () => {
        const shares = parts.map((part) => [part.latent, (factors.get(part.latent) ?? 1) * (part.scores.find(([d]) => d === doc)?.[1] ?? 0)])
          .filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
        const rows = shares.slice(0, 10).map(([latent, value]) => [latentLink(latent), value.toFixed(2), bar(value / shares[0][1])]);
        if (details.open && details.children.length < 2) details.append(table(`The ${rows.length} of ${shares.length} shared latents that add most to ${score.toFixed(2)}`, [{text: "latent"}, {text: "adds", number: true}, {text: "", bars: true}], rows));
      };
      details.addEventListener("toggle", fill);
      fill();
      const item = element("li", {class: "result"}, details);
      return item;
    }));
    document.getElementById("status").textContent = `${order.length} documents, best first.`;
    return most;
  };
  const groups = new Map(); // latents of one label, such as those of several seeds, have one slider
  for (const {latent} of parts) groups.set(nameOf(latent), [...(groups.get(nameOf(latent)) ?? []), latent]);
  const sliders = [...groups.values()].slice(0, SLIDERS).map((latents) => {
    const [latent, ...others] = latents;
    const output = element("output", {}, "×1");
    const input = element("input", {type: "range", min: 0, max: 3, step: 0.25, value: 1, id: `factor-${latent}`, oninput: (event) => {
      latents.forEach((each) => factors.set(each, Number(event.target.value)));
      output.textContent = `×${event.target.value}`;
      update();
    }});
    return element("div", {class: "slider"}, element("label", {for: `factor-${latent}`}, latentLink(latent),
      others.length ? element("small", {}, ` and ${others.length} of the same label`) : null), input, output);
  });
  const reset = element("button", {type: "button", onclick: () => {
    factors.clear();
    sliders.forEach((slider) => {
      slider.querySelector("input").value = 1;
      slider.querySelector("output").textContent = "×1";
    });
    update();
  }}, "Reset");
  update();
  const known = weights.size > 0;
  return [`Search: ${text}`, [element("h1", {}, "Documents for ", element("bdi", {}, `“${text}”`)),
    unknown.length ? element("p", {id: "unknown"}, "In no document, so left out: ", element("bdi", {}, unknown.join(", ")), ".") : null,
    known ? null : element("p", {}, "No word of the query is in these documents."),
    known ? element("h2", {}, "Latents of the query") : null,
    known ? element("p", {class: "quiet"}, "Those that can add most. To the left weakens and silences, to the right strengthens.") : null,
    ...sliders, known ? element("p", {}, reset) : null,
    element("h2", {}, "Ranking"),
    element("p", {class: "quiet"}, `Open a result to see which latents made its score. The query is read by a table of its words, without the Transformer, and a document keeps its ${about.postings} heaviest latents; BM25Index ranks by all.`),
    results]];
}

function missing(message) {
  return ["Not found", [element("h1", {}, "Not found"), element("p", {}, message)]];
}

// -- routes ----------------------------------------------------------------------------------------------------------

const VIEWS = {"": startView, latents: latentsView, latent: latentView, document: documentView, documents: documentsView, query: queryView};
const siteTitle = document.title;
let turn = 0;

async function route(event) {
  const hash = location.hash;
  if (hash && !hash.startsWith("#/")) return; // the link that skips to the content
  const mine = ++turn, main = document.getElementById("main");
  const [name, ...rest] = hash.slice(2).split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  let title, nodes;
  try {
    names ??= await page.load("names");
    [title, nodes] = await (Object.hasOwn(VIEWS, name) ? VIEWS[name](rest[0] ?? "", rest[1]) : missing("There is no such page."));
  } catch (error) {
    [title, nodes] = ["Error", [element("h1", {}, "Error"), element("p", {role: "alert"}, String(error.message))]];
  }
  if (mine !== turn) return; // another view was asked for meanwhile
  document.title = title ? `${title} · ${siteTitle}` : siteTitle;
  main.replaceChildren(...nodes.flat().filter(Boolean));
  main.dataset.view = hash;
  if (event) {
    main.focus({preventScroll: true});
    scrollTo(0, 0);
  }
}

for (const [form, field, view] of [["search", "query", "query"], ["find", "word", "latents"]]) {
  document.getElementById(form).addEventListener("submit", (event) => {
    event.preventDefault();
    const text = document.getElementById(field).value.trim();
    if (text) location.hash = `#/${view}/${encodeURIComponent(text)}`;
  });
}
window.addEventListener("hashchange", route);
route();
