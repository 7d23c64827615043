"""Answers by a run's checkpoint on this daemon's own engine, while the run goes on.

    checkpoint → (a process takes it out) → a folder of its own → engine → answer → forgotten

The engine is given it under a name drawn at random, which nothing announces and no catalogue knows:
nobody else can ask for it, and nobody is paid. The training is not asked and does not wait.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from engine import messages as m
from engine.messages import ChoosingError, choosing_from
from factory.errors import FactoryError
from factory.training.folder import recipe_of
from factory.training.taken import Taken

from ..answering.reading import client_seed
from ..answering.tokenizer import BaseTokenizer
from ..api.answers import ChatMessage
from ..api.training import Answerer, ChatBegun, ChatEnded, ChatSaid, ChatText, ChatWord
from ..bases.loading import Base
from ..engine_host import EngineHost
from ..engine_link import AdapterFiles
from ..errors import BadRequest, EngineBusy
from ..wire.infer import MAX_TOKENS
from .runs import work

FILES = ("adapter_config.json", "adapter_model.safetensors")
TAKE_DEADLINE_S = 120.0
MAX_CHATS = 4
"""At once: each has an adapter on the disk and in the engine."""
PREFIX = ".chat."


@dataclass(frozen=True)
class Asked:
    """A question in the engine's terms."""

    prompt_ids: tuple[int, ...]
    sampling: m.Sampling
    max_tokens: int


class Chats:
    """The chats of one daemon with its runs' checkpoints; `command` is the runs' program."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self._folder = folder
        self._command = tuple(command)
        self._open: set[Path] = set()

    @asynccontextmanager
    async def chat(
        self, run: Path, said: ChatSaid, base: Base, engine: EngineHost
    ) -> AsyncIterator[AsyncIterator[ChatWord]]:
        """Answer by a checkpoint of the run in that folder; leaving the block early cancels it.

        Raises BadRequest, EngineBusy, AdapterError and EngineLost.
        """
        asked = _asked(said, base.tokenizer)
        _check_base(run, base)
        with self._scratch() as folder:
            taken = await self._take(run, said, folder)
            await engine.wait_up()
            files = AdapterFiles(secrets.token_bytes(32), folder / FILES[0], folder / FILES[1])
            await engine.load(files)
            try:
                words = _words(engine, base.tokenizer, files.adapter, asked, taken, said=said)
                async with aclosing(words) as answered:
                    yield answered
            finally:
                engine.release(files.adapter)

    async def _take(self, run: Path, said: ChatSaid, folder: Path) -> Taken:
        """Write the adapter that is asked for into the folder; what a finished run keeps, where
        nothing else is asked for.
        """
        is_plain = said.which is None and said.step is None
        if is_plain and await trio.to_thread.run_sync(_link_finished, run, folder):
            return Taken(None, None, ())
        which = ["--best"] if said.which == "best" else []
        step = [] if said.step is None else ["--step", str(said.step)]
        with trio.move_on_after(TAKE_DEADLINE_S):
            command = [*self._command, str(run), "--take", str(folder), *which, *step]
            told = await work(command, "reading the checkpoint")
            return msgspec.json.decode(told.splitlines()[-1], type=Taken)
        raise BadRequest(f"the checkpoint was not read within {TAKE_DEADLINE_S:.0f} s; ask again")

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        if len(self._open) >= MAX_CHATS:
            raise EngineBusy(f"{MAX_CHATS} chats with checkpoints are open; ask when one has ended")
        for left in self._folder.glob(f"{PREFIX}*"):  # by a daemon that was killed
            if left not in self._open:
                shutil.rmtree(left, ignore_errors=True)
        folder = self._folder / f"{PREFIX}{secrets.token_hex(8)}"
        folder.mkdir(parents=True)
        self._open.add(folder)
        try:
            yield folder
        finally:
            self._open.discard(folder)
            shutil.rmtree(folder, ignore_errors=True)


async def _words(
    engine: EngineHost,
    tokenizer: BaseTokenizer,
    adapter: bytes,
    asked: Asked,
    taken: Taken,
    *,
    said: ChatSaid,
) -> AsyncGenerator[ChatWord, None]:
    """Tell which checkpoint it is, then what the base answers if it is wanted, then the adapter."""
    yield ChatBegun(taken.step, taken.held_out, taken.notes)
    if said.with_base:
        async for word in _answer(engine, tokenizer, None, asked):
            yield word
    async for word in _answer(engine, tokenizer, adapter, asked):
        yield word


async def _answer(
    engine: EngineHost, tokenizer: BaseTokenizer, adapter: bytes | None, asked: Asked
) -> AsyncIterator[ChatWord]:
    by: Answerer = "base" if adapter is None else "adapter"
    detokenizer = tokenizer.detokenizer()
    count = 0
    async with engine.generate(
        asked.prompt_ids,
        adapter,
        asked.sampling,
        asked.max_tokens,
        credit=asked.max_tokens,
        stop_ids=tokenizer.stop_ids,
    ) as run:
        async for event in run:
            if isinstance(event, m.Finished):
                if text := detokenizer.flush():
                    yield ChatText(by, text)
                yield ChatEnded(by, count, event.reason)
                return
            count += len(event.token_ids)
            if text := detokenizer.feed(event.token_ids):
                yield ChatText(by, text)


def _asked(said: ChatSaid, tokenizer: BaseTokenizer) -> Asked:
    """Put a question in the engine's terms. Raises BadRequest."""
    if said.which is not None and said.step is not None:
        raise BadRequest("a step and the best or last were asked for; name one of them")
    if not 1 <= said.max_tokens <= MAX_TOKENS:
        raise BadRequest(f"max_tokens is {said.max_tokens}; it must be 1 to {MAX_TOKENS}")
    if bool(said.turns) == bool(said.text):
        raise BadRequest("give either turns or a text to go on with")
    turns = tuple(ChatMessage(turn.role, turn.content) for turn in said.turns)
    try:
        choosing = choosing_from({"temperature": said.temperature})
    except ChoosingError as error:
        raise BadRequest(str(error)) from None
    prompt_ids = tuple(tokenizer.encode_prompt(turns or said.text))
    return Asked(prompt_ids, m.Sampling(client_seed(said.seed), choosing), said.max_tokens)


def _check_base(run: Path, base: Base) -> None:
    """Raise BadRequest for a run over another base than the engine's."""
    try:
        wanted = recipe_of(run).base
    except FactoryError as error:
        raise BadRequest(str(error)) from error
    if wanted != base.identity.base.hex():
        raise BadRequest(
            f"the run {run.name} is over the base {wanted[:16]}…, and this daemon serves"
            f" {base.identity.base.hex()[:16]}… ({base.name}); start one with that base"
        )


def _link_finished(run: Path, folder: Path) -> bool:
    """Link what a finished run keeps; False where that is not there."""
    try:
        for name in FILES:
            os.link(run / "adapter" / name, folder / name)
    except FileNotFoundError:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return False
    return True
