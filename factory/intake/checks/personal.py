"""E-mail addresses, card numbers (Luhn), bank accounts (IBAN, mod 97), phone numbers with their
country's code. Shows them cut short, and masks them where the rules say so. Knows no names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ..findings import find
from ..looked import Looked, look_at
from ..types import Finding, Known, Rules
from ..words import Shingles
from .secrets import MAX_LINE_CHARS

MAX_MAIL_CHARS = 254
MAX_PHONE_TRIES = 64
"""For each document: a text of phone numbers alone would take minutes."""

_MAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])")
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,38}")
_PHONE_HINT = re.compile(r"\+\s?\(?\d[\d\s().-]{6,}")


@dataclass(frozen=True)
class Personal:
    """A place in a text that says who somebody is."""

    kind: str
    start: int
    end: int


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Hold documents with personal data."""
    findings = []
    for place, document in enumerate(documents):
        found = list(find_personal(document.text))
        if found:
            numbers["personal data"] += len(found)
            shown = ", ".join(_show(document.text, each) for each in found[:5])
            findings.append(find("personal-data", place, f"{len(found)}: {shown}"))
    return findings


def mask(documents: Sequence[Looked]) -> tuple[list[Looked], list[Finding]]:
    """Return the documents with personal data replaced by what it was, and what was done."""
    numbering = Shingles()
    masked = []
    findings = []
    for place, document in enumerate(documents):
        text = document.text
        found = list(find_personal(text))
        for each in reversed(found):
            text = f"{text[: each.start]}[{each.kind}]{text[each.end :]}"
        if found:
            kinds = Counter(each.kind for each in found)
            shown = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
            findings.append(find("masked", place, shown))
        masked.append(look_at(document.title, text, numbering) if found else document)
    return masked, findings


def find_personal(text: str) -> Iterator[Personal]:
    """Yield what is personal in a text, in order; of two that overlap, the first."""
    found = [*_find_mail(text), *_find_cards(text), *_find_accounts(text), *_find_phones(text)]
    end = 0
    for each in sorted(found, key=lambda one: (one.start, -one.end)):
        if each.start >= end:
            yield each
            end = each.end


def _find_mail(text: str) -> Iterator[Personal]:
    if "@" in text:
        for match in _MAIL.finditer(text):
            if match.end() - match.start() <= MAX_MAIL_CHARS:
                yield Personal("e-mail", match.start(), match.end())


def _find_cards(text: str) -> Iterator[Personal]:
    for match in _CARD.finditer(text):
        digits = [int(character) for character in match.group() if character.isdigit()]
        if digits[0] in (2, 3, 4, 5, 6) and is_luhn(digits):
            yield Personal("card", match.start(), match.end())


def is_luhn(digits: Sequence[int]) -> bool:
    """Say whether the last digit is that of a card number (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _find_accounts(text: str) -> Iterator[Personal]:
    for match in _IBAN.finditer(text):
        account = match.group()
        while account:  # a word in capitals may follow
            if is_iban(account.replace(" ", "")):
                yield Personal("account", match.start(), match.start() + len(account))
                break
            account = account.rpartition(" ")[0]


def is_iban(account: str) -> bool:
    """Say whether an account's check digits fit (ISO 13616: mod 97 is 1)."""
    if not 15 <= len(account) <= 34:
        return False
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _find_phones(text: str) -> Iterator[Personal]:
    for hint in islice(_PHONE_HINT.finditer(text), MAX_PHONE_TRIES):
        import phonenumbers

        start = hint.start()
        piece = text[start : min(hint.end(), start + MAX_LINE_CHARS)]
        for match in phonenumbers.PhoneNumberMatcher(piece, None):
            yield Personal("phone", start + match.start, start + match.end)


def _show(text: str, found: Personal) -> str:
    """The kind and the first two characters: a report is published."""
    return f"{found.kind} {text[found.start : found.start + 2]}…"
