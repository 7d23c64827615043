"""Step 7: whose words one answer drew on, as `lorikeet why` says it, and the split that follows
from them.
"""

from __future__ import annotations

from functools import partial

import trio
from rich.markup import escape

from node.api.money import WhyInfo
from node.cli.why import lines_of
from node.testnet.asking import Asking
from proofs.attribution.shares import CONTRIBUTOR, POLICY, shares_for, split, terms_of
from proofs.hextext import to_hex
from proofs.receipt import Receipt, decode_body, decode_receipt

from . import cast
from .record import ClaimFailed, Step, require
from .scene import Scene

TRIES = 20
RETRY_S = 1.0
MOST_SPANS = 4


async def show_words(scene: Scene, step: Step) -> None:
    """Ask, look up whose words the answer drew on, and follow them into the fee's split."""
    scene.stage.say(f"“{cast.TRACED_PROMPT}”, then: lorikeet why RECEIPT")
    receipt, told = await ask_until_drawn(scene)
    for line in lines_of(told, cast.COIN, MOST_SPANS):
        for part in line.splitlines():
            scene.stage.say(escape(part.removeprefix("  ")))
    require(told.verdict == "agrees", f"what its receipt says was recomputed ({told.reason})")
    [law] = told.adapters
    require(law.spans, "runs of the answer stand in its contributors' documents")
    require(all(span.source for span in law.spans), "each is of a contribution to a datanet")
    standing = check_split(scene, receipt, told)
    bits = {one.name: round(one.bits or 0.0, 1) for one in law.contributors}
    step.facts |= {"bits": bits, "fee": told.fee, "standing": standing}


async def ask_until_drawn(scene: Scene) -> tuple[Receipt, WhyInfo]:
    """Ask until client and node both have the adapter's text sorted; before that answers pay by
    standing weights.
    """
    node = {"node": scene.peer_id(cast.A)}
    for _ in range(TRIES):
        answer = Asking(cast.TRACED, cast.TRACED_PROMPT)
        await scene.client.ask(
            answer, max_tokens=cast.TRACED_TOKENS, **cast.SAMPLING, lorikeet=node
        )
        scene.note(answer)
        digest = answer.facts["receipt"]
        receipt = decode_body(decode_receipt(await scene.client.receipt(digest)).body)
        if any(receipt.drawn):
            return receipt, await scene.client.why(digest)
        await trio.sleep(RETRY_S)
    raise ClaimFailed(f"no answer of {TRIES} says whose words it drew on")


def check_split(scene: Scene, receipt: Receipt, told: WhyInfo) -> dict[str, int]:
    """Divide the fee by the manifest and the receipt alone; say beside it what standing weights
    would have given, and return that.
    """
    terms = terms_of(scene.manifests[cast.TRACED])
    divide = partial(shares_for, POLICY, receipt.owner, terms)
    shares = divide(receipt.drawn)
    mine = [
        (to_hex(one.address), part)
        for one, part in zip(shares, split(receipt.amount, shares), strict=True)
    ]
    require(
        mine == [(one.address, one.amount) for one in told.split],
        "its split follows from the manifest and the receipt, to the unit",
    )
    require(sum(part for _, part in mine) == receipt.amount, "nothing of its fee is left over")
    names = {one.address: one.name for one in scene.manifests[cast.TRACED].contributors}
    plain = divide()
    standing = {
        names[one.address]: part
        for one, part in zip(plain, split(receipt.amount, plain), strict=True)
        if one.role == CONTRIBUTOR
    }
    scene.stage.say(
        "by standing weights alone: "
        + ", ".join(f"{cast.money(part)} to {name}" for name, part in standing.items()),
        dim=True,
    )
    return standing
