"""Tensors in the safetensors format: a JSON header, then raw little-endian arrays, nothing executable.

https://github.com/huggingface/safetensors: 8 bytes header length, the header, the arrays without gaps.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from scaling.errors import ScalingError

TYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
}
LONGEST_HEADER = 100_000_000  # the limit of the format's own library


class Tensor(NamedTuple):
    """A float32 tensor to write: `make` gives the array when its turn comes, so one at a time is held."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_tensors(path: str | Path, tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> str:
    """Write the tensors as float32 in the given order, all or nothing; returns the file's SHA-256."""
    path, tensors = Path(path), list(tensors)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for tensor in tensors:
        size = 4 * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    digest = sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                for part in (len(text).to_bytes(8, "little"), text):
                    digest.update(part)
                    stream.write(part)
                for tensor in tensors:
                    array = np.asarray(tensor.make(), "<f4", order="C")
                    if array.shape != tensor.shape:
                        raise ValueError(f"{tensor.name} has shape {array.shape}, not {tensor.shape}.")
                    flat = array.reshape(-1).view(np.uint8).data
                    digest.update(flat)
                    stream.write(flat)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ScalingError(f"{path}: cannot be written ({error.strerror or error}).") from error
    return digest.hexdigest()


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The file's tensors by name, memory-mapped and read-only, in the types they are stored in.

    Raises ScalingError when the file is missing, cut short, or not of the format.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(LONGEST_HEADER, size - 8):
                raise ValueError("its header does not fit the file")
            header = json.loads(stream.read(length))
        begin = 8 + length
        return {
            name: _view(path, name, entry, begin, size - begin)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file.") from None
    except OSError as error:
        raise ScalingError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ScalingError(
            f"{path}: not a readable safetensors file ({str(error)[:200]}); it is damaged or cut short."
        ) from None


def _view(path: Path, name: str, entry: dict, begin: int, available: int) -> np.ndarray:
    if entry["dtype"] not in TYPES:
        raise ValueError(f"tensor {name} has type {entry['dtype']}; known are {', '.join(TYPES)}")
    dtype, shape = TYPES[entry["dtype"]], tuple(entry["shape"])
    first, last = entry["data_offsets"]
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, first, last))
    if not whole or last > available or last - first != dtype.itemsize * math.prod(shape):
        raise ValueError(f"tensor {name} does not fit the file")
    if first == last:
        return np.zeros(shape, dtype)
    return np.memmap(path, np.uint8, "r", begin + first, (last - first,)).view(dtype).reshape(shape)
