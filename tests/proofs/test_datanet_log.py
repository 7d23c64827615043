"""What may stand in a datanet's log, and what follows from it."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.datanet.entries import NOTHING, Consent, Limits, Verdict, digest_of, parse_registration
from proofs.datanet.log import apply, begin, check_fork, fold, register
from proofs.datanet.version import HELD_OUT_ONE_IN, contents, parts_of, standing_weights
from proofs.errors import DatanetError

from .datanets import CHARTER, World, document, documents
from .scene import signer


def refused(code: str) -> Any:
    return pytest.raises(DatanetError, match=f"^datanet {code}")


def test_a_text_goes_from_its_claim_into_a_version() -> None:
    world = World()
    world.join("ann", "ben")
    ann = world.give("ann", documents("ann", 20))
    ben = world.give("ben", documents("ben", 5))
    assert [world.judge("owner", one) for one in (ann, ben)] == ["accepted", "accepted"]
    digest = world.make_version()
    made = world.state.version(1)
    assert made is not None
    assert (made.digest, made.version.number) == (digest, 1)
    assert made.version.contributions == [ann, ben]
    totals = {one.person: one for one in made.version.totals}
    assert totals[signer("ann").public_key].documents == 20
    assert totals[signer("ann").public_key].held_out == 2
    assert totals[signer("ben").public_key].words == 25
    assert totals[signer("ben").public_key].held_out in (0, 1)
    assert fold(world.rows) == world.state


def test_what_was_refused_left_the_state_as_it_was() -> None:
    world = World()
    world.join("ann")
    before = fold(world.rows)
    claim = world.claiming("ben", documents("ben"))
    with refused("joined"):
        world.put(claim)
    assert world.state == before


# --- first is who claimed first ---


@pytest.mark.parametrize("num_schedules", [200, pytest.param(1_000, marks=pytest.mark.slow)])
def test_who_copies_a_revealed_text_comes_after_even_with_the_sequencer_on_his_side(
    num_schedules: int,
) -> None:
    """In every schedule the thief sees the text when it is revealed, and then has his own
    claim and contribution placed before the victim's contribution.
    """
    dice = random.Random(7)
    world = World()
    world.join("thief", "victim")
    stolen = dict[bytes, bytes]()
    for number in range(num_schedules):
        text = [document(f"text {number} that nobody had before")]
        ahead = world.claiming("thief", documents(f"guess {number}"))
        rows = [ahead] if dice.random() < 0.02 else []
        claim = world.put(world.claiming("victim", text))
        reveal = world.giving("victim", claim, text)
        theft = world.claiming("thief", text)
        copy = world.giving("thief", digest_of(theft), text)
        rows += dice.choice(([theft, copy, reveal], [theft, reveal, copy], [reveal, theft, copy]))
        for row in rows:
            world.put(row)
        stolen[digest_of(reveal)] = digest_of(copy)
        if rows[0] == ahead:  # a claim that was made ahead does not fit the text
            with refused("commitment"):
                world.put(world.giving("thief", digest_of(ahead), text))
    for own, copied in stolen.items():
        first, second = world.state.given[own], world.state.given[copied]
        assert first.claimed.seq < second.claimed.seq
        first.status = second.status = "accepted"
    found = contents(world.state, world.now)
    assert [one.person for one in found.totals] == [signer("victim").public_key]
    assert found.totals[0].documents == num_schedules


def test_a_claim_is_of_its_contributor_alone() -> None:
    world = World()
    world.join("thief", "victim")
    text = documents("victim")
    claim = world.put(world.claiming("victim", text))
    with refused("claim"):
        world.put(world.giving("thief", claim, text))
    with refused("claim"):  # the same commitment, under another key, is another's text
        world.put(world.claiming("victim", text))
    world.put(world.giving("victim", claim, text))
    with refused("claim"):
        world.put(world.giving("victim", claim, text))


def test_claims_without_texts_are_bounded() -> None:
    world = World()
    world.join("ann")
    for number in range(64):
        world.put(world.claiming("ann", documents(f"ann {number}")))
    with refused("claim"):
        world.put(world.claiming("ann", documents("one more")))


# --- people ---


def test_who_is_not_invited_does_not_join() -> None:
    world = World(is_open=False)
    with refused("invited"):
        world.join("ann")
    invited = world.invite(uses=2)
    world.put(world.joining("ann", invited))
    copied = msgspec.msgpack.decode(world.rows[-1][1])[5]
    assert len(copied) == 7
    with refused("joined"):
        world.put(world.joining("ann", invited))
    world.put(world.joining("ben", invited))
    with refused("invited"):  # twice, and no third time
        world.put(world.joining("eve", invited))


def test_an_admission_out_of_the_log_admits_nobody_else() -> None:
    world = World(is_open=False)
    invitation, secret = world.invite(uses=9)
    world.put(world.joining("ann", (invitation, secret)))
    with refused("invited"):
        world.put(world.joining("eve", (invitation, bytes([1]) * 32)))


def test_an_invitation_ends_with_its_time_and_with_its_inviters_office() -> None:
    world = World(is_open=False)
    world.put(world.joining("cora", world.invite()))
    world.appoint("owner", "cora", "curator")
    late, early = world.invite("cora", uses=5), world.invite(days=1)
    world.appoint("owner", "cora", "member")
    with refused("invited"):
        world.put(world.joining("ann", late))
    world.now += 2 * 86_400
    with refused("invited"):
        world.put(world.joining("ann", early))


def test_a_barred_member_gives_nothing_more_and_takes_back_what_is_his() -> None:
    world = World()
    world.join("eve")
    one = world.give("eve")
    world.judge("owner", one)
    waiting = world.put(world.claiming("eve", documents("more")))
    world.appoint("owner", "eve", "barred")
    with refused("barred"):
        world.put(world.claiming("eve", documents("again")))
    with refused("barred"):
        world.put(world.giving("eve", waiting, documents("more")))
    with refused("barred"):
        world.join("eve")
    world.withdraw("eve", one)
    world.appoint("owner", "eve", "member")
    world.give("eve", documents("mended"))


def test_what_was_upheld_at_a_place_is_known_later() -> None:
    world = World()
    world.join("ann")
    given = world.state.given[world.give("ann")]
    places = {"given": given.seq}
    for name, decision in (("refused", "refuse"), ("accepted", "accept")):
        world.judge("owner", given.digest, decision)  # type: ignore[arg-type]
        places[name] = world.state.seq
    world.withdraw("ann", given.digest)
    found = {name: given.was_upheld(place + 1) for name, place in places.items()}
    assert found == {"given": True, "refused": False, "accepted": True}
    assert not given.was_upheld(given.seq)
    assert not given.was_upheld(world.state.seq + 1)
    first = world.state.charter_digest
    changed = msgspec.structs.replace(world.state.charter, purpose="more", previous=first)
    world.put(world.sign("owner", changed))
    place = world.state.seq
    assert world.state.charter_at(place) == first
    assert world.state.charter_at(place + 1) == world.state.charter_digest != first


# --- the council ---


def test_one_voice_decides_and_more_voices_overrule_it() -> None:
    world = World()
    world.join("ann", "cora", "dan")
    world.appoint("owner", "cora", "curator")
    world.appoint("owner", "dan", "curator")
    one = world.give("ann")
    assert world.judge("cora", one, "refuse") == "refused"
    assert world.judge("dan", one) == "refused"  # one against one: what stands stands
    assert world.judge("owner", one) == "accepted"


def test_a_quorum_needs_as_many_voices_as_it_says() -> None:
    world = World(quorum=2)
    world.join("ann", "cora", "dan")
    world.appoint("owner", "cora", "curator")
    world.appoint("owner", "dan", "curator")
    one = world.give("ann")
    assert world.judge("cora", one) == "waiting"
    assert world.judge("dan", one) == "accepted"
    version = world.make_version("owner")
    assert world.state.version() is None
    assert world.judge("dan", version) == "counts"


def test_curators_who_vanish_do_not_lock_the_datanet() -> None:
    world = World(quorum=3)
    world.join("ann", "cora", "dan")
    for name in ("cora", "dan"):
        world.appoint("owner", name, "curator")
    one = world.give("ann")
    assert world.judge("owner", one) == "waiting"
    world.appoint("owner", "cora", "member")
    assert world.state.given[one].status == "waiting"
    version_waits = refused("empty")
    with version_waits:
        world.make_version()
    world.appoint("owner", "dan", "member")  # nobody is waited for any more
    assert world.state.given[one].status == "accepted"
    world.make_version()
    assert world.state.version() is not None


def test_curators_go_on_without_the_owner_and_remove_one_of_theirs_together() -> None:
    world = World(quorum=1)
    world.join("ann", "cora", "dan", "emil")
    for name in ("cora", "dan", "emil"):
        world.appoint("owner", name, "curator")
    world.appoint("cora", "dan", "member")
    assert world.state.people[signer("dan").public_key].role == "curator"  # one of three judges
    world.appoint("emil", "dan", "member")
    assert world.state.people[signer("dan").public_key].role == "member"
    world.appoint("cora", "ann", "barred")  # for members the quorum is enough
    assert world.state.people[signer("ann").public_key].role == "barred"
    with refused("owner"):
        world.appoint("cora", "owner", "barred")
    with refused("role"):
        world.appoint("dan", "ann", "member")


def test_nobody_judges_his_own_text_where_others_can() -> None:
    world = World()
    own = world.give("owner")
    assert world.judge("owner", own) == "accepted"  # alone
    world.join("cora")
    world.appoint("owner", "cora", "curator")
    other = world.give("cora")
    with refused("own"):
        world.judge("cora", other)
    assert world.judge("owner", other) == "accepted"


def test_an_old_word_is_not_said_again_by_somebody_else() -> None:
    world = World()
    world.join("ann")
    one = world.give("ann")
    word = world.judging("owner", one, "refuse")
    world.put(word)
    assert world.judge("owner", one) == "accepted"
    with refused("old"):
        world.put(word)
    world.appoint("owner", "ann", "barred")
    bar = world.rows[-1][1]
    world.appoint("owner", "ann", "member")
    with refused("old"):
        world.put(bar)


def test_a_refusal_says_why() -> None:
    world = World()
    world.join("ann")
    one = world.give("ann")
    draft = msgspec.msgpack.decode(world.judging("owner", one, "refuse"))
    assert draft[5] == [["style", 0, "it is a list", "write it"]]
    silent = Verdict(
        1, world.state.datanet, one, "refuse", [], report=NOTHING, at=world.now,
        by=signer("owner").public_key, signature=bytes(65),
    )  # fmt: skip
    with refused("reasons"):
        world.put(world.sign("owner", silent))


# --- terms ---


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("consent", {"consent": Consent(bytes(32), 3, 0)}),
        ("consent", {"consent": Consent(digest_of(CHARTER.consent.encode()), 1, 0)}),
        ("licence", {"licence": "GPL-3.0"}),
        ("language", {"language": "de"}),
    ],
)
def test_a_contribution_keeps_the_charters_terms(code: str, said: dict[str, Any]) -> None:
    world = World()
    world.join("ann")
    with refused(code):
        world.give("ann", **said)
    assert not world.state.given


def test_limits_hold_for_a_document_a_contribution_and_a_person() -> None:
    world = World(limits=Limits(100, 150, 250, 3))
    world.join("ann")
    with refused("size \\(document 2\\)"):
        world.give("ann", [document("a b c"), document("a b c " * 20)])
    with refused("words \\(document 1\\)"):
        world.give("ann", [document("two words")])
    with refused("size"):
        world.give("ann", [document(f"a b {n} " + "x" * 50) for n in range(3)])
    world.give("ann", [document(f"c d {n} " + "x" * 50) for n in range(2)])
    world.give("ann", [document(f"e f {n} " + "x" * 50) for n in range(2)])
    with refused("size"):
        world.give("ann", [document("g h i " + "x" * 50)])


# --- versions ---


def test_a_withdrawal_leaves_the_next_version_and_is_paid_no_more() -> None:
    world = World()
    world.join("ann", "ben")
    ann, ben = world.give("ann", documents("ann", 8)), world.give("ben", documents("ben", 8))
    for one in (ann, ben):
        world.judge("owner", one)
    world.make_version()
    first = world.state.version(1)
    assert first is not None
    before = dict(standing_weights(parts_of(world.state, first.version.contributions)))
    assert set(before) == {signer("ann").address, signer("ben").address}
    with refused("own"):
        world.withdraw("ben", ann)
    world.withdraw("ann", ann)
    after = dict(standing_weights(parts_of(world.state, first.version.contributions)))
    assert after == {signer("ben").address: before[signer("ben").address]}
    with refused("withdrawn"):
        world.judge("owner", ann)
    world.make_version()
    second = world.state.version(2)
    assert second is not None
    assert second.version.contributions == [ben]
    assert second.version.previous == first.digest


def test_a_version_says_what_the_log_gives_and_nothing_else() -> None:
    world = World()
    world.join("ann", "ben")
    ann, ben = world.give("ann"), world.give("ben")
    for one in (ann, ben):
        world.judge("owner", one)
    total = world.cut().totals[0]
    more = msgspec.structs.replace(total, words=total.words + 1)
    for changes in (
        {"contributions": [ann]},
        {"contributions": [ben, ann]},
        {"held_out": bytes([1]) * 32},
        {"totals": [total]},
        {"totals": [more, *world.cut().totals[1:]]},
    ):
        with refused("totals"):
            world.make_version(**changes)
    for code, changes in (("number", {"number": 2}), ("head", {"head": bytes(32)})):
        with refused(code):
            world.make_version(**changes)
    with refused("role"):
        world.make_version("ann")


def test_a_text_lent_for_a_time_leaves_when_it_is_over() -> None:
    world = World()
    world.join("ann", "ben")
    until = Consent(digest_of(CHARTER.consent.encode()), 3, world.now + 1_000)
    ann, ben = world.give("ann", consent=until), world.give("ben")
    for one in (ann, ben):
        world.judge("owner", one)
    assert contents(world.state, world.now).contributions == [ann, ben]
    assert contents(world.state, world.now + 1_001).contributions == [ben]


def test_a_tenth_of_everybody_and_one_person_in_ten_are_held_out() -> None:
    world = World()
    names = [f"person {number}" for number in range(21)]
    world.join(*names)
    for name in names:
        world.judge("owner", world.give(name, documents(name, 20)))
    found = contents(world.state, world.now)
    whole = [one for one in found.totals if one.held_out == one.documents]
    assert len(whole) == len(names) // HELD_OUT_ONE_IN
    assert all(one.held_out == 2 for one in found.totals if one not in whole)


def test_the_hold_out_of_a_contribution_stays_when_others_come() -> None:
    world = World()
    world.join("ann", "ben")
    world.judge("owner", world.give("ann", documents("ann", 37)))
    before = contents(world.state, world.now).parts[0].held_out
    assert len(before) in (3, 4)
    world.judge("owner", world.give("ben", documents("ben", 50)))
    assert contents(world.state, world.now).parts[0].held_out == before


# --- the chain ---


def test_two_rows_for_one_place_convict_the_sequencer() -> None:
    world = World()
    row = register(world.state, world.sequencer, world.joining("ann"), world.now)
    other = register(world.state, world.sequencer, world.joining("ben"), world.now)
    assert check_fork(world.state, row, other) == 1
    forged = register(world.state, signer("eve"), world.joining("ben"), world.now)
    for first, second in ((row, row), (row, forged), (row, world.rows[0][0])):
        with refused("fork"):
            check_fork(world.state, first, second)


def test_a_log_is_read_in_its_order_from_its_sequencer_alone() -> None:
    world = World()
    world.join("ann", "ben")
    with refused("chain"):
        fold([world.rows[0], world.rows[2]])
    with refused("chain"):
        fold(world.rows[1:])
    swapped = [world.rows[0], (world.rows[1][0], world.rows[2][1])]
    with refused("chain"):
        fold(swapped)
    state = begin(*world.rows[0])
    eve = register(state, signer("eve"), world.rows[1][1], world.now)
    with refused("chain"):
        apply(state, eve, world.rows[1][1])


def test_the_owner_replaces_a_sequencer_that_is_gone() -> None:
    world = World(sequencer=signer("machine").public_key)
    # the first row is the machine's; World signed it by the owner, who may place a charter
    assert parse_registration(world.rows[0][0]).seq == 0
    with refused("chain"):
        world.join("ann")
    world.sequencer = signer("machine")
    world.join("ann")
    charter = msgspec.structs.replace(
        world.state.charter,
        sequencer=signer("new machine").public_key,
        previous=world.state.charter_digest,
    )
    world.sequencer = signer("owner")
    world.put(world.sign("owner", charter))
    with refused("chain"):
        world.join("ben")
    world.sequencer = signer("new machine")
    world.join("ben")
    with refused("owner"):
        eves = msgspec.structs.replace(
            charter, owner=signer("eve").public_key, previous=world.state.charter_digest
        )
        world.put(world.sign("eve", eves))
    assert fold(world.rows) == world.state


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 5)), max_size=30))
def test_whatever_people_do_the_log_reads_back_as_it_was_written(
    steps: list[tuple[int, int, int]],
) -> None:
    """Any order of joinings, roles, texts, verdicts, withdrawals and versions: what is refused
    changes nothing, what is taken folds to the same state, and a version holds what it should.
    """
    world = World(quorum=2)
    names = ["owner", "ann", "ben", "cora"]
    texts = list[bytes]()
    for number, (kind, who, what) in enumerate(steps):
        with suppress(DatanetError):
            _do(world, texts, names[who], kind, what=what, number=number)
    assert fold(world.rows) == world.state
    for made in world.state.versions:
        parts = parts_of(world.state, made.version.contributions)
        counted = [part.given.digest_at(n) for part in parts for n in part.documents]
        assert len(counted) == len(set(counted)) == sum(t.documents for t in made.version.totals)


def _do(world: World, texts: list[bytes], name: str, kind: int, *, what: int, number: int) -> None:
    roles: Any = ("member", "curator", "barred")
    decisions: Any = ("accept", "refuse", "hold")
    match kind:
        case 0:
            world.join(name)
        case 1:
            world.appoint("owner", name, roles[what % 3])
        case 2:
            shared = documents("shared" if what < 2 else f"{name} {number}", 2)
            texts.append(world.give(name, shared))
        case 3 | 4 if texts:
            world.judge(name, texts[what % len(texts)], decisions[what // 2])
        case 5 if texts:
            world.withdraw(name, texts[what % len(texts)])
        case _:
            world.make_version(name)
