"""Labels of latents, with how well each predicts where its latent fires; kept beside the model in a JSON file."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lib.support.checks import check_integer, check_texts
from lib.support.files import replacing, user_path
from lib.support.html import Results

if TYPE_CHECKING:
    from lib.bm25.index import Contribution  # numba is slow to import, and not needed to encode

LABELS = "labels.json"
FORMAT_VERSION = 1
_WORD = re.compile(r"\w+")
_DIGITS = 3  # of an AUC in the file


def words_of(label: str) -> list[str]:
    r"""Return the words of a label, by which its agreement is measured: `\w+`, lower case, each once."""
    return list(dict.fromkeys(_WORD.findall(label.lower())))


class LabelledContribution(NamedTuple):
    """A `Contribution` with the label of its latent."""

    latent: int
    label: str
    query_weight: float
    idf: float
    impact: float
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Labels:
    """What the latents of an autoencoder are called; `lib.inspect.labelling` makes them.

    Raises TypeError or ValueError for labels that are no `str`, and for numbers that do not match.

    Parameters
    ----------
    names : list of str
        The label of each latent; "" for one that was not seen active.
    auc : np.ndarray, float32 [width]
        Held-out agreement: the probability that a text in which the latent fires has more words of the label than one
        in which it does not (ties count half). 0.5 is chance; NaN where it fires in too few held-out texts.
    control : np.ndarray, float32 [width]
        The same with the label of another latent, drawn at random.
    model : str
        sha256 of the autoencoder's weights, `sae.identity["weights"]`.
    """

    names: list[str]
    auc: np.ndarray
    control: np.ndarray
    model: str

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "names", list(check_texts(self.names, "names")))
        for name in ("auc", "control"):
            values = np.asarray(getattr(self, name), np.float32)
            if values.shape != (len(self.names),):
                raise ValueError(f"{name} has shape {values.shape}; it must be ({len(self.names)},), one for a label.")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        n = np.count_nonzero(np.isfinite(self.auc))
        if not n:
            return f"Labels({len(self):,} latents, agreement not measured)"
        auc, control = np.nanmedian(self.auc), np.nanmedian(self.control)
        return f"Labels({len(self):,} latents, median AUC {auc:.3f} over {n:,}, of random labels {control:.3f})"

    def __getitem__(self, latent: int) -> str:
        """Return the label of a latent; TypeError or ValueError if it is none."""
        return self.names[check_integer(latent, "latent", 0, len(self) - 1)]

    def find(self, word: str) -> list[int]:
        """Return the latents whose label has a word that begins with `word`, those of best agreement first."""
        start = word.lower()
        if not start:
            raise ValueError("word is ''; give the beginning of a word, such as 'file'.")
        latents = [j for j, name in enumerate(self.names) if any(w.startswith(start) for w in words_of(name))]
        return sorted(latents, key=lambda latent: -np.nan_to_num(self.auc[latent]))

    def explain(self, contributions: Iterable["Contribution"]) -> list[LabelledContribution]:
        """Return what `BM25Index.explain` does, with the label of each latent."""
        return Results(LabelledContribution(c.latent, self[c.latent], *c[1:]) for c in contributions)

    def save(self, folder: str | Path) -> Path:
        """Write `labels.json` to the folder of the model, in one step, and return its path."""
        path = user_path(folder) / LABELS
        numbers = {name: _rounded(getattr(self, name)) for name in ("auc", "control")}
        content = {"format_version": FORMAT_VERSION, "model": self.model, "labels": self.names, **numbers}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path, model: str) -> "Labels":
        """Read what `save` wrote for an autoencoder; `model` is its `identity["weights"]`.

        Raises FileNotFoundError if there is none; ValueError if it is damaged, of another format, or another model's.
        """
        path = user_path(folder) / LABELS
        remedy = "Make them with python -m lib label."
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} has no {LABELS}. {remedy}")
        try:
            content = json.loads(path.read_text("utf-8"))
            version, stored = content["format_version"], content["model"]
            if version == FORMAT_VERSION and stored == model:
                auc, control = (np.array(content[name], np.float32) for name in ("auc", "control"))
                return cls(content["labels"], auc, control, model)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format version {version!r}, not {FORMAT_VERSION}. {remedy}")
        raise ValueError(f"{path} labels the weights {stored[:12]}, the model's are {model[:12]}. {remedy}")


def _rounded(values: np.ndarray) -> list[float | None]:
    """Return numbers for a file, None for NaN, which JSON lacks."""
    return [round(value, _DIGITS) if np.isfinite(value) else None for value in values.tolist()]
