"""PDF: the text of each page, by pypdf. Recognises no letters in pictures."""

from __future__ import annotations

import io
import logging
import re

from ..errors import Refusal
from ..types import MAX_TEXT_BYTES

MAX_PAGES = 2_000

_HYPHENATED = re.compile(r"(?<=[a-zß-ɏ])-\n(?=[a-zß-ɏ])")


def read_pdf(data: bytes, told: list[tuple[str, str]]) -> str:
    """Return the pages' texts with a blank line between them. Raises Refusal."""
    import pypdf
    from pypdf.errors import DependencyError, LimitReachedError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # a stranger's file has many faults
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refusal("encrypted", "it has a password")
        pages = _read_pages(reader)
    except (Refusal, MemoryError):
        raise
    except DependencyError as error:
        raise Refusal("encrypted", str(error)) from error
    except LimitReachedError as error:
        raise Refusal("bomb", str(error)) from error
    except Exception as error:  # a stranger's PDF makes pypdf raise whatever its parts raise
        raise Refusal("damaged", f"{type(error).__name__}: {error}") from error
    num_empty = sum(not page.strip() for page in pages)
    if num_empty == len(pages):
        raise Refusal("pictures-only", f"{len(pages)} pages, none with text")
    if num_empty:
        told.append(("pictures", f"{num_empty} of {len(pages)} pages"))
    return "\n\n".join(_HYPHENATED.sub("", page) for page in pages)


def _read_pages(reader: object) -> list[str]:
    pages: list[str] = []
    size = 0
    for page in reader.pages:  # type: ignore[attr-defined]
        if len(pages) == MAX_PAGES:
            raise Refusal("too-large", f"more than {MAX_PAGES} pages")
        text = page.extract_text()
        size += len(text)
        if size > MAX_TEXT_BYTES:
            raise Refusal("too-large", f"more than {MAX_TEXT_BYTES:,} characters of text")
        pages.append(text)
    if not pages:
        raise Refusal("damaged", "it has no pages")
    return pages
