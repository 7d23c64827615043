"""A sequencer whose home came from an old backup, and one that is gone: nobody forks, nothing that
was accepted is lost, and a way on is said.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from node.api.datanets import CharterChange
from node.errors import DatanetRefused, NodeError
from tests.node.networks import until

from .people import charter, daemon, hush


async def test_a_sequencer_from_an_old_backup_does_not_fork_its_log(tmp_path: Path) -> None:
    async with daemon(tmp_path / "carl") as carl:  # knows names and addresses, and no datanet
        there = carl.host.addresses
        async with daemon(tmp_path / "ann", *there) as ann:
            async with daemon(tmp_path / "owner", *there) as owner:
                made = await owner.datanets.create(charter())
                token = await owner.datanets.invite("kitchen", uses=1, days=1)
                await ann.datanets.join(token, "Ann")
            shutil.copytree(tmp_path / "owner", tmp_path / "backup")
            async with daemon(tmp_path / "owner", *there) as owner:
                await owner.datanets.appoint("kitchen", "Ann", "curator")
                newest = await owner.datanets.show("kitchen")
                await until(lambda: _has(ann, newest.info.seq))
                name = f"datanet-{made.id[:40]}"

                async def is_said() -> bool:
                    record = await carl.host.dht.find_name(made.owner, name)
                    return record is not None and record.target.digest.hex() == newest.info.head

                await until(is_said)
            for name in ("second", "third"):
                shutil.copytree(tmp_path / "backup", tmp_path / name)

            # what is missing comes from a member before the first entry
            async with daemon(tmp_path / "backup", *there) as owner:
                await until(owner.host.has_peers)
                await owner.datanets.appoint("kitchen", "Ann", "member")
                detail = await owner.datanets.show("kitchen")
                assert (detail.info.seq, detail.info.fork) == (newest.info.seq + 1, ())
                await until(lambda: _has(ann, detail.info.seq))
                assert not (await ann.datanets.show("kitchen")).info.fork

        # nobody has it now but for its name: it stops, and says why and what to do
        async with daemon(tmp_path / "second", *there) as owner:
            await until(owner.host.has_peers)
            with pytest.raises(DatanetRefused, match=r"older than the log.*recover"):
                await owner.datanets.appoint("kitchen", "Ann", "curator")
            assert (await owner.datanets.show("kitchen")).info.lost
            assert any("older than the log" in one for one in owner.telemetry.troubles.values())
            async with daemon(tmp_path / "ann", *there):
                await until(lambda: _is_whole(owner))
            await owner.datanets.appoint("kitchen", "Ann", "curator")
            assert not (await owner.datanets.show("kitchen")).info.lost

        # nobody ever has it again: its owner goes on from what there is, where he says so
        async with daemon(tmp_path / "third", *there) as owner:
            await until(owner.host.has_peers)
            assert (await owner.datanets.recover("kitchen", False, hush)).lost
            assert not (await owner.datanets.recover("kitchen", True, hush)).lost
            await owner.datanets.appoint("kitchen", "Ann", "barred")


async def _is_whole(owner: object) -> bool:
    return not (await owner.datanets.recover("kitchen", False, hush)).lost  # type: ignore[attr-defined]


async def _has(one: object, seq: int) -> bool:
    return (await one.datanets.show("kitchen")).info.seq >= seq  # type: ignore[attr-defined]


async def test_the_owner_hands_the_log_on_and_takes_it_back_from_a_node_that_is_gone(
    tmp_path: Path,
) -> None:
    async with daemon(tmp_path / "owner") as owner:
        here = owner.host.addresses
        async with daemon(tmp_path / "ben", *here) as ben:
            async with daemon(tmp_path / "ann", *here) as ann:
                made = await owner.datanets.create(charter(quorum=2))
                token = await owner.datanets.invite("kitchen", uses=2, days=1)
                await ann.datanets.join(token, "Ann")
                await ben.datanets.join(token, "Ben")
                await owner.datanets.appoint("kitchen", "Ann", "curator")
                with pytest.raises(DatanetRefused, match="only the owner"):
                    await ann.datanets.change_charter("kitchen", CharterChange(quorum=1))
                info = await owner.datanets.change_charter(
                    "kitchen", CharterChange(sequencer="Ann")
                )
                assert info.sequencer == ann.host.peer_id != made.sequencer
                # Ann's node learns it and writes; Ben, who knows nothing of it, is told so
                changed = await owner.datanets.change_charter("kitchen", CharterChange(min_words=5))
                assert (changed.seq, changed.quorum) == (info.seq + 1, 2)
                token = await owner.datanets.invite("kitchen", uses=1, days=1)
                await owner.datanets.appoint("kitchen", "Ben", "curator")
                assert await _has(ann, changed.seq + 1)
                assert await _has(ben, changed.seq + 1)

            # Ann vanishes: a curator, and who writes the log
            with pytest.raises(NodeError, match="hand-on kitchen PERSON --lost"):
                await owner.datanets.change_charter("kitchen", CharterChange(sequencer="owner"))
            lost = CharterChange(sequencer="owner", is_lost=True)
            info = await owner.datanets.change_charter("kitchen", lost)
            assert info.sequencer == owner.host.peer_id
            await owner.datanets.appoint("kitchen", "Ann", "member")
            await ben.datanets.appoint("kitchen", "Ann", "barred")  # one of two voices
            people = {one.name: one.role for one in (await ben.datanets.show("kitchen")).people}
            assert people["Ben"] == "curator"
            assert people["Ann"] == "member"
            assert not (await ben.datanets.show("kitchen")).info.fork
