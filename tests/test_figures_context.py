"""The figure of loss by position shows the numbers of the benchmark's record."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.figures.context import centre, context_extended
from analysis.style import to_png
from scaling.files import read_json

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "context.json"


def test_every_curve_of_the_record_is_drawn_where_it_lies():
    record = read_json(RECORD)
    figure = context_extended(record)
    for ax, when in zip(figure.axes, ("before", "after"), strict=True):
        drawn = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
        assert len(drawn) == len(record[when])
        for points, curve in zip(drawn, record[when].values(), strict=True):
            expected = [(centre(bucket), bucket["bits_per_byte"]) for bucket in curve["buckets"]]
            assert np.allclose(points, expected)
        assert ax.get_xscale() == "log"
        marked = [np.asarray(line.get_xdata()) for line in ax.lines if line.get_marker() != "o"]
        assert any((place == record["trained"]).all() for place in marked)
    assert to_png(figure) == to_png(context_extended(record))
