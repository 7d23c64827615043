"""Takes the daemon's messages to the server, and what comes of them back.

    reader ──▶ Submit: a task of its own (answer.py)
           ──▶ Hold, Release: one after the other (adapters.py says under which name)
           ──▶ figures, residency: at once

Its end is the end of the process: the daemon gone, or the server lost. Restarts nothing.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from engine import messages as m
from engine.errors import BadAdapter, Busy, CannotServe
from engine.intake import Admitted, Limits, Queue, Refused, admit, failed

from .adapters import (
    CONFIG_FILE,
    HUB,
    WEIGHTS_FILE,
    Adapters,
    check_files,
    folder_of,
    name_of,
)
from .answer import Answer
from .asking import check_words, put_probe
from .border import Border
from .errors import BridgeError, ServerLost, ServerRefused
from .meeting import Server
from .mixing import mix
from .replies import Figures
from .vllm import Vllm

WATCH_S = 2.0
MISSED_WATCHES = 3
MAX_RUNNING = 512  # each is a connection
MAX_WAITING = 256
MAX_WAITING_TOKENS = 1 << 24
DEADLINE_S = 120.0
MAX_JOBS = 1 << 16
MIXED = "mixed"
"""The folder of cocktails among those of adapters."""
NO_EMBEDDING = "vLLM behind a node gives no embeddings; ask a node with this program's own engine"
NO_REPLAY = (
    "vLLM behind a node replays no answer; whoever wants to check one replays it with this"
    " program's own engine"
)


Job = m.HoldAdapter | m.HoldCocktail | str
"""What is to be loaded, or the name of what is to be unloaded."""


@dataclass(frozen=True)
class Place:
    """Where adapters' files lie `here`, and where the server sees them: the same path (empty),
    elsewhere, nowhere ("hub").
    """

    here: Path
    there: str


class Desk:
    """One daemon's requests at one server. `run` works until either is gone."""

    def __init__(self, border: Border, vllm: Vllm, server: Server, place: Place) -> None:
        self._border = border
        self._vllm = vllm
        self._server = server
        self._place = place
        self._adapters = Adapters()
        self._answers: dict[int, Answer] = {}
        self._busy: Counter[bytes | None] = Counter()
        self._most_adapters = 0
        self._tokens = 0
        self._send_jobs, self._jobs = trio.open_memory_channel[Job](MAX_JOBS)
        self._limits = Limits(
            server.vocab_size,
            server.max_context_tokens,
            MAX_WAITING,
            MAX_WAITING_TOKENS,
            waiting_deadline_s=DEADLINE_S,
            parked_deadline_s=DEADLINE_S,
        )

    async def run(self) -> None:
        """Work. Raises ServerLost, DaemonGone, BorderError."""
        await trio.to_thread.run_sync(_remove, self._place.here / MIXED)  # of an earlier life
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._border.run)
            nursery.start_soon(self._run_jobs)
            nursery.start_soon(self._watch)
            while True:
                self._handle(await self._border.receive(), nursery)

    def _handle(self, message: m.ToEngine, nursery: trio.Nursery) -> None:
        match message:
            case m.Submit():
                self._submit(message, nursery)
            case m.Grant(request_id, credit):
                if request_id in self._answers:
                    self._answers[request_id].grant(credit)
            case m.Cancel(request_id):
                if request_id in self._answers:
                    self._answers[request_id].cancel()
            case m.HoldAdapter() | m.HoldCocktail():
                self._send_jobs.send_nowait(message)
            case m.ReleaseAdapter(adapter):
                self._forget(self._adapters.release(adapter))
            case m.Replay(request_id):
                self._border.tell(failed(request_id, CannotServe(NO_REPLAY)))
            case m.Embed(request_id):
                self._border.tell(failed(request_id, CannotServe(NO_EMBEDDING)))
            case m.GetStats():
                nursery.start_soon(self._tell_stats)
            case m.Locate(adapter):
                self._border.tell(m.Located(adapter, self._adapters.residency(adapter)))
            case m.Vocabulary():
                pass  # for grammars, which are refused

    # --- requests ---

    def _submit(self, submit: m.Submit, nursery: trio.Nursery) -> None:
        match admit(submit, self._limits, self._queue()):
            case Refused(request_id, error):
                self._border.tell(failed(request_id, error))
            case Admitted() as admitted:
                try:
                    self._check_room()
                    check_words(admitted)
                except CannotServe as error:
                    self._border.tell(failed(admitted.request_id, error))
                    return
                self._begin(admitted, nursery)

    def _check_room(self) -> None:
        if len(self._answers) >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} requests run already; ask later or another node")

    def _queue(self) -> Queue:
        waiting = [answer for answer in self._answers.values() if not answer.has_begun]
        return Queue(
            taken_ids=self._answers.keys(),
            num_waiting=len(waiting),
            waiting_tokens=sum(answer.num_tokens for answer in waiting),
            check_known=self._adapters.check_known,
        )

    def _begin(self, admitted: Admitted, nursery: trio.Nursery) -> None:
        adapter = admitted.adapter
        answer = Answer(
            admitted,
            self._server.model if adapter is None else self._adapters.use(adapter),
            self._tell_tokens,
            lambda: len(self._busy),
            vocab_size=self._server.vocab_size,
            parked_deadline_s=self._limits.parked_deadline_s,
        )
        self._answers[admitted.request_id] = answer
        self._busy[adapter] += 1
        self._most_adapters = max(self._most_adapters, len(self._busy.keys() - {None}))
        nursery.start_soon(self._lead, admitted, answer)

    async def _lead(self, admitted: Admitted, answer: Answer) -> None:
        last = await answer.run(self._vllm)
        del self._answers[admitted.request_id]
        self._busy[admitted.adapter] -= 1
        self._busy += Counter()  # drops those of which nobody is at work
        if admitted.adapter is not None:
            self._forget(self._adapters.leave(admitted.adapter))
        self._border.tell(last)

    def _tell_tokens(self, tokens: m.Tokens) -> None:
        self._tokens += len(tokens.token_ids)
        self._border.tell(tokens)

    # --- adapters ---

    def _forget(self, name: str | None) -> None:
        if name is not None:
            self._send_jobs.send_nowait(name)

    async def _run_jobs(self) -> None:
        """Load and unload, in the order in which that was asked for."""
        async for job in self._jobs:
            if not isinstance(job, str):
                self._border.tell(await self._hold(job))
            elif job not in self._adapters.names:
                await self._unload(job)

    async def _hold(
        self, asked: m.HoldAdapter | m.HoldCocktail
    ) -> m.AdapterHeld | m.AdapterRefused:
        began_s = time.monotonic()
        name = name_of(asked.adapter, self._place.there)
        try:
            hold = await self._mixed(asked) if isinstance(asked, m.HoldCocktail) else asked
            held = await trio.to_thread.run_sync(check_files, hold)
            if name not in {model.id for model in await self._vllm.models()}:
                await self._load(hold, name)
        except (BadAdapter, OSError) as error:
            return m.AdapterRefused(asked.adapter, str(error))
        except ServerRefused as refusal:
            return m.AdapterRefused(asked.adapter, f"vLLM refused it: {refusal}")
        self._adapters.note(asked.adapter, name)
        return msgspec.structs.replace(held, load_ms=(time.monotonic() - began_s) * 1e3)

    async def _mixed(self, cocktail: m.HoldCocktail) -> m.HoldAdapter:
        """Write a cocktail beside the adapters, where the server sees it. Raises BadAdapter."""
        if self._place.there == HUB:
            raise BadAdapter(
                "cocktails are written into HOME/adapters, which this vLLM does not see"
                " (engine_adapters); ask another node"
            )
        folder = self._place.here.absolute() / MIXED / cocktail.adapter.hex()
        await trio.to_thread.run_sync(mix, cocktail.parents, folder)
        return m.HoldAdapter(
            cocktail.adapter, str(folder / CONFIG_FILE), str(folder / WEIGHTS_FILE)
        )

    async def _load(self, hold: m.HoldAdapter, name: str) -> None:
        if self._place.there != HUB:
            await self._vllm.load(name, folder_of(hold, self._place.here, self._place.there))
            return
        async with self._vllm.generate(put_probe(0, 1, name)) as pieces:  # its resolver fetches it
            async for _ in pieces:
                pass

    async def _unload(self, name: str) -> None:
        try:
            await self._vllm.unload(name)
        except ServerRefused as refusal:
            print(f"bridge: {name[:12]} was not unloaded: {refusal}", file=sys.stderr, flush=True)
        await trio.to_thread.run_sync(_remove, self._place.here / MIXED / name)

    # --- the server itself ---

    async def _watch(self) -> None:
        """See that the server lives, and is the one that was told of the adapters.

        Raises ServerLost.
        """
        missed = 0
        while True:
            await trio.sleep(WATCH_S)
            needed = self._adapters.names
            try:
                await self._vllm.check_health()
                served = {model.id for model in await self._vllm.models()}
            except BridgeError as error:
                missed += 1
                if missed >= MISSED_WATCHES:
                    raise ServerLost(f"vLLM is gone: {error}") from error
                continue
            missed = 0
            gone = (needed & self._adapters.names) - served
            if gone:
                raise ServerLost(
                    f"vLLM forgot {len(gone)} adapters: it was started anew, or somebody unloaded"
                    " them"
                )

    async def _tell_stats(self) -> None:
        try:
            figures = await self._vllm.figures()
        except BridgeError:  # what is known here is worth telling
            figures = Figures(0, 0, 0.0)
        waiting = sum(not answer.has_begun for answer in self._answers.values())
        self._border.tell(
            m.Stats(
                running=len(self._answers) - waiting,
                waiting=waiting,
                kv_pages_free=figures.pages_free,
                kv_pages=figures.pages,
                adapters_held=self._adapters.held,
                adapters_ready=self._adapters.used,
                tokens_generated=self._tokens,
                max_adapters_in_one_step=self._most_adapters,
                steps=[],
            )
        )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
