"""Bits at their information size: a boolean tensor as bytes, packed or entropy-coded.

A mask of n entries of which k are the rarer value is worth n H(k/n) bits, H being the binary
entropy. Packing takes n bits whatever k is. Where that is more, the distances between the rarer
entries are written instead: their low bits, which are as good as random, as they are, and what is
left above them, byte by byte, through zlib's Huffman coder. For random masks of millions of
entries that stays within 2 % of the entropy.
"""

import json
import math
import struct
import zlib

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]

PACKED, GAPS = 0, 1
WORTH = 0.97  # of the packed size: an entropy above it is not worth the coding time
Masks = dict[str, npt.NDArray[np.bool_]]  # of any shape

_HEADER = struct.Struct("<BBBQQ")  # codec, rarer value, low bits, entries, rarer entries
_TABLE = 1 << 24  # bytes of the masks' names and shapes, at most
_ESCAPE = 255  # a byte that says: add 255 and read on


def encode(bits: Bits) -> bytes:
    """The shorter of both codings of a flat boolean array."""
    ones = int(np.count_nonzero(bits))
    rare, count = int(2 * ones <= bits.size), min(ones, bits.size - ones)
    low = _low_bits(bits.size, count)
    head = (rare, low, bits.size, count)
    packed = _HEADER.pack(PACKED, *head) + np.packbits(bits).tobytes()
    if entropy_bits(bits.size, count) > WORTH * bits.size:
        return packed
    gaps = np.diff(np.flatnonzero(bits == bool(rare)), prepend=-1) - 1
    coded = _HEADER.pack(GAPS, *head) + _encode_gaps(gaps, low)
    return min(packed, coded, key=len)


def decode(content: bytes, most: int | None = None) -> Bits:
    """The array that `encode` was given.

    Raises:
        ValueError: if the bytes are not what `encode` writes, or stand for more than `most`
            entries.
    """
    try:
        codec, rare, low, size, count = _HEADER.unpack_from(content)
        if count > size or low > 64 or (most is not None and size > most):
            raise IndexError(f"{count} of {size} entries")
        body = content[_HEADER.size :]
        if codec == PACKED:
            if len(body) != -(-size // 8):
                raise IndexError(f"{len(body)} bytes for {size} bits")
            return np.unpackbits(np.frombuffer(body, np.uint8), count=size).astype(bool)
        places = np.cumsum(_decode_gaps(body, low, count, size) + 1) - 1
        bits = np.full(size, not rare)
        bits[places] = bool(rare)
    except (struct.error, zlib.error, IndexError) as error:
        raise ValueError(f"not a coded mask: {error}") from error
    return bits


def encode_all(masks: Masks) -> bytes:
    """Named masks of any shapes: coded one by one, or as one where that is shorter."""
    shapes = {name: mask.shape for name, mask in masks.items()}
    table = zlib.compress(json.dumps(shapes).encode(), 9)
    flat = [mask.ravel() for mask in masks.values()]
    single, joint = [encode(bits) for bits in flat], [encode(np.concatenate(flat))]
    pieces = min(single, joint, key=lambda pieces: sum(map(len, pieces)) + 8 * len(pieces))
    return b"".join(struct.pack("<Q", len(part)) + part for part in (table, *pieces))


def decode_all(content: bytes, most: int | None = None) -> Masks:
    """The masks that `encode_all` was given.

    Raises:
        ValueError: if the bytes are not what `encode_all` writes, or stand for more than `most`
            entries.
    """
    parts, start = [], 0
    try:
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            parts.append(content[start + 8 : start + 8 + length])
            start += 8 + length
        shapes: dict[str, list[int]] = json.loads(_inflated(parts[0], _TABLE, zlib.MAX_WBITS))
        flat = np.concatenate([decode(part, most) for part in parts[1:]])
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
        pieces = np.split(flat, ends[:-1])
        return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
    except (struct.error, zlib.error, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a coded mask: {error}") from error


def entropy_bits(size: int, ones: int) -> float:
    """n H(k/n): the least that a mask of so many entries, so many of them set, takes on average."""
    if ones in (0, size):
        return 0.0
    p = ones / size
    return -size * (p * math.log2(p) + (1 - p) * math.log2(1 - p))


def _low_bits(size: int, count: int) -> int:
    """How many bits of a distance are written raw: all but about five of a typical one's."""
    return max(0, int(math.log2(size / count)) - 4) if count else 0


def _encode_gaps(gaps: npt.NDArray[np.int64], low: int) -> bytes:
    high, escapes = gaps >> low, (gaps >> low) // _ESCAPE
    stream = np.full(int((escapes + 1).sum()), _ESCAPE, np.uint8)
    stream[np.cumsum(escapes + 1) - 1] = high - escapes * _ESCAPE
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    coded = coder.compress(stream.tobytes()) + coder.flush()
    raw = np.packbits((gaps[:, None] >> np.arange(low)) & 1) if low else np.empty(0, np.uint8)
    return struct.pack("<Q", len(coded)) + coded + raw.astype(np.uint8).tobytes()


def _inflated(content: bytes, most: int, wbits: int) -> bytes:
    """Decompressed bytes, of which there may be no more than `most`."""
    coder = zlib.decompressobj(wbits)
    found = coder.decompress(content, most + 1)
    if len(found) > most or not coder.eof:
        raise IndexError(f"not the end after {len(found)} bytes")
    return found


def _decode_gaps(body: bytes, low: int, count: int, size: int) -> npt.NDArray[np.int64]:
    (length,) = struct.unpack_from("<Q", body)
    most = count + (size >> low) // _ESCAPE + 1
    stream = np.frombuffer(_inflated(body[8 : 8 + length], most, -15), np.uint8).astype(np.int64)
    ends = np.flatnonzero(stream != _ESCAPE)
    if len(ends) != count:
        raise IndexError(f"{len(ends)} distances, not {count}")
    high: npt.NDArray[np.int64] = np.diff(np.cumsum(stream)[ends], prepend=0)
    if not low:
        return high
    raw = np.unpackbits(np.frombuffer(body[8 + length :], np.uint8), count=count * low)
    parts = raw.reshape(count, low).astype(np.int64) << np.arange(low)
    rest: npt.NDArray[np.int64] = parts.sum(1)
    return (high << low) + rest
