"""A token carries a network's settings whole, or is refused by a sentence that says why."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cli.client import CliError
from node.cli.invite import join
from node.config import CONFIG_FILE, load_config, settings
from node.errors import ConfigError
from node.invite import MAX_TOKEN_CHARS, PREFIX, SHARED, read_invite, write_invite
from tests.node.forked import forked_python
from tests.processes import ending

PEER = "16Uiu2HAkxQejjoQXVe1j66eTYBtUhuK3SddDqwYmKZu57mvJFeMZ"
PRIVATE = {
    "network": "mine",
    "network_key": "ab" * 32,
    "bootstrap": (f"/dns4/a.b/tcp/1/p2p/{PEER}",),
}
text = st.text(max_size=30).filter(bool)


def test_a_token_carries_what_all_share_and_nothing_of_ones_own() -> None:
    assert set(SHARED) <= set(settings())
    assert not {"owner", "password_file", "http_host", "listen", "base_path"} & set(SHARED)


@given(network=text, bootstrap=st.lists(text, min_size=1, max_size=8), chain_id=st.integers(1))
def test_what_is_written_is_read(network: str, bootstrap: list[str], chain_id: int) -> None:
    token = write_invite({"network": network, "bootstrap": bootstrap, "chain_id": chain_id})
    found = read_invite(f"  {token}\n")
    assert found["network"] == network
    assert json.loads(found["bootstrap"]) == bootstrap
    assert found["chain_id"] == str(chain_id)


@given(st.data())
def test_a_token_with_one_wrong_character_is_refused(data: st.DataObject) -> None:
    token = write_invite(PRIVATE)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("abcXYZ059-_ é"))
    spoilt = token[:place] + other + token[place + 1 :]
    if spoilt.strip() != token:
        with pytest.raises(ConfigError):
            read_invite(spoilt)


@given(st.text(max_size=200))
def test_any_text_is_refused_by_name(anything: str) -> None:
    for token in (anything, PREFIX + anything):
        with pytest.raises(ConfigError):
            read_invite(token)


def test_a_token_is_bounded_both_ways() -> None:
    with pytest.raises(ConfigError, match=str(MAX_TOKEN_CHARS)):
        write_invite({"network": "x" * MAX_TOKEN_CHARS})
    with pytest.raises(ConfigError, match="at most"):
        read_invite(PREFIX + "A" * MAX_TOKEN_CHARS)


def test_joining_writes_the_settings_and_a_second_network_is_refused(tmp_path: Path) -> None:
    join(tmp_path, write_invite(PRIVATE))
    config = load_config(tmp_path, {})
    assert (config.network, config.network_key) == ("mine", "ab" * 32)
    assert config.bootstrap == PRIVATE["bootstrap"]
    another_peer = (f"/ip4/45.0.0.1/tcp/1/p2p/{PEER}",)
    join(tmp_path, write_invite(PRIVATE | {"bootstrap": another_peer}))
    assert load_config(tmp_path, {}).bootstrap == (*another_peer, *config.bootstrap)
    before = (tmp_path / CONFIG_FILE).read_text()
    with pytest.raises(CliError, match="network_key"):
        join(tmp_path, write_invite(PRIVATE | {"network_key": "cd" * 32}))
    assert (tmp_path / CONFIG_FILE).read_text() == before


def test_a_network_s_contracts_come_along_and_wait_for_a_chain_to_be_named(tmp_path: Path) -> None:
    names = ("settlement", "channels", "token", "registry", "governor", "stake")
    contracts = {name: "0x" + f"{number:02x}" * 20 for number, name in enumerate(names)}
    before = {name: contracts[name] for name in ("settlement", "channels", "token")}
    join(tmp_path, write_invite(PRIVATE | before))  # as older versions wrote it
    assert load_config(tmp_path, {}).governor == ""
    join(tmp_path, write_invite(PRIVATE | contracts))
    config = load_config(tmp_path, {})
    assert {name: getattr(config, name) for name in names} == contracts
    with pytest.raises(CliError, match="governor"):
        join(tmp_path, write_invite(PRIVATE | contracts | {"governor": "0x" + "99" * 20}))


def test_a_home_that_says_only_where_it_listens_joins(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('http_port = 4999\nlisten = ["/ip4/127.0.0.1/tcp/4998"]\n')
    key = "ab" * 32
    join(
        tmp_path,
        write_invite({"bootstrap": PRIVATE["bootstrap"], "network_key": key, "base": "cd" * 32}),
    )
    config = load_config(tmp_path, {})
    assert (config.http_port, config.listen) == (4999, ("/ip4/127.0.0.1/tcp/4998",))
    assert (config.bootstrap, config.network_key) == (PRIVATE["bootstrap"], key)
    assert config.base == "cd" * 32


def test_a_fresh_machine_joins_a_private_network_by_one_word(tmp_path: Path) -> None:
    common = {
        "LORIKEET_ROLE": "bootstrap",
        "LORIKEET_LISTEN": "/ip4/127.0.0.1/tcp/0",
        "LORIKEET_HTTP_PORT": "0",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("LORIKEET_")}

    def start(home: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return ending(
            subprocess.Popen(
                [forked_python(), "-m", "node", "up", "--home", str(home), *arguments],
                env=env | common,
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    def ask(home: Path, *arguments: str) -> str:
        command = [forked_python(), "-m", "node", *arguments, "--home", str(home)]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / CONFIG_FILE).write_text(f'network = "mine"\nnetwork_key = "{"ab" * 32}"\n')
    with start(first) as one:
        assert one.stdout is not None
        assert one.stdout.readline().startswith("ready")
        with start(second, "--join", ask(first, "invite").strip()) as two:
            assert two.stdout is not None
            assert two.stdout.readline().startswith("ready")
            deadline = time.monotonic() + 60
            while not json.loads(ask(second, "peers", "--json")):
                assert time.monotonic() < deadline
            assert 'network_key = "' in (second / CONFIG_FILE).read_text()
            assert "others can dial this node" in ask(second, "status")
