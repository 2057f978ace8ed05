"""The registry of learning-rate and batch laws: worked values, no number without a source."""

from __future__ import annotations

import json

import pytest

from scaling.cli.main import main
from scaling.errors import UsageError
from scaling.files import dumps
from scaling.laws.hyperparameters import HYPERPARAMETERS, VARIABLES, at


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("deepseek-lr", {"C": 1e22}, 5.5e-4),
        ("deepseek-batch", {"C": 1e22}, 4.6e6),
        ("step-law-lr", {"N": 10.7e9, "D": 156e9}, 3.45e-4),
        ("step-law-batch", {"D": 156e9}, 1.43e6),
        ("porian-lr", {"N": 108e6}, 0.0047),  # as OLMo-core's ladder rounds it
        ("porian-batch", {"N": 108e6}, 160 * 2048),
    ],
)
def test_worked_values(name, given, value):
    assert HYPERPARAMETERS[name].value(**given) == pytest.approx(value, rel=0.03)


def test_every_law_names_its_source_and_units():
    for name, law in HYPERPARAMETERS.items():
        assert "arXiv:" in law.citation and law.place and law.convention and law.domain, name
        assert law.evidence in ("primary", "secondary", "derived") and law.unit
        assert law.exponents and set(law.exponents) <= set(VARIABLES)
    dumps(at(1e9, 2e10))


def test_no_number_without_a_coefficient_or_a_variable():
    assert HYPERPARAMETERS["zhang-critical-batch"].value(D=1e10) is None
    assert HYPERPARAMETERS["kaplan-critical-batch"].value(N=1e9, D=1e10) is None
    assert HYPERPARAMETERS["kaplan-critical-batch"].value(L=3.0) == pytest.approx(1.07e6, rel=0.01)
    with pytest.raises(UsageError, match="no variable"):
        HYPERPARAMETERS["porian-lr"].value(width=64)


def test_the_list(capsys):
    assert main(["laws", "--hyperparameters", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["at"]["law"] == "besiroglu" and len(value["hyperparameters"]) == len(HYPERPARAMETERS)
    assert main(["laws", "palm2", "--hyperparameters", "--flops", "1e21"]) == 0
    shown = capsys.readouterr().out
    assert "step-law-lr" in shown and "3.35B parameters" in shown
    assert main(["laws", "--hyperparameters", "--compare", "besiroglu,palm2"]) == 2
