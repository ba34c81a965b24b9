"""The wire format of `tf.train.Example`, the record type of TFDS, without TensorFlow.

An Example is a protocol buffer (https://protobuf.dev/programming-guides/encoding/):

    Example { Features features = 1; }         Features { map<string, Feature> feature = 1; }
    Feature { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    BytesList { repeated bytes value = 1; }    Int64List { repeated int64 value = 1; }    (packed)

Only features of bytes and of integers are supported.
"""

from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np

_LENGTH_DELIMITED = 2  # wire type
_BYTES_LIST, _INT64_LIST = 1, 3  # field numbers


def _varint(value: int) -> bytes:
    """A non-negative integer in groups of seven bits, the lowest first; the high bit marks all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, *parts: bytes) -> list[bytes]:
    """A length-delimited field; the parts of its content are not copied."""
    return [_varint(number << 3 | _LENGTH_DELIMITED), _varint(sum(map(len, parts))), *parts]


def encode(features: Mapping[str, bytes | int | Sequence[int]]) -> bytes:
    """Serializes features.

    Args:
        features: name → bytes, an integer of 0 or more, or any number of such integers.

    Returns:
        The serialized `tf.train.Example`.
    """
    entries: list[bytes] = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(_BYTES_LIST, *_field(1, value))
        else:
            values = [value] if isinstance(value, int) else value
            feature = _field(_INT64_LIST, *(_field(1, *map(_varint, values)) if values else []))
        entries += _field(1, *_field(1, name.encode()), *_field(2, *feature))
    return b"".join(_field(1, *entries))


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """The varint at `place`, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of the length-delimited fields of a message."""
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"wire type {tag & 7} in a tf.train.Example; expected {_LENGTH_DELIMITED}")
        length, place = _read_varint(data, place)
        if place + length > len(data):
            raise ValueError("a tf.train.Example ends early")
        yield tag >> 3, data[place : place + length]
        place += length


def decode_varints(data: bytes | memoryview) -> np.ndarray:
    """Decodes packed varints: (n,) int64."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: len(ends)]
    lengths = ends - starts + 1
    values = np.zeros(len(ends), np.uint64)
    for group in range(int(lengths.max(initial=0))):
        longer = lengths > group
        values[longer] |= (octets[starts[longer] + group] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * group)
    return values.view(np.int64)


def decode(record: bytes, names: Container[str]) -> dict[str, Sequence[bytes] | np.ndarray]:
    """Parses some features of a serialized `tf.train.Example`.

    Args:
        record: the serialized message.
        names: the features to parse.

    Returns:
        name → a list of bytes, or (n,) int64, of those features that are there.

    Raises:
        ValueError, IndexError: not a tf.train.Example, or a feature of floats.
    """
    features: dict[str, Sequence[bytes] | np.ndarray] = {}
    for _, entries in _fields(memoryview(record)):
        for _, entry in _fields(entries):
            parts = dict(_fields(entry))
            name = bytes(parts[1]).decode()
            if name not in names:
                continue
            ((kind, values),) = _fields(parts[2])  # a oneof
            if kind == _BYTES_LIST:
                features[name] = [bytes(value) for _, value in _fields(values)]
            elif kind == _INT64_LIST:
                features[name] = decode_varints(b"".join(packed for _, packed in _fields(values)))
            else:
                raise ValueError(f"feature {name} of a tf.train.Example holds floats")
    return features
