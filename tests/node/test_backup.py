"""A home goes into a file and comes back: whole, private, checked, and signing nothing twice."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import backup
from node.api.money import ReceiptInfo
from node.backup import BackupFailed, Wanted, back_up, check_backup, restore
from node.config import Config, dump_config, load_config
from node.errors import ConfigError, NodeError
from node.keys import load_keys
from node.lives import MOVED_FILE, Moved, check_not_moved, restored, write_note
from node.money.book import ChannelBook
from node.wire.channels import ChannelRow, Funds
from proofs.chain.keystore import is_keystore
from proofs.channel import ChannelConfig
from proofs.ledger import Ledger
from proofs.signing import address_of
from tests.node.faces import command, told
from tests.node.networks import Lab, ask, open_lab, until

CHANNEL = ChannelConfig(bytes(20), bytes(20), bytes(20), bytes(20), bytes(20), 900, bytes(32))
KEPT = {
    "adapters/law/adapter_model.safetensors": b"weights",
    "blocks/aa/bafkrei": b"a block",
    "names/16Uiu2/law.record": b"a record",
    "datanets/1/log": b"rows",
    "trust": b"{}",
}
LEFT_OUT = {
    "bases/smol.gguf": b"fetched again",
    "attribution/index": b"made again",
    "log": b"lines",
    "daemon.json": b"a process",
    "datanets/1/.drafts/half": b"being written",
    "ledger.sqlite-wal": b"",
}


def make_home(home: Path) -> Config:
    """A home with a bit of everything."""
    for name, data in (KEPT | LEFT_OUT).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = Config(home=home, role="gateway", password_file=str(home / "password"))
    (home / "lorikeet.toml").write_text(dump_config(config))
    (home / "password").write_text("secret")
    (home / "password").chmod(0o600)
    (home / "elsewhere").symlink_to(home.parent)
    own = address_of(load_keys(config.key_files).operator.public_key)
    (home / "ledger.sqlite-wal").unlink()
    ledger = Ledger(config.ledger_path)
    book = ChannelBook(ledger)
    book.save(ChannelRow(b"paid".ljust(32), own, CHANNEL, sequence=3))
    book.save(ChannelRow(b"pays".ljust(32), b"o" * 20, CHANNEL, funds=Funds(deposit=5)))
    ledger.close()
    return config


def rows(home: Path) -> dict[bytes, ChannelRow]:
    ledger = Ledger(home / "ledger.sqlite")
    found = {row.channel_id.rstrip(): row for row in ChannelBook(ledger).all()}
    ledger.close()
    return found


def test_a_home_comes_back_whole_and_private_and_pays_from_no_old_channel(tmp_path: Path) -> None:
    config = make_home(tmp_path / "home")
    made = back_up(config, tmp_path / "file", Wanted())
    assert made == check_backup(tmp_path / "file")
    assert made.outside == ("elsewhere",)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert restore(tmp_path / "file", tmp_path / "new" / "home", now=7) == made
    home = tmp_path / "new" / "home"
    for name, data in KEPT.items():
        assert (home / name).read_bytes() == data
    for name in made.files:
        assert (home / name).stat().st_mode & 0o777 == 0o600
    there = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert not there & ({*LEFT_OUT, "password"})
    assert load_keys(load_config(home).key_files).operator.peer_id == peer_id(config)
    note = restored(home)
    assert note is not None
    assert (note.made_at, note.restored_at) == (made.made_at, 7)
    before = rows(config.home)
    after = rows(home)
    assert after[b"paid"] == before[b"paid"]
    assert after[b"pays"].funds == Funds(deposit=5, is_closed=True)
    assert list(tmp_path.glob("*/.home*")) == []


def peer_id(config: Config) -> str:
    return load_keys(config.key_files).operator.peer_id


def test_the_last_copy_of_a_home_goes_on_as_it_was(tmp_path: Path) -> None:
    config = make_home(tmp_path / "home")
    back_up(config, tmp_path / "file", Wanted(is_last=True, with_adapters=False))
    restore(tmp_path / "file", tmp_path / "other", now=7)
    assert restored(tmp_path / "other") is None
    assert rows(tmp_path / "other") == rows(config.home)
    assert not (tmp_path / "other" / "adapters").exists()
    check_not_moved(config.home)
    write_note(config.home, Moved("file", 7))
    with pytest.raises(ConfigError, match="moved into file"):
        check_not_moved(config.home)
    back_up(config, tmp_path / "again", Wanted())
    assert MOVED_FILE not in check_backup(tmp_path / "again").files


def test_a_copy_of_a_copy_knows_that_it_is_one(tmp_path: Path) -> None:
    config = make_home(tmp_path / "home")
    back_up(config, tmp_path / "file", Wanted())
    restore(tmp_path / "file", tmp_path / "one", now=7)
    back_up(Config(home=tmp_path / "one"), tmp_path / "next", Wanted(is_last=True))
    restore(tmp_path / "next", tmp_path / "two", now=9)
    assert restored(tmp_path / "two") == restored(tmp_path / "one")


def test_keys_are_encrypted_where_that_is_wanted(tmp_path: Path, monkeypatch) -> None:
    config = make_home(tmp_path / "home")
    back_up(config, tmp_path / "file", Wanted(is_last=True, password="secret"))
    restore(tmp_path / "file", tmp_path / "other", now=7)
    key = (tmp_path / "other" / "key").read_text()
    assert is_keystore(key)
    assert (config.home / "key").read_text().strip().encode() not in (
        tmp_path / "file"
    ).read_bytes()
    monkeypatch.setenv("LORIKEET_PASSWORD", "secret")
    files = dataclasses.replace(Config(home=tmp_path / "other").key_files, password=None)
    assert load_keys(files).operator.peer_id == peer_id(config)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    config = make_home(tmp_path / "home")
    back_up(config, tmp_path / "file", Wanted())
    with pytest.raises(BackupFailed, match="there already"):
        back_up(config, tmp_path / "file", Wanted())
    with pytest.raises(BackupFailed, match="in the home"):
        back_up(config, config.home / "file", Wanted())
    with pytest.raises(BackupFailed, match="not empty"):
        restore(tmp_path / "file", config.home, now=7)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "file", tmp_path / "empty", now=7)


def test_a_damaged_or_cut_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    config = make_home(tmp_path / "home")
    back_up(config, tmp_path / "file", Wanted())
    whole = (tmp_path / "file").read_bytes()
    at = whole.index(b"weights")
    for number, data in enumerate(
        (
            whole[:at] + b"W" + whole[at + 1 :],
            whole[: len(whole) // 2],
            whole[:-15_000],
            b"",
            b"no tar" * 999,
        )
    ):
        bad = tmp_path / f"bad-{number}"
        bad.write_bytes(data)
        with pytest.raises(BackupFailed):
            restore(bad, tmp_path / "other", now=7)
        with pytest.raises(BackupFailed):
            check_backup(bad)
    assert not (tmp_path / "other").exists()
    assert list(tmp_path.glob(".other*")) == []


@pytest.mark.parametrize("name", ["../key", "/etc/key", "a/../../key", "moved.json", "a//b"])
def test_a_backup_puts_nothing_outside_its_home(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "file", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"bad"))
    with pytest.raises(BackupFailed, match="no backup"):
        restore(tmp_path / "file", tmp_path / "inner" / "home", now=7)
    with tarfile.open(tmp_path / "file", "w") as tar:
        info = tarfile.TarInfo("link")
        info.type = tarfile.SYMTYPE
        info.linkname = "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BackupFailed, match="no backup"):
        restore(tmp_path / "file", tmp_path / "inner" / "home", now=7)


def test_a_full_disk_leaves_no_half_backup(tmp_path: Path, monkeypatch) -> None:
    config = make_home(tmp_path / "home")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "copy_ledger", full)
    with pytest.raises(BackupFailed, match="No space"):
        back_up(config, tmp_path / "file", Wanted())
    assert os.listdir(tmp_path) == ["home"]
    assert not list(config.home.glob(".backup*"))


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


async def test_the_commands_copy_move_and_restore(tmp_path: Path, usual_umask: None) -> None:
    config = make_home(tmp_path / "home")
    done = await command(config.home, "backup", str(tmp_path / "file"))
    assert done.exit_code == 0, done.output
    await told(config.home, "move", str(tmp_path / "last"))
    done = await command(config.home, "move", str(tmp_path / "again"))
    assert isinstance(done.exception, ConfigError)
    facts = await told(tmp_path / "other", "restore", str(tmp_path / "last"))
    assert facts["serves"]
    done = await command(tmp_path / "copy", "restore", str(tmp_path / "file"))
    assert done.exit_code == 0, done.output
    assert restored(tmp_path / "copy") is not None


@pytest.mark.slow
async def test_homes_that_went_on_after_their_backup_sign_no_place_twice(tmp_path: Path) -> None:
    names = ("volunteer", "gateway", "aggregator")
    with open_lab(tmp_path, chain_for=names) as lab:
        async with lab.daemon("volunteer") as node, lab.daemon("gateway", role="gateway") as asker:
            peer = node.host.peer_id
            await ask(asker, node=peer)
            for name in names[:2]:  # while they run
                back_up(lab.config(name), tmp_path / f"{name}.backup", Wanted())
            await ask(asker, node=peer)
            await ask(asker, node=peer)
            seen = places(await node.receipts())
            assert len(seen) == 3
        for name in names[:2]:
            shutil.rmtree(tmp_path / name)
            restore(tmp_path / f"{name}.backup", tmp_path / name, now=7)
        lab.bootstrap = ()
        async with lab.daemon("volunteer") as node, lab.daemon("gateway", role="gateway") as asker:
            assert len(places(await node.receipts())) == 1
            with pytest.raises(NodeError):
                await ask(asker, node=node.host.peer_id)
            assert set(places(await node.receipts())) <= set(seen)
            async with lab.daemon("other", listen=("/ip4/127.0.0.1/tcp/0",)) as other:
                answered = await ask(asker, node=other.host.peer_id)
                assert answered.ended.amount > 0
            await until(lambda: is_taken_back(lab))
        (tmp_path / "aggregator").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "volunteer" / "restored.json", tmp_path / "aggregator")
        with pytest.raises(ConfigError, match="promises"):
            async with lab.daemon("aggregator", role="aggregator"):
                pass


def places(receipts: list[ReceiptInfo]) -> list[tuple[str, int]]:
    return [(one.channel, one.sequence) for one in receipts]


def is_taken_back(lab: Lab) -> bool:
    """Whether the restored asker wants back what lies in the channel that it may have forgotten."""
    assert lab.chain is not None
    chain = lab.chain.client(lab.identity("gateway").secret)
    try:
        closed = [one for one in rows(lab.folder / "gateway").values() if one.funds.is_closed]
        states = chain.channels.read_many([one.channel_id for one in closed])
        return bool(closed) and all(one.withdraw_requested_at or not one.balance for one in states)
    finally:
        chain.close()
