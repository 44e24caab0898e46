"""Study `40_layers`: latent terms read out at every layer of the retriever."""

import numpy as np

from lib.inspect.vocabulary import LEAST_TAIL
from lib.studies.inputs import Setting
from lib.studies.names import LATENT, SPLADE_STYLE
from lib.studies.sweeps import SPLARE, Swept, Variant, study_recipe, sweep
from lib.studies.zipf import stored_fit
from lib.support.store import Store

N_REFITS = 100  # for the interval of an exponent


def layers_study(setting: Setting, store: Store | None = None) -> Swept:
    """Read every layer twice: as latent terms (sum, sqrt, BM25) and as SPLARE does (max, log1p, inner product).

    The baseline is the final layer as latent terms. The summary also has the columns layer and readout, and Zipf's
    exponent of how often latents fire in the documents, with its 95 % interval: exponent, exponent_low, exponent_high,
    empty where too few latents occur for `fit_zipf`.
    """
    variants = {}
    for layer in setting.size.layers:
        recipe = study_recipe(setting, setting.encoder.at(layer))
        for readout, fields in ((LATENT, {}), (SPLADE_STYLE, SPLARE)):
            labels = {"layer": layer, "readout": readout}
            variants[f"{readout}, layer {layer}"] = Variant(recipe, **fields, labels=labels)
    swept = sweep(variants, f"{LATENT}, layer {setting.encoder.layer}", setting.collections, store)
    return swept._replace(summary=swept.summary.assign(**_exponents(swept, store or Store())))


def _exponents(swept: Swept, store: Store) -> dict[str, np.ndarray]:
    """Return the columns of exponents; both readouts of a layer fire alike, so they share a fit."""
    fits, keys = {}, ["collection", "layer"]
    for row in swept.summary.drop_duplicates(keys).itertuples():
        firings = swept.documents[row.collection, row.variant].firings
        occurring = firings[firings > 0]
        enough = len(occurring) >= LEAST_TAIL and len(np.unique(occurring)) > 1
        fits[row.collection, row.layer] = stored_fit(firings, N_REFITS, store)[:3] if enough else (np.nan,) * 3
    rows = [fits[key] for key in swept.summary[keys].itertuples(index=False, name=None)]
    return dict(zip(("exponent", "exponent_low", "exponent_high"), np.transpose(rows), strict=True))
