"""One value of a tensor as a Python number, from its raw bytes and its dtype: for the alphas of a LoRA.

What it does not know: complex numbers, values smaller than a byte, and the FNUZ and E8M0 forms of float8.
"""

from __future__ import annotations

import struct
from math import isfinite

# How `struct` reads a value, and the low bytes that go before it: bfloat16 is the upper half of a float32, F8_E5M2 of
# a float16.
FORMS = {
    "F64": ("<d", b""), "F32": ("<f", b""), "F16": ("<e", b""), "BF16": ("<f", b"\0\0"), "F8_E5M2": ("<e", b"\0"),
    "I8": ("<b", b""), "I16": ("<h", b""), "I32": ("<i", b""), "I64": ("<q", b""), "BOOL": ("<?", b""),
    "U8": ("<B", b""), "U16": ("<H", b""), "U32": ("<I", b""), "U64": ("<Q", b""),
}  # fmt: skip


def number(dtype: str, raw: bytes) -> float | None:
    """The value of these bytes; None when it is no finite number, or of a dtype that we do not know."""
    if dtype == "F8_E4M3":
        return _e4m3(raw[0])
    if dtype not in FORMS:
        return None
    form, low_bytes = FORMS[dtype]
    value = float(struct.unpack(form, low_bytes + raw)[0])
    return value if isfinite(value) else None


def _e4m3(byte: int) -> float | None:
    """A sign, four bits of exponent, three of mantissa; there is no infinity, and all ones is no number."""
    exponent, mantissa = byte >> 3 & 0xF, byte & 7
    if exponent == 0xF and mantissa == 7:
        return None
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -size if byte & 0x80 else size
