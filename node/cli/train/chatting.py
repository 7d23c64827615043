"""Provides `train chat`: what a run's checkpoint answers, while the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from ...api.training import ChatBegun, ChatEnded, ChatSaid, ChatText, ChatWord, TurnSaid
from ..ask import read_prompt
from ..client import EXIT_USAGE, CliError, DaemonClient, open_client
from ..options import Home, Json
from ..show import show_json
from .asking import Run
from .drawing import say

KINDS: dict[str, type[ChatBegun] | type[ChatText] | type[ChatEnded]] = {
    "begun": ChatBegun,
    "text": ChatText,
    "ended": ChatEnded,
}


def chat(
    home: Home,
    run: Run,
    prompt: Annotated[
        str | None, typer.Argument(help="The question; read from stdin when absent or '-'.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Ask the checkpoint of that step.")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Ask what lost least of what is held out, until now.")
    ] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Ask the newest checkpoint (a running run's default).")
    ] = False,
    beside: Annotated[
        bool, typer.Option("--base", help="Have the base answer first, with the same seed.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to answer with.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = 0.7,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes an answer repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a run's adapter as far as it has learnt; the training goes on meanwhile."""
    if best and last:
        raise CliError("--best and --last were asked for; choose one", EXIT_USAGE)
    question = read_prompt(prompt)
    said = ChatSaid(
        turns=() if raw else (TurnSaid("user", question),),
        text=question if raw else "",
        which="best" if best else "last" if last else None,
        step=step,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        with_base=beside,
    )
    with open_client(home) as client:
        words = answering(client, run, said)
        if as_json:
            return show_json(list(words))
        return show_words(words)


def answering(client: DaemonClient, run: str, said: ChatSaid) -> Iterator[ChatWord]:
    """Yield what the daemon says of an answer, as it comes."""
    body = msgspec.to_builtins(said)
    with client.stream(f"/lorikeet/v1/runs/{run}/chat", body) as events:
        for event in events:
            for kind, value in event.items():
                if kind in KINDS:
                    yield msgspec.convert(value, KINDS[kind])


def show_words(words: Iterator[ChatWord]) -> None:
    """Write the answers as they come, and what answers beside them."""
    by = ""
    for word in words:
        if isinstance(word, ChatBegun):
            for note in word.notes:
                say(f"beware: {note}")
            say(named(word))
        elif isinstance(word, ChatText):
            if word.by != by:
                by = word.by
                say(f"[{by}]")
            sys.stdout.write(word.text)
            sys.stdout.flush()
        else:
            sys.stdout.write("\n")
            sys.stdout.flush()


def named(word: ChatBegun) -> str:
    """Say in a line which checkpoint answers."""
    if word.step is None:
        return "what the finished run keeps"
    lost = "" if word.held_out is None else f", held out {word.held_out:.3f} nats a token"
    return f"the checkpoint of step {word.step}{lost}"
