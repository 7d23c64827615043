"""Real daemons bear whatever is said to them: honest peers are answered, nothing stays behind."""

from __future__ import annotations

from pathlib import Path

from .live import attack, open_target

SECONDS = 14.0
SEED = 1  # scripts/fuzz takes another one each time


async def test_a_daemon_bears_spoilt_conversations_and_forgets_who_held_them(
    tmp_path: Path,
) -> None:
    async with open_target(tmp_path) as target:
        num = await attack(target, SECONDS, SEED)
    assert sum(num.values()) > 20
    log = (tmp_path / "target.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
