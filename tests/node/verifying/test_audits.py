"""A node is audited by a client whom it has never seen, among real daemons, one of which cheats."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from node.api.verifying import AuditSaid
from node.errors import BadRequest
from node.verifying.auditing import (
    AWAY_S,
    MIN_POOL,
    Pool,
    draw_like,
    draw_plan,
    read_pool,
    visits_of,
)
from node.verifying.clientele import Clientele
from node.verifying.habits import PROGRAMS, Habits, draw_client, draw_count
from proofs.attestation.pledge import (
    Report,
    commitment_of,
    make_pledge,
    parse_pledge,
    parse_report,
)
from proofs.codec import encode
from proofs.errors import AttestationError
from tests.golden.world import AGGREGATOR, NETWORK
from tests.node.faces import command, shown
from tests.node.networks import until

from .test_among_daemons import open_net, weight_of

POOL = Pool(
    tuple(f"what does clause {number} say of leases?" for number in range(20)),
    ("You read leases.", "You are brief."),
)


async def test_an_audit_catches_junk_by_the_usual_paid_path_and_others_recompute_it(
    tmp_path: Path,
) -> None:
    async with (
        open_net(tmp_path, "repeat") as net,
        net.client(verify_one_in=0, max_answer_tokens=96) as client,
    ):
        home = net.lab.folder / "client"
        (home / "prompts").write_text("\n".join(POOL.prompts))
        junk = net.cheats["repeat"]
        asked = ("--model", net.law, "--canaries", "7", "--within", "0", "--json")
        async with shown(client, home):
            bad = await command(home, "audit", junk.host.peer_id, *asked)
        assert bad.exit_code == 4, (bad.output, bad.exception)
        found = json.loads(bad.stdout)
        assert (found["verdict"], found["failures"]) == ("differs", [])
        assert found["weight"] < 0.01
        assert found["spent"] > 0
        assert weight_of(client, net.honest) == 1.0

        bought = [one for one in await junk.receipts() if one.role == "node"]
        assert len(bought) == 7
        own = (await client.status()).address
        assert own not in {one.counterparty for one in bought}, "a key that nobody knows"

        await until(lambda: len(net.honest.attestations()) >= 7)
        async with shown(net.honest, net.lab.folder / "honest"):
            again = await command(
                net.lab.folder / "honest", "audit", "--check", found["report"], "--json"
            )
        assert again.exit_code == 4, (again.output, again.exception)
        rechecked = json.loads(again.stdout)
        assert (rechecked["commitment"], rechecked["canaries"]) == (found["commitment"], 7)
        assert rechecked["pledged_at"] is not None
        assert weight_of(net.honest, junk) < 0.01
    learnt = Clientele()
    learnt.load(net.lab.folder / "cheat0" / "clientele")
    (life,) = learnt._lives.values()
    assert len(life.turns) == 7, "each node learns how its clients ask"
    assert life.habits in {Habits(*terms) for terms, _ in PROGRAMS} or life.habits.max_tokens == 96


# --- the plan, and what is committed to ---


def plan(seed: int = 1):  # type: ignore[no-untyped-def]
    dice = random.Random(seed)
    client = draw_like(Clientele(), AuditSaid("node", canaries=6, within_s=60.0), dice, 0.0)
    return draw_plan(client, bytes(20), bytes(32), POOL, dice, most_tokens=2_048)


def test_a_plan_is_drawn_by_lot_from_the_pool() -> None:
    drawn = plan()
    assert len({one.prompt for one in drawn.canaries} & set(POOL.prompts)) == 6
    [terms] = {(one.temperature, one.top_p, one.max_tokens) for one in drawn.canaries}
    assert terms in dict(PROGRAMS)
    times = [one.after_s for one in drawn.canaries]
    assert times == sorted(times)
    assert times[-1] <= 60
    assert commitment_of(drawn) != commitment_of(plan(2))
    for bad in (AuditSaid("node", canaries=0), AuditSaid("node", canaries=65)):
        with pytest.raises(BadRequest, match="canaries"):
            draw_like(Clientele(), bad, random.Random(), 0.0)


def test_a_system_prompt_stands_before_the_questions_of_a_client_that_has_one() -> None:
    dice = random.Random(1)
    client = replace(draw_client(dice, 3, 64), has_system=True)
    drawn = draw_plan(client, bytes(20), bytes(32), POOL, dice, most_tokens=64)
    assert drawn.system in POOL.systems
    bare = draw_plan(client, bytes(20), bytes(32), Pool(POOL.prompts), dice, most_tokens=64)
    assert bare.system == ""
    assert bare.pool != drawn.pool


def test_questions_come_in_conversations_within_the_time_and_no_more_than_allowed() -> None:
    dice = random.Random(3)
    plans = [
        draw_client(dice, 8, 64).within(64, within_s, dice).turns
        for within_s in (0.0, 60.0, 86_400.0)
        for _ in range(50)
    ]
    for turns in plans:
        times = [one.after_s for one in turns]
        assert times == sorted(times)
        assert not turns[0].follows
    assert [
        max(one.after_s for turns in plans[at : at + 50] for one in turns) for at in (0, 50)
    ] == [
        0,
        60,
    ]
    follows = [one.follows for turns in plans for one in turns]
    assert 0.3 < sum(follows) / len(follows) < 0.6
    counts = [draw_count(dice, 16) for _ in range(500)]
    assert (min(counts), max(counts)) == (1, 16)


def test_the_client_of_an_audit_goes_away_and_comes_again() -> None:
    client = draw_client(random.Random(1), 30, 64)
    drawn = draw_plan(client, bytes(20), bytes(32), POOL, random.Random(1), most_tokens=2_048)
    visits = visits_of(drawn, "node", 7, 5_000)
    assert {one.deposit for one in visits} == {5_000}
    assert len(visits) > 3
    assert [one.is_first for one in visits] == [True] + [False] * (len(visits) - 1)
    assert [one.is_last for one in visits] == [False] * (len(visits) - 1) + [True]
    assert [canary for one in visits for _, canary in one.asks] == list(drawn.canaries)
    for before, after in pairwise(visits):
        assert after.asks[0][1].after_s - before.asks[-1][1].after_s > AWAY_S
        assert before.client == after.client


def test_a_pledge_is_to_one_plan_and_signed() -> None:
    data = make_pledge(AGGREGATOR, plan(), 1_000)
    pledge = parse_pledge(data)
    assert (pledge.commitment, pledge.auditor) == (commitment_of(plan()), AGGREGATOR.public_key)
    for bad in (b"", data + b"\0", data[:-1] + b"\0"):
        with pytest.raises(AttestationError):
            parse_pledge(bad)
    whole = Report(plan(), data, (None,) * 6)
    assert parse_report(encode(whole), NETWORK)[2] == [None] * 6
    for other in (Report(plan(2), data, (None,) * 6), Report(plan(), data, (None,) * 5)):
        with pytest.raises(AttestationError):
            parse_report(encode(other), NETWORK)


def test_too_few_prompts_are_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="one a line"):
        read_pool(tmp_path / "prompts")
    (tmp_path / "prompts").write_text("hello\n" * MIN_POOL)
    with pytest.raises(BadRequest, match="has 1 prompts"):
        read_pool(tmp_path / "prompts")
