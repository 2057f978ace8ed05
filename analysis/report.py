"""`write_report`: a folder's evidence as one HTML file that reads like a short paper.

The file is complete in itself: figures are inlined drawings, styles are inline, nothing is loaded and
nothing is executed (its content policy forbids both). The same figures lie beside it as PNG and SVG.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.folder import Evidence, read_folder
from analysis.html import Html, fill, join, section
from analysis.sections.appendix import data_card, provenance, recipe, run_table
from analysis.sections.decision import decision
from analysis.sections.evidence import Plate, figure_element, plates
from analysis.sections.method import conventions, method
from analysis.sections.words import format_flops, plural
from analysis.style import to_png, to_svg
from analysis.svg import colour_rules, inline
from scaling import __version__
from scaling.files import write_atomic

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"


@dataclass(frozen=True)
class Written:
    """What a report wrote, and what it had to do without."""

    report: Path
    figures: tuple[Path, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    derived: tuple[str, ...]


def write_report(folder: str | Path) -> Path:
    """Write the report of FOLDER (see `render`); returns the path of the page."""
    return render(folder).report


def render(folder: str | Path) -> Written:
    """Write FOLDER/report.html and FOLDER/figures/*.png and *.svg.

    Whatever of sweep.json, runs.csv, fit.json, isoflop.json, plan.json, launch/ and verify.json is
    there is used; what is missing or damaged is named in the report. FOLDER may be given as its fit.json.
    Raises ScalingError when there is nothing to report.
    """
    folder = Path(folder)
    if folder.name == "fit.json" and folder.is_file():
        folder = folder.parent
    evidence = read_folder(folder)
    drawings = write_figures(evidence)
    path = write_atomic(folder / PAGE, page(evidence, drawings))
    figures = tuple(
        folder / "figures" / f"{plate.name}.{kind}" for plate, _ in drawings for kind in ("png", "svg")
    )
    return Written(path, figures, evidence.missing, evidence.problems, evidence.derived)


def write_figures(evidence: Evidence) -> list[tuple[Plate, Html]]:
    """Draw every figure the evidence allows, write it as PNG and SVG, and return it for the page."""
    place = evidence.folder / "figures"
    drawings = []
    for number, plate in enumerate(plates(evidence), start=1):
        figure = plate.draw()
        svg = to_svg(figure)
        write_atomic(place / f"{plate.name}.svg", svg)
        write_atomic(place / f"{plate.name}.png", to_png(figure))
        drawings.append((plate, inline(svg, f"f{number}", plate.title)))
    return drawings


def page(evidence: Evidence, drawings: list[tuple[Plate, Html]]) -> Html:
    figures = [figure_element(i, plate, drawing) for i, (plate, drawing) in enumerate(drawings, start=1)]
    sections = [
        ("decision", "Decision", decision(evidence)),
        (
            "evidence",
            "Evidence",
            join(figures) if figures else Html("<p>There is nothing to draw yet.</p>\n"),
        ),
        ("method", "Method", method(evidence)),
        ("conventions", "Conventions", conventions(evidence)),
        ("data", "Data", data_card(evidence)),
        ("runs", "Runs", run_table(evidence)),
        ("recipe", "Recipe", recipe(evidence)),
        ("provenance", "Provenance", provenance(evidence)),
    ]
    return fill(
        (TEMPLATES / "page.html").read_text(encoding="utf-8"),
        title=f"Scaling report: {evidence.name}",
        byline=_byline(evidence),
        contents=[fill('<a href="#{}">{}</a>', name, title) for name, title, _ in sections],
        body=[section(*parts) for parts in sections],
        colours=colour_rules(drawing for _, drawing in drawings),
        style=Html((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        version=__version__,
    )


def _byline(evidence: Evidence) -> str:
    """What the report rests on, in one line."""
    said = []
    source = (evidence.sweep or {}).get("data", {}).get("source")
    if source:
        said.append(f"data {source}")
    if evidence.runs is not None:
        said.append(
            f"{plural(len(evidence.runs), 'run')} of {format_flops(float(evidence.runs.flops.sum()))} FLOPs"
        )
    if evidence.launched:
        said.append(f"{plural(len(evidence.launched), 'launched run')}")
    return " · ".join(said)
