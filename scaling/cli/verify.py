"""`scaling verify`: the sealed prediction against the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output


def command(
    folder: Annotated[Path, typer.Argument(help="Folder with plan.json and launch/*/result.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print verify.json's content.")] = False,
) -> None:
    """Score the sealed prediction against the outcome.

    Reads FOLDER/plan.json and the results of its launch, writes FOLDER/verify.json.
    """
    from scaling.errors import ScalingError
    from scaling.files import write_json
    from scaling.planfiles import read_plan, read_results
    from scaling.verify import score

    if not (folder / "plan.json").exists() and not folder.is_file():
        raise ScalingError(
            f"{folder}: holds no plan.json; `scaling plan --sweep {folder} --out ...` seals "
            "a plan, and `scaling launch` trains it."
        )
    plan = read_plan(folder / "plan.json")
    report = score(plan, read_results(folder, plan), str(folder / "plan.json"))
    write_json(folder / "verify.json", report)

    def render() -> None:
        from scaling.cli.verify_page import render_verify

        render_verify(report, output.console)

    output.emit(report, as_json, render)
