"""The page as Markdown: the same words, tables and figures, from the same markup, for people who read text.

Only the elements that `analysis.html` and the sections make are known; whatever a name may hold is escaped,
so that it can form neither markup nor a link.
"""

from __future__ import annotations

import html.parser
import re

MOST_ROWS = 200  # of a table; the rest is in its CSV
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~!])")
SKIPPED = ("svg", "style", "script", "title", "nav", "button")
VOID = ("br", "hr", "img", "meta", "input", "link", "use")


def to_markdown(page: str) -> str:
    """Markdown of a page's body; figures become images beside it (figures/NAME.png).

    >>> to_markdown("<h2>Fit</h2><p>a <b>x_1</b> &lt; 2</p>")
    '## Fit\\n\\na **x\\\\_1** \\\\< 2\\n'
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    text = "\n\n".join(block.strip() for block in reader.blocks if block.strip())
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.text = ""
        self.skipping = 0
        self.code = self.inline = False
        self.rows: list[list[str]] | None = None
        self.plate = ""
        self.link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if self.skipping or tag in SKIPPED or known.get("class") == "skip":
            self.skipping += tag not in VOID
            return
        if tag in ("h1", "h2", "h3"):
            self._end("#" * int(tag[1]) + " ")
        elif tag in ("p", "figcaption", "summary", "dl", "ul", "section", "details"):
            self._end()
        elif tag in ("li", "dt"):
            self._end_line("- ")
        elif tag == "dd":
            self.text += ": "
        elif tag == "pre":
            self._end()
            self.code = True
            self.text = "```\n"
        elif tag == "table":
            self._end()
            self.rows = []
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in ("td", "th"):
            self.text = ""
        elif tag == "figure":
            self._end()
            self.plate = (known.get("id") or "").removeprefix("figure-")
            self.blocks.append(f"![{self.plate}](figures/{self.plate}.png)")
        elif tag in ("b", "strong"):
            self.text += "**"
        elif tag == "code":
            self.text += "`"
            self.inline = True
        elif tag == "sup":
            self.text += "^"
        elif tag == "sub":
            self.text += "\\_"
        elif tag == "span" and known.get("class") not in ("files", None):
            self.text += " "
        elif tag == "a":
            target = known.get("href") or ""
            self.link = target if target.startswith("figures/") else None
            self.text += "[" if self.link else ""

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            self.skipping -= tag not in VOID
            return
        if tag in ("b", "strong"):
            self.text += "**"
        elif tag == "code":
            self.text += "`"
            self.inline = False
        elif tag in ("td", "th"):
            if self.rows:
                self.rows[-1].append(" ".join(self.text.split()))
            self.text = ""
        elif tag == "table":
            self._table()
        elif tag == "pre":
            self.text = self.text.rstrip() + "\n```"
            self.code = False
            self._end()
        elif tag == "a" and self.link:
            self.text += f"]({self.link})"
            self.link = None
        elif tag == "span":
            self.text += " "
        elif tag in ("h1", "h2", "h3", "p", "figcaption", "summary", "dl", "ul"):
            self._end()

    def handle_data(self, data: str) -> None:
        if self.skipping:
            return
        if self.code:
            self.text += data.replace("```", "'''")
        elif self.inline:  # nothing within can end it, or the cell of a table that it stands in
            self.text += re.sub(r"[`|\s]+", " ", data)
        else:
            self.text += _SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", data))

    def _end(self, start: str = "") -> None:
        """Close the block that is being read; the next one begins with `start`."""
        if self.text.strip(" -#\n"):
            self.blocks.append(
                re.sub(r" +", " ", self.text) if not self.text.startswith("```") else self.text
            )
        self.text = start

    def _end_line(self, start: str) -> None:
        self.text = f"{self.text.rstrip()}\n{start}" if self.text.strip() else start

    def _table(self) -> None:
        rows, self.rows, self.text = self.rows or [], None, ""
        if not rows:
            return
        width = max(map(len, rows))
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows[: MOST_ROWS + 1]]
        lines.insert(1, "|" + " --- |" * width)
        self.blocks.append("\n".join(lines))
        if len(rows) > MOST_ROWS + 1:
            self.blocks.append(f"{len(rows) - MOST_ROWS - 1:,} further rows are in the table's file.")
