"""A life of a datanet in a process of its own that dies at one of its writes, or whose disk is full
from one of them on.

    life: create → give → accept → version → withdraw, each only where it is not done yet; what was
    told to whoever asked stands in a file, and the next life must know it

Forks of this process: intake has looked at the text once, really, and is not asked again.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from factory.intake import Examined, Known, examine
from node.daemon import NodeDaemon
from node.datanets import giving, members, verifying
from node.datanets.examining import rules_of
from node.errors import DatanetRefused
from proofs.datanet.entries import Charter, Limits

from .people import charter, daemon, hush
from .people import giving as given_by

WRITES = ("pwrite", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "write_bytes")
FILLING = ("pwrite", "fsync", "rename", "replace", "mkdir", "write_bytes")
"""What a full disk refuses."""


@dataclass
class Fuse:
    """Which write under `folder` is the last: the `at`-th, of one kind where `kind` says which."""

    folder: Path
    at: int
    kind: str = ""
    is_full: bool = False
    """The disk is full from there on until somebody makes room, instead of death."""
    seen: int = 0
    burnt: list[str] = field(default_factory=list)

    def light(self) -> None:
        """Have every write of this process look at the fuse."""
        for name in WRITES:
            owner: Any = Path if name == "write_bytes" else os
            setattr(owner, name, self._watch(name, getattr(owner, name)))

    def put_out(self) -> None:
        """Make room."""
        self.at = 1 << 40

    def _watch(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **named: Any) -> Any:
            if self._concerns(name, args, named):
                if name == "pwrite":  # half of it comes to the disk
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                elif name == "write_bytes":
                    real(args[0], args[1][: len(args[1]) // 2])
                if not self.is_full:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.burnt.append(name)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **named)

        return write

    def _concerns(self, name: str, args: Any, named: Any) -> bool:
        if self.is_full and name not in FILLING:
            return False
        if not _place(args[0], named.get("dir_fd")).startswith(str(self.folder)):
            return False
        self.seen += self.kind in ("", name)
        return self.seen >= self.at if self.is_full else self.seen == self.at


def _place(where: Any, folder: int | None) -> str:
    if isinstance(where, int):
        return os.readlink(f"/proc/self/fd/{where}")
    return str(where) if folder is None else f"{_place(folder, None)}/{where}"


@dataclass
class Life:
    """One life after another in one home."""

    home: Path
    text: Path
    examined: Examined
    fuse: Fuse | None = None

    @property
    def told(self) -> dict[str, str]:
        """What was told so far: the step, and what it was about."""
        path = self.home.with_suffix(".told")
        lines = path.read_text().splitlines() if path.exists() else []
        return dict(line.split(" ") for line in lines)

    def tell(self, step: str, what: str) -> None:
        with self.home.with_suffix(".told").open("a") as file:
            file.write(f"{step} {what}\n")

    def live(self) -> None:
        """Run in this process to the end of the datanet's way."""
        forget_intake(self.examined)
        if self.fuse is not None:
            self.fuse.light()
        trio.run(self._live)

    async def _live(self) -> None:
        try:
            async with daemon(self.home) as one:
                await check(self, one)
                await self._go(one)
                await check(self, one)
        except* OSError as full:
            if self.fuse is None or not self.fuse.burnt:
                raise
            print("the daemon does not start on a full disk:", full.exceptions, file=sys.stderr)
            self.fuse.put_out()
            await self._live()

    async def _go(self, one: NodeDaemon) -> None:
        for step in self._steps(one):
            try:
                await step()
            except DatanetRefused as error:
                if self.fuse is None or not self.fuse.burnt or error.reason != "disk":
                    raise
                await check(self, one)
                self.fuse.put_out()
                await step()

    def _steps(self, one: NodeDaemon) -> Iterator[Callable[[], Any]]:
        net = one.datanets

        async def create() -> None:
            if not net.listing():
                self.tell("created", (await net.create(charter())).id)

        async def give() -> None:
            if not (await net.show("kitchen")).contributions:
                made = await net.give("kitchen", given_by(self.text), hush)
                self.tell("given", made.contributions[0].id)

        async def accept() -> None:
            [only] = (await net.show("kitchen")).contributions
            if only.state == "waiting":
                await net.judge("kitchen", only.id, "accept", ("", "", ""))
                self.tell("accepted", only.id)

        async def version() -> None:
            detail = await net.show("kitchen")
            if not detail.versions and detail.contributions[0].state == "accepted":
                self.tell("version", (await net.make_version("kitchen")).digest)  # type: ignore[union-attr]

        async def withdraw() -> None:
            [only] = (await net.show("kitchen")).contributions
            if only.state == "accepted":
                await net.withdraw("kitchen", only.id)
                self.tell("withdrawn", only.id)

        yield from (create, give, accept, version, withdraw)


async def check(life: Life, one: NodeDaemon) -> None:
    """Nothing that was told is lost, and nothing half-written is shown."""
    told = life.told
    assert {made.id for made in one.datanets.listing()} >= {*filter(None, [told.get("created")])}
    if not one.datanets.listing():
        return
    detail = await one.datanets.show("kitchen")
    shown = {each.id: each for each in detail.contributions}
    assert len(shown) <= 1
    if "given" in told:
        assert told["given"] in shown
    if "accepted" in told:
        assert shown[told["accepted"]].state in ("accepted", "withdrawn")
    if "version" in told:
        assert [made.digest for made in detail.versions] == [told["version"]]
    if "withdrawn" in told:
        assert shown[told["withdrawn"]].state == "withdrawn"
    for each in shown.values():
        assert each.is_here == (each.state != "withdrawn")
        if each.is_here:
            text = await one.datanets.text("kitchen", each.id)
            assert text == b"".join(document.text for document in life.examined.kept)
    found = await one.datanets.verify("kitchen", hush)
    assert not found.problems, found.problems
    assert not found.unknown, found.unknown


def look_once(text: Path) -> Examined:
    """What intake finds in the text."""
    said = charter()
    limits = Limits(
        said.max_document_bytes,
        said.max_contribution_bytes,
        said.max_person_bytes,
        said.min_words,
    )
    rules = rules_of(
        Charter(  # only these of its fields matter
            1, "", bytes(33), bytes(33), 0, purpose="", consent="", languages=["en"], licences=[],
            limits=limits, novelty_floor_bps=0, quorum=1, is_open=False, base=b"", previous=b"",
            signature=b"",
        )
    )  # fmt: skip
    return examine([text], rules, Known())


def forget_intake(examined: Examined) -> None:
    async def again(*rest: Any, **named: Any) -> Examined:
        return examined

    members.examine_files = again  # type: ignore[assignment]
    giving.report_on = again  # type: ignore[assignment]
    verifying.report_on = again  # type: ignore[assignment]


def in_a_fork(act: Callable[[], object]) -> int:
    """Run something in a process that may die; return its exit status, or minus its signal."""
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:  # nothing of this process may go on in the suite
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
