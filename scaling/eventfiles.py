"""The scalars in one event file of TensorBoard, read without TensorBoard.

A file is a row of TFRecords (length, checksum of the length, an Event, checksum of the Event), an Event a
protocol buffer of which scalars need few fields: tensorboard/compat/proto/{event,summary,tensor}.proto of
https://github.com/tensorflow/tensorboard. Both ways to write a scalar are read: `simple_value` (PyTorch,
tensorboardX) and a tensor of one number (TensorFlow 2, clu, MaxText, Levanter).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

HEAD, TAIL = (
    12,
    4,
)  # bytes around a record: its length (8) and the length's checksum (4), its own checksum (4)
FEW = 16  # records that are checked faster one by one than together
START = 1  # SessionLog.START
FLOATS = {1: ("<f4", 5), 2: ("<f8", 6)}  # TensorProto.dtype -> numpy's, and the field of values listed


class Torn(ValueError):
    """What is wrong with a file, to go behind its name."""


class Event(NamedTuple):
    """A step, whether a session starts there (so that what was written from it on is void), and scalars."""

    step: int
    starts: bool
    scalars: list[tuple[str, float]]


def events(content: bytes) -> list[Event]:
    """The events of a file in order; raises Torn for a file that is cut off or fails a checksum."""
    places, at = [], 0
    while at + HEAD <= len(content):
        places.append((at, struct.unpack_from("<Q", content, at)[0]))
        at += HEAD + places[-1][1] + TAIL
    whole = places[:-1] if at > len(content) else places
    read = [_event(content[start + HEAD : start + HEAD + size]) for start, size in whole]
    sound = _sound(content, [(start, 8) for start, _ in places])
    sound[: len(whole)] &= _sound(content, [(start + HEAD, size) for start, size in whole])
    sound[: len(read)] &= [event is not None for event in read]
    if not sound.all():
        broken = int(np.argmin(sound))
        raise Torn(f"is corrupt in record {broken + 1} (byte {places[broken][0]:,})")
    if at != len(content):
        begin = places[-1][0] if at > len(content) else at
        raise Torn(f"ends within record {len(whole) + 1} (byte {begin:,}): still being written, or cut off")
    return [event for event in read if event is not None]


def _sound(content: bytes, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """Whether each stretch (start, size) has the CRC-32C, masked, that follows it.

    All go together from byte to byte, until few are long enough to go on; those are finished one by one.
    """
    data, table = np.frombuffer(content, np.uint8), _table()
    start, size = np.array(places, np.int64).reshape(-1, 2).T
    order = np.argsort(-size)
    start, size = start[order], size[order]
    crc = np.full(len(places), 0xFFFFFFFF, np.uint32)
    together = int(size[FEW]) if len(size) > FEW else 0
    for i in range(together):
        some = slice(np.searchsorted(-size, -i))  # those longer than i
        crc[some] = table[(crc[some] ^ data[start[some] + i]) & 0xFF] ^ (crc[some] >> np.uint32(8))
    listed = table.tolist()
    for k in range(np.searchsorted(-size, -together)):
        one = int(crc[k])
        for byte in content[start[k] + together : start[k] + size[k]]:
            one = listed[(one ^ byte) & 0xFF] ^ (one >> 8)
        crc[k] = one
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    after = data[(start + size)[:, None] + np.arange(TAIL)].astype(np.uint32)
    right = np.empty(len(places), bool)
    right[order] = masked == (after << np.arange(0, 32, 8, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    return right


@cache
def _table() -> np.ndarray:
    """CRC-32C (Castagnoli) of each byte."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> np.uint32(1)) ^ np.uint32(0x82F63B78), crc >> np.uint32(1))
    return crc.astype(np.uint32)


def _event(record: bytes) -> Event | None:
    """The event, or None for what is none."""
    step, starts = 0, False
    scalars: list[tuple[str, float]] = []
    try:
        for field, value in _fields(record):
            if field == 2:
                step = value - (value >> 63 << 64)
            elif field == 7:  # SessionLog
                starts = dict(_fields(value)).get(1) == START
            elif field == 5:  # Summary, of which each field 1 is a Value
                scalars += [found for one, part in _fields(value) if one == 1 for found in _scalar(part)]
    except (ValueError, IndexError, TypeError, struct.error):
        return None
    return Event(step, starts, scalars)


def _scalar(value: bytes) -> Iterator[tuple[str, float]]:
    """(tag, number) of a Summary.Value; nothing of a picture, a text or a histogram."""
    said = dict(_fields(value))
    if 1 not in said:
        return
    tag = said[1].decode()
    if 2 in said:
        yield tag, struct.unpack("<f", said[2])[0]
    elif 8 in said:
        tensor = dict(_fields(said[8]))
        kind, listed = FLOATS.get(tensor.get(1, 0), ("", 0))
        numbers = tensor.get(4) or tensor.get(listed, b"")
        if kind and len(numbers) == np.dtype(kind).itemsize:
            yield tag, float(np.frombuffer(numbers, kind)[0])


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protocol buffer: integers for varints, bytes for all else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value: Any
            value, at = _varint(message, at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(kind) or _varint(message, at)
            if kind not in (1, 2, 5) or at + size > len(message):
                raise ValueError("no protocol buffer")
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
