"""The report in a real browser: silent, complete, readable on a phone, by keyboard, not to be injected."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

import pytest

from analysis.html import Html
from analysis.report import render
from analysis.sections.evidence import plates
from tests.browser import Browser, find
from tests.report_helpers import make_certificate, make_hostile, make_loop, make_rival

pytestmark = pytest.mark.requires("browser")

# The colour of text against what is painted behind it, for every element with text of its own and every text
# of a drawing (whose letters are shapes); as WCAG 2.1 defines contrast.
CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const one = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const part = [r, g, b].map((v) => one(v / 255));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const look = (element, colour) => {
    const pair = [light(parse(colour)), light(behind(element))].sort((a, b) => b - a);
    const words = (element.closest("figure") || {id: ""}).id + " " + element.textContent.trim().slice(0, 40);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName, words]);
  };
  for (const e of document.body.querySelectorAll("*:not(svg):not(svg *):not(script)")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (own) look(e, getComputedStyle(e).color);
  }
  for (const e of document.querySelectorAll("svg [id*='-text_'] use")) look(e, getComputedStyle(e).fill);
  return found.sort((a, b) => a[0] - b[0]);
})()"""

# What sticks out to the right of the window, unless a box around it scrolls.
WIDE = """(() => [...document.body.querySelectorAll("*:not(svg *)")].filter((e) => {
  if (e.closest(".scroll, .wide, pre") && !e.matches(".scroll, .wide, pre")) return false;
  if (e.matches(".skip")) return false;
  return e.getBoundingClientRect().right > innerWidth + 1;
}).map((e) => e.tagName + " " + e.className + " " + e.textContent.slice(0, 40)))()"""


@pytest.fixture(scope="module")
def browser():
    one = Browser(find())
    yield one
    one.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_loop(tmp_path_factory.mktemp("browser") / "loop")


@pytest.fixture(scope="module")
def page(folder) -> Path:
    """Everything that a report can hold, two recipes compared among it."""
    patch = pytest.MonkeyPatch()
    for name in ("DRAWS", "GAIN_DRAWS"):
        patch.setattr(f"analysis.against.{name}", 20)
    patch.setattr("analysis.report.to_png", lambda _: b"")
    patch.setattr("analysis.report.to_pdf", lambda _: b"")
    make_certificate(folder)
    rival = make_rival(folder.parent / "rival", folder)
    path = render(folder, [rival]).report
    patch.undo()
    return path


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    return browser


def test_it_is_silent_and_asks_for_nothing(opened, page):
    assert opened.complaints() == []
    assert opened.requests() == [page.resolve().as_uri()]


def test_every_figure_is_there_and_is_no_blank(opened, page):
    shown = opened.run(
        """[...document.querySelectorAll("figure")].map((f) => {
          const svg = f.querySelector("svg"), box = svg.getBoundingClientRect();
          const wide = (e) => e.getBoundingClientRect().width > 0;
          return [f.id, box.width, box.height, [...svg.querySelectorAll("path, use")].filter(wide).length];
        })"""
    )
    named = re.findall(r'<figure id="(figure-[\w-]+)"', page.read_text(encoding="utf-8"))
    assert [name for name, *_ in shown] == named and len(named) == 15
    for name, width, height, inked in shown:
        assert width > 400 and height > 150 and inked > 40, name


def test_it_fits_a_phone(browser, page):
    browser.open(page, width=390, height=800)
    browser.run('document.querySelectorAll("details").forEach((d) => { d.open = true; })')
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run(WIDE) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser, page, dark):
    browser.open(page, dark=dark)
    browser.run('document.querySelectorAll("details").forEach((d) => { d.open = true; })')
    found = browser.run(CONTRAST)
    assert len(found) > 500
    assert found[0][0] >= 4.5, found[:5]


def test_the_keyboard_reaches_and_works_everything(opened):
    wanted = opened.run(
        """(() => {
          const all = [...document.querySelectorAll("a[href], button, summary, .plate[tabindex], .scroll")];
          const seen = all.filter((e) => e.checkVisibility());
          seen.forEach((e, i) => { e.dataset.number = i; });
          window.reached = [];
          addEventListener("focusin", (event) => window.reached.push(Number(event.target.dataset.number)));
          return seen.length;
        })()"""
    )
    assert wanted > 60
    for _ in range(wanted + 5):
        opened.press("Tab")
    assert sorted(set(opened.run("window.reached.filter((n) => !isNaN(n))"))) == list(range(wanted))


def test_a_switch_hides_its_layer_and_shows_it_again(opened):
    state = """(() => {
      const figure = document.querySelector("#figure-isoflop"), button = figure.querySelector("button");
      const parts = [...figure.querySelectorAll("svg ." + button.dataset.layer)];
      const shown = parts.filter((e) => getComputedStyle(e).display !== "none");
      return [button.getAttribute("aria-pressed"), parts.length, shown.length];
    })()"""
    opened.run('document.querySelector("#figure-isoflop button").focus()')
    pressed, parts, visible = opened.run(state)
    assert pressed == "true" and parts == visible > 1
    opened.press(" ")
    assert opened.run(state) == ["false", parts, 0]
    opened.press("Enter")
    assert opened.run(state) == ["true", parts, parts]


def test_a_point_says_its_values_under_the_pointer_and_by_arrow_keys(opened, folder):
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as stream:
        runs = [(float(row["params"]), float(row["loss"])) for row in csv.DictReader(stream)]

    def is_a_run(text: str) -> bool:
        found = re.fullmatch(
            r"Parameters N: ([\d.]+)(k?) · Validation loss \(nats per token\): ([\d.]+)", text
        )
        assert found, text
        params, loss = float(found[1]) * (1000 if found[2] else 1), float(found[3])
        return any(abs(params / n - 1) < 0.01 and abs(loss - value) < 0.005 for n, value in runs)

    readout = 'document.querySelector("#figure-isoflop .readout").textContent'
    x, y = opened.run(
        """(() => {
          const figure = document.querySelector("#figure-isoflop");
          figure.scrollIntoView({behavior: "instant", block: "center"});
          const box = figure.querySelector(".marks use").getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        })()"""
    )
    opened.move(x, y)
    assert is_a_run(opened.run(readout))
    opened.move(2, 2)
    assert opened.run(readout) == ""
    opened.run('document.querySelector("#figure-isoflop .plate").focus({preventScroll: true})')
    said = []
    for _ in range(8):
        opened.press("ArrowRight")
        said.append(opened.run(readout))
    assert len(set(said)) >= 7 and sum(map(is_a_run, said)) >= 4  # the minima of the bands are points too
    opened.press("ArrowLeft")
    assert opened.run(readout) == said[-2]
    opened.press("Escape")
    assert opened.run(readout) == ""


def test_hostile_names_are_words_and_nothing_else(browser, folder, monkeypatch):
    monkeypatch.setattr("analysis.report.to_png", lambda _: b"")
    monkeypatch.setattr("analysis.report.to_pdf", lambda _: b"")
    monkeypatch.setattr("analysis.report.plates", lambda *known: islice(plates(*known), 2))
    make_hostile(folder)
    page = render(folder).report
    browser.open(page)
    assert browser.complaints() == [] and browser.requests() == [page.resolve().as_uri()]
    assert not [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"]
    counts = browser.run('["script", "img", "iframe", "h1"].map((t) => document.querySelectorAll(t).length)')
    assert counts == [1, 0, 0, 1]
    assert '<script>alert("1")</script>0' in browser.run("document.body.textContent")


def test_a_script_that_got_in_all_the_same_would_not_run(browser, page, tmp_path):
    """The content policy on its own: what escaping should have stopped is stopped again."""
    text = page.read_text(encoding="utf-8")
    evil = "<script>document.title = 'owned'</script><p onclick=\"document.title = 'owned'\" id='evil'>x</p>"
    path = tmp_path / "page.html"
    path.write_text(Html(text.replace("</main>", f"{evil}</main>")), encoding="utf-8")
    browser.open(path)
    browser.run('document.getElementById("evil").click()')
    assert "owned" not in browser.run("document.title")
    assert sum("Content Security Policy" in said for said in browser.complaints()) == 2
