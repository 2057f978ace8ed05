"""The data card: what went in, what each stage took out, what is left, and how far it reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.control import LEVELS
from scaling.files import write_atomic, write_json
from trainer.canaries import note
from trainer.pipeline.choose import Chosen, iterate
from trainer.pipeline.near import curve, threshold
from trainer.pipeline.plan import Plan
from trainer.pipeline.rules import RULES
from trainer.pipeline.settings import Settings
from trainer.splits import PERMUTATIONS

CARD_FORMAT = "scaling/data-card"
SAMPLES = 3
SAMPLE_CHARACTERS = 300
# Muennighoff et al. 2023 (arXiv:2305.16264): up to 4 epochs are nearly as good as new tokens, at 16 a token
# is worth about 1/e, 40 are worth nothing.
EPOCHS = (1, 4, 16)


def make_card(
    settings: Settings,
    plan: Plan,
    chosen: Chosen,
    splits: dict[str, Any],
    shares: dict[str, Any],
    work: Path,
) -> dict[str, Any]:
    """Everything the card says, for the manifest and card.json."""
    near = None
    if settings.bands:
        near = {
            "shingle_words": settings.shingle_words,
            "permutations": PERMUTATIONS,
            "bands": settings.bands,
            "rows": settings.rows,
            "half_found_at": round(threshold(settings.bands, settings.rows), 4),
            "found_at_similarity": curve(settings.bands, settings.rows),
        }
    unique = splits["train"]["tokens"]
    return {
        "sources": [
            {"source": source, "files": files, "licence": settings.licence or licence}
            for source, files, licence in zip(settings.sources, plan.files, plan.licences)
        ],
        **chosen.card,
        "near_duplicates": near,
        "rules_drop": not settings.count_only,
        "train": shares,
        "epochs": [{"epochs": n, "tokens": n * unique} for n in EPOCHS],
        "samples": [
            text[: 4 * SAMPLE_CHARACTERS].decode(errors="ignore")[:SAMPLE_CHARACTERS]
            for text in iterate(chosen.places["train"][:SAMPLES], work)
        ],
    }


def write_card(folder: Path, manifest: dict[str, Any]) -> None:
    """card.json and card.md beside the manifest; they are no part of the data's hash."""
    head = {"format": CARD_FORMAT, "version": 1, "sha256": manifest["sha256"], "licence": manifest["licence"]}
    write_json(folder / "card.json", head | manifest["card"] | {"left_out": manifest["excluded"]})
    write_atomic(folder / "card.md", markdown(manifest))


def markdown(manifest: dict[str, Any]) -> str:
    """The card for people."""
    card, splits = manifest["card"], manifest["splits"]
    parts = [
        "# Data card",
        f"Data `{manifest['sha256'][:16]}`: {splits['train']['tokens']:,} training tokens in "
        f"{splits['train']['documents']:,} documents, {splits['validation']['tokens']:,} for validation; "
        f"tokenizer {manifest['tokenizer']['kind']} of {manifest['tokenizer']['vocab_size']:,}, "
        f"{manifest['bytes_per_token']:.3f} bytes a token. Licence: {manifest['licence']}.",
        "## Sources",
        _table(
            ["source", "files", "licence"], [[s["source"], s["files"], s["licence"]] for s in card["sources"]]
        ),
        "## Stages",
        _table(
            ["stage", "documents", "bytes", "removed", "the first removed"],
            [
                [
                    s["stage"],
                    f"{s['documents']:,}",
                    f"{s['bytes']:,}",
                    f"{s['removed']:,}" if "removed" in s else "",
                    "; ".join(card["dropped_first"].get(s["stage"], [])),
                ]
                for s in card["stages"]
            ],
        ),
    ]
    if manifest["excluded"]:
        rows = [
            [r, f"{e['documents']:,}", f"{e['bytes']:,}", "; ".join(e["first"])]
            for r, e in manifest["excluded"].items()
        ]
        parts += ["## Not usable", _table(["why", "documents", "bytes", "first"], rows)]
    if card["rules"]:
        what = "dropped" if card["rules_drop"] else "counted only, nothing was dropped or edited"
        rows = [
            [f"`{n}`", RULES[n], f"{h['documents']:,}", f"{h['alone']:,}"] for n, h in card["rules"].items()
        ]
        parts += [
            f"## Rules broken ({what})",
            _table(["rule", "asks for", "documents", "no other rule broken"], rows),
        ]
    if card["near_duplicates"]:
        parts += ["## Near duplicates", _near(card)]
    if card["masked"]:
        masked = card["masked"]
        parts += [
            "## Masked",
            f"{masked['emails']:,} e-mail addresses, {masked['addresses']:,} IP addresses, "
            f"{masked['phones']:,} telephone numbers.",
        ]
    parts += [*_control(manifest), *_canaries(manifest)]
    read = list(card["languages_read"].items())[:20]
    rows = [[name, f"{n['documents']:,}", f"{n['bytes']:,}"] for name, n in read]
    parts += ["## Languages read", _table(["language", "documents", "bytes"], rows)]
    for table, shares in card["train"].items():
        rows = [
            [name or "(none)", f"{s['documents']:,}", f"{s['tokens']:,}"]
            for name, s in list(shares.items())[:20]
        ]
        parts += [f"## Training text by {table[:-1]}", _table([table[:-1], "documents", "tokens"], rows)]
    parts += [
        "## How far it reaches",
        _table(["epochs", "tokens"], [[e["epochs"], f"{e['tokens']:,}"] for e in card["epochs"]]),
        "Up to 4 epochs, repeated tokens are nearly worth new ones; at 16 a repeated token is worth about "
        "1/e of a new one (Muennighoff et al. 2023, arXiv:2305.16264).",
        "## Samples",
        *("\n".join(f"    {line}" for line in text.splitlines()) for text in card["samples"]),
    ]
    if manifest["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in manifest["notes"])]
    return "\n\n".join(parts) + "\n"


def _control(manifest: dict[str, Any]) -> list[str]:
    found = manifest.get("control")
    if found is None:
        return []
    low, high = found["thresholds"]
    rows = [[split, *(f"{n:,}" for n in counts.values())] for split, counts in found["documents"].items()]
    spread = found["scores"]
    return [
        "## Scored for control tokens",
        f"Scorer `{found['scorer']}`; scores from {spread['min']:.4g} to {spread['max']:.4g}, median "
        f"{spread['median']:.4g}. Low: at most {low:.4g}; high: above {high:.4g}. No text has a tag: a run "
        "puts them on a share of the documents.",
        _table(["documents", *LEVELS], rows),
    ]


def _canaries(manifest: dict[str, Any]) -> list[str]:
    found = manifest.get("canaries")
    if found is None:
        return []
    rows = [[kind, ", ".join(map(str, found["repetitions"])), found["each"]] for kind in found["kinds"]]
    return ["## Planted canaries", note(found), _table(["kind", "repetitions", "canaries of each"], rows)]


def _near(card: dict[str, Any]) -> str:
    near = card["near_duplicates"]
    found = ", ".join(f"{p:.1%} at {s}" for s, p in near["found_at_similarity"].items())
    text = (
        f"MinHash over word {near['shingle_words']}-grams, {near['permutations']} permutations, "
        f"{near['bands']} bands of {near['rows']} rows: a pair is found with probability {found} of "
        f"Jaccard similarity (half at {near['half_found_at']}). Of each cluster the longest text is kept."
    )
    pairs = [f"- {removed} (kept: {kept})" for removed, kept in card["near_duplicate_pairs"]]
    return "\n\n".join([text, "\n".join(pairs)]) if pairs else text


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
