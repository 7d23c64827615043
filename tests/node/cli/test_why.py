"""`lorikeet why` while what settles a receipt is on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.cli import why
from node.cli.client import CliError
from node.cli.source import NoBlock
from node.config import Config


def on_a_chain(home: Path) -> Config:
    contracts = dict.fromkeys(("settlement", "channels", "token"), "0x" + "11" * 20)
    return Config(home, chain_rpc=("http://chain.test",), **contracts)


@pytest.mark.parametrize("source", ["", "p2p"])
def test_a_block_that_is_not_here_yet_is_waited_for(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def open_audit(home: Path, asked: str) -> Iterator[None]:
        assert asked == source
        raise NoBlock("nobody gives block ab")
        yield

    monkeypatch.setattr(why, "open_audit", open_audit)
    monkeypatch.setattr(why, "load_config", on_a_chain)
    [step] = why.follow(tmp_path, source, b"")
    assert (step.name, step.outcome, step.detail) == ("included", "waits", "nobody gives block ab")


def test_what_does_not_follow_is_no_matter_of_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def open_audit(home: Path, source: str) -> Iterator[None]:
        raise CliError("epoch 3 does not follow")
        yield

    monkeypatch.setattr(why, "open_audit", open_audit)
    monkeypatch.setattr(why, "load_config", on_a_chain)
    with pytest.raises(CliError, match="epoch 3"):
        list(why.follow(tmp_path, "", b""))
