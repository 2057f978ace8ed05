"""The floors of the house: who may import whom (docs/architecture.md), read from the source."""

from __future__ import annotations

import ast
import graphlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scaling.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("scaling", "trainer", "sweeps", "analysis")
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MAX_LINES = 400


class Import(NamedTuple):
    target: str  # dotted module, e.g. "scaling.shape"
    line: int
    lazy: bool  # inside a function, so it happens only when that is called
    typing_only: bool  # under `if TYPE_CHECKING:`

    @property
    def root(self) -> str:
        return self.target.partition(".")[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def imports_of(path: Path) -> list[Import]:
    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typed = typing_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, inside, typed)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports name their module in full here"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(full if full in FILES else str(child.module), child.lineno, inside, typed)
            else:
                yield from walk(child, inside, typed)

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False, False))


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def offences(modules, allowed) -> list[str]:
    """`module:line imports target` for every import of `modules` that `allowed(import)` denies."""
    return [
        f"{name}:{found.line} imports {found.target}"
        for name in modules
        for found in IMPORTS[name]
        if not allowed(found)
    ]


def is_stdlib(found: Import) -> bool:
    return found.root in sys.stdlib_module_names


def below(prefix: str) -> list[str]:
    return [name for name in FILES if name == prefix or name.startswith(f"{prefix}.")]


CLI = below("scaling.cli")
SCIENCE = [name for name in below("scaling") if name not in CLI]


def test_the_science_imports_nothing_from_above_and_no_jax():
    free = {"scaling", "numpy", "scipy", "pandas"}

    def allowed(found: Import) -> bool:
        if found.root in ("pyarrow", "sacrebleu"):  # optional parts: only where they are needed
            return found.lazy
        return is_stdlib(found) or (found.root in free and not found.target.startswith("scaling.cli"))

    assert not offences(SCIENCE, allowed)


def test_the_trainer_needs_neither_pandas_nor_the_science():
    named = (
        "errors",
        "files",
        "shape",
        "quantities",
        "progress",
        "objective",
        "mixture",
        "rope",
        "control",
        "proportions",
    )
    ours = {"scaling", *(f"scaling.{name}" for name in named)}
    free = {"numpy", "tokenizers", "trainer", *JAX}
    optional = {"pyarrow", "transformers", "torch", "zstandard", "py3langid", "sentencepiece", "datasets"}

    def allowed(found: Import) -> bool:
        return (
            is_stdlib(found)
            or found.root in free
            or found.target in ours
            or (found.root in optional and found.lazy)
        )

    assert not offences(below("trainer"), allowed)


def test_sweeps_reach_the_trainer_only_when_a_worker_runs():
    def allowed(found: Import) -> bool:
        if found.root in {"trainer", "ray", "tensorboardX", "wandb", *JAX}:
            return found.lazy or found.typing_only
        return is_stdlib(found) or found.root in {"scaling", "sweeps", "numpy", "pandas", "rich"}

    assert not offences([name for name in below("sweeps") if "worker" not in name], allowed)
    assert not offences(
        below("sweeps"), lambda i: i.root != "analysis" and not i.target.startswith("scaling.cli")
    )


def test_analysis_reads_results_and_never_trains():
    allowed = {
        "scaling",
        "analysis",
        "numpy",
        "scipy",
        "pandas",
        "matplotlib",
        "nbclient",
        "nbformat",
    }

    def permitted(found: Import) -> bool:
        if found.root == "sweeps":
            return found.target in {"sweeps.store"}
        return is_stdlib(found) or (found.root in allowed and not found.target.startswith("scaling.cli"))

    assert not offences(below("analysis"), permitted)


# Options that several verbs have, each set in a module as light as a verb's.
OPTIONS = ("engines", "machines", "run_table")


def test_a_verb_costs_nothing_until_it_is_called():
    light = {"scaling", "scaling.errors"} | {f"scaling.cli.{name}" for name in ("output", *OPTIONS)}
    names = [f"scaling.cli.{verb.module}" for verb in VERBS.values()]  # not their pages, which they load
    names += [f"scaling.cli.{name}" for name in OPTIONS]
    verbs = [name for name in names if name in FILES]  # that none is missing, test_cli_frame says
    assert not offences(
        verbs, lambda i: i.lazy or i.typing_only or is_stdlib(i) or i.root == "typer" or i.target in light
    )


def test_no_circle():
    graph = {
        name: {i.target for i in found if i.target in FILES and not i.lazy and not i.typing_only}
        for name, found in IMPORTS.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_nothing_loads_pickles():
    assert not offences(FILES, lambda i: i.root not in UNSAFE)
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", f"{name}:{node.value.lineno}"


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = [requirement for group in groups for requirement in group]
    names = {"".join(c if c.isalnum() or c == "-" else " " for c in text).split()[0] for text in declared}
    distribution = {"orbax": "orbax-checkpoint", "jaxlib": "jax"}
    ours = {*PACKAGES, "scaling"}
    assert not offences(
        FILES, lambda i: is_stdlib(i) or i.root in ours or distribution.get(i.root, i.root) in names
    )


@pytest.mark.parametrize("name", FILES)
def test_a_module_can_be_read_in_one_sitting(name):
    lines = FILES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{name} has {lines} lines; cut it into two rooms"
