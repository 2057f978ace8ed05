"""What the documentation site needs beside docs/: pages that live elsewhere, and links that follow them.

README.md is the front page, the benchmarks, the changelog and the guide for contributors are pages too, and
cli.md is made from the commands. A link in any page is resolved as in the repository and then pointed at the
page that shows that file. A file that is no page is named in words. Pages that the navigation does not name
are added at its end. A list or a table may follow a line of text at once, as everywhere but in Python's
Markdown.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from scaling.cli import reference

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(?P<label>!?\[[^\]]*\])\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
BLOCK = re.compile(
    r"^(?![-*] |[|#>]|\d+\. )(\S.*\n)(?=- |\||\d+\. )", re.MULTILINE
)  # text, then a list or table
FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Name every page of docs/ in the navigation: a new guide is found before somebody files it."""
    listed = re.findall(r"[\w.-]+\.md", str(config["nav"]))
    rest = sorted({path.name for path in (ROOT / "docs").glob("*.md")} - set(listed))
    if rest:
        config["nav"].append({"More": rest})
    return config


def on_files(files: Any, config: Any) -> Any:
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "cli.md", content=reference.markdown()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its links pointed at pages of the site; code is left alone."""
    name = page.file.src_uri
    source = {page: source for source, page in ELSEWHERE.items()}.get(name, f"docs/{name}")
    parts = FENCE.split(markdown)
    return "".join(
        part if i % 2 else LINK.sub(lambda m: relinked(m, source), BLOCK.sub(r"\1\n", part))
        for i, part in enumerate(parts)
    )


def relinked(link: re.Match[str], source: str) -> str:
    """The link of a file `source` of the repository, as a link of the site."""
    label, target, anchor = link["label"], link["target"], link["anchor"] or ""
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in ELSEWHERE:
        return f"{label}({ELSEWHERE[path]}{anchor})"
    if path.startswith("docs/"):
        return f"{label}({path.removeprefix('docs/')}{anchor})"
    if not (ROOT / path).exists():
        return link[0]  # a broken link: the strict build says so
    return f"{label[1:-1]} (`{path}`)"
