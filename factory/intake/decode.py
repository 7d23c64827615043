"""Bytes of a text file → characters. Decides the encoding; line by line where one file has two.

UTF-8 is believed when it fits, else charset-normalizer is asked, and its confidence shown.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from .errors import Refusal

MIN_CONFIDENCE = 80
"""Percent, of charset-normalizer's guess."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


@dataclass(frozen=True)
class Decoded:
    """The characters, how they were encoded, and what to tell of it (a finding's code, detail)."""

    text: str
    encoding: str
    told: tuple[tuple[str, str], ...] = ()


def decode_text(data: bytes) -> Decoded:
    """Decode a text file. Raises Refusal."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return Decoded(data.decode(encoding), encoding.removesuffix("-sig"))
            except UnicodeDecodeError as error:
                raise Refusal("encoding", f"it begins as {encoding} and is not: {error}") from error
    if b"\0" in data:
        raise Refusal("format", "it has zero bytes, which no text has")
    try:
        return Decoded(data.decode(), "utf-8")
    except UnicodeDecodeError:
        return _decode_guessed(data)


def _decode_guessed(data: bytes) -> Decoded:
    """Lines that are UTF-8 stay so; the others are read by one guess."""
    lines = data.split(b"\n")
    is_utf8 = [_is_utf8(line) for line in lines]
    strange = b"\n".join(line for line, fits in zip(lines, is_utf8, strict=True) if not fits)
    encoding, confidence = _guess(strange)
    text = "\n".join(
        line.decode() if fits else line.decode(encoding)
        for line, fits in zip(lines, is_utf8, strict=True)
    )
    told = f"read as {encoding}, confidence {confidence} %"
    num_utf8 = sum(fits and not line.isascii() for line, fits in zip(lines, is_utf8, strict=True))
    if num_utf8:
        num_strange = len(lines) - sum(is_utf8)
        detail = f"{num_strange} lines {told}; {num_utf8} others are UTF-8"
        return Decoded(text, f"utf-8 and {encoding}", (("mixed-encodings", detail),))
    return Decoded(text, encoding, (("read-as", told),))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess(data: bytes) -> tuple[str, int]:
    """An encoding in which `data` can be read, and how likely it is, in percent."""
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise Refusal("encoding", "it is neither UTF-8 nor in any encoding that could be guessed")
    confidence = round(100 - best.percent_chaos)
    try:
        data.decode(best.encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise Refusal("encoding", f"most like {best.encoding}, and yet not: {error}") from error
    if confidence < MIN_CONFIDENCE:
        detail = f"neither UTF-8 nor surely {best.encoding} (confidence {confidence} %)"
        raise Refusal("encoding", detail)
    return best.encoding, confidence


def mend_mojibake(text: str) -> tuple[str, int]:
    """Put right what was decoded wrongly before it came here; returns how many lines changed."""
    if text.isascii():
        return text, 0
    import ftfy

    lines = text.split("\n")
    mended = [line if line.isascii() else ftfy.fix_encoding(line) for line in lines]
    changed = sum(a != b for a, b in zip(lines, mended, strict=True))
    return "\n".join(mended), changed
