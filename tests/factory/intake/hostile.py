"""Files that somebody would make to break intake, each as small as it can be made."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping

MIB = 1 << 20
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


def docx(body: str, parts: Mapping[str, str | bytes] | None = None, head: str = "") -> bytes:
    """A Word file with `body` in its document, and more parts."""
    main = f'{head}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    everything = {"[Content_Types].xml": TYPES, "word/document.xml": main, **(parts or {})}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in everything.items():
            archive.writestr(name, content)
    return made.getvalue()


def paragraph(text: str) -> str:
    """A paragraph of a Word file."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def deflated_zeros(num_mib: int) -> bytes:
    """So many MiB of spaces, deflated, without packing more than one of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * num_mib + packer.flush()


def zip_bomb(num_mib: int, claimed: int) -> bytes:
    """A Word file whose document unpacks to so many MiB; its directory claims `claimed` bytes."""
    packed = deflated_zeros(num_mib)
    name = b"word/document.xml"
    sizes = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, 0, len(packed), claimed)
    local = b"PK\x03\x04" + sizes + struct.pack("<HH", len(name), 0) + name
    entry = (
        b"PK\x01\x02\x14\0" + sizes + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    )
    place = len(local) + len(packed)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), place, 0)
    return local + packed + entry + end


def pdf(pages: list[bytes], packed: bool = False) -> bytes:
    """A PDF with these content streams, one a page; `packed` ones are deflated already."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, content in enumerate(pages):
        resources = "<</Font<</F1 3 0 R>>>>"
        page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources{resources}"
        objects.append(f"{page}/Contents {5 + 2 * number} 0 R>>".encode())
        how = b"/Filter/FlateDecode" if packed else b""
        head = b"<</Length %d%s>>stream\n" % (len(content), how)
        objects.append(head + content + b"\nendstream")
    made = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj" % number + body + b"endobj\n"
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    made += b"".join(b"%010d 00000 n \n" % place for place in places)
    made += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)
    return made


def page_of(lines: list[str]) -> bytes:
    """A page's content stream that shows these lines."""
    shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
    return f"BT /F1 12 Tf 40 760 Td {shown}ET".encode()


def pdf_bomb(num_mib: int) -> bytes:
    """A PDF with a page whose content unpacks to so many MiB."""
    return pdf([b"\x78\xda" + deflated_zeros(num_mib) + b"\0\0\0\0"], packed=True)


LAUGHS = (
    '<!DOCTYPE w [<!ENTITY a "haha">'
    + "".join(
        f'<!ENTITY {x} "{f"&{y};" * 10}">' for x, y in zip("bcdefghi", "abcdefgh", strict=True)
    )
    + "]>"
)
EXTERNAL = '<!DOCTYPE w [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
