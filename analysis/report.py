"""`write_report`: a folder's evidence as one HTML file that reads like a short paper.

The file is complete in itself: figures are inlined drawings, styles and one small script are inline, and its
content policy forbids loading anything or running any other script. The same words stand beside it as
Markdown, the same figures as SVG, PDF and PNG.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.against import Comparison, alone, compare
from analysis.folder import Evidence, read_folder
from analysis.html import Html, fill, join, section
from analysis.interactive import Layer, measures, name_layers
from analysis.markdown import to_markdown
from analysis.sections.appendix import data_card, provenance, recipe, run_table
from analysis.sections.checklist import checklist
from analysis.sections.decision import decision
from analysis.sections.evidence import Plate, figure_element, plates
from analysis.sections.guards import guards
from analysis.sections.method import conventions, method
from analysis.sections.recipes import recipes
from analysis.sections.words import format_flops, plural
from analysis.style import WIDTH, to_pdf, to_png, to_svg
from analysis.svg import colour_rules, inline
from scaling import __version__
from scaling.files import write_atomic
from scaling.progress import tracked

TEMPLATES = Path(__file__).parent / "templates"
PAGE, MARKDOWN = "report.html", "report.md"
KINDS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Written:
    """What a report wrote, and what it had to do without."""

    report: Path
    markdown: Path
    figures: tuple[Path, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    derived: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure as the page shows it: its markup, and the layers that can be switched."""

    plate: Plate
    markup: Html
    layers: tuple[Layer, ...]
    wide: bool  # too many panels side by side to be read at the width of a phone


def write_report(folder: str | Path, against: Sequence[str | Path] = ()) -> Path:
    """Write the report of FOLDER (see `render`); returns the path of the page."""
    return render(folder, against).report


def render(folder: str | Path, against: Sequence[str | Path] = ()) -> Written:
    """Write FOLDER/report.html, FOLDER/report.md and FOLDER/figures/*.svg, *.pdf and *.png.

    Whatever of sweep.json, runs.csv, fit.json, isoflop.json, certificate.json, plan.json, launch/,
    verify.json, backtest.json and choices.json is there is used; what is missing or damaged is named in
    the report. FOLDER may be given as its fit.json. With `against`, folders of other recipes' sweeps, the
    report compares them with this one; a folder that holds nothing but such folders compares those, the
    first by name being the one to beat. Raises ScalingError when there is nothing to report.
    """
    folder = Path(folder)
    if folder.name == "fit.json" and folder.is_file():
        folder = folder.parent
    within = [] if against else _folders_within(folder)
    first, *rest = within or [folder, *map(Path, against)]
    evidence = read_folder(first)
    compared = compare(evidence, rest)
    if within:
        evidence = alone(evidence, folder)
    drawings = write_figures(evidence, compared)
    text = page(evidence, drawings, compared)
    path = write_atomic(folder / PAGE, text)
    markdown = write_atomic(folder / MARKDOWN, to_markdown(text))
    figures = tuple(folder / "figures" / f"{d.plate.name}.{kind}" for d in drawings for kind in KINDS)
    return Written(path, markdown, figures, evidence.missing, evidence.problems, evidence.derived)


def _folders_within(folder: Path) -> list[Path]:
    """The sweeps of a folder that is none itself: two or more with a run table each, by name."""
    if not folder.is_dir() or any(
        (folder / name).exists() for name in ("runs.csv", "sweep.json", "plan.json")
    ):
        return []
    found = sorted(path.parent for path in folder.glob("*/runs.csv"))
    return found if len(found) > 1 else []


def write_figures(evidence: Evidence, compared: Comparison | None = None) -> list[Drawing]:
    """Draw every figure the evidence allows, write it in every kind, and return it for the page."""
    place = evidence.folder / "figures"
    drawings = []
    for number, plate in enumerate(tracked(plates(evidence, compared), "drawing figures"), start=1):
        figure = plate.draw()
        layers = name_layers(figure)
        svg = to_svg(figure)
        figure.set_layout_engine("none")  # one layout for all kinds, and for what the page reads out
        write_atomic(place / f"{plate.name}.svg", svg)
        write_atomic(place / f"{plate.name}.pdf", to_pdf(figure))
        write_atomic(place / f"{plate.name}.png", to_png(figure))
        markup = inline(svg, f"f{number}", plate.title, measures(figure))
        drawings.append(Drawing(plate, markup, layers, figure.get_figwidth() > WIDTH))
    return drawings


def page(evidence: Evidence, drawings: Sequence[Drawing], compared: Comparison | None = None) -> Html:
    figures = [
        figure_element(i, d.plate, d.markup, d.layers, d.wide) for i, d in enumerate(drawings, start=1)
    ]
    drawn = join(figures) if figures else Html("<p>There is nothing to draw yet.</p>\n")
    every = [
        ("decision", "Decision", decision(evidence, compared)),
        *([] if compared is None else [("recipes", "Recipes compared", recipes(compared))]),
        ("evidence", "Evidence", drawn),
        ("method", "Method", method(evidence)),
        ("guards", "Guards and tuning", guards(evidence)),
        ("conventions", "Conventions", conventions(evidence)),
        ("data", "Data", data_card(evidence)),
        ("runs", "Runs", run_table(evidence)),
        ("recipe", "Recipe", recipe(evidence)),
        ("checklist", "Reproducibility checklist", checklist(evidence)),
        ("provenance", "Provenance", provenance(evidence)),
    ]
    sections = [part for part in every if part[2]]  # what the folder tells nothing about is no heading
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return fill(
        (TEMPLATES / "page.html").read_text(encoding="utf-8"),
        title=f"Scaling report: {evidence.name}",
        byline=_byline(evidence),
        contents=[fill('<a href="#{}">{}</a>', name, title) for name, title, _ in sections],
        body=[section(*parts) for parts in sections],
        colours=colour_rules(d.markup for d in drawings),
        style=Html((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Html(script),
        script_hash=Html(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        version=__version__,
    )


def _byline(evidence: Evidence) -> str:
    """What the report rests on, in one line."""
    said = []
    source = (evidence.sweep or {}).get("data", {}).get("source")
    if source:
        said.append(f"data {source}")
    if evidence.runs is not None:
        spent = format_flops(float(evidence.runs.flops.sum()))
        said.append(f"{plural(len(evidence.runs), 'run')}, {spent} FLOPs in all")
    if evidence.launched:
        said.append(f"{plural(len(evidence.launched), 'launched run')}")
    return " · ".join(said)
