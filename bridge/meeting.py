"""Meets a server: waits until it answers, and sees that it can be used.

What it says of itself is believed: which base it computes on is the operator's word, checked as far
as its folder lies on this disk. That the plug-in draws its tokens is seen by asking for some.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from .asking import put_probe
from .errors import BridgeError, ServerRefused, Unfit
from .replies import Figures, Model
from .vllm import GENERATE, LOAD, Vllm

POLL_S = 0.5
PROBE_TOKENS = 40
VERSION = "1"
ENGINE = "vllm"
MAX_FORMAT_BYTES = 16  # what a receipt holds
START = (
    "start it as docs/vllm.md says: VLLM_ALLOW_RUNTIME_LORA_UPDATING=true vllm serve BASE"
    " --enable-lora --enable-scale-out --max-logprobs 21 --logits-processors"
    " lorikeet_vllm.draws:Draws"
)


@dataclass(frozen=True)
class Server:
    """What a server is: the name of its base there, what it computes in, and its sizes.

    is_compared: that its base is the operator's was seen here.
    """

    model: str
    is_compared: bool
    number_format: str
    vocab_size: int
    max_context_tokens: int
    figures: Figures


async def meet(vllm: Vllm, base: Path, deadline_s: float) -> Server:
    """Wait until the server answers, and check it. Raises ServerLost after the deadline, Unfit."""
    vocab_size = read_vocab_size(base)
    await _wait_healthy(vllm, deadline_s)
    try:
        model = next(each for each in await vllm.models() if each.parent is None)
        is_compared = check_same_base(model, base)
        await _check_adapters_change(vllm)
        number_format = await _probe(vllm, model.id, vocab_size)
        await _check_names_count(vllm)
    except ServerRefused as refusal:
        raise Unfit(f"vLLM refuses what is needed ({refusal.status}: {refusal}); {START}") from None
    return Server(
        model=model.id,
        is_compared=is_compared,
        number_format=f"{ENGINE}/{number_format}"[:MAX_FORMAT_BYTES],
        vocab_size=vocab_size,
        max_context_tokens=model.max_model_len or 0,
        figures=await vllm.figures(),
    )


def describe(server: Server) -> str:
    """Say what was met, and what of it nobody has seen."""
    seen = (
        "the folder in base_path"
        if server.is_compared
        else "which does not lie on this disk: that it is the base in base_path is the operator's"
        " word"
    )
    return (
        f"vLLM, {server.number_format}, {server.max_context_tokens} tokens, serves {server.model},"
        f" {seen}"
    )


def read_vocab_size(base: Path) -> int:
    """Read how many ids a base has out of its folder. Raises Unfit."""
    try:
        config = json.loads((base / "config.json").read_bytes())
        return int(config.get("vocab_size") or config["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unfit(
            f"{base} is no Hugging Face folder, which vLLM takes ({error!r}); name one in base_path"
        ) from error


def check_same_base(model: Model, base: Path) -> bool:
    """Compare the server's base with ours; return whether its folder is on this disk at all.

    Raises Unfit where it is, and is another.
    """
    root = Path(model.root or "")
    if not root.is_absolute() or not root.exists():
        return False
    if not root.samefile(base):
        raise Unfit(
            f"vLLM computes on {root}, and base_path is {base}; name the same folder in both"
        )
    return True


async def _wait_healthy(vllm: Vllm, deadline_s: float) -> None:
    with trio.move_on_after(deadline_s):
        while True:
            with suppress(BridgeError):
                await vllm.check_health()
                return
            await trio.sleep(POLL_S)
    await vllm.check_health()


async def _check_adapters_change(vllm: Vllm) -> None:
    """See that adapters can come and go. Raises Unfit."""
    try:
        await vllm.load("", "")
    except ServerRefused as refusal:
        if refusal.status == 400:  # it looked for a name
            return
        if refusal.status != 404:
            raise
        raise Unfit(f"vLLM has no {LOAD}; {START}") from None
    raise Unfit(f"vLLM's {LOAD} loaded an adapter without a name; this version is not known")


async def _probe(vllm: Vllm, model: str, vocab_size: int) -> str:
    """Ask the plug-in what it is; return the server's number format. Raises Unfit."""
    number = secrets.randbelow(min(vocab_size, 1 << 24))
    drawn: list[int] = []
    try:
        async with vllm.generate(put_probe(number, PROBE_TOKENS, model)) as pieces:
            async for piece in pieces:
                for choice in piece.choices:
                    drawn += choice.token_ids or []
                if 0 in drawn[1:]:  # its last word
                    break
    except ServerRefused as refusal:
        raise Unfit(f"vLLM refuses {GENERATE} ({refusal.status}: {refusal}); {START}") from None
    told = bytes(token for token in drawn[1:] if 0 < token < 128).decode()
    version, _, number_format = told.partition(" ")
    if drawn[:1] != [number] or version != VERSION or not number_format:
        raise Unfit(
            f"Lorikeet's plug-in, version {VERSION}, does not draw this vLLM's tokens, so no draw"
            f" could be verified; pip install plugins/vllm where vLLM runs, and {START}"
        )
    return number_format


async def _check_names_count(vllm: Vllm) -> None:
    """See that a name which is not served is refused, not answered by the base. Raises Unfit."""
    try:
        async with vllm.generate(put_probe(0, 1, "lorikeet/nobody")):
            pass
    except ServerRefused as refusal:
        if refusal.status == 404:
            return
        raise
    raise Unfit("vLLM answers for any name; start it without VLLM_SKIP_MODEL_NAME_VALIDATION")
