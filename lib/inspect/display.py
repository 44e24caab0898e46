"""A text with its tokens shaded by their strongest latents, for notebooks, and as plain text elsewhere."""

from collections.abc import Iterator

from lib.inspect.labels import Labels
from lib.inspect.reading import Reading
from lib.support.html import Token, shaded


class ShownText:
    """A text as a model reads it: notebooks show it shaded, and the latents of a token when hovered.

    Attributes
    ----------
    tokens : list of Token
        Stretches of the text, which together are all of it, with their latents and activations, strongest first;
        those between tokens, and behind what the model reads of a long text, have none.
    """

    LINES = 40  # of the plain text

    def __init__(self, tokens: list[Token], labels: Labels | None):
        self.tokens, self._labels = tokens, labels

    def name_of(self, latent: int) -> str:
        """Return the number of a latent, and its label if there is one."""
        label = "" if self._labels is None else self._labels[latent]
        return f"{latent} {label}".rstrip()

    def _repr_html_(self) -> str:
        """Return the shaded text."""
        return shaded(self.tokens, self.name_of)

    def __repr__(self) -> str:
        """Return a line for each token, with its strongest latents."""
        read = [token for token in self.tokens if token.latents]
        lines = [
            f"{' '.join(token.text.split()):<16} "
            + "; ".join(f"{self.name_of(latent)} {value:.2f}" for latent, value in token.latents[:3])
            for token in read[: self.LINES]
        ]
        more = [f"... {len(read) - self.LINES} more tokens"] if len(read) > self.LINES else []
        return "\n".join(lines + more) or "(no token)"


def stretches(reading: Reading, number: int, n_latents: int) -> Iterator[Token]:
    """Yield the stretches of a text: each token with its latents, at most `n_latents`, and what is between them."""
    text, end_of_last = reading.texts[number], 0
    for token in range(*reading.offsets[number : number + 2].tolist()):
        start, end = reading.spans[token].tolist()
        start = max(start, end_of_last)  # two tokens of one character, such as bytes of an emoji, share it
        if start < end:
            if end_of_last < start:
                yield Token(text[end_of_last:start], [])
            pairs = zip(reading.latents[token].tolist(), reading.values[token].tolist(), strict=True)
            yield Token(text[start:end], [pair for pair in pairs if pair[1] > 0][:n_latents])
            end_of_last = end
    if end_of_last < len(text):
        yield Token(text[end_of_last:], [])
