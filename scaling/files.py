"""Files that are never half-written: atomic writes, strict JSON, hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from scaling.errors import ScalingError

T = TypeVar("T")


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are flushed to disk, and replace
    `path` in one rename. Raises ScalingError when the file system refuses.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        _replace(path, data)
    except OSError as error:
        raise ScalingError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return path


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def added(default: T) -> T:
    """A dataclass field that came later: left out of files while it holds its default, so that what was
    written before it came keeps its meaning and its hash."""
    return dataclasses.field(default=default, metadata={"added": True})


def written(value: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that go into files: all but those `added` that hold their default."""
    fields = dataclasses.fields(value)
    return [f for f in fields if not ("added" in f.metadata and getattr(value, f.name) == f.default)]


def as_fields(value: Any) -> Any:
    """`dataclasses.asdict` for files: nested dataclasses as dicts of the fields that are `written`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_fields(getattr(value, f.name)) for f in written(value)}
    if isinstance(value, Mapping):
        return {k: as_fields(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_fields(v) for v in value)
    return value


def to_jsonable(value: Any) -> Any:
    """Plain JSON values from dataclasses, numpy scalars and arrays; non-finite numbers become null."""
    if value is None or type(value) in (str, int, bool):  # most of a large file: asked first
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in written(value)}
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return to_jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def dumps(value: Any, indent: int | None = 2) -> str:
    return json.dumps(to_jsonable(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> Path:
    return write_atomic(path, dumps(value) + "\n")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def read_bytes(path: str | Path) -> bytes:
    """The file's content; raises ScalingError when it is missing or cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file.") from None
    except OSError as error:
        raise ScalingError(f"{path}: cannot be read ({error.strerror or error}).") from None


def read_json(path: str | Path, expect: str | None = None) -> dict[str, Any]:
    """Read a JSON object; `expect` names the `format` it must carry (`scaling/plan`, ...).

    Raises ScalingError when the file is missing, is not JSON, is no object, or has another format.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise ScalingError(f"{path}: is a folder; name the JSON file in it.") from None
    except NotADirectoryError:
        raise ScalingError(f"{path.parent}: is a file; name the folder that holds {path.name}.") from None
    except UnicodeDecodeError:
        raise ScalingError(f"{path}: is no text in UTF-8; a JSON file is expected.") from None
    except OSError as error:
        raise ScalingError(f"{path}: cannot be read ({error.strerror or error}).") from None
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ScalingError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, endless nesting
        raise ScalingError(f"{path}: not valid JSON ({str(error).partition(';')[0]}).") from None
    if not isinstance(value, dict):
        raise ScalingError(f"{path}: a JSON object is expected, found a {type(value).__name__}.")
    if expect is not None and value.get("format") != expect:
        found = value.get("format")
        said = "this one names no format" if found is None else f"this one says {found!r}"
        raise ScalingError(f"{path}: a file of format {expect!r} is expected, {said}.")
    return value


Kinds = type | tuple[type, ...]


def check_fields(value: Mapping[str, Any], fields: Mapping[str, Kinds], where: str) -> None:
    """Raise ScalingError naming the first of `fields` that `value` lacks, or holds in another kind.

    A name may be dotted (`inputs.flops`); a field whose kinds include NoneType may be absent.
    """
    for name, kinds in fields.items():
        *above, last = name.split(".")
        holder: Any = value
        for key in above:
            holder = holder.get(key) if isinstance(holder, Mapping) else None
        found = holder.get(last) if isinstance(holder, Mapping) else None
        if not isinstance(found, kinds) or (isinstance(found, bool) and kinds is not bool):
            raise ScalingError(f"{where}: field {name!r} is missing or malformed.")


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of the canonical JSON text of `value` (keys sorted, no white space)."""
    text = json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_bytes(text.encode())


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build dataclass `cls` from `mapping`, naming unknown and missing fields.

    `where` names the file or object for the message. Extra validation is the dataclass's own
    `__post_init__`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(mapping) - set(fields))
    if unknown:
        raise ScalingError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(fields))}.")
    missing = [
        name
        for name, f in fields.items()
        if name not in mapping
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ScalingError(f"{where}: field {missing[0]!r} is missing.")
    try:
        return cls(**mapping)
    except (TypeError, ValueError) as error:
        raise ScalingError(f"{where}: {error}") from None
