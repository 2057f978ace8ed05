"use strict";
(() => {
  const NEAR = 16; // pixels between the pointer and a point that it asks for
  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

  // A value as people write it: powers of ten for FLOPs, 12.3k for counts, four digits for the rest.
  function words(value, label) {
    if (/FLOP/.test(label) || Math.abs(value) >= 1e15) return value.toExponential(2).replace("+", "");
    for (const [size, suffix] of UNITS) {
      if (Math.abs(value) >= size) return String(Number((value / size).toPrecision(3))) + suffix;
    }
    return String(Number(value.toPrecision(4)));
  }

  function measured(axis, share) {
    const value = axis.log ? axis.lo * Math.pow(axis.hi / axis.lo, share) : axis.lo + share * (axis.hi - axis.lo);
    return axis.label + ": " + words(value, axis.label);
  }

  // What a point of the drawing says, by the axes that it lies in; empty outside of all.
  function reading(axes, x, y) {
    for (const { box: [x0, y0, x1, y1], x: along, y: up } of axes) {
      if (x < x0 - 1 || x > x1 + 1 || y < y0 - 1 || y > y1 + 1) continue;
      const said = [];
      if (along) said.push(measured(along, (x - x0) / (x1 - x0)));
      if (up) said.push(measured(up, (y1 - y) / (y1 - y0)));
      return said.join(" · ");
    }
    return "";
  }

  function pointsOf(svg, axes) {
    const found = [];
    for (const use of svg.querySelectorAll(".marks:not([hidden]) use")) {
      const x = Number(use.getAttribute("x")), y = Number(use.getAttribute("y"));
      const text = reading(axes, x, y);
      if (text) found.push({ x, y, text });
    }
    return found.sort((a, b) => a.x - b.x || a.y - b.y);
  }

  for (const figure of document.querySelectorAll("figure")) {
    const svg = figure.querySelector("svg"), plate = figure.querySelector(".plate");
    const readout = figure.querySelector(".readout"), toggles = figure.querySelector(".toggles");
    if (!svg || !readout) continue;
    const axes = JSON.parse(svg.dataset.axes || "[]");
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("r", "5");
    ring.setAttribute("class", "ring");
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    let points = pointsOf(svg, axes), at = -1;

    const show = (point) => {
      readout.textContent = point ? point.text : "";
      ring.setAttribute("visibility", point ? "visible" : "hidden");
      if (!point) return;
      ring.setAttribute("cx", point.x);
      ring.setAttribute("cy", point.y);
    };
    svg.addEventListener("pointermove", (event) => {
      const matrix = svg.getScreenCTM();
      const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      let best = -1, least = NEAR / matrix.a;
      points.forEach((point, i) => {
        const apart = Math.hypot(point.x - here.x, point.y - here.y);
        if (apart < least) [best, least] = [i, apart];
      });
      at = best;
      show(points[best]);
    });
    svg.addEventListener("pointerleave", () => show(null));
    if (points.length) {
      plate.tabIndex = 0;
      plate.setAttribute("role", "group");
      plate.setAttribute("aria-label", "Figure; the arrow keys read out its points one by one");
    }
    plate.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") show(null);
      if (!step || !points.length) return;
      event.preventDefault();
      at = at < 0 ? (step > 0 ? 0 : points.length - 1) : (at + step + points.length) % points.length;
      show(points[at]);
    });
    plate.addEventListener("blur", () => show(null));
    if (!toggles) continue;
    toggles.hidden = false;
    for (const button of toggles.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        for (const part of svg.querySelectorAll("." + button.dataset.layer)) part.toggleAttribute("hidden", !shown);
        points = pointsOf(svg, axes);
        at = -1;
        show(null);
      });
    }
  }
})();
