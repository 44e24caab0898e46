# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training a sparse autoencoder
#
# The vocabulary of a dense retriever is read out by an autoencoder that was only ever asked to rebuild token states
# from a few latents each. This notebook trains a small one live, looks at its loss, at latents that died, at how often
# latents are active and at what some of them mean; stops a run and resumes it; and ends with the command for a real
# one.
#
# | | |
# |---|---|
# | *Reads* | the built-in collection `pydoc` (its documents, no queries) |
# | *Writes* | `training` (.png, .pdf, .csv, .json) |
# | *Paper item* | training set-up of Latent Terms (arXiv 2605.29384), section on the autoencoder |
# | *Runtime* | `smoke` about a minute, `laptop` two, on two cores |

# %% tags=["parameters"]
profile = None  # "smoke", "laptop" or "paper"; None is what LATENT_TERMS_PROFILE names, else "smoke"

# %%
import tempfile
from dataclasses import replace

import pandas as pd
import torch

from lib import load_collection
from lib.data.training_text import GivenText
from lib.encode.encoder import TokenEncoder
from lib.encode.states import cache_states
from lib.inspect.vocabulary import latent_token_matrix, top_tokens
from lib.report.common import save_figure, save_results
from lib.report.train_sae import plot_training
from lib.sae.trainer import TrainingStopped, train
from lib.sae.training import TrainingConfig
from lib.studies.profiles import start
from lib.studies.provenance import provenance
from lib.support.store import Store

profile = start(profile)

# %% [markdown]
# ## 1. Text to states on disk
# The retriever is frozen, so its token states are computed once and kept: 2 bytes a number. Training reads them back
# in random order, a buffer at a time, however large the corpus is.

# %%
encoder = TokenEncoder(max_length=256, dtype=profile.dtype)
corpus = GivenText(load_collection("pydoc/train").doc_texts)
layer = encoder.layer
tokens = {"max_tokens": profile.training_tokens, "long_texts": "cut"}  # beyond 256 tokens; "chunk" trains on all
states = cache_states(Store().folder, encoder, corpus, [layer], **tokens)[layer]
print(f"{states.n:,} states of {states.d} numbers, layer {layer} of {encoder.name}")

# %% [markdown]
# ## 2. Training
# The loss of a batch is the fraction of its variance that the reconstruction leaves unexplained (FVU). At the start the
# decoder is random and FVU is near 1; an autoencoder that could write each state with 16 latents would end at 0.

# %%
config = TrainingConfig(width=2_048, k=16, batch_tokens=1_024, epochs=4, dead_tokens=100_000, seed=0)
rows = []
sae = train(states, config, log=rows.append)
figure = plot_training(rows)
save_figure(figure, profile.figures_folder, "training")

# %% [markdown]
# Left: the variance that is not explained yet. Middle: latents that were active in none of the last 100,000 tokens,
# or of half of the run where that is fewer (the auxiliary loss AuxK lets them learn from the residual). Right: how
# often a latent is active; an average one is in k / width of the tokens, a few are in nearly all.

# %%
frame = pd.DataFrame(rows).drop(columns="density")
origin = provenance(profile, training=sae.metadata["run"])
save_results(frame, profile.figures_folder, "training", origin)
frame.iloc[[0, len(frame) // 2, -1]].round(4)

# %% [markdown]
# ## 3. Stopped and resumed
# A run that writes checkpoints can be stopped, or killed, at any moment. Called again it resumes at the last one and
# ends at the same weights, bit for bit.

# %%
short = replace(config, width=512, epochs=1)
uninterrupted = train(states, short)
steps = iter(range(1_000))
with tempfile.TemporaryDirectory() as checkpoints:
    try:
        train(states, short, checkpoints=checkpoints, stopped=lambda: next(steps) > 40)
    except TrainingStopped as stopped:
        print(stopped)
    resumed = train(states, short, checkpoints=checkpoints)
print(
    "the same bits:",
    all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in uninterrupted.tensors().items()),
)

# %% [markdown]
# ## 4. What its latents mean
# The autoencoder knows nothing about words. Below are latents of middling frequency, each with the tokens that make up
# most of its activation.

# %%
vocabulary = encoder.tokenizer.convert_ids_to_tokens(range(len(encoder.tokenizer)))
matrix, firings = 0, torch.zeros(sae.width, dtype=torch.int64)
for block in encoder.stream(load_collection("pydoc/train").doc_texts[:800]):
    codes = sae.encode(block.states)
    indices, values = codes.indices.numpy(), codes.values.numpy()
    matrix = matrix + latent_token_matrix(indices, values, block.token_ids, sae.width, len(vocabulary))
    firings += torch.bincount(codes.indices[codes.values > 0], minlength=sae.width)
order = firings.argsort(descending=True).tolist()
meanings = [
    {
        "latent": latent,
        "active in tokens": int(firings[latent]),
        "shared with": ", ".join(f"{token} {share:.0%}" for token, share in top_tokens(matrix, latent, vocabulary, 5)),
    }
    for latent in order[50 : sae.width // 2 : sae.width // 24]
]
pd.DataFrame(meanings)

# %% [markdown]
# ## 5. A real one
# The same with a folder of text, from the command line; it may be killed and given again:
#
#     python -m lib train folder/of/text my-model --width 16384
#
# and with FineWeb-Edu where a network is at hand (`pip install -e '.[hub]'`):
#
#     python -m lib train hf:HuggingFaceFW/fineweb-edu,sample-10BT my-other --tokens 20000000 --width 16384
#
# Several widths, seeds or layers in one pass over the text: `--width 8192 16384 --seed 0 1 2 --layer 3 6`.
