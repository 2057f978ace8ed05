"""HTML that cannot be injected into: text is escaped unless a function of this module made it.

`Html` marks finished markup. `fill` puts values into a literal template and escapes every value that
is not `Html`; the other functions build the few elements that a report needs from it.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

MISSING = "–"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


EMPTY = Html("")


def escape(value: Any) -> Html:
    """Markup that shows `value`: None as a dash, Html as it is, a sequence of Html in a row.

    >>> escape("<b>"), escape(Html("<b>")), escape(None)
    ('&lt;b&gt;', '<b>', '–')
    """
    if isinstance(value, Html):
        return value
    if value is None:
        return Html(MISSING)
    if isinstance(value, (list, tuple)):
        return join(value)
    return Html(html.escape(_visible(str(value)), quote=True))


def _visible(text: str) -> str:
    """Without control and direction characters, which could make a name look like another."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def fill(template: str, /, *values: Any, **named: Any) -> Html:
    """`template` (a literal of this program) with every value escaped.

    >>> fill("<p>{}</p>", "a < b")
    '<p>a &lt; b</p>'
    """
    return Html(template.format(*map(escape, values), **{k: escape(v) for k, v in named.items()}))


def join(parts: Iterable[Any], between: str = "") -> Html:
    return Html(between.join(escape(part) for part in parts))


def prose(text: Any) -> Html:
    """A sentence of a file or of this program: what stands in `backquotes` is code.

    >>> prose("`scaling fit` writes <it>.")
    '<code>scaling fit</code> writes &lt;it&gt;.'
    """
    if isinstance(text, Html):
        return text
    parts = str(text).split("`")
    if len(parts) % 2 == 0:  # a backquote that nothing closes is only a character
        return escape(text)
    return join(fill("<code>{}</code>", part) if i % 2 else part for i, part in enumerate(parts))


def items(sentences: Iterable[Any], kind: str = "") -> Html:
    rows = [fill("<li>{}</li>\n", prose(sentence)) for sentence in sentences]
    return fill('<ul class="{}">\n{}</ul>\n', kind, rows) if rows else EMPTY


def facts(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]], kind: str = "") -> Html:
    """A list of names and values; entries whose value is None are left out."""
    rows = pairs.items() if isinstance(pairs, Mapping) else pairs
    entries = [fill("<div><dt>{}</dt><dd>{}</dd></div>\n", k, v) for k, v in rows if v is not None]
    return fill('<dl class="facts {}">\n{}</dl>\n', kind, entries)


def table(
    columns: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = "", words: Collection[int] = (0,)
) -> Html:
    """A table in a box that scrolls sideways; columns whose place is in `words` hold no numbers."""

    def cell(value: Any, place: int) -> Html:
        if place == 0:
            return fill('<th scope="row">{}</th>', value)
        return fill("<td>{}</td>" if place in words else '<td class="n">{}</td>', value)

    heads = [
        fill('<th scope="col" class="{}">{}</th>', "" if i in words else "n", column)
        for i, column in enumerate(columns)
    ]
    body = [fill("<tr>{}</tr>\n", [cell(value, i) for i, value in enumerate(row)]) for row in rows]
    return fill(
        '{title}<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        "<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n",
        title=fill('<p class="caption">{}</p>\n', caption) if caption else EMPTY,
        label=caption or "Table", heads=heads, body=body,
    )  # fmt: skip


def details(summary: Any, content: Any) -> Html:
    return fill("<details><summary>{}</summary>\n{}</details>\n", summary, content)


def section(name: str, title: str, content: Any) -> Html:
    return fill('<section id="{}">\n<h2>{}</h2>\n{}</section>\n', name, title, content)
