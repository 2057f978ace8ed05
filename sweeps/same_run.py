"""Is a finished run the run that is asked for? Its record names the config it was trained from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json
from scaling.results import read_result
from sweeps import index


def refuse_others(runs: Iterable[tuple[Path, Mapping[str, Any]]], home: Path | None = None) -> set[str]:
    """Raise ScalingError naming the first (folder, config) whose result is of another config.

    What does not decide a result (name, paths, checkpoint cadence) may differ. A record without a
    hash, of a trainer that writes none, is taken at its word. What has been compared is remembered in the
    index of `home`, and compared again when the result, its config or what is asked for has changed. Returns
    the names of the folders whose results are those that are asked for.
    """
    known = {} if home is None else index.load(home, index.CHECKED)
    found: dict[str, list[Any]] = {}
    for folder, config in runs:
        signed = [index.signature(folder), index.signature(folder, "config.json")]
        if signed[0] is None:
            continue
        entry = [*signed, sha256_json(config)]
        if known.get(folder.name) != entry:
            refuse_another(folder, config)
        found[folder.name] = entry
    if home is not None and found != known:
        index.save(home, found, index.CHECKED)
    return set(found)


def refuse_another(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ScalingError when the finished run in `folder` is not the run of `config`."""
    from trainer.config import config_from_dict

    path = folder / "result.json"
    wanted = config_from_dict(config, str(folder / "config.json")).sha256
    found = read_result(path).get("config_sha256")
    if found is not None and found != wanted:
        raise ScalingError(
            f"{path}: the result of another config (sha256 {str(found)[:12]}, not {wanted[:12]} of this"
            f" run); remove the folder {folder.name} to train the run again, or use another folder."
        )
    written = folder / "config.json"
    if written.exists() and config_from_dict(read_json(written), str(written)).sha256 != wanted:
        raise ScalingError(
            f"{written}: was changed after its run finished, and is not the config of this run; restore"
            f" it, or remove the folder {folder.name} to train the run again."
        )
