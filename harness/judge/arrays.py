"""Arrays in files: .npy, .npz and .safetensors, read without numpy, with every promise of the header checked.

Formats: numpy's NEP 1 (versions 1 to 3) and the safetensors format (8 bytes of header length, JSON, data).
"""

from __future__ import annotations

import ast
import json
import math
import struct
import sys
import zipfile
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.judge.said import say

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
MAX_VALUES = 5_000_000  # values of one array that are looked at; more would take a Python program minutes


@dataclass(frozen=True)
class StoredArray:
    """One array of a file; ``load`` reads its raw bytes (little or native endian, as ``code`` says).

    Attributes:
        shape: lengths of its axes.
        dtype: numpy's name of the type (``float32``), or ``bfloat16``.
        by_columns: stored in Fortran's order, in which values cannot be compared with those of another file.
    """

    shape: tuple[int, ...]
    dtype: str
    big_endian: bool
    load: Callable[[], bytes]
    by_columns: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def values(self) -> Sequence[float]:
        """The values in file order.

        Raises:
            ValueError: more than ``MAX_VALUES``, in Fortran's order, not numbers, or fewer bytes than the shape needs.
        """
        if self.size > MAX_VALUES:
            raise ValueError(
                say(
                    "holds {size} values; at most {most} are compared: write a sample of them",
                    "含有 {size} 个数值；最多比较 {most} 个：请写出样本",
                    size=f"{self.size:,}",
                    most=f"{MAX_VALUES:,}",
                )
            )
        if self.by_columns and len(self.shape) > 1:
            raise ValueError(
                say(
                    "is stored in Fortran's order; save numpy.ascontiguousarray of it",
                    "以 Fortran 顺序存储；请保存 numpy.ascontiguousarray 的结果",
                )
            )
        width, decode = _decoder(self.dtype)
        data = self.load()
        if len(data) != width * self.size:
            raise ValueError(
                say(
                    "holds {bytes} bytes for {size} values of {dtype}",
                    "{size} 个 {dtype} 数值却有 {bytes} 字节",
                    bytes=len(data),
                    size=f"{self.size:,}",
                    dtype=self.dtype,
                )
            )
        return decode(data, self.big_endian)


# numpy's type character and width -> name
_NUMPY = {
    "f2": "float16", "f4": "float32", "f8": "float64", "b1": "bool",
    "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
}  # fmt: skip
_SAFETENSORS = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip
_TYPECODES = {
    "float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "bool": "B",
}  # fmt: skip
DTYPES = tuple(sorted({*_NUMPY.values(), *_SAFETENSORS.values()}))


def _decoder(dtype: str) -> tuple[int, Callable[[bytes, bool], Sequence[float]]]:
    """(bytes per value, bytes -> values)."""

    def plain(data: bytes, big_endian: bool) -> Sequence[float]:
        found = array(_TYPECODES[dtype])
        found.frombytes(data)
        if big_endian != (sys.byteorder == "big"):
            found.byteswap()
        return found

    def half(data: bytes, big_endian: bool) -> Sequence[float]:
        return struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 2}e", data)

    def brain(data: bytes, big_endian: bool) -> Sequence[float]:
        # bfloat16 is the upper half of a float32.
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        found = array("f")
        found.frombytes(bytes(wide))
        if sys.byteorder == "big":
            found.byteswap()
        return found

    if dtype == "float16":
        return 2, half
    if dtype == "bfloat16":
        return 2, brain
    if dtype not in _TYPECODES:
        raise ValueError(
            say(
                "is of type {dtype}, whose values cannot be compared; valid: {valid}",
                "类型为 {dtype}，其数值不能比较；可用：{valid}",
                dtype=dtype,
                valid=", ".join(DTYPES),
            )
        )
    return array(_TYPECODES[dtype]).itemsize, plain


def read_arrays(path: Path) -> dict[str, StoredArray]:
    """Headers of every array in the file; an .npy file's only array is called ``array``.

    Raises:
        ValueError: not of the format its name promises, damaged, or cut short. OSError: it cannot be read.
    """
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(min(size, 65_536 + 12))

    def load() -> bytes:
        with path.open("rb") as again:
            again.seek(offset)
            return again.read()

    offset, found = _npy_header(head, size, load)
    return {"array": found}


def _read_npz(path: Path) -> dict[str, StoredArray]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    head = member.read(65_536 + 12)
                name = entry.filename

                def load(name: str = name, head: bytes = head, size: int = entry.file_size) -> bytes:
                    with zipfile.ZipFile(path) as again:
                        return again.read(name)[_npy_header(head, size, bytes)[0] :]

                found[name.removesuffix(".npy")] = _npy_header(head, entry.file_size, load)[1]
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        text = say("is not an .npz file, or was cut short: {error}", "不是 .npz 文件，或被截断：{error}", error=error)
        raise ValueError(text) from error
    return found


def _npy_header(head: bytes, size: int, load: Callable[[], bytes]) -> tuple[int, StoredArray]:
    """(offset of the data, the array) of an .npy file of ``size`` bytes that begins with ``head``."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise ValueError(
            say("is not an .npy file: its first bytes are not those of one", "不是 .npy 文件：开头字节不符")
        )
    wide = head[6] >= 2
    length = struct.unpack("<I", head[8:12])[0] if wide else struct.unpack("<H", head[8:10])[0]
    offset = (12 if wide else 10) + length
    if offset > len(head):
        raise ValueError(say("is an .npy file whose header was cut short", "是文件头被截断的 .npy 文件"))
    try:
        header = ast.literal_eval(head[12 if wide else 10 : offset].decode("utf-8" if head[6] >= 3 else "latin-1"))
        description, shape = header["descr"], tuple(header["shape"])
        by_columns = bool(header["fortran_order"])
        valid = isinstance(description, str) and all(type(n) is int and n >= 0 for n in shape)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        text = say(
            "is an .npy file whose header makes no sense ({kind})",
            "是文件头无意义的 .npy 文件（{kind}）",
            kind=type(error).__name__,
        )
        raise ValueError(text) from error
    if not valid:
        raise ValueError(
            say("is an .npy file of records or objects, not of numbers", "是记录或对象的 .npy 文件，不是数值")
        )
    kind = description[1:]
    found = StoredArray(shape, _NUMPY.get(kind, kind), description[0] == ">", load, by_columns)
    width = int(kind[1:]) if kind[1:].isdecimal() and kind in _NUMPY else None
    if width is not None and size - offset != width * found.size:
        raise ValueError(_cut_short(size - offset, width * found.size))
    return offset, found


def _read_safetensors(path: Path) -> dict[str, StoredArray]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                say(
                    "is not a safetensors file: its header's length makes no sense",
                    "不是 safetensors 文件：文件头长度无意义",
                )
            )
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            text = say("is not a safetensors file: its header is not JSON", "不是 safetensors 文件：文件头不是 JSON")
            raise ValueError(text) from error
    if not isinstance(header, dict):
        raise ValueError(
            say("is not a safetensors file: its header is no object", "不是 safetensors 文件：文件头不是对象")
        )
    found = {}
    end = 0
    start = 8 + int(length)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, stop) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            sound = all(type(n) is int and n >= 0 for n in (*shape, begin, stop)) and begin <= stop
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(_no_sense(name)) from error
        if not sound:
            raise ValueError(_no_sense(name))
        end = max(end, stop)

        def load(begin: int = begin, stop: int = stop) -> bytes:
            with path.open("rb") as again:
                again.seek(start + begin)
                return again.read(stop - begin)

        found[name] = StoredArray(shape, _SAFETENSORS.get(dtype, dtype), False, load)
    if start + end != size:
        raise ValueError(_cut_short(size - start, end))
    return found


def _cut_short(found: int, promised: int) -> str:
    return say(
        "was cut short: {found} bytes of data, its header promises {promised}",
        "被截断：数据有 {found} 字节，文件头声明 {promised} 字节",
        found=found,
        promised=promised,
    )


def _no_sense(entry: str) -> str:
    return say(
        "is a safetensors file whose entry '{entry}' makes no sense",
        "是条目“{entry}”无意义的 safetensors 文件",
        entry=entry,
    )
