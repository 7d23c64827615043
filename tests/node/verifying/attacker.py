"""A real engine behind a node that cheats: `python -m tests.node.verifying.attacker CHEAT serve …`.

junk            one token, again and again, whatever was asked
bare            the base without the adapter; also what "generated without, prefilled with"
                sends, since tokens are all that a client sees
other:FOLDER    another adapter's weights, or an old version's
dice            the right adapter, its own dice
on              goes on after an answer's end, to be paid for more tokens
"""

from __future__ import annotations

import sys

import msgspec

from engine import messages as m
from engine.__main__ import main
from engine.engine import Engine

JUNK = 70
HONEST = Engine.handle


def cheat(how: str, message: m.ToEngine) -> m.ToEngine:
    """What the engine hears instead of what the daemon says."""
    change = msgspec.structs.replace
    kind, _, folder = how.partition(":")
    match kind, message:
        case "junk", m.Submit():
            junk = m.Choosing(logit_bias=[(JUNK, 100.0)])
            return change(message, sampling=m.Sampling(bytes(32), junk))
        case "bare", m.Submit():
            return change(message, adapter=None)
        case "dice", m.Submit():
            return change(message, sampling=change(message.sampling, seed=bytes(32)))
        case "on", m.Submit():
            return change(message, stop_ids=[])
        case "other", m.HoldAdapter():
            return m.HoldAdapter(
                message.adapter,
                f"{folder}/adapter_config.json",
                f"{folder}/adapter_model.safetensors",
            )
    return message


if __name__ == "__main__":
    how = sys.argv.pop(1)
    Engine.handle = lambda self, message: HONEST(self, cheat(how, message))  # type: ignore[method-assign]
    sys.exit(main())
