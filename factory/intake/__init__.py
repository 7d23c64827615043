"""Takes documents in: files become clean text, the text is checked, a report says what was found.

    types           what is asked and what comes out
    examining       the story: each file in a child, the checks in another, one report
    child worker    a process with limits, from both sides of its border
    parse formats/  bytes → text, by what the bytes are and not by their name
    decode clean    text without what nobody sees
    split           text → documents
    words traces    what later contributions are compared with
    checks/         one file for each kind
    report          the canonical bytes of all that

Decides what is refused, held for a curator, or noted. Knows no datanet, no peer and no money; a
process that only imports this package loads none of the parsers.
"""

from .errors import Broken, IntakeError, NotReady, Stopped, TooHard
from .examining import examine, review, trace_documents
from .report import Report, read_report
from .types import Document, Earlier, Elsewhere, Examined, Finding, Known, Rules

__all__ = [
    "Broken",
    "Document",
    "Earlier",
    "Elsewhere",
    "Examined",
    "Finding",
    "IntakeError",
    "Known",
    "NotReady",
    "Report",
    "Rules",
    "Stopped",
    "TooHard",
    "examine",
    "read_report",
    "review",
    "trace_documents",
]
