"""The documentation: the tutorial runs as printed, the site builds without a warning and fetches nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path

import pytest

import scaling
from scaling.cli.main import VERBS, load_verb
from tests.browser import Browser, find

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_tutorial_runs_as_printed(tmp_path):
    """Its shell and Python blocks, in order, in one shell session that starts in an empty folder."""
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text())
    assert {kind for kind, _ in blocks} == {"sh", "python", "text"}
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scaling").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scaling.cli.main "$@"\n')
    (programs / "scaling").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    place, shown, printed = tmp_path / "fresh", 0, ""
    place.mkdir()
    for (kind, text), (_, after) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        fails = after.startswith("error: ")  # what the page shows of a command that is refused
        if kind == "text":  # what the block before it prints, among other lines
            for line in filter(None, map(squeezed, text.splitlines())):
                assert line.strip() in printed, f"not printed: {line}\n{printed}"
                shown += 1
            continue
        script = f"set -e\n{text}pwd > {tmp_path}/place\n" if kind == "sh" else text
        program = ["sh", "-c", script] if kind == "sh" else [sys.executable, "-c", script]
        done = subprocess.run(
            program, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == fails, f"{text}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        printed = squeezed(done.stdout + done.stderr)
        if kind == "sh" and not fails:
            place = Path((tmp_path / "place").read_text().strip())
    assert shown >= 10


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"^::: scaling\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(scaling.__all__) - {"__version__"})


PAGES = sorted({ROOT / "README.md", *DOCS.glob("*.md")} - {DOCS / "log.md"})  # the log tells of other days


def words_of(line: str) -> tuple[str, list[str]] | None:
    """(verb, arguments) of a `scaling` command; what is optional, in brackets, counts as given."""
    line = re.sub(r"\[(-.*?)\]", r"\1", line.partition("  #")[0]).replace("...", "")
    words = list(takewhile(lambda word: word not in (">", "|", "&&"), shlex.split(line)))
    words = words[next(i for i, word in enumerate(words) if re.fullmatch(r"(\S*/)?scaling", word)) + 1 :]
    two = " ".join(words[:2])
    return (two, words[2:]) if two in VERBS else (words[0], words[1:]) if words else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist_as_written(page):
    """Lines of code blocks parse; verbs and options that a sentence names are the command's own."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "")
    for line in re.findall(r"^(?:\S*/)?scaling .*", lines, re.MULTILINE):
        verb, arguments = words_of(line)
        load_verb(verb).make_context(verb, arguments)  # raises for what does not parse
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`((?:[^`\n]* )?scaling [a-z][^`\n]*)`", prose):
        verb, arguments = words_of(line)
        known = {option for p in load_verb(verb).params for option in (*p.opts, *p.secondary_opts)} | {
            "--help"
        }
        assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= known, line


def test_the_modules_that_the_architecture_names_are_there():
    folders = ("scaling", "trainer", "sweeps", "analysis", "tests", "docs")
    there = {
        path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")
    }
    text = (DOCS / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 150
    assert not {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)}


class Fetched(HTMLParser):
    """What a browser would fetch to show the page."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(found.get("src") or "")
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(found.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; strict, so that a warning fails."""
    site = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.requires("docs")
def test_the_site_has_every_page_and_fetches_nothing(site):
    pages = {path.stem for path in site.glob("*.html")}
    assert pages >= {path.stem for path in DOCS.glob("*.md")} | {"index", "benchmarks", "contributing"}
    for path in site.rglob("*.html"):
        text = path.read_text()
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):  # a list or table that is none
            assert not re.search(r"(^|\n)\s*(- |\||\d+\. )", paragraph), f"{path.name}: {paragraph[:90]}"
        seen = Fetched()
        seen.feed(text)
        outside = [a for a in seen.addresses if re.match(r"(https?:)?//", a)]
        assert not outside, f"{path.name}: {outside}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text()), path
    reference = (site / "api.html").read_text()
    for name in set(scaling.__all__) - {"__version__"}:
        assert f'id="scaling.{name}"' in reference, name
    assert "&lt;blockquote&gt;" not in reference and "<blockquote>" not in reference  # examples are code


# What sticks out to the right of the window, unless a box around it scrolls; and pictures that are not there.
WRONG = """(() => [
  ...[...document.querySelectorAll(".md-content *")].filter((e) =>
    e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest(".md-typeset__scrollwrap, pre, .highlight")),
  ...[...document.images].filter((image) => !image.naturalWidth),
].map((e) => e.tagName + " " + (e.src || e.textContent).slice(0, 40)))()"""


@pytest.mark.requires("docs", "browser")
def test_every_page_of_the_site_can_be_read_on_a_phone(site):
    browser = Browser(find())
    try:
        for path in sorted(set(site.glob("*.html")) - {site / "404.html"}):  # its links are a server's
            browser.open(path, width=390, height=800)
            assert browser.run("document.documentElement.scrollWidth") <= 390, path.name
            assert not browser.run(WRONG), path.name
            assert not browser.complaints(), path.name
            assert not [a for a in browser.requests() if not a.startswith(("file:", "data:"))], path.name
    finally:
        browser.close()
