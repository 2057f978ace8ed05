"""The library: `import scaling` answers as the command line does, and its objects show themselves."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
import scaling
from scaling.cli.main import main
from scaling.errors import Refusal, ScalingError, UsageError

EXAMPLE = Path(analysis.__path__[0]) / "data" / "own_cpu_sweep.csv"
HOSTILE = "<script>alert('x')</script>&\"<img src=x onerror=y>"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of the bundled sweep (in 6 N D), and the path of its fit.json."""
    folder = tmp_path_factory.mktemp("library")
    frame = scaling.read_runs(EXAMPLE).table.drop(columns="flops")
    frame.to_csv(folder / "runs.csv", index=False)
    fit = scaling.fit(scaling.read_runs(folder / "runs.csv"))
    (folder / "fit.json").write_text(json.dumps(fit.to_dict()))
    return fit, folder / "fit.json"


def answer(capsys, *arguments) -> dict:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_is_the_command_line_s(fitted, tmp_path, capsys):
    fit, path = fitted
    points = tmp_path / "points.csv"
    points.write_text("params,tokens,flops\n1e5,3e6,\n4e5,2e7,\n,,1e14\n")
    rows = answer(capsys, "predict", path, points, "--json")["rows"]
    for source in (fit, path, str(path)):  # fit.json rounds its draws: hence 1e-6
        runs = scaling.predict(source, [1e5, 4e5], [3e6, 2e7])
        best = scaling.predict(source, flops=1e14)
        for name in ("loss", "loss_lo", "loss_hi", "extrapolation"):
            assert runs[name].tolist() == pytest.approx([row[name] for row in rows[:2]], rel=1e-6)
        for name in ("n_opt", "n_opt_lo", "n_opt_hi", "d_opt", "loss"):
            assert best[name].item() == pytest.approx(rows[2][name], rel=1e-6)


def test_one_size_on_many_token_counts_and_integers_that_would_overflow(fitted):
    fit, _ = fitted
    frame = scaling.predict(fit, 10**6, [10**7, 10**8, 10**15])
    assert frame["loss"].is_monotonic_decreasing
    assert frame["extrapolation"].iloc[-1] == pytest.approx(6e21 / fit.c_max_6nd)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs params and tokens, or flops"),
        ({"params": 1e5}, "needs params and tokens"),
        ({"params": 1e5, "tokens": 1e6, "flops": 1e12}, "not both"),
        ({"params": [1e5, 2e5], "tokens": [1e6, 2e6, 3e6]}, "as many params as tokens"),
        ({"params": -1.0, "tokens": 1e6}, "params must be positive"),
        ({"flops": float("nan")}, "flops must be positive"),
    ],
)
def test_a_wrong_question_is_a_sentence(fitted, arguments, said):
    with pytest.raises(UsageError, match=said):
        scaling.predict(fitted[0], **arguments)


def test_plans_are_the_command_line_s(fitted, capsys):
    fit, path = fitted
    assert scaling.plan("1e22") == answer(capsys, "plan", "--flops", "1e22", "--json")
    by_chips = answer(
        capsys,
        "plan",
        "--days",
        "30",
        "--chips",
        "256",
        "--accelerator",
        "h100",
        "--max-params",
        "8B",
        "--json",
    )
    assert scaling.plan(days=30, chips=256, accelerator="h100", max_params="8B") == by_chips
    assert scaling.plan(days="720h", chips=256, accelerator="h100", max_params=8e9) == by_chips
    by_fit = answer(capsys, "plan", "--flops", "1e14", "--fit", path, "--json")
    assert scaling.plan(1e14, path) == by_fit
    assert scaling.plan(1e14, fit)["optimum"] == pytest.approx(by_fit["optimum"])


def test_plan_refuses_as_the_command_line_does(fitted, tmp_path):
    fit, _ = fitted
    with pytest.raises(Refusal, match="a plan reaches at most 1000x"):
        scaling.plan(1e22, fit)
    assert scaling.plan(1e22, fit, force=True)["forced"]
    for arguments, said in (
        ({"flops": 1e22, "chips": 8}, "needs accelerator"),
        ({"flops": 1e22, "by": "palm3"}, "not a published law"),
        ({"flops": 1e22, "by": "palm2", "convention": "6nd"}, "goes with a fit"),
        ({"flops": 1e22, "by": tmp_path / "no.json"}, "no such file"),
    ):
        with pytest.raises(ScalingError, match=said):
            scaling.plan(**arguments)


def test_published_laws_are_the_registry_with_its_citations():
    laws = scaling.published_laws("1e22")
    assert laws.index.tolist() == scaling.law_names()
    assert laws.loc["palm2", "params"] == pytest.approx(10.7e9)
    assert laws["citation"].str.contains(r"arXiv|github", regex=True).all()
    named = laws["loss"].notna()
    assert named.any() and not named.all()


def test_a_plan_goes_to_a_file_and_back_with_its_seal(tmp_path):
    plan = scaling.plan(1e22, "besiroglu")
    scaling.write_plan(tmp_path / "plan.json", plan)
    again = scaling.read_plan(tmp_path / "plan.json")
    assert again == plan and isinstance(again, scaling.Plan)


class Checker(HTMLParser):
    """Every tag is closed; nothing but harmless elements, no attribute but style and class."""

    allowed = frozenset(
        ["div", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li"]
    )

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert tag in self.allowed, tag
        assert {name for name, _ in attrs} <= {"style", "class"}, attrs
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_html(shown) -> str:
    checker = Checker()
    checker.feed(shown._repr_html_())
    assert not checker.open
    return " ".join(checker.text)


def test_every_object_says_the_same_as_text_and_as_html(fitted):
    fit, path = fitted
    runs = scaling.read_runs(EXAMPLE)
    for shown in (runs, fit, scaling.plan(1e14, path), scaling.plan(1e22)):
        words, page = repr(shown), read_html(shown)
        assert len(words) > 200 and max(map(len, words.splitlines())) < 400
        numbers = set(re.findall(r"\d+\.\d+", words))
        assert numbers and numbers <= set(re.findall(r"\d+\.\d+", page))


def test_what_is_shown_is_what_was_found(fitted):
    fit, _ = fitted
    found = fit.exponents["prior_free"]
    assert f"{found['a']:.3f}" in repr(fit) and f"{found['a_lo']:.3f} to {found['a_hi']:.3f}" in repr(fit)
    assert f"{len(scaling.read_runs(EXAMPLE))} runs" in repr(scaling.read_runs(EXAMPLE))
    plan = scaling.plan(1e22)
    assert f"seal {plan['seal'][:12]}" in repr(plan)
    assert "Besiroglu et al. 2024" in read_html(scaling.find_law("besiroglu"))


def test_hostile_names_cannot_inject_markup():
    frame = pd.DataFrame(
        {"params": [1e5, 2e5], "tokens": [1e6, 2e6], "loss": [3.0, 2.5], "run": [HOSTILE, "b"]}
    )
    runs = scaling.Runs.from_frame(frame.rename(columns={"loss": "Val Loss"}), source=HOSTILE)
    page = runs._repr_html_()
    assert "<script" not in page and "<img" not in page
    assert HOSTILE in read_html(runs)
    plan = scaling.plan(1e22)
    assert HOSTILE in read_html(scaling.Plan(plan | {"notes": [HOSTILE]}))
    bold = f"**{HOSTILE}**"
    assert "<script" not in scaling.Plan(plan | {"law": plan["law"] | {"title": bold}})._repr_html_()


def test_half_a_plan_still_shows_itself():
    half = scaling.Plan(format="scaling/plan")
    assert repr(half) == "{'format': 'scaling/plan'}" and half._repr_html_() is None


def test_the_public_names_exist_are_documented_and_typed():
    assert len(set(scaling.__all__)) == len(scaling.__all__)
    for name in scaling.__all__:
        value = getattr(scaling, name)
        if name not in ("__version__", "Convention", "Count"):  # a string, and two types of strings
            assert (value.__doc__ or "").strip(), name
    assert set(scaling.__all__) <= set(dir(scaling))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scaling.nothing  # noqa: B018


def test_predict_broadcasts_one_token_count(fitted):
    frame = scaling.predict(fitted[0], np.array([1e5, 2e5]), 1e7)
    assert frame["tokens"].tolist() == [1e7, 1e7]
