"""Step 13: a node dies in the middle of an answer, and the answer goes on."""

from __future__ import annotations

import os
import signal

from node.testnet.asking import Asking

from . import cast
from .record import Step, require
from .scene import Scene
from .serving import ask_into

MAX_GAP_MS = 5_000.0  # of a busy machine; a quiet one needs a tenth of it


async def show_survival(scene: Scene, step: Step) -> None:
    """The serving node is killed after its first words; its answer ends as it would have."""
    whole = Asking("base", cast.LONG_PROMPT)
    greedy = {"max_tokens": cast.LONG_TOKENS, "temperature": 0.0}
    await ask_into(scene, whole, **greedy)
    broken = Asking("base", cast.LONG_PROMPT)
    killed: list[str] = []
    with scene.stage.side_by_side(("base, and its node is killed",)) as add:

        def on_text(text: str) -> None:
            add(0, text)
            if not killed:
                killed.append(broken.facts["served_by"])
                kill(scene, scene.name_of(killed[0]))

        await ask_into(scene, broken, on_text, **greedy)
    (moved,) = broken.facts.get("continued", [None])
    require(moved is not None, "another node went on with the answer")
    gap_ms = broken.facts["timings"]["resume"]
    scene.stage.say(
        f"{scene.name_of(killed[0])} was killed (kill -9) after {moved['after_tokens']} tokens;"
        f" {scene.name_of(moved['served_by'])} went on {gap_ms:.0f} ms later"
    )
    require(moved["served_by"] != killed[0], "it was another one")
    require(broken.text == whole.text, "the text is the one of an unbroken answer")
    require(gap_ms <= MAX_GAP_MS, f"the gap was at most {MAX_GAP_MS:.0f} ms")
    scene.record.figure("resume_ms", round(gap_ms, 1))
    step.facts |= {"after_tokens": moved["after_tokens"], "gap_ms": round(gap_ms, 1)}


def kill(scene: Scene, name: str) -> None:
    """End a node and its engine as a power cut would."""
    os.killpg(scene.network.nodes[name].child.process.pid, signal.SIGKILL)
