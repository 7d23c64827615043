"""The story of an examination: each file is read in a child of its own, what they gave is checked
in another, and one result comes back.

Decides what a child that did not end well means. Holds no document until the end, so a daemon grows
by what it gets: clean text of 16 MiB at most, and what is said of it. Blocks; call it in a thread.

    tell("notes.txt", 0, 2)               a file is read: the first of two
    tell("checks: novelty", 8, 10)        all are checked: eight of ten steps are done
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

import msgspec

from .child import MAX_RESULT_BYTES, PARSING, checking, read_result, run_child
from .errors import Broken, NotReady, TooHard
from .jobs import PROGRESS, TEXTS, Judged, JudgeJob, Parsed, ParseJob, gave_nothing
from .report import MAX_FILES, PACKAGES
from .types import MAX_TEXT_BYTES, Examined, Known, Rules

Tell = Callable[[str, int, int], None]
"""What is looked at now, how many things are done, and how many there are."""

AROUND_TEXT_BYTES = 4 << 20
"""More than stands around the text that may be given, in what the children leave of it."""
TRACED_HERE_BYTES = 1 << 20
"""Of more text than this a child makes the trace, since that takes ten times its size."""


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
    with _workplace() as place:
        parsed: list[tuple[str, str | Parsed]] = []
        num_bytes = 0
        skip = ""
        for number, file in enumerate(files[:MAX_FILES]):
            _tell(tell, file.name, number, len(files))
            if skip:
                parsed.append((file.name, gave_nothing("skipped", skip)))
                continue
            folder = place / str(number)
            folder.mkdir()
            there = _parse(file, rules, folder, stop)
            parsed.append((file.name, there))
            if isinstance(there, Parsed):
                skip = "a file before it took too long" if there.told[0][0] == "time" else ""
                continue
            num_bytes += Path(there).stat().st_size
            if num_bytes > rules.max_bytes + AROUND_TEXT_BYTES:
                skip = "the files before it have more text than may be given at once"
        if len(files) > MAX_FILES:
            parsed.append(("", gave_nothing("too-many-documents", f"more than {MAX_FILES} files")))
        _tell(tell, "checks", len(files), len(files))
        return _judge(JudgeJob(parsed, rules, known, [], None), place, stop, tell)


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
    with _workplace() as place:
        sizes = _write_texts(place, documents)
        return _judge(JudgeJob([], rules, known, list(losses), sizes), place, stop, tell=None)


def trace_documents(documents: Sequence[bytes]) -> bytes:
    """Return what later contributions are compared with, of documents given as clean UTF-8.

    Of little text in this process, which loads numpy then; of much in a child. Raises TooHard,
    Broken.
    """
    num_bytes = sum(map(len, documents))
    if num_bytes <= TRACED_HERE_BYTES:
        from .traces import trace_texts

        return trace_texts(documents)
    with _workplace() as place:
        sizes = _write_texts(place, documents)
        (place / "job.msgpack").write_bytes(msgspec.msgpack.encode(sizes))
        _check(place, run_child("trace", place, checking(num_bytes), None), "the trace")
        return read_result(place / "result.msgpack", MAX_RESULT_BYTES)


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


@contextmanager
def _workplace() -> Iterator[Path]:
    """A folder for the children, gone afterwards. Raises Broken where the disk refuses."""
    try:
        with tempfile.TemporaryDirectory(prefix="lorikeet-intake-") as place:
            yield Path(place)
    except OSError as error:
        raise Broken(_no_room(error.strerror or str(error))) from error


def _no_room(why: str) -> str:
    return f"intake cannot write to {tempfile.gettempdir()} ({why}); make room there and try again"


def _write_texts(folder: Path, documents: Sequence[bytes]) -> list[int]:
    """Write documents one behind another, for a child; returns their sizes."""
    with (folder / TEXTS).open("wb") as file:
        file.writelines(documents)
    return [len(text) for text in documents]


def _parse(file: Path, rules: Rules, folder: Path, stop: threading.Event | None) -> str | Parsed:
    """Where what the file gave lies, or what to say when it gave nothing."""
    job = ParseJob(str(file.absolute()), rules)
    (folder / "job.msgpack").write_bytes(msgspec.msgpack.encode(job))
    trouble = run_child("parse", folder, PARSING, stop)
    if trouble is None:
        return str(folder / "result.msgpack")
    if trouble == "room":
        raise Broken(_no_room("its disk is full"))
    details = {
        "time": f"more than {PARSING.cpu_s} s of the processor, or {PARSING.wall_s:g} s",
        "memory": f"more than {PARSING.memory_bytes >> 20} MiB",
        "crashed": _last_line(folder / "errors.txt"),
    }
    return gave_nothing(trouble, details[trouble])


def _judge(
    job: JudgeJob, folder: Path, stop: threading.Event | None, tell: Tell | None
) -> Examined:
    data = msgspec.msgpack.encode(job, enc_hook=str)
    (folder / "job.msgpack").write_bytes(data)
    sizes = [Path(there).stat().st_size for _, there in job.parsed if isinstance(there, str)]
    look = partial(_tell_progress, tell, folder / PROGRESS) if tell else None
    limits = checking(sum(job.review or sizes))
    _check(folder, run_child("check", folder, limits, stop, look), "the checks")
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
    return msgspec.structs.replace(judged.examined, documents=documents)


def _check(folder: Path, trouble: str | None, what: str) -> None:
    """Raise what a child's end means that did our own work. Raises TooHard, Broken."""
    if trouble == "crashed":
        raise Broken(f"{what} broke down: {_last_line(folder / 'errors.txt')}")
    if trouble == "room":
        raise Broken(_no_room("its disk is full"))
    if trouble is not None:
        raise TooHard(f"{what} took too much {trouble}; give fewer or shorter documents at once")


def _tell_progress(tell: Tell, path: Path) -> None:
    """Tell how far the checks are, as their child writes it."""
    with suppress(OSError, ValueError):  # not begun, or half written
        done, total, name = path.read_text().split()
        tell(f"checks: {name}", int(done), int(total))


def _last_line(path: Path) -> str:
    """What a child said last before it broke down."""
    with path.open("rb") as file:
        tail = file.read(1 << 16)
    lines = tail.decode(errors="replace").strip().splitlines()
    return lines[-1][:150] if lines else "it said nothing"


def _tell(tell: Tell | None, name: str, done: int, total: int) -> None:
    if tell is not None:
        tell(name, done, total)
