"""Results as HTML for notebooks: everything escaped, nothing fetched, readable on light and on dark pages."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

SHADE = "255, 165, 0"  # with an opacity, it can be read on white and on black
_TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"


def visible(text: str) -> str:
    """Return a text, escaped, such that no character of it changes or hides what stands around it.

    Halves of surrogate pairs become "?", as the tokenizer reads them, and right-to-left text stays where it is.
    """
    return f"<bdi>{escape(text.encode('utf-8', 'replace').decode())}</bdi>"


def cell(value: object) -> str:
    """Return a cell of a table: numbers to the right, with four digits if they are not whole."""
    if isinstance(value, str):
        return f'<td style="text-align: left">{visible(value)}</td>'
    return f'<td style="text-align: right">{value:.4g}</td>' if isinstance(value, float) else f"<td>{value}</td>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table with its header and, above it, a caption."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    title = f'<caption style="text-align: left">{visible(caption)}</caption>' if caption else ""
    return f'<table style="{_TABLE}">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


class Results(list):
    """A list of named tuples of one kind, which notebooks show as a table; the first 20, and how many there are."""

    LIMIT = 20

    def _repr_html_(self) -> str:
        """Return the first rows as a table."""
        if not self:
            return "<p>nothing</p>"
        more = f"{len(self):,} rows, the first {self.LIMIT}" if len(self) > self.LIMIT else ""
        return table(self[0]._fields, self[: self.LIMIT], more)


class Token(NamedTuple):
    """A stretch of a text: its characters, and the latents that are active there, strongest first."""

    text: str
    latents: list[tuple[int, float]]


def shaded(tokens: Sequence[Token], name_of) -> str:
    """Return a text, each token shaded by its strongest latent; hovering shows the latents with their names."""
    strongest = max((token.latents[0][1] for token in tokens if token.latents), default=1.0)
    parts = []
    for token in tokens:
        text = escape(token.text.encode("utf-8", "replace").decode())
        if not token.latents:
            parts.append(text)
            continue
        hover = escape("\n".join(f"{name_of(latent)}: {value:.2f}" for latent, value in token.latents))
        opacity = 0.6 * token.latents[0][1] / strongest
        parts.append(f'<span title="{hover}" style="background: rgba({SHADE}, {opacity:.2f})">{text}</span>')
    style = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7"
    return f'<div dir="auto" style="{style}">{"".join(parts)}</div>'
