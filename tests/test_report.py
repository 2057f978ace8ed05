"""The report holds what the folder holds, names what it lacks, loads nothing and runs one known script."""

from __future__ import annotations

import base64
import csv
import doctest
import hashlib
import html.parser
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import analysis.html
import analysis.svg
from analysis import interactive, markdown
from analysis.folder import read_folder
from analysis.html import Html, escape, facts, fill, items, table
from analysis.report import render, write_report
from analysis.sections import captions
from analysis.svg import dark_twin, inline
from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.laws.fit import fit
from scaling.laws.isoflop import isoflop
from scaling.runs import read_runs
from tests.report_helpers import (
    DATA_SHA,
    HOSTILE,
    TRUTH,
    make_certificate,
    make_hostile,
    make_loop,
    make_rival,
)

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@pytest.fixture(scope="module")
def loop(tmp_path_factory) -> Path:
    return make_loop(tmp_path_factory.mktemp("reports") / "loop")


@pytest.fixture(scope="module")
def written(loop):
    return render(loop)


@pytest.fixture(scope="module")
def page(written) -> str:
    return written.report.read_text(encoding="utf-8")


@pytest.fixture
def copy(loop, tmp_path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(loop, target, ignore=shutil.ignore_patterns("figures", "report.html"))
    return target


@pytest.fixture
def sketched(monkeypatch):
    """Figures are built, and saved as empty drawings: for tests that look at the page around them."""
    monkeypatch.setattr("analysis.report.to_svg", lambda _: '<svg viewBox="0 0 1 1"></svg>')
    monkeypatch.setattr("analysis.report.to_png", lambda _: b"")
    monkeypatch.setattr("analysis.report.to_pdf", lambda _: b"")


@pytest.fixture
def unfigured(monkeypatch):
    """No figure is built at all: for tests of what is said of files that are damaged."""
    monkeypatch.setattr("analysis.report.write_figures", lambda *_: [])


@pytest.fixture
def no_files(monkeypatch):
    """Figures are drawn for the page alone."""
    monkeypatch.setattr("analysis.report.to_png", lambda _: b"")
    monkeypatch.setattr("analysis.report.to_pdf", lambda _: b"")


@pytest.fixture
def few_draws(monkeypatch):
    for name in ("DRAWS", "GAIN_DRAWS"):
        monkeypatch.setattr(f"analysis.against.{name}", 20)


class Parsed(html.parser.HTMLParser):
    """Tags, attributes and text of a page; raises when an element is not closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.script = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "script" in self.open:
            self.script += data
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def assert_self_contained(text: str) -> None:
    parsed = Parsed(text)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "base",
        "form",
        "audio",
        "video",
    }
    for tag, attrs in parsed.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        assert not {"src", "srcset", "action", "ping", "background"} & set(attrs), (tag, attrs)
        target = attrs.get("href") or attrs.get("xlink:href") or ""
        assert target == "" or target.startswith(("#", "figures/", "data:text/csv;base64,")), (tag, target)
    assert "http://" not in text and "https://" not in text
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    used |= {a["href"][1:] for _, a in parsed.tags if (a.get("href") or "").startswith("#")}
    assert used <= set(ids)
    # One script, known by its hash: nothing that a name might smuggle in would run.
    assert parsed.find("script") == [{}]
    digest = base64.b64encode(hashlib.sha256(parsed.script.encode()).digest()).decode()
    policy = [m["content"] for m in parsed.find("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0].startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}';" in policy[0] and "unsafe-eval" not in policy[0]


def test_the_whole_loop_gives_every_figure_and_nothing_is_missing(written, page):
    assert (written.missing, written.problems, written.derived) == ((), (), ())
    names = [path.stem for path in written.figures if path.suffix == ".svg"]
    assert names == [
        "isoflop", "isoflop-tokens", "optimum", "ratio", "frontier", "predicted", "confirmation", "contours",
        "residuals", "clouds", "training", "training-compute",
    ]  # fmt: skip
    for path in written.figures:
        content = path.read_bytes()
        assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-"}[path.suffix])
    parsed = Parsed(page)
    drawings = parsed.find("svg")
    assert len(drawings) == len(names) and all(d["role"] == "img" and d["aria-label"] for d in drawings)
    assert [attrs["id"] for attrs in parsed.find("figure")] == [f"figure-{name}" for name in names]
    assert len(page) < 1_500_000


def test_it_loads_nothing_and_runs_one_known_script(page):
    assert_self_contained(page)


def test_the_decision_comes_first_with_prediction_and_outcome(loop, page):
    text = Parsed(page).text
    plan, verdict = read_json(loop / "plan.json"), read_json(loop / "verify.json")
    decision = text[text.index("For a budget of") : text.index("Figure 1.")]
    assert text.index("For a budget of") < text.index("Figure 1.") < text.index("Certificate of the fit")
    assert "1.5e12" in decision and all(said in decision for said in [*verdict["hits"], *verdict["misses"]])
    assert f"{plan['prediction']['loss']:.3f}" in decision
    assert f"{plan['prediction']['loss_lo']:.3f} to {plan['prediction']['loss_hi']:.3f}" in decision
    assert f"{verdict['prediction']['actual']:.3f}" in decision
    for rival in plan["naive"]:
        assert rival["name"] in decision
    assert "do not carry over to large language models" in decision


def test_method_conventions_data_recipe_and_provenance_are_there(loop, page):
    text = Parsed(page).text
    value = read_json(loop / "fit.json")
    alone = value["exponents"]["prior_free"]
    assert f"{alone['a']:.2f} ({alone['a_lo']:.2f} to {alone['a_hi']:.2f})" in text
    assert "N counts all parameters" in text and "model_causal" in text and "nats per token" in text
    assert "builtin:made-up" in text and "CC0-1.0" in text and "bytes, 97 symbols" in text
    assert "weight decay" in text and "ffn multiple" in text and "a processor" in text
    assert text.count(" holds") >= 6 and "BROKEN" not in text
    assert f"scaling plan --sweep DIR --flops {1.5e12:g}" in text


def test_every_run_is_in_the_table_and_in_the_download(loop, page):
    parsed = Parsed(page)
    runs = read_runs(loop / "runs.csv")
    for name in runs.table["run"]:
        assert name in parsed.text
    (link,) = [a for a in parsed.find("a") if "download" in a]
    content = base64.b64decode(link["href"].split(",")[1]).decode()
    assert len(list(csv.DictReader(content.splitlines()))) == len(runs)


def test_the_same_folder_gives_the_same_bytes(no_files, copy, page):
    again = copy.parent / "again"
    shutil.copytree(copy, again / "loop")
    assert write_report(again / "loop").read_text(encoding="utf-8") == page


def test_it_does_not_say_where_the_folder_lay(loop, page):
    assert str(loop.parent) not in page


def test_hostile_names_stay_text(sketched, copy):
    make_hostile(copy)
    hostile = copy.rename(copy.parent / HOSTILE[0].replace("/", "\\"))
    text = write_report(hostile).read_text(encoding="utf-8")
    assert_self_contained(text)
    shown = Parsed(text).text
    assert '<script>alert("1")</script>0' in shown and "{0} {name} %s" in shown and "&lt;b&gt;" in shown
    assert "\u202e" not in text and "\x07" not in text
    words = (hostile / "report.md").read_text(encoding="utf-8")
    words = re.sub(r"(?ms)^```\n.*?^```$", "", words)  # a fence shows what is in it as it is
    assert not re.search(r"(?<!\\)<", words) and "](javascript" not in words


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("sweep.json", "sweep.json is missing"),
        ("runs.csv", "runs.csv is missing"),
        ("fit.json", "fit.json is missing"),
        ("isoflop.json", "the bands were fitted here"),
        ("plan.json", "plan.json is missing"),
        ("launch", "the plan is untested"),
        ("verify.json", "the prediction was scored here"),
        ("data", "data/manifest.json is missing"),
        ("cells", "training curves cannot be drawn"),
    ],
)
def test_a_missing_piece_is_named_and_the_rest_is_shown(sketched, copy, gone, said):
    path = copy / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if gone == "launch":
        (copy / "verify.json").unlink()
    written = render(copy)
    text = written.report.read_text(encoding="utf-8")
    assert said in Parsed(text).text
    assert any(said in sentence for sentence in (*written.missing, *written.derived))
    assert not written.problems
    assert_self_contained(text)


@pytest.mark.parametrize("name", ["sweep.json", "fit.json", "isoflop.json", "plan.json", "verify.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"format": "something/else"}', None])
def test_a_damaged_file_is_a_problem_in_words(unfigured, copy, name, content):
    path = copy / name
    if content is None:  # the right format and nothing else
        content = json.dumps({"format": read_json(path)["format"], "version": 1})
    path.write_text(content, encoding="utf-8")
    written = render(copy)
    assert any(name in problem for problem in written.problems)
    text = Parsed(written.report.read_text(encoding="utf-8")).text
    assert "Problems in this folder" in text and str(copy) not in text


def test_broken_seals_and_changed_files_are_shown(unfigured, copy):
    plan = read_json(copy / "plan.json")
    plan["prediction"]["loss"] += 0.1
    write_json(copy / "plan.json", plan)
    with (copy / "runs.csv").open("a") as stream:
        stream.write("\n")
    evidence = read_folder(copy)
    links = dict(evidence.chain)
    assert links["the plan says what it said when it was sealed"] is False
    assert links["the fit was made from this run table"] is False
    assert links["every launched run was trained on that data"] is True
    text = Parsed(write_report(copy).read_text(encoding="utf-8")).text
    assert "The seal of the plan is broken" in text and text.count("BROKEN") == 2
    other = next((copy / "launch").glob("*/result.json"))
    write_json(other, read_json(other) | {"data_sha256": "0" * 64})
    assert dict(read_folder(copy).chain)["every launched run was trained on that data"] is False


@pytest.mark.parametrize(
    ("name", "field"),
    [("plan.json", "inputs"), ("plan.json", "band"), ("launch/1/result.json", "tokens")],
)
@pytest.mark.parametrize("value", [None, "x"])
def test_a_malformed_file_is_a_problem_on_the_page_and_not_the_end_of_it(unfigured, copy, name, field, value):
    write_json(copy / name, read_json(copy / name) | {field: value})
    problems = read_folder(copy).problems
    assert any(f"field {field!r}" in problem and "malformed" in problem for problem in problems), problems
    write_report(copy)


def test_a_miss_is_shown_as_a_miss(unfigured, copy):
    (copy / "verify.json").unlink()
    for path in (copy / "launch").glob("1*/result.json"):
        value = read_json(path)
        value["loss"] *= 1.5
        write_json(path, value)
    text = Parsed(write_report(copy).read_text(encoding="utf-8")).text
    assert "Miss:" in text and "OUTSIDE" in text


def test_a_plan_from_a_published_law_needs_no_runs(sketched, tmp_path):
    from scaling.planner import plan_published

    write_json(tmp_path / "plan.json", plan_published(1e22))
    written = render(tmp_path)
    text = written.report.read_text(encoding="utf-8")
    assert_self_contained(text)
    said = Parsed(text).text
    assert "1e22" in said and "9.0" in said and written.figures == ()
    assert "By a published law, not by runs of yours: Besiroglu" in said and "arXiv:2404.10102" in said
    assert "scaling plan --law besiroglu --flops 1e+22" in said and "scaling fit DIR" not in said
    for empty in ("guards", "data", "runs"):
        assert f'id="{empty}"' not in text and f'href="#{empty}"' not in text


def test_a_bare_run_table_is_enough(sketched, tmp_path):
    data = Path(analysis.html.__file__).parent / "data" / "own_cpu_sweep.csv"
    shutil.copy(data, tmp_path / "runs.csv")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert_self_contained(text)
    said = Parsed(text).text
    assert "No run is planned yet" in said and "figure-isoflop" in text
    law = isoflop(read_runs(tmp_path / "runs.csv")).to_dict()["n_law"]
    assert f"grows with compute to the power {law['exponent']:.2f} ({law['exponent_lo']:.2f}" in said


def test_captions_claim_only_what_the_bands_show(loop):
    evidence = read_folder(loop)
    rows = [dict(band) for band in evidence.isoflop["bands"]]
    assert all(band["interior"] for band in rows) and "move to larger models" in captions.isoflop(evidence)
    assert captions.isoflop_title(evidence, "size") == "Each budget has its best size"
    rows[-1]["n_opt"] = rows[0]["n_opt"] / 2
    evidence = replace(evidence, isoflop={**evidence.isoflop, "bands": rows})
    assert "move to larger models" not in captions.isoflop(evidence)
    rows[-1]["interior"] = False
    assert captions.isoflop_title(evidence, "size") == "Loss against size at each budget"


def test_runs_that_form_no_bands_are_shown_with_their_law(sketched, tmp_path):
    rng = np.random.default_rng(1)
    grid = [(1e4 * 2**i, 1e5 * 3**j) for i in range(4) for j in range(4)]  # no two of the same compute
    rows = [f"{n:.0f},{d:.0f},{TRUTH.loss(n, d) * np.exp(rng.normal(0, 0.004)):.5f}" for n, d in grid]
    (tmp_path / "runs.csv").write_text("\n".join(["params,tokens,loss", *rows]) + "\n")
    write_json(tmp_path / "fit.json", fit(read_runs(tmp_path / "runs.csv"), bootstrap=20).to_dict())
    written = render(tmp_path)
    assert [path.stem for path in written.figures[::3]] == [
        "optimum", "ratio", "frontier", "predicted", "contours", "residuals", "clouds",
    ]  # fmt: skip
    assert "budgets have a loss minimum inside" in written.problems[0]


def test_nothing_to_report_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ScalingError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ScalingError, match="nothing to report"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_verb_prints_the_path_or_one_object(sketched, copy, capsys):
    assert main(["report", str(copy)]) == 0
    assert str(copy / "report.html") in capsys.readouterr().out
    (copy / "sweep.json").unlink()
    assert main(["report", str(copy), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["report"] == str(copy / "report.html") and len(value["figures"]) == 36
    assert value["missing"][0].startswith("sweep.json is missing")
    assert main(["report", str(copy / "nowhere")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.strip().splitlines()) == 1


def test_a_thousand_runs_take_little_room(no_files, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["run,budget,params,tokens,loss,seed,flags"]
    for i in range(1000):
        budget = 10.0 ** rng.integers(12, 16)
        params = int(np.sqrt(budget / 120) * np.exp(rng.normal(0, 0.6)))
        tokens = int(budget / 6 / params)
        loss = TRUTH.loss(params, tokens) * np.exp(rng.normal(0, 0.004))
        lines.append(f"run-{i},{budget},{params},{tokens},{loss:.5f},{i},")
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    path = write_report(tmp_path)
    assert path.stat().st_size < 5e6


def test_markup_is_escaped_unless_made_here():
    assert fill("<p>{}</p>", "<b>") == "<p>&lt;b&gt;</p>" and fill("{}", Html("<b>")) == "<b>"
    assert escape('"') == "&quot;" and escape(["<", Html("<i>")]) == "&lt;<i>"
    assert "<script>" not in table(["<script>"], [["<script>", "<script>"]], "<script>")
    assert "<script>" not in facts({"<script>": "<script>"}) + items(["<script>"])
    for module in (analysis.html, analysis.svg, interactive, markdown):
        assert doctest.testmod(module).failed == 0


def test_drawings_keep_their_colours_apart_and_their_ids_to_themselves():
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><!-- <b> -->'
        '<metadata>who</metadata><style type="text/css">*{x}</style>'
        '<g id="a" style="fill: #22262b; stroke: #ffffff">'
        '<use xlink:href="#a" clip-path="url(#a)"/></g></svg>'
    )
    text = inline(svg, "p", 'a "label"')
    assert text.startswith(
        '<svg role="img" aria-label="a &quot;label&quot;" viewBox="0 0 1 1" data-axes="[]">'
    )
    assert 'id="p-a"' in text and 'href="#p-a"' in text and "url(#p-a)" in text
    assert "var(--x22262b)" in text and "var(--paper)" in text and "who" not in text and "<style" not in text


def luminance(colour: str) -> float:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(
        np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_are_readable_on_light_and_dark_pages():
    from analysis import style

    sheet = (Path(analysis.html.__file__).parent / "templates" / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in sheet.split("@media screen")[:2]
    )
    for colours in (light, dark):
        for name in ("ink", "muted", "link", "plan", "good", "bad"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
    marks = (style.BLUE, style.VERMILLION, style.GREEN, style.INK, style.MUTED)
    assert all(contrast(colour, light["paper"]) >= 3 for colour in marks)
    assert all(contrast(dark_twin(colour), dark["paper"]) >= 3 for colour in marks)


def section(text: str, name: str) -> str:
    """The words of one section of a page."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', text, flags=re.S)
    assert found, name
    return Parsed(f"<div>{found[1]}</div>").text


def test_recipes_are_compared_across_folders(sketched, few_draws, copy, tmp_path):
    rival = make_rival(tmp_path / "ul2", copy, worth=1.5)
    written = render(copy, [rival])
    text = written.report.read_text(encoding="utf-8")
    assert_self_contained(text)
    decided = section(text, "decision")
    gained = re.search(
        r"ul2 reaches the loss of copy with (\d+)% of its compute \((\d+)% to (\d+)%\): take ul2",
        decided,
    )
    assert gained, decided
    price, low, high = map(float, gained.groups())
    assert low < price < high and price / 100 == pytest.approx(1 / 1.5, rel=0.15)
    said = section(text, "recipes")
    assert "What ul2 does otherwise" in said and "objective not set ul2" in said
    names = [path.stem for path in written.figures[::3]]
    assert names[:2] == ["gain", "shift"]
    # At equal compute, B's size is what A's law plans for more of it, over the root of the multiplier.
    size = re.search(r"FLOPs its best size .*?: ([\d.]+)× \(([\d.]+)× to ([\d.]+)×\)", decided)
    assert size and float(size[2]) <= float(size[1]) <= float(size[3])


def test_recipes_are_compared_within_a_folder_and_within_a_table(unfigured, few_draws, loop, tmp_path):
    both = tmp_path / "both"
    for name, worth in (("a-causal", 1.0), ("b-ul2", 2.0)):
        make_rival(both / name, loop, worth)
    said = section(write_report(both).read_text(encoding="utf-8"), "decision")
    assert "b-ul2 reaches the loss of a-causal" in said and "take b-ul2" in said
    one = tmp_path / "one"
    one.mkdir()
    rows = []
    for name, part in (("causal", "a-causal"), ("ul2", "b-ul2")):
        with (both / part / "runs.csv").open(newline="", encoding="utf-8") as stream:
            rows += [row | {"objective": name} for row in csv.DictReader(stream)]
    with (one / "runs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert "take ul2" in section(write_report(one).read_text(encoding="utf-8"), "decision")


def test_a_recipe_of_too_few_runs_is_refused_in_words(unfigured, copy, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    (few / "runs.csv").write_text("params,tokens,loss\n1e4,1e6,3.0\n2e4,1e6,2.9\n")
    assert main(["report", str(copy), "--against", str(few)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "few" in said and len(said.strip().splitlines()) == 1


def test_guards_tell_which_runs_and_the_fit_without_them(unfigured, copy):
    text = section(write_report(copy).read_text(encoding="utf-8"), "guards")
    assert "There is no tuning certificate" in text
    fitted = read_json(copy / "fit.json")
    side = {"rows": 20, "a": [0.5, 0.4, 0.6], "b": [0.5, 0.4, 0.6], "n_opt": [1e5, 9e4, 2e5], "d_opt": None}
    fitted["guards"] = {
        "target_flops": 1e13, "excluded": ["few-steps"], "flags": [], "left_out": 1, "refused": None,
        "all": side, "without": side | {"rows": 19, "a": [0.456, 0.4, 0.6]},
    }  # fmt: skip
    write_json(copy / "fit.json", fitted)
    certificate = make_certificate(copy)
    with (copy / "runs.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[:3]:
        row["steps"], row["flags"] = "999", "few-steps"
    with (copy / "runs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = section(write_report(copy).read_text(encoding="utf-8"), "guards")
    assert re.search(r"few-steps \d+ under 1,000 steps", text) and rows[0]["run"] in text
    assert "0.456 (0.400 to 0.600)" in text and "left out: few-steps" in text
    assert "at least 2.0%" in text and "open" in text  # the batch whose best value is the outermost tried
    for point in certificate.points:
        for knob in point.knobs:
            assert f"{knob.best:.3g}" in text


def test_a_certificate_changed_by_hand_is_a_problem(unfigured, copy):
    make_certificate(copy)
    value = read_json(copy / "certificate.json")
    value["spent_flops"] = 1.0
    write_json(copy / "certificate.json", value)
    written = render(copy)
    assert any("does not match its sha256" in problem for problem in written.problems)
    assert "There is no tuning certificate" in Parsed(written.report.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("backtest.json", {"format": "scaling/backtest", "version": 1, "cuts": "x"}),
        ("choices.json", {"format": "scaling/specification", "version": 1, "plans": [], "drivers": None}),
        ("fit.json", {"guards": "x"}),
        ("memorization.json", {"format": "scaling/memorization", "version": 1, "runs": [{"params": "x"}]}),
    ],
)
def test_a_malformed_extra_is_a_problem_and_not_the_end(unfigured, copy, name, content):
    known = read_json(copy / name) if (copy / name).exists() else {}
    write_json(copy / name, known | content)
    written = render(copy)
    assert any(name in problem and "malformed" in problem for problem in written.problems)


def test_what_models_learnt_by_heart_is_on_the_page(copy):
    kinds = ("interleaved", "shuffled", "verbatim")
    rates = {0: 0.0, 16: 0.25, 64: 0.75}
    groups = [
        {"kind": kind, "repetitions": r, "rate": rate, "rate_lo": rate / 2, "rate_hi": (1 + rate) / 2}
        for kind in kinds
        for r, rate in rates.items()
    ]
    value = {"format": "scaling/memorization", "version": 1, "runs": [{"params": 31_520, "groups": groups}]}
    write_json(copy / "memorization.json", value)
    written = render(copy)
    assert copy / "figures/memorization.svg" in written.figures
    said = Parsed(written.report.read_text(encoding="utf-8")).text
    assert "1 model" in said and "up to 64" in said and not written.problems


def test_what_tokens_steer_and_what_context_is_worth_is_on_the_page(copy, tmp_path):
    record = read_json(Path(__file__).parents[1] / "benchmarks" / "results" / "control.json")
    low, high = record["times_interval"]
    write_json(copy / "control.json", record)
    bucket = {"tokens": 100, "loss": 1.0, "bits_per_byte_se": 0.02}
    ends = [(1, 1, 3.5), (2, 32, 1.75), (33, 64, 2.5)]
    buckets = [bucket | {"first": a, "last": b, "bits_per_byte": bits} for a, b, bits in ends]
    value = {"run": "1", "context": 64, "trained": 32, "documents": 7, "windows": 9, "shorter": 0}
    write_json(copy / "positions.json", value | {"buckets": buckets})
    written = render(copy)
    assert {copy / f"figures/{name}.svg" for name in ("steering", "positions")} <= set(written.figures)
    said = Parsed(written.report.read_text(encoding="utf-8")).text
    assert f"draws {record['times']:.1f} times" in said and f"({low:.1f} to {high:.1f})" in said
    assert "7 documents" in said and "3.500 bits per byte" in said
    assert "1.750 with the most that it was trained on" in said and "never trained, 2.500 by 64" in said
    assert not written.problems
    write_json(copy / "positions.json", value | {"buckets": [buckets[0] | {"first": 0}]})
    write_json(copy / "control.json", record | {"times_interval": [1.0]})
    (first, second) = render(copy).problems
    assert "control.json" in first + second and "positions.json" in first + second


def test_the_checklist_says_what_is_recorded_and_what_is_not(unfigured, loop, copy, tmp_path):
    full = section(write_report(copy).read_text(encoding="utf-8"), "checklist")
    value = read_json(copy / "fit.json")
    starts, agree = value["certificate"]["starts"], value["certificate"]["agree"]
    assert f"{starts}, of which {agree} agree" in full and DATA_SHA in full and "a processor" in full
    known = re.search(r"(\d+) of (\d+) questions", full)
    assert full.count("not recorded") == int(known[2]) - int(known[1]) < 5
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "runs.csv").write_text("params,tokens,loss\n1e4,1e6,3.0\n2e4,1e6,2.9\n")
    text = section(write_report(bare).read_text(encoding="utf-8"), "checklist")
    known = re.search(r"(\d+) of (\d+) questions", text)
    left = text.count("not recorded") + text.count("no law is fitted")
    assert left == int(known[2]) - int(known[1]) > 20 and text.count("no law is fitted") == 14
    for topic in ("Form", "Data", "Counts", "Optimizer", "Loss", "Initialisation", "Tuning", "Code"):
        assert topic in full


def test_no_cell_of_the_download_is_a_formula(unfigured, copy):
    from analysis.sections.appendix import safe_csv

    runs = read_runs(copy / "runs.csv").table.head(6).copy()
    evil = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "-2.5"]
    runs["run"] = evil
    runs["=HYPERLINK(1)"] = 1.0
    rows = list(csv.DictReader(safe_csv(runs).splitlines()))
    assert [row["run"] for row in rows] == [*(f"'{text}" for text in evil[:5]), "-2.5"]
    assert "'=HYPERLINK(1)" in rows[0] and rows[0]["loss"] == str(runs["loss"].iloc[0])


def test_the_markdown_says_what_the_page_says(loop, written, page):
    words = written.markdown.read_text(encoding="utf-8")
    hits = [*read_json(loop / "verify.json")["hits"], *read_json(loop / "verify.json")["misses"]]
    for text in ("# Scaling report: loop", "## Decision", "## Evidence", "## Reproducibility checklist"):
        assert f"{text}\n" in words
    assert hits and all(said in words.replace("\\", "") for said in hits) and words.startswith("# ")
    for path in written.figures:
        if path.suffix == ".png":
            assert f"](figures/{path.name})" in words
    tables = re.findall(r"(?:^\|.*\|\n)+", words, flags=re.M)
    assert len(tables) >= 8
    for rows in tables:  # as many cells in every row as in the head
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows.strip().splitlines()}
        assert len(widths) == 1, rows
    assert not re.search(r"(?<!\\)<", re.sub(r"(?ms)^```\n.*?^```$", "", words))


def test_points_can_be_read_back_from_the_drawing(loop, page):
    """The axes that the page's script reads: undone as it does, the marks give the runs of the table."""
    figure = re.search(r'<figure id="figure-predicted">.*?</figure>', page, flags=re.S)[0]
    axes = json.loads(Parsed(figure).find("svg")[0]["data-axes"])
    (x0, y0, x1, y1), along = axes[0]["box"], axes[0]["x"]
    assert along["log"] and "Measured loss" in along["label"]
    marks = re.search(r'<g class="layer0 marks">.*?</g>\s*</g>', figure, flags=re.S)[0]
    seen = sorted(
        along["lo"] * (along["hi"] / along["lo"]) ** ((float(x) - x0) / (x1 - x0))
        for x, y in re.findall(r'<use [^>]*\bx="([\d.]+)" y="([\d.]+)"', marks)
        if y0 <= float(y) <= y1
    )
    np.testing.assert_allclose(seen, sorted(read_runs(loop / "runs.csv").loss), rtol=2e-3)
