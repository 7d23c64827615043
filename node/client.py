"""A program's way into the network: `from node.client import Client`, or `AsyncClient`.

Finds the daemon of a home, or starts a gateway there that ends with the program; asks it, and
believes no receipt that it has not checked. Which node answers, and that another goes on where one
is lost, is the daemon's to decide.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

import anyio
import anyio.to_thread
import httpx
import msgspec

from p2p.cid import Cid
from p2p.errors import InvalidInput
from proofs.digest import Network
from proofs.errors import ProofError
from proofs.hextext import from_hex
from proofs.receipt import BARE_BASE, Receipt, decode_receipt, digest_of, verify_receipt

from .api.adapters import AdapterInfo
from .api.status import StatusInfo
from .config import CONFIG_FILE, default_home
from .errors import NodeError
from .money.addresses import address_of_peer
from .running import read_running
from .testnet.processes import CHILD

CONNECT_S = 5.0
ANSWER_S = 600.0
PATIENCE_S = 30.0
START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 6.0  # a daemon promises five
POLL_S = 0.05
FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 2.0
PASSING = frozenset({"busy", "engine_lost", "no_base", "no_provider"})
"""What may be otherwise in a moment; asked again until the client's patience ends."""

Value = TypeVar("Value")


class ClientError(Exception):
    """A question got no answer; `code` is the daemon's word for why (docs/usage.md), "" for none.

    `text` is what had come of the answer.
    """

    def __init__(self, message: str, code: str = "", text: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.text = text


class FalseReceipt(ClientError):
    """A receipt is not of the answer that it came with, or not signed as it says."""


class Options(TypedDict, total=False):
    """What a question may say beside its model and its prompt; as in OpenAI's API, and `node`, the
    peer that must answer, and `private`, which tells nobody whose text the answer drew on.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: list[str]
    response_format: Mapping[str, Any]
    node: str
    private: bool


@dataclass(frozen=True)
class Answer:
    """One whole answer. `receipt` has been checked; None where nothing was paid.

    `served_by` lists the nodes, the last one last; `reason` is "stop" or "length"; `cid` is None
    for the bare base.
    """

    text: str
    model: str
    cid: str | None
    reason: str
    served_by: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    amount: int
    receipt: Receipt | None
    receipt_digest: str | None
    timings_ms: Mapping[str, float]


Prompt = str | Sequence[Mapping[str, str]]
"""A text, or turns with `role` and `content`."""


def question(model: str, prompt: Prompt, options: Options) -> dict[str, Any]:
    """The body of a request for a streamed answer. Pure."""
    said: dict[str, Any] = dict(options)
    ours = {name: said.pop(name) for name in ("node", "private") if name in said}
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    body = {"model": model, "messages": turns, "stream": True, **said}
    return body | {"stream_options": {"include_usage": True}} | ({"lorikeet": ours} if ours else {})


@dataclass
class Heard:
    """An answer as far as it has come. Pure."""

    model: str
    text: str = ""
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    is_whole: bool = False

    def take(self, line: str) -> str:
        """Take one line of the stream; return its text. Raises ClientError."""
        data = line.removeprefix("data: ")
        self.is_whole |= data == "[DONE]"
        if data == line or self.is_whole:
            return ""
        chunk = json.loads(data)
        if "error" in chunk:
            raise ClientError(chunk["error"]["message"], chunk["error"]["code"] or "", self.text)
        self.facts |= chunk.get("lorikeet") or {}
        self.usage |= chunk.get("usage") or {}
        text = ""
        for choice in chunk["choices"]:
            self.reason = choice["finish_reason"] or self.reason
            text += choice["delta"].get("content") or ""
        self.text += text
        return text

    def finish(self, receipt: Receipt | None) -> Answer:
        """Return the whole answer. Raises ClientError where it broke off."""
        if not self.is_whole:
            raise ClientError("the daemon hung up in mid-answer", "", self.text)
        moved = (one["served_by"] for one in self.facts.get("continued", ()))
        return Answer(
            self.text,
            self.facts.get("adapter", self.model),
            self.facts.get("cid"),
            self.reason or "stop",
            (self.facts["served_by"], *moved),
            prompt_tokens=self.usage.get("prompt_tokens", 0),
            completion_tokens=self.usage.get("completion_tokens", 0),
            amount=self.facts.get("amount", 0),
            receipt=receipt,
            receipt_digest=self.facts.get("receipt"),
            timings_ms=self.facts.get("timings", {}),
        )


def check_receipt(data: bytes, status: StatusInfo, answer: Answer) -> Receipt:
    """Return what a receipt says once it is signed as it must be on the daemon's chain, and of this
    answer. Pure. Raises FalseReceipt.
    """
    try:
        signed = decode_receipt(data)
        receipt = verify_receipt(signed, network_of(status)).receipt
        operator = address_of_peer(answer.served_by[-1])
        adapter = BARE_BASE if answer.cid is None else Cid.parse(answer.cid).digest
    except (ProofError, NodeError, InvalidInput, ValueError) as error:
        raise FalseReceipt(f"receipt {answer.receipt_digest}: {error}", "", answer.text) from error
    differing = {
        "digest": digest_of(signed.body).hex() != answer.receipt_digest,
        "node": receipt.operator != operator,
        "adapter": receipt.adapter != adapter,
        "amount": receipt.amount != answer.amount,
    }
    if len(answer.served_by) == 1:  # else it is of the last node's part
        differing["prompt"] = receipt.prompt_tokens != answer.prompt_tokens
        # a stop text may hide tokens that were paid for
        differing["answer"] = receipt.completion_tokens < answer.completion_tokens
    if any(differing.values()):
        named = ", ".join(name for name, differs in differing.items() if differs)
        told = f"receipt {answer.receipt_digest} is of another answer: its {named} differs"
        raise FalseReceipt(told, "", answer.text)
    return receipt


def network_of(status: StatusInfo) -> Network:
    """The chain and contracts that a daemon's receipts are for; ValueError where it names none."""
    about = status.settlement or {}
    if not {"chain_id", "settlement", "token"} <= set(about):
        raise ValueError("the daemon names no chain")
    return Network(
        chain_id=int(str(about["chain_id"])),
        settlement=from_hex(str(about["settlement"])),
        token=from_hex(str(about["token"])),
    )


def failure_of(status: int, body: bytes) -> ClientError:
    """The error that a response describes."""
    try:
        error = json.loads(body)["error"]
        return ClientError(str(error["message"]), str(error["code"] or ""))
    except (ValueError, KeyError, TypeError):
        return ClientError(
            f"status {status}; is something else than a daemon listening on this port?"
        )


class Patience:
    """How long to wait before a question is asked again."""

    def __init__(self, patience_s: float) -> None:
        self._until = time.monotonic() + patience_s
        self._pause_s = FIRST_PAUSE_S

    def pause_after(self, error: ClientError) -> float:
        """Return the pause (s); raises the error once there is no point in asking again."""
        pause_s = self._pause_s
        if error.code not in PASSING or error.text or time.monotonic() + pause_s > self._until:
            raise error
        self._pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return pause_s


class Stream:
    """An answer on its way: iterate over its texts; `answer` is there once it is whole."""

    def __init__(self, client: Client, response: httpx.Response, heard: Heard) -> None:
        self._client = client
        self._response = response
        self._heard = heard
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the answer's texts, then check its receipt. Raises ClientError."""
        with _translated(self._heard):
            for line in self._response.iter_lines():
                if text := self._heard.take(line):
                    yield text
        self.answer = self._client._checked(self._heard)


class AsyncStream:
    """An answer on its way, as `Stream`, for `async for`."""

    def __init__(self, client: AsyncClient, response: httpx.Response, heard: Heard) -> None:
        self._client = client
        self._response = response
        self._heard = heard
        self.answer: Answer | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the answer's texts, then check its receipt. Raises ClientError."""
        with _translated(self._heard):
            async for line in self._response.aiter_lines():
                if text := self._heard.take(line):
                    yield text
        self.answer = await self._client._checked(self._heard)


class Client:
    """Asks a network. `home` is a daemon's folder, as in `lorikeet --home`; `url` names a daemon
    instead. Where none runs for that home, a gateway is started for the length of the block;
    `join` is an invite, for a home that knows no network yet.

    What may pass in a moment (a node has no room, an engine starts again) is asked again until
    `patience_s` are over. A client belongs to one thread, which must outlive the gateway.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        url: str | None = None,
        join: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._gateway = Gateway(home or default_home(), url, join)
        self._patience_s = patience_s
        self._http: httpx.Client | None = None

    def __enter__(self) -> Client:
        url = self._gateway.find()
        if url is None:
            self._gateway.launch()
            url = self._gateway.wait()
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=_timeout())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            self._http.close()
        self._gateway.stop()

    def status(self) -> StatusInfo:
        """Describe the daemon that is asked."""
        return _decode(self._get("status"), StatusInfo)

    def adapters(self) -> list[AdapterInfo]:
        """List the adapters that the daemon holds or has heard of."""
        return _decode(self._get("adapters"), list[AdapterInfo])

    def ask(self, model: str, prompt: Prompt, **options: Unpack[Options]) -> Answer:
        """Return a whole answer, paid and its receipt checked. Raises ClientError."""
        with self.stream(model, prompt, **options) as stream:
            for _ in stream:
                pass
        assert stream.answer is not None, "a stream that ends without an error is whole"
        return stream.answer

    @contextmanager
    def stream(self, model: str, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Stream]:
        """Give an answer as it comes; leaving the block early cancels it, and it is paid so far."""
        body = question(model, prompt, options)
        patience = Patience(self._patience_s)
        response = self._open(body)
        while isinstance(response, ClientError):
            time.sleep(patience.pause_after(response))
            response = self._open(body)
        try:
            yield Stream(self, response, Heard(model))
        finally:
            response.close()

    def _open(self, body: dict[str, Any]) -> httpx.Response | ClientError:
        http = self._need_http()
        with _translated():
            request = http.build_request("POST", "/v1/chat/completions", json=body)
            response = http.send(request, stream=True)
            if response.status_code == httpx.codes.OK:
                return response
            try:
                return failure_of(response.status_code, response.read())
            finally:
                response.close()

    def _checked(self, heard: Heard) -> Answer:
        answer = heard.finish(None)
        if answer.receipt_digest is None:
            return answer
        data = self._get(f"receipts/{answer.receipt_digest}")
        return heard.finish(check_receipt(data, self.status(), answer))

    def _get(self, path: str) -> bytes:
        with _translated():
            response = self._need_http().get(f"/lorikeet/v1/{path}")
        if response.status_code != httpx.codes.OK:
            raise failure_of(response.status_code, response.content)
        return response.content

    def _need_http(self) -> httpx.Client:
        assert self._http is not None, "use the client in a `with` block"
        return self._http


class AsyncClient:
    """As `Client`, with `async with`, under asyncio and trio."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        url: str | None = None,
        join: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._gateway = Gateway(home or default_home(), url, join)
        self._patience_s = patience_s
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> AsyncClient:
        url = await anyio.to_thread.run_sync(self._gateway.find)
        if url is None:
            self._gateway.launch()  # not in a thread: a gateway ends with the one that started it
            url = await anyio.to_thread.run_sync(self._gateway.wait)
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=_timeout())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            if self._http is not None:
                await self._http.aclose()
            await anyio.to_thread.run_sync(self._gateway.stop)

    async def status(self) -> StatusInfo:
        """Describe the daemon that is asked."""
        return _decode(await self._get("status"), StatusInfo)

    async def adapters(self) -> list[AdapterInfo]:
        """List the adapters that the daemon holds or has heard of."""
        return _decode(await self._get("adapters"), list[AdapterInfo])

    async def ask(self, model: str, prompt: Prompt, **options: Unpack[Options]) -> Answer:
        """Return a whole answer, paid and its receipt checked. Raises ClientError."""
        async with self.stream(model, prompt, **options) as stream:
            async for _ in stream:
                pass
        assert stream.answer is not None, "a stream that ends without an error is whole"
        return stream.answer

    @asynccontextmanager
    async def stream(
        self, model: str, prompt: Prompt, **options: Unpack[Options]
    ) -> AsyncIterator[AsyncStream]:
        """Give an answer as it comes; leaving the block early cancels it, and it is paid so far."""
        body = question(model, prompt, options)
        patience = Patience(self._patience_s)
        response = await self._open(body)
        while isinstance(response, ClientError):
            await anyio.sleep(patience.pause_after(response))
            response = await self._open(body)
        try:
            yield AsyncStream(self, response, Heard(model))
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _open(self, body: dict[str, Any]) -> httpx.Response | ClientError:
        http = self._need_http()
        with _translated():
            request = http.build_request("POST", "/v1/chat/completions", json=body)
            response = await http.send(request, stream=True)
            if response.status_code == httpx.codes.OK:
                return response
            try:
                return failure_of(response.status_code, await response.aread())
            finally:
                await response.aclose()

    async def _checked(self, heard: Heard) -> Answer:
        answer = heard.finish(None)
        if answer.receipt_digest is None:
            return answer
        data = await self._get(f"receipts/{answer.receipt_digest}")
        return heard.finish(check_receipt(data, await self.status(), answer))

    async def _get(self, path: str) -> bytes:
        with _translated():
            response = await self._need_http().get(f"/lorikeet/v1/{path}")
        if response.status_code != httpx.codes.OK:
            raise failure_of(response.status_code, response.content)
        return response.content

    def _need_http(self) -> httpx.AsyncClient:
        assert self._http is not None, "use the client in an `async with` block"
        return self._http


class Gateway:
    """The daemon that is asked: one that runs, or a gateway that is started here and dies with the
    thread that launched it.
    """

    def __init__(self, home: Path, url: str | None, join: str | None) -> None:
        self._home = home
        self._url = url
        self._join = join
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start a gateway. Raises ClientError where it would know no network."""
        if self._join is None and not (self._home / CONFIG_FILE).exists():
            raise ClientError(
                f"no daemon runs for {self._home}, and it knows no network: give `join=` an invite"
                " (lorikeet invite), or name a `home` or a `url`"
            )
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "node", "up", "--home", str(self._home)]
        command += [] if self._join is None else ["--join", self._join]
        settings = {"LORIKEET_ROLE": "gateway", "LORIKEET_HTTP_PORT": "0"}
        if not (self._home / CONFIG_FILE).exists():
            settings["LORIKEET_LISTEN"] = ""  # who only asks need not be found
        with (self._home / "out.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", str(CHILD), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings},
                start_new_session=True,
            )

    def wait(self) -> str:
        """Return the URL of the daemon once it answers. Raises ClientError."""
        until = time.monotonic() + START_DEADLINE_S
        while (url := self.find()) is None:
            if self._process is not None and self._process.poll() is not None:
                raise ClientError(f"no gateway could be started: {self._last_words()}")
            if time.monotonic() > until:
                self.stop()
                raise ClientError(
                    f"the gateway was not ready within {START_DEADLINE_S:.0f} s:"
                    f" {self._last_words()}"
                )
            time.sleep(POLL_S)
        return url

    def stop(self) -> None:
        """End the gateway that was started here."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def find(self) -> str | None:
        """Return the URL of a daemon that runs; None where none does."""
        if self._url is not None:
            return self._url
        running = read_running(self._home)
        if running is None:
            return None
        try:
            httpx.get(f"{running.http}/healthz", trust_env=False, timeout=CONNECT_S)
        except httpx.TransportError:  # its note outlived it
            return None
        return running.http

    def _last_words(self) -> str:
        said = (self._home / "out.log").read_text(errors="replace").strip()
        return said.rpartition("\n")[2] or "it said nothing"


@contextmanager
def _translated(heard: Heard | None = None) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise ClientError(
            f"the daemon is gone ({error or type(error).__name__})", "", heard.text if heard else ""
        ) from error


def _decode(data: bytes, kind: type[Value]) -> Value:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ClientError(
            f"the daemon answered in another form than this version knows: {error}"
        ) from error


def _timeout() -> httpx.Timeout:
    return httpx.Timeout(ANSWER_S, connect=CONNECT_S)
