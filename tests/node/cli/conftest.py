"""What tests of commands that ask a chain by themselves share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proofs.chain.devchain import DevChain, open_chain
from tests.node.forked import forked_python


@pytest.fixture(scope="module")
def chain() -> Iterator[DevChain]:
    with open_chain(command=(forked_python(), "-m", "proofs.chain.devchain")) as opened:
        yield opened
