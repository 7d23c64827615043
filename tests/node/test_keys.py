"""Keys: each for one thing, in files that nobody else reads, and never two daemons on one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from node.config import Config
from node.errors import ConfigError
from node.keys import PASSWORD_VARIABLE, hold_key, load_keys, make_key, read_password
from p2p.identity import Identity


def files(home: Path, **settings: str):
    return Config(home=home, **settings).key_files  # type: ignore[arg-type]


def test_where_there_is_one_key_it_stands_in_for_the_others(tmp_path: Path):
    keys = load_keys(files(tmp_path))
    assert keys.payer == keys.aggregator == keys.operator.secret
    assert load_keys(files(tmp_path)) == keys
    assert keys.operator.secret.hex() not in repr(keys)


def test_each_key_that_is_there_is_taken(tmp_path: Path):
    there = files(tmp_path)
    made = [make_key(path, None) for path in (there.operator, there.payer, there.aggregator)]
    keys = load_keys(there)
    assert [keys.operator.secret, keys.payer, keys.aggregator] == [one.secret for one in made]
    assert len({one.secret for one in made}) == 3


def test_an_encrypted_key_opens_with_its_password_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    there = files(tmp_path)
    made = make_key(there.payer, "a word")
    text = there.payer.read_text()
    assert '"crypto"' in text
    assert made.secret.hex() not in text
    assert stat.S_IMODE(there.payer.stat().st_mode) == 0o600
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=PASSWORD_VARIABLE):
        load_keys(there)
    monkeypatch.setenv(PASSWORD_VARIABLE, "another word")
    with pytest.raises(ConfigError, match=r"payer\.key.*password"):
        load_keys(there)
    monkeypatch.setenv(PASSWORD_VARIABLE, "a word")
    assert load_keys(there).payer == made.secret


def test_a_password_file_must_be_private_too(tmp_path: Path):
    password = tmp_path / "password"
    password.write_text("a word\n")
    password.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {password}"):
        read_password(password)
    password.chmod(0o600)
    assert read_password(password) == "a word"
    there = files(tmp_path, password_file=str(password))
    made = make_key(there.operator, "a word")
    assert load_keys(there).operator == made


def test_a_key_that_others_may_read_is_refused_with_the_mend(tmp_path: Path):
    there = files(tmp_path)
    make_key(there.payer, None)
    there.payer.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {there.payer}"):
        load_keys(there)


@pytest.mark.parametrize("text", ['{"crypto": {}}', "{", '{"version": 3, "crypto": null}'])
def test_a_broken_keystore_is_named(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "a word")
    there = files(tmp_path)
    there.operator.write_text(text)
    with pytest.raises(ConfigError, match="keystore"):
        load_keys(there)


def test_two_daemons_on_one_key_are_refused_whatever_their_homes():
    peer_id = Identity.generate().peer_id
    with hold_key(peer_id):
        with (
            pytest.raises(ConfigError, match="two daemons must not share a key"),
            hold_key(peer_id),
        ):
            pass
        with hold_key(Identity.generate().peer_id):
            pass
    with hold_key(peer_id):
        pass
