"""How clients ask is learnt in numbers, and nobody is drawn as it was."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import Choosing
from node.api.answers import ChatMessage
from node.catalogue.announcements import load_saved
from node.errors import BadRequest
from node.verifying.clientele import (
    ALIKE,
    KEPT_S,
    MAX_CLIENTS,
    MAX_TURNS,
    Clientele,
    Question,
)
from node.verifying.habits import PROGRAMS, Habits
from node.verifying.noting import Noting
from node.wire.infer import VERSION, Ask, Resumed

USUAL = Habits(700, 1_000, 128)
ODD = Habits(1_337, 913, 77)


def asked(at: int, habits: Habits = USUAL, *, follows: bool = False) -> Question:
    return Question(at, habits, has_system=False, deposit=50_000, follows=follows)


def client(number: int) -> bytes:
    return number.to_bytes(20, "big")


def crowd(count: int, habits: Habits = USUAL) -> Clientele:
    """Clients that ask three questions each: one, another in a minute, one after a day."""
    found = Clientele()
    for number in range(count):
        began = 1_000_000 + 900 * number
        for at, follows in ((began, False), (began + 60, True), (began + 86_400, False)):
            found.note(client(number), asked(at, habits, follows=follows))
    return found


def test_where_few_clients_were_seen_what_is_published_is_drawn() -> None:
    assert Clientele().draw(random.Random(1), None, 0.0) is None
    dice = random.Random(1)
    drawn = [crowd(20).draw(dice, None, 0.0) for _ in range(300)]
    assert 0.4 < sum(one is not None for one in drawn) / 300 < 0.6


def test_a_client_is_drawn_as_those_that_were_seen_and_not_one_of_them() -> None:
    dice = random.Random(2)
    seen = crowd(400)
    drawn = [one for one in (seen.draw(dice, None, 0.0) for _ in range(200)) if one is not None]
    assert {one.habits for one in drawn} == {USUAL}
    assert {tuple(turn.follows for turn in one.turns) for one in drawn} == {(False, True, False)}
    short = sorted(one.turns[1].after_s - one.turns[0].after_s for one in drawn)
    long = sorted(one.turns[2].after_s - one.turns[1].after_s for one in drawn)
    assert 40 < short[len(short) // 2] < 90
    assert len(set(long)) > 150, "pauses are moved"
    assert all(one.deposit == 50_000 for one in drawn)


def test_terms_that_nobody_else_sends_are_not_drawn() -> None:
    seen = crowd(40)
    for number in range(ALIKE - 1):
        seen.note(client(1_000 + number), asked(1, ODD))
    dice = random.Random(3)
    drawn = [seen.draw(dice, None, 0.0) for _ in range(400)]
    values = {value for one in drawn if one for value in vars(one.habits).values()}
    assert not values & set(vars(ODD).values())
    published = {value for terms, _ in PROGRAMS for value in terms}
    assert values <= published | set(vars(USUAL).values())
    seen.note(client(2_000), asked(1, ODD))
    drawn = [seen.draw(dice, None, 0.0) for _ in range(400)]
    assert ODD in {one.habits for one in drawn if one}


@given(
    count=st.none() | st.integers(1, 64),
    seed=st.integers(0, 1_000),
    lives=st.lists(
        st.lists(st.tuples(st.integers(0, 90 * 86_400), st.booleans()), min_size=1, max_size=90),
        min_size=ALIKE,
        max_size=12,
    ),
)
def test_whatever_was_seen_times_go_on_and_the_count_is_kept(
    count: int | None, seed: int, lives: list[list[tuple[int, bool]]]
) -> None:
    seen = Clientele()
    for number, turns in enumerate(lives):
        for at, follows in turns:  # also with a clock that went back
            seen.note(client(number), asked(at, follows=follows))
    drawn = seen.draw(random.Random(seed), count, 1e9)
    if drawn is None:
        return
    times = [one.after_s for one in drawn.turns]
    assert times == sorted(times)
    assert min(times) >= 0
    assert not drawn.turns[0].follows
    assert len(times) == count if count else 1 <= len(times) <= MAX_TURNS


def test_what_is_kept_is_bounded_and_forgotten_in_time(tmp_path: Path) -> None:
    seen = Clientele()
    for number in range(MAX_CLIENTS + 10):
        seen.note(client(number), asked(number))
    assert len(seen) == MAX_CLIENTS
    for at in range(2 * MAX_TURNS):
        seen.note(client(MAX_CLIENTS), asked(10_000 + at))
    assert len(seen._lives[client(MAX_CLIENTS)].turns) == MAX_TURNS
    path = tmp_path / "clientele"
    path.write_bytes(seen.encode())
    again = Clientele()
    again.load(path)
    assert again._lives == seen._lives
    seen.note(client(1), asked(int(10_000 + KEPT_S)))
    assert len(seen) == 1


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"x" * (9 << 20)])
def test_a_spoilt_file_is_told_and_learnt_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "clientele"
    path.write_bytes(data)
    told: list[str] = []
    again = Clientele()
    load_saved(again.load, path, told.append, "how clients ask is learnt anew")
    assert len(again) == 0
    assert "learnt anew" in told[0]


# --- what of a question is noted ---


@dataclass
class Lays:
    """Lays turns out as one id for a role and one for each letter; `own`: what the template says
    where there is no system prompt.
    """

    own: str = ""
    takes_system: bool = True

    def encode_prompt(self, prompt: str | tuple[ChatMessage, ...]) -> list[int]:
        assert not isinstance(prompt, str)
        if not self.takes_system and prompt[0].role == "system":
            raise BadRequest("no system prompts here")
        head = (ChatMessage("system", self.own),) if self.own and prompt[0].role == "user" else ()
        return [
            one
            for turn in (*head, *prompt)
            for one in (1_000 + len(turn.role), *map(ord, str(turn.content)))
        ]


def ask(lays: Lays, *talk: tuple[str, str], resumed: Resumed | None = None) -> Ask:
    return Ask(
        VERSION,
        bytes(32),
        bytes(32),
        b"",
        prompt_ids=lays.encode_prompt(tuple(ChatMessage(role, text) for role, text in talk)),
        max_tokens=64,
        terms=Choosing(temperature=0.7, top_p=0.95),
        logprobs=None,
        stop_ids=[],
        seed_commitment=bytes(32),
        client=client(1),
        channel=None,
        resumed=resumed,
        attributed=False,
    )


@pytest.mark.parametrize("own", ["", "You are a bird."])
def test_a_question_is_noted_with_its_terms_and_whether_it_goes_on(own: str) -> None:
    lays = Lays(own)
    seen = Clientele()
    noting = Noting(seen, lays, lambda: 5.5)
    noting.note(ask(lays, ("user", "why")), 700)
    noting.note(ask(lays, ("user", "why"), ("assistant", "so"), ("user", "and")), 900)
    noting.note(ask(lays, ("user", "where")), 900)
    (life,) = seen._lives.values()
    assert (life.habits, life.has_system, life.deposit) == (Habits(700, 950, 64), False, 700)
    assert life.turns == [(5, False), (5, True), (5, False)]


@pytest.mark.parametrize("own", ["", "You are a bird."])
def test_a_system_prompt_of_the_clients_own_is_known_from_the_templates(own: str) -> None:
    lays = Lays(own)
    seen = Clientele()
    noting = Noting(seen, lays, lambda: 0.0)
    noting.note(ask(lays, ("system", "Be a bee."), ("user", "why")), 1)
    assert [life.has_system for life in seen._lives.values()] == [True]


def test_a_base_may_take_no_system_prompt_and_what_goes_on_elsewhere_is_no_question() -> None:
    lays = Lays(takes_system=False)
    seen = Clientele()
    noting = Noting(seen, lays, lambda: 0.0)
    noting.note(ask(lays, ("user", "why"), resumed=Resumed(bytes(32), 1)), 1)
    assert len(seen) == 0
    noting.note(ask(lays, ("user", "why")), 1)
    assert [life.has_system for life in seen._lives.values()] == [False]


def test_a_deposit_is_drawn_of_clients_with_the_same_kind_of_prompt() -> None:
    seen = Clientele()
    for number in range(60):
        one = replace(asked(number), has_system=number % 2 == 0, deposit=10 + number % 2)
        seen.note(client(number), one)
    drawn = [seen.draw(random.Random(seed), None, 0.0) for seed in range(100)]
    assert {(one.has_system, one.deposit) for one in drawn if one} == {(True, 10), (False, 11)}
