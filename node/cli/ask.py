"""Provides the commands that make the daemon work: run, pull, push.

Decides what a person sees of an answer; asks through client.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from engine.messages import ChoosingError, choosing_from

from ..api.adapters import AdapterInfo, PullReport
from ..api.status import CoinInfo
from .client import EXIT_INTERRUPTED, EXIT_USAGE, CliError, DaemonClient, open_client
from .options import Home, Json
from .show import brief, err, money, out, show_facts, show_json, size


@dataclass
class Told:
    """What has come of an answer so far."""

    text: str = ""
    chunks: int = 0
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    begun_at: float = field(default_factory=time.monotonic)

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Record one chunk and return its text."""
        self.facts |= chunk.get("lorikeet") or {}
        self.usage |= chunk.get("usage") or {}
        texts = []
        for choice in chunk["choices"]:
            self.reason = choice["finish_reason"] or self.reason
            texts.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
        self.text += "".join(texts)
        return "".join(texts)

    def as_json(self) -> dict[str, Any]:
        """Return the whole answer as data."""
        return {"text": self.text, "finish_reason": self.reason, "usage": self.usage, **self.facts}

    def as_line(self, coin: CoinInfo) -> str:
        """Return the facts that a person wants after an answer, paid in `coin`."""
        timings = self.facts.get("timings", {})
        tokens = self.usage.get("completion_tokens", 0)
        decode_s = (timings.get("total", 0.0) - timings.get("first_token", 0.0)) / 1000
        parts = [
            f"{self.facts.get('adapter', '?')} served by {brief(self.facts.get('served_by'))}",
            auto_line(self.facts.get("auto")),
            *(
                f"then by {brief(each['served_by'])} after {each['after_tokens']} tokens"
                for each in self.facts.get("continued", ())
            ),
            f"{tokens} tokens"
            + (f" at {(tokens - 1) / decode_s:.0f}/s" if tokens > 1 and decode_s > 0 else ""),
            f"first after {timings['first_token']:.0f} ms" if "first_token" in timings else "",
            (
                f"paid {money(self.facts.get('amount', 0), coin)}, receipt"
                f" {self.facts['receipt'][:12]}…"
                if self.facts.get("receipt")
                else "unpaid"
            ),
        ]
        return " · ".join(part for part in parts if part)


def auto_line(auto: Mapping[str, Any] | None) -> str:
    """Return what `auto` chose, and before what."""
    if not auto:
        return ""
    chosen, second = auto["model"], auto["runner_up"]
    next_best = f"{second['model']} ({second['score']:.2f})" if second else ""
    if chosen["cid"] is None:
        return "auto: no adapter fits" + (f", the nearest is {next_best}" if second else "")
    return f"auto: {chosen['score']:.2f}" + (f", before {next_best}" if second else "")


def within_bounds(option: typer.CallbackParam, value: float) -> float:
    """Reject a value that no node would accept, before anything is sent."""
    try:
        choosing_from({str(option.name): value})
    except ChoosingError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def run(
    home: Home,
    model: Annotated[
        str, typer.Argument(help="base, NAME, PEER/NAME, a CID, law:0.7+verse:0.3 or auto.")
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="The question; read from stdin when absent or '-'.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message before the question.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to answer with.")] = 128,
    temperature: Annotated[
        float, typer.Option(callback=within_bounds, help="0 always takes the likeliest token.")
    ] = 0.7,
    top_p: Annotated[
        float,
        typer.Option(callback=within_bounds, help="Sample from this share of the likelihood."),
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(callback=within_bounds, help="Sample from this many tokens; 0 is all.")
    ] = 0,
    min_p: Annotated[
        float,
        typer.Option(
            callback=within_bounds,
            help="Leave out tokens less likely than this share of the likeliest.",
        ),
    ] = 0.0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            callback=within_bounds, help="Above 1, what was said already becomes less likely."
        ),
    ] = 1.0,
    schema: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A JSON schema that the answer must match."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="An expression that the answer must match.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The client's half of the seed.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    node: Annotated[str | None, typer.Option(help="The peer that must answer.")] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Tell nobody whose text it drew on; remember nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a model; stream the answer to stdout and print one line of facts to stderr."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
    }
    body |= {
        "seed": seed,
        "stop": stop or None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "lorikeet": {"node": node, "regex": regex, "private": private},
    }
    body |= {
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "response_format": read_schema(schema) if schema else None,
    }
    question = read_prompt(prompt)
    if raw:
        path = "/v1/completions"
        body = body | {"prompt": question}
    else:
        turns = [{"role": "system", "content": system}] if system else []
        path = "/v1/chat/completions"
        body = body | {"messages": [*turns, {"role": "user", "content": question}]}
    told = Told()
    with open_client(home) as client, cancelling_on_interrupt(told):
        stream_answer(client, path, body, told, quiet=as_json)
        if as_json:
            show_json(told.as_json())
        else:
            say(told.as_line(client.coin()))


def stream_answer(
    client: DaemonClient, path: str, body: object, told: Told, *, quiet: bool
) -> None:
    """Write the text as it arrives."""
    with client.stream(path, body) as chunks:
        for chunk in chunks:
            text = told.take(chunk)
            if not quiet:
                sys.stdout.write(text)
                sys.stdout.flush()
    if not quiet:
        sys.stdout.write("\n")
        sys.stdout.flush()


@contextmanager
def cancelling_on_interrupt(told: Told) -> Iterator[None]:
    """Hang up on Ctrl-C, which cancels the answer, and say so."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.write("\n" if told.text else "")
        say(f"cancelled after {len(told.text)} characters")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def read_schema(path: Path) -> dict[str, Any]:
    """Read a schema's file as a request's `response_format`."""
    try:
        schema = json.loads(path.read_text())
    except ValueError as error:
        raise CliError(f"{path} is not JSON: {error}", EXIT_USAGE) from error
    return {"type": "json_schema", "json_schema": {"name": path.stem, "schema": schema}}


def read_prompt(prompt: str | None) -> str:
    """Return the argument, or all of stdin."""
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin.isatty():
        say("Type the question, then Ctrl-D:")
    text = sys.stdin.read().strip()
    if not text:
        raise CliError(
            'nothing was asked. Give the question as an argument: lorikeet run law "May I …?"',
            EXIT_USAGE,
        )
    return text


def say(line: str) -> None:
    """Print one dim line to stderr."""
    err.print(f"[dim]{escape(line)}[/dim]" if err.is_terminal else line, markup=err.is_terminal)


def pull(
    home: Home,
    model: Annotated[str, typer.Argument(help="NAME, PEER/NAME or a CID.")],
    as_json: Json = False,
) -> None:
    """Fetch, verify, load and advertise an adapter; it stays until unpin."""
    with open_client(home) as client, progress(f"pulling {model}"):
        report = client.post("pull", {"model": model}, PullReport)
    if as_json:
        return show_json(report)
    seconds = report.fetch_ms / 1000
    rate = f" at {report.size_bytes / 1e6 / seconds:.0f} MB/s" if seconds > 0 else ""
    return show_facts(
        [
            ("adapter", f"{report.name}  {report.cid}"),
            ("size", size(report.size_bytes) + rate),
            (
                "times",
                (
                    f"lookup {report.lookup_ms:.0f} ms, fetch {report.fetch_ms:.0f} ms, verify"
                    f" {report.verify_ms:.0f} ms, load {report.load_ms:.0f} ms"
                ),
            ),
            (
                "blocks from",
                ", ".join(
                    f"{count} x {brief(peer)}" for peer, count in report.blocks_by_peer.items()
                )
                or "already here",
            ),
            *(
                ("rejected", f"{brief(cid)} from {peer}: {reason}")
                for peer, cid, reason in report.rejected
            ),
        ]
    )


def unpin(
    home: Home,
    model: Annotated[str, typer.Argument(help="NAME, PEER/NAME or a CID.")],
    as_json: Json = False,
) -> None:
    """Let an adapter that was pulled make room for others (max_guest_bytes)."""
    with open_client(home) as client:
        info = client.post("unpin", {"model": model}, AdapterInfo)
    if as_json:
        return show_json(info)
    return show_facts([("adapter", f"{info.name}  {info.cid}"), ("size", size(info.size_bytes))])


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show a spinner on a terminal, nothing in a pipe."""
    if not out.is_terminal:
        yield
        return
    with err.status(what):
        yield
