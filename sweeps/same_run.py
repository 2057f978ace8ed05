"""Is a finished run the run that is asked for? Its record names the config it was trained from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json
from scaling.results import read_result


def refuse_others(runs: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raise ScalingError naming the first (folder, config) whose result is of another config.

    What does not decide a result (name, paths, checkpoint cadence) may differ. A record without a
    hash, of a trainer that writes none, is taken at its word.
    """
    from trainer.config import config_from_dict

    for folder, config in runs:
        path = folder / "result.json"
        if not path.exists():
            continue
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
