"""Word's docx: the running text of a document, by the standard library's zip and expat.

A part that declares a DOCTYPE is refused before one entity is known, whatever its encoding. What
is struck out, and the second writing of a drawing's text, is left out. Reads no styles.
"""

from __future__ import annotations

import zipfile
import zlib
from xml.parsers import expat

from ..errors import Refusal
from ..types import MAX_TEXT_BYTES
from .archive import READ_BYTES, open_archive

MAIN = "word/document.xml"
MAX_DEPTH = 200

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"


def read_docx(data: bytes) -> str:
    """Return the text, a blank line between paragraphs. Raises Refusal."""
    archive = open_archive(data)
    names = {part.filename: part for part in archive.infolist()}
    if MAIN not in names:
        raise Refusal("format", "it is a zip file, but no docx")
    for name, part in names.items():
        if name.endswith((".xml", ".rels")) and name != MAIN:
            _feed(archive, part, _Prologue())
    reader = _Reader()
    _feed(archive, names[MAIN], reader)
    text = "".join(reader.parts)
    if not text.strip():
        raise Refusal("pictures-only", "it has no text")
    return text


class _Enough(Exception):
    """Nothing more of this part is wanted."""


class _Prologue:
    """Sees what stands before a part's first element."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self.start

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Take an element's beginning."""
        raise _Enough

    def _refuse(self, *_: object) -> None:
        raise Refusal("doctype", "one of its parts declares a DOCTYPE")


class _Reader(_Prologue):
    """Collects the text of a document's main part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._size = 0
        self._depth = 0
        self._skipped = 0
        self._is_text = False
        self.parser.buffer_text = True
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.take

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Take an element's beginning."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refusal("bomb", f"its elements are nested more than {MAX_DEPTH} deep")
        if self._skipped or name == _FALLBACK:
            self._skipped += 1
            return
        tag = _tag(name)
        self._is_text = tag == "t"
        if tag in ("tab", "br", "cr"):
            self.add("\t" if tag == "tab" else "\n")

    def end(self, name: str) -> None:
        """Take an element's end."""
        self._depth -= 1
        self._is_text = False
        if self._skipped:
            self._skipped -= 1
        elif _tag(name) in ("p", "tr"):
            self.add("\n\n")

    def take(self, text: str) -> None:
        """Take characters."""
        if self._is_text and not self._skipped:
            self.add(text)

    def add(self, text: str) -> None:
        """Keep a piece of the text."""
        self._size += len(text)
        if self._size > MAX_TEXT_BYTES:
            raise Refusal("too-large", f"more than {MAX_TEXT_BYTES:,} characters of text")
        self.parts.append(text)


def _tag(name: str) -> str:
    """The name of one of Word's elements, else nothing."""
    for space in (_W, _STRICT):
        if name.startswith(space):
            return name[len(space) :]
    return ""


def _feed(archive: zipfile.ZipFile, part: zipfile.ZipInfo, reader: _Prologue) -> None:
    try:
        with archive.open(part) as stream:
            while piece := stream.read(READ_BYTES):
                reader.parser.Parse(piece, False)
            reader.parser.Parse(b"", True)
    except _Enough:
        return
    except (expat.ExpatError, zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise Refusal("damaged", f"{part.filename[:80]}: {error}") from error
