"""The story of an examination: each file is read in a child of its own, what they gave is checked
in another, and one result comes back.

Decides what a child that did not end well means. Holds no document until the end, so a daemon grows
by what it gets: clean text of 16 MiB at most, and what is said of it. Blocks; call it in a thread.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from .child import MAX_RESULT_BYTES, PARSING, checking, read_result, run_child
from .errors import Broken, NotReady, TooHard
from .jobs import TEXTS, TRACE, Judged, JudgeJob, Parsed, ParseJob, gave_nothing
from .report import MAX_FILES, PACKAGES
from .types import MAX_TEXT_BYTES, Examined, Known, Rules

Tell = Callable[[str, int, int], None]
"""What is looked at now, how many things are done, and how many there are."""


def examine(
    files: Sequence[Path],
    rules: Rules,
    known: Known,
    *,
    stop: threading.Event | None = None,
    tell: Tell | None = None,
) -> Examined:
    """Read, clean and check files. Blocks for 45 s at most for a file that wants to be slow.

    Raises NotReady, Stopped (soon after `stop` is set), TooHard, Broken for a trace or a sketch.
    """
    check_ready()
    with tempfile.TemporaryDirectory(prefix="lorikeet-intake-") as place:
        parsed: list[tuple[str, str | Parsed]] = []
        spent = False
        for number, file in enumerate(files[:MAX_FILES]):
            _tell(tell, file.name, number, len(files))
            folder = Path(place, str(number))
            folder.mkdir()
            if spent:
                parsed.append(
                    (file.name, gave_nothing("skipped", "a file before it took too long"))
                )
                continue
            there = _parse(file, rules, folder, stop)
            spent = isinstance(there, Parsed) and there.told[0][0] == "time"
            parsed.append((file.name, there))
        if len(files) > MAX_FILES:
            parsed.append(("", gave_nothing("too-many-documents", f"more than {MAX_FILES} files")))
        _tell(tell, "checks", len(files), len(files))
        return _judge(JudgeJob(parsed, rules, known, [], None), Path(place), stop)


def review(
    documents: Sequence[bytes],
    rules: Rules,
    known: Known,
    *,
    losses: Sequence[int] = (),
    stop: threading.Event | None = None,
) -> Examined:
    """Check documents that somebody else cleaned, as a curator does: nothing is changed in them.

    `losses` has the base's loss on each, in thousandths of a nat a token, where somebody measured
    it. Raises as `examine` does, and Broken for what is no UTF-8.
    """
    check_ready()
    for text in documents:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise Broken(f"a document is not UTF-8 ({error}); refuse it") from error
    if sum(map(len, documents)) > MAX_TEXT_BYTES:
        raise TooHard(f"the documents have more than {MAX_TEXT_BYTES:,} bytes; refuse them")
    with tempfile.TemporaryDirectory(prefix="lorikeet-intake-") as place:
        with Path(place, TEXTS).open("wb") as file:
            file.writelines(documents)
        job = JudgeJob([], rules, known, list(losses), [len(text) for text in documents])
        return _judge(job, Path(place), stop)


def trace_documents(documents: Sequence[bytes]) -> bytes:
    """Return what later contributions are compared with, of documents given as clean UTF-8.

    In this process; loads numpy.
    """
    from .traces import trace_texts

    return trace_texts(documents)


def check_ready() -> None:
    """Raise NotReady where a package of the extra is missing."""
    for name in PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise NotReady(
                f"intake needs the package {name}, which is not installed here: install Lorikeet"
                " with its extra, pip install 'lorikeet[intake]'"
            ) from error


def _parse(file: Path, rules: Rules, folder: Path, stop: threading.Event | None) -> str | Parsed:
    """Where what the file gave lies, or what to say when it gave nothing."""
    job = ParseJob(str(file.absolute()), rules)
    (folder / "job.msgpack").write_bytes(msgspec.msgpack.encode(job))
    trouble = run_child("parse", folder, PARSING, stop)
    if trouble is None:
        return str(folder / "result.msgpack")
    details = {
        "time": f"more than {PARSING.cpu_s} s of the processor, or {PARSING.wall_s:g} s",
        "memory": f"more than {PARSING.memory_bytes >> 20} MiB",
        "crashed": _last_line(folder / "errors.txt"),
    }
    return gave_nothing(trouble, details[trouble])


def _judge(job: JudgeJob, folder: Path, stop: threading.Event | None) -> Examined:
    data = msgspec.msgpack.encode(job, enc_hook=str)
    (folder / "job.msgpack").write_bytes(data)
    sizes = [Path(there).stat().st_size for _, there in job.parsed if isinstance(there, str)]
    trouble = run_child("check", folder, checking(sum(job.review or sizes)), stop)
    if trouble == "crashed":
        raise Broken(f"the checks broke down: {_last_line(folder / 'errors.txt')}")
    if trouble is not None:
        raise TooHard(
            f"the checks took too much {trouble}; give fewer or shorter documents at once"
        )
    data = read_result(folder / "result.msgpack", MAX_RESULT_BYTES)
    try:
        judged = msgspec.msgpack.decode(data, type=Judged)
    except msgspec.MsgspecError as error:
        raise Broken(f"the child's answer cannot be read ({error}); try again") from error
    with (folder / TEXTS).open("rb") as file:
        documents = [
            msgspec.structs.replace(document, text=file.read(size))
            for document, size in zip(judged.examined.documents, judged.sizes, strict=True)
        ]
    trace = read_result(folder / TRACE, MAX_RESULT_BYTES)
    return msgspec.structs.replace(judged.examined, documents=documents, trace=trace)


def _last_line(path: Path) -> str:
    """What a child said last before it broke down."""
    with path.open("rb") as file:
        tail = file.read(1 << 16)
    lines = tail.decode(errors="replace").strip().splitlines()
    return lines[-1][:150] if lines else "it said nothing"


def _tell(tell: Tell | None, name: str, done: int, total: int) -> None:
    if tell is not None:
        tell(name, done, total)
