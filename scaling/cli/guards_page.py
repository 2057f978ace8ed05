"""What `scaling fit` prints of guards: the law with and without the rows that they flag."""

from __future__ import annotations

from typing import Any

from scaling.cli import output


def show_guards(found: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_flops

    if not found["flags"]:
        print("guards: no row is flagged")
        return
    output.table(
        ("guard", "rows", "in the second fit", "what it says"),
        (
            (
                flag["flag"],
                f"{flag['rows']}" + (f" (and {flag['never_read']} not read)" if flag["never_read"] else ""),
                "left out" if flag["excluded"] else "kept: a warning",
                flag["says"],
            )
            for flag in found["flags"]
        ),
    )
    sides = [("all rows", found["all"])]
    if found["without"] is not None:
        sides.append(("without the flagged", found["without"]))
        at = f"at {format_flops(found['target_flops'])}"
        rows = [
            (
                name,
                side["rows"],
                *(_spread(side[key], "{:.3f}".format) for key in ("a", "b")),
                *(_spread(side[key], format_count) for key in ("n_opt", "d_opt")),
            )
            for name, side in sides
        ]
        headings = ("fit", "rows", "N_opt ~ C^a", "D_opt ~ C^b", f"best params {at}", "tokens")
        output.table(headings, rows)
    elif found["refused"]:
        print(f"without the {found['left_out']} flagged rows there is no fit: {found['refused']}")


def _spread(values: list[float] | None, shown: Any) -> str | None:
    return None if values is None else f"{shown(values[0])} ({shown(values[1])} to {shown(values[2])})"
