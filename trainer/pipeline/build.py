"""`scaling data build`: sources to a cleaned, de-duplicated token folder, resumable at any moment."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scaling import __version__
from scaling.errors import ScalingError
from scaling.files import read_json, sha256_bytes, sha256_json, to_jsonable, write_json
from scaling.progress import measured, stage
from trainer.canaries import LABEL as CANARY
from trainer.corpus import BPE_BYTES, first_bytes, round_trip_notes
from trainer.pipeline.card import make_card, write_card
from trainer.pipeline.choose import Chosen, choose, iterate
from trainer.pipeline.clean import clean_unit
from trainer.pipeline.encode import encode_all, join, tokens_by
from trainer.pipeline.plan import Plan, make_plan
from trainer.pipeline.records import Finished, close_texts, finished
from trainer.pipeline.settings import Settings
from trainer.pipeline.workers import CLEANED, COMPARED, Workers, workers
from trainer.place import existing_folder, put_in_place
from trainer.tokenizers import (
    TRAINERS,
    ByteTokenizer,
    Tokenizer,
    TokenizerRequest,
    load_tokenizer,
    save_tokenizer,
)
from trainer.tokens import (
    FORMAT,
    LABELS,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    VERSION,
    TokenFolder,
    data_sha256,
    file_table,
    token_dtype,
)

PIPELINE = 2  # raised whenever the same inputs give other token files
ENTRY = "tokenizer-entry.json"


def build_pipeline(out: Path, settings: Settings, count: int) -> TokenFolder:
    """Build `out`, or go on with a build that was stopped, or reuse what is complete.

    `count` processes share the work; the result does not depend on it. Raises ScalingError when a
    part is not installed, a source is not there, nothing is left, or `out` holds something else.
    """
    request = TokenizerRequest.parse(settings.tokenizer)
    settings.check_parts()
    given = request.load() if request.given else None
    plan = make_plan(settings.sources)
    inputs = to_jsonable(settings.inputs) | {"tokenizer": request.identity()}
    state = {"pipeline": PIPELINE, "sources": plan.state, "libraries": settings.versions()}
    existing = existing_folder(out, inputs)
    place = out.parent / f".{out.name}.build"
    if existing is not None and existing.manifest.get("state") == state:
        shutil.rmtree(place, ignore_errors=True)
        return existing
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(place), workers(count) as crew:
        work = _prepare(place, sha256_json([inputs, state, plan.sha256()]))
        units = _clean_all(work, plan, settings, crew)
        chosen = choose(units, settings)
        entry, notes = _train_tokenizer(work, request, given, chosen)
        encode_all(work, chosen.places, entry, crew, settings.extras.scorer)
        close_texts()
        manifest = _finish(work, plan, settings, chosen, entry, notes, inputs, state)
        manifest["build_seconds"] = round(time.monotonic() - started, 2)
        write_json(work / "folder" / MANIFEST, manifest)
        write_card(work / "folder", manifest)
        folder = put_in_place(work / "folder", out, existing, manifest)
    shutil.rmtree(place, ignore_errors=True)
    return folder


def _clean_all(work: Path, plan: Plan, settings: Settings, crew: Workers) -> list[Finished]:
    done = [finished(work, number) is not None for number in range(len(plan.units))]
    tasks = [(work, number, unit, settings) for number, unit in enumerate(plan.units) if not done[number]]
    before = sum(unit.size for unit, is_done in zip(plan.units, done) if is_done)
    stage("reading and cleaning", 0.0, CLEANED)
    crew.run(clean_unit, tasks, measured("reading and cleaning", plan.size, before, "B"))
    units = [finished(work, number) for number in range(len(plan.units))]
    complete = [unit for unit in units if unit is not None]
    if len(complete) < len(units):
        raise ScalingError(f"{work}: a finished unit vanished during the build; run the same command again.")
    return complete


def _train_tokenizer(
    work: Path, request: TokenizerRequest, given: Tokenizer | None, chosen: Chosen
) -> tuple[dict[str, Any], list[str]]:
    """The tokenizer, kept in the work folder: its manifest entry and what is worth saying."""
    if (work / ENTRY).exists():
        kept = read_json(work / ENTRY)
        if (work / TOKENIZER).is_file() and sha256_bytes((work / TOKENIZER).read_bytes()) == kept["entry"][
            "sha256"
        ]:
            return kept["entry"], kept["notes"]
    notes: list[str] = []
    coder: Tokenizer
    if given is not None:
        coder = given
        notes += round_trip_notes(given, iterate(chosen.places["validation"], work))
    elif request.kind in TRAINERS:
        assert request.vocab_size is not None
        stage(f"training a {request.kind} tokenizer of {request.vocab_size:,} symbols", COMPARED)
        texts = first_bytes(iterate(chosen.places["train"], work), BPE_BYTES)
        coder = TRAINERS[request.kind](texts, request.vocab_size)
        if coder.vocab_size < request.vocab_size:
            notes.append(
                f"The text yields a vocabulary of {coder.vocab_size} "
                f"where {request.vocab_size} were asked for."
            )
    else:
        coder = ByteTokenizer(chosen.symbols)
    entry = save_tokenizer(coder, work / TOKENIZER)
    write_json(work / ENTRY, {"entry": entry, "notes": notes})
    return entry, notes


def _finish(
    work: Path,
    plan: Plan,
    settings: Settings,
    chosen: Chosen,
    entry: dict[str, Any],
    notes: list[str],
    inputs: dict[str, Any],
    state: dict[str, Any],
) -> dict[str, Any]:
    """Write the folder's files and return its manifest."""
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    dtype = token_dtype(entry["vocab_size"])
    splits = {split: join(work, chosen.places[split], split, folder, dtype) for split in SPLITS}
    coder = load_tokenizer(work / TOKENIZER, entry)
    canary = {
        label: (kind, len(chosen.tables[table]))
        for (label, kind), table in zip(LABELS.items(), ("languages", "domains", "sources"))
    }
    splits, further, more = settings.extras.add(folder, splits, coder, dtype, settings.seed, canary)
    planted = [CANARY] if settings.extras.canaries else []
    for table, names in {table: [*names, *planted] for table, names in chosen.tables.items()}.items():
        (folder / f"{table}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    shutil.copyfile(work / TOKENIZER, folder / TOKENIZER)
    licence = settings.licence or "; ".join(dict.fromkeys(plan.licences))
    shares: dict[str, Any] = {}
    for label, table in zip(LABELS, ("languages", "domains", "sources")):
        names = chosen.tables[table]
        train = chosen.places["train"]
        tokens = tokens_by(label, train, work, "train", len(names))
        documents = np.bincount(train[label], minlength=len(names))
        order = np.argsort(-tokens, kind="stable")
        shares[table] = {
            names[i]: {"documents": int(documents[i]), "tokens": int(tokens[i])} for i in order[:50].tolist()
        }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": ", ".join(settings.sources),
        "sha256": "",
        "tokenizer": entry,
        "dtype": dtype.str,
        "splits": splits,
        "licence": licence,
        "entropy_rate_nats": None,
        "validation": chosen.validation,
        "excluded": chosen.excluded,
        "notes": [*chosen.notes, *notes, *more],
        **further,
        "labels": list(LABELS),
        "made_with": {"scaling": __version__, "python": platform.python_version()},
        "inputs": inputs,
        "state": state,
        "files": file_table(folder),
    }
    manifest["sha256"] = data_sha256(manifest)
    both = [splits[split] for split in SPLITS]
    manifest["bytes_per_token"] = sum(s["bytes"] for s in both) / sum(s["tokens"] for s in both)
    manifest["card"] = make_card(settings, plan, chosen, splits, shares, work)
    return manifest


def _prepare(place: Path, identity: str) -> Path:
    """The folder of this very build, with what an interrupted one left; whatever else is there goes.

    It is named after the inputs: a worker that outlives a killed build by a moment finds its folder
    gone, and cannot put a file of other settings into this one.
    """
    close_texts()
    work = place / identity[:16]
    for other in place.iterdir():
        if other.is_dir() and other != work:
            shutil.rmtree(other)
    work.mkdir(exist_ok=True)
    for leftover in work.glob("*.tmp"):
        leftover.unlink(missing_ok=True)
    return work


@contextmanager
def _claimed(place: Path) -> Iterator[None]:
    """Hold the place for this process; the system lets go when it dies. Raises if another builds."""
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ScalingError(f"{place}: another build of the same place is running; wait for it.") from None
    try:
        yield
    finally:
        os.close(handle)
