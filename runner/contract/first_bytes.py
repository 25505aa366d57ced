"""What a file is when it is not safetensors: told by its first bytes, as far as they tell.

The reasons read behind a path. What it does not know: whether the rest of the file is sound.
"""

from __future__ import annotations

import re

from runner.contract.shown import shown

HEAD_BYTES = 512  # enough for every kind below
_FIX = "get its .safetensors version, or convert it"
KINDS = (
    (rb"\Z", "is empty"),
    (rb"\0+\Z", "begins with nothing but zeros: it was not written to its end; get it again"),
    (rb"version https://git-lfs\.github\.com/spec/",
     "is a Git LFS pointer: the file itself was not downloaded (git lfs pull)"),
    (rb"PK\x03\x04.{26}[^\0]{0,200}?data\.pkl", f"is a PyTorch checkpoint, a pickle in a zip: {_FIX}"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "is a zip archive: unpack it"),
    (rb"\x80[\x02-\x05](?!\0{6})", f"is a pickle, such as an old PyTorch checkpoint: {_FIX}"),
    (rb"GGU[FJ]", f"is a GGUF file: {_FIX}"),
    (rb"\x08[\x01-\x1f]\x12[\x00-\x40][ -~]{2}", f"is an ONNX model: {_FIX}"),
    (rb"\x89HDF\r\n", f"is an HDF5 file: {_FIX}"),
    (rb"\x93NUMPY", f"is a NumPy array: {_FIX}"),
    (rb"\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "is a compressed file: unpack it"),
    (rb"\x89PNG|\xff\xd8\xff[^\0]|GIF8|RIFF.{4}WEBP", "is a picture: name the file that holds the weights"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|!--|\?xml|html|head|body)",
     "is a web page: the download failed; look at it, then get the file again"),
    (rb"(\xef\xbb\xbf)?\s*[{\[]\s*[]\[{}\"]",
     "is a JSON text, perhaps an index or a server's error: look at it, then get the weights"),
)  # fmt: skip


def find_kind(head: bytes) -> str | None:
    """The reason why a file that begins so is no safetensors file; None when its first bytes do not tell."""
    for pattern, reason in KINDS:
        if re.match(pattern, head, re.DOTALL):
            return reason
    beginning = " ".join(head.decode("utf-8", "surrogateescape")[:40].split())  # 40 whole characters, or all
    if len(beginning) > 8 and beginning.isprintable():
        return f"is a text without tensors: it begins with '{shown(beginning)}'"
    return None
