"""Matplotlib's SVG made part of a page: no outside names, no clashing ids, colours that follow the page."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from analysis.html import Html, fill
from analysis.style import PAPER

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_STYLE = re.compile(r'style="([^"]*)"')
_TAG = re.compile(r'\bid="tag-(x|\d+)-([mp])-\d+"')
_NEUTRAL = 0.03  # chroma in OKLab below which a colour counts as a grey


def inline(svg: str, prefix: str, label: str, measures: str = "[]") -> Html:
    """The drawing as an element of a page, read aloud as `label`; every id starts with `prefix`.

    Colours become CSS variables (`colour_rules` defines them), so that one drawing serves a light
    and a dark page. The names that `interactive.name_layers` gave become classes: `layer2` of the third
    layer, `marks` of what has points; `measures` is what its axes measure, for the page's script.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.S)  # it would rule the whole page
    opening, body = body.split(">", 1)
    box = re.search(r'viewBox="([0-9. -]+)"', opening)
    if box is None:
        raise ValueError("the drawing has no viewBox.")
    body = _TAG.sub(_classes, body)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'\b(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = _STYLE.sub(lambda found: f'style="{_COLOUR.sub(_variable, found[1])}"', body)
    body = re.sub(r"\n\s*", "\n", body)
    opening = '<svg role="img" aria-label="{}" viewBox="{}" data-axes="{}">{}'
    return fill(opening, label, box[1], measures, Html(body.strip()))


def _classes(found: re.Match[str]) -> str:
    layer, points = found[1], found[2] == "m"
    names = [*([] if layer == "x" else [f"layer{layer}"]), *(["marks"] if points else [])]
    return f'class="{" ".join(names)}"' if names else ""


def colour_rules(drawings: Iterable[str]) -> Html:
    """CSS that defines every colour variable of the inlined drawings, for light and for dark pages."""
    used = sorted({name for drawing in drawings for name in re.findall(r"var\(--x([0-9a-f]{6})\)", drawing)})
    light = "".join(f"--x{name}:#{name};" for name in used)
    dark = "".join(f"--x{name}:{dark_twin('#' + name)};" for name in used)
    return Html(f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n")


def _variable(found: re.Match[str]) -> str:
    return "var(--paper)" if found[0] == PAPER else f"var(--x{found[0][1:]})"


def dark_twin(colour: str) -> str:
    """The colour for a dark page: greys turn over, hues stay and come up to readable lightness.

    >>> dark_twin("#22262b"), dark_twin("#0072b2")
    ('#d8dde4', '#4da7ea')
    """
    lightness, a, b = _to_oklab(colour)
    if np.hypot(a, b) < _NEUTRAL:
        return _from_oklab(0.2 + 0.95 * (1 - lightness), a, b)
    return _from_oklab(0.5 + 0.38 * lightness, a, b)


# OKLab, a space in which lightness is what the eye sees: Ottosson 2020, bottosson.github.io/posts/oklab
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _to_oklab(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return _TO_LAB @ np.cbrt(_TO_LMS @ linear)


def _from_oklab(lightness: float, a: float, b: float) -> str:
    linear = np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, np.array([lightness, a, b])) ** 3)
    linear = np.clip(linear, 0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * v):02x}" for v in value)
