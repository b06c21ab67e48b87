"""Bytes -> damaged bytes, and files -> files that lie about themselves."""

import gzip
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Mutation = Callable[[bytes, random.Random], bytes]
TRAP = "unpickled"
"""Environment variable: a file that appears if anything unpickles what it must not."""


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (os.environ[TRAP], "w")


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def flips(content: bytes, rng: random.Random) -> bytes:
    """Twenty bits."""
    for _ in range(20):
        content = flip(content, rng)
    return content


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def behead(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(1, len(content)) :]


def hole(content: bytes, rng: random.Random) -> bytes:
    """A part of zeros, as a lost disk block leaves it."""
    start = rng.randrange(len(content))
    length = min(len(content) - start, rng.randint(16, 4096))
    return content[:start] + bytes(length) + content[start + length :]


def foreign(content: bytes, rng: random.Random) -> bytes:
    """Something else altogether."""
    packed = io.BytesIO()
    np.savez(packed, a=np.zeros(3))
    objects = io.BytesIO()
    np.save(objects, np.array([Trap()], dtype=object), allow_pickle=True)
    return rng.choice(
        [
            b"",
            b"hello, I am text",
            b"\x89PNG\r\n\x1a\n" + bytes(64),
            rng.randbytes(2000),
            pickle.dumps(Trap()),
            packed.getvalue(),
            objects.getvalue(),
            gzip.compress(b"text in gzip"),
            b"[" * 100_000,
            b'{"a":' * 50_000,
            bytes(5000),
        ]
    )


BYTES: tuple[Mutation, ...] = (flip, flips, cut, behead, hole, foreign)

# --- JSON ----------------------------------------------------------------------------------

_VALUES = (None, -1, 0, 1e308, True, "x", "../../x", [], {}, [[]], {"a": None}, "9" * 5000)


def edit(content: bytes, rng: random.Random) -> bytes:
    """Another value somewhere, or a key that is not there any more."""
    tree = json.loads(content)
    places = list(_places(tree))
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
    else:
        others = [value for value in _VALUES if value != holder[key]]
        holder[key] = rng.choice(others)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


# --- .npy and .npz -------------------------------------------------------------------------


def claim(content: bytes, rng: random.Random) -> bytes:
    """A .npy header that claims terabytes, pickled objects or nonsense."""
    shape = rng.choice(["(10000, 10000, 10000, 3)", "(-1, 4, 4, 3)", "()", "(1e3,)", "(", "None"])
    kind = rng.choice(["'<f2'", "'|O'", "'<f8'", "'V9'", "None", "[('a', '<f2')]", "'M8[s]'"])
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    body = content[-2000:]
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def other_array(content: bytes, rng: random.Random) -> bytes:
    """A sound .npy file of another dtype or shape."""
    array = np.load(io.BytesIO(content))
    others = [
        array.astype(np.float64),
        array.astype(np.float32),
        array[..., :-1],
        array[1:],
        array[..., None],
        np.zeros(3, np.float16),
        array.astype(np.complex64),
        np.array(["a", "b"]),
        np.concatenate([array, array]),
    ]
    target = io.BytesIO()
    np.save(target, rng.choice(others), allow_pickle=False)
    return target.getvalue()


# --- NIfTI ---------------------------------------------------------------------------------

# What the header says of the scan: (offset, struct format, impossible values)
_FIELDS = (
    (40, "8h", [(3, 32767, 32767, 32767, 1, 1, 1, 1), (3, -5, 4, 4, 1, 1, 1, 1)]),
    (40, "8h", [(7, 9, 9, 9, 9, 9, 9, 9), (0, 0, 0, 0, 0, 0, 0, 0), (3, 1, 1, 1, 1, 1, 1, 1)]),
    (70, "h", [(1,), (32,), (128,), (1792,), (999,), (0,), (-1,)]),
    (76, "8f", [(1, 2, 1, 1, 1, 1, 1, 1), (1, np.nan, 1, 1, 1, 1, 1, 1), (1, 0, 0, 0, 1, 1, 1, 1)]),
    (108, "f", [(1e12,), (np.nan,), (-1.0,), (0.0,), (np.inf,), (100_000.0,)]),
    (123, "b", [(1,), (3,), (7,)]),
    (280, "4f", [(np.nan, 0, 0, 0), (np.inf, 0, 0, 0), (0, 0, 0, 0), (3, 0, 0, 0)]),
    (344, "4s", [(b"nope",), (b"ni1\x00",)]),
)


def header(content: bytes, rng: random.Random) -> bytes:
    """A NIfTI header that claims what is not so."""
    offset, form, values = rng.choice(_FIELDS)
    changed = bytearray(content)
    struct.pack_into(f"<{form}", changed, offset, *rng.choice(values))
    return bytes(changed)


def header_flip(content: bytes, rng: random.Random) -> bytes:
    """One bit of a NIfTI header, but not of its scale, which nothing contradicts."""
    place = rng.choice([*range(112), *range(120, 348)])
    changed = bytearray(content)
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def in_gzip(mutation: Mutation) -> Mutation:
    """The same inside a gzip file whose checksum is right."""

    def packed(content: bytes, rng: random.Random) -> bytes:
        return gzip.compress(mutation(gzip.decompress(content), rng), 1)

    packed.__name__ = f"{mutation.__name__} in gzip"
    return packed


def endless(content: bytes, rng: random.Random) -> bytes:
    """A sound scan, and after it 8 GB of zeros, packed."""
    return content + gzip.compress(bytes(1 << 26), 1) * 128


def swap(path: Path) -> Mutation:
    """The content of another file."""

    def swapped(content: bytes, rng: random.Random) -> bytes:
        return path.read_bytes()

    return swapped


def changed(change: Callable[[Any], None]) -> Mutation:
    """A JSON file after `change(tree)`."""

    def mutation(content: bytes, rng: random.Random) -> bytes:
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return mutation
