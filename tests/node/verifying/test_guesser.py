"""A node that is honest with whom it takes for an auditor, by its client's key, its timing and its
style (demo/cheating/guessing.py): what finds it, and what does not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from demo.cheating.guessing import DAY_S, Guesser, Seen
from node.api.verifying import AuditSaid
from node.verifying.auditing import MAX_WITHIN_S, Pool, draw_like, draw_plan
from node.verifying.clientele import Clientele
from node.verifying.habits import draw_habits
from node.verifying.limits import choose_limits
from node.verifying.trust import Trust

NODE, LAW = b"\x01" * 20, b"\x02" * 32
LIMITS = choose_limits(None)
JUNK = 5.0
MOST = 100  # verify_one_in
QUESTIONS = ["What is a lien?", "why is the sky blue", "Write a poem.", "Sort these:\n3\n1"]


@dataclass
class Client:
    """Asks on for weeks as a person does, and replays a part of what it buys by the rule of
    daemons.
    """

    number: int
    trust: Trust = field(default_factory=Trust)
    junk: int = 0
    honest: int = 0

    def asks(self) -> Iterator[Seen]:
        dice = random.Random(self.number)
        habits = draw_habits(dice)
        now = 0.0
        while True:
            now += dice.lognormvariate(6.0, 2.0)
            yield Seen(
                bytes([self.number]) * 20,
                now,
                dice.choice(QUESTIONS),
                habits.max_tokens,
                habits.temperature,
                habits.top_p,
            )

    def live(self, guesser: Guesser, *, most: int = MOST, questions: int = 2_000) -> None:
        """Until the node's weight is gone."""
        dice = random.Random(self.number)
        for seen in self.asks():
            is_junk = not guesser.fears(seen)
            self.junk += is_junk
            self.honest += not is_junk
            if self.junk + self.honest > questions:
                return
            is_watched = self.trust.is_watched(NODE, LAW, seen.at_s)
            is_drawn = most and dice.randrange(self.trust.one_in(NODE, LAW, most)) == 0
            if not is_drawn and not is_watched:
                continue
            score = JUNK if is_junk else 0.0
            self.trust.learn(
                NODE, LAW, score, LIMITS, seen.at_s, is_suspicious=is_junk, is_proof=is_junk
            )
            if self.trust.weight(NODE, seen.at_s) == 0.0:
                return


def canaries(dice: random.Random, number: int) -> Iterator[Seen]:
    """A background audit: one key, from its birth on."""
    client = draw_like(Clientele(), AuditSaid("", canaries=None, within_s=MAX_WITHIN_S), dice, 0.0)
    pool = Pool((*QUESTIONS, *"abcdefghijkl"))
    plan = draw_plan(client, NODE, LAW, pool, dice, most_tokens=2_048)
    for one in plan.canaries:
        yield Seen(
            number.to_bytes(20, "big"),
            float(one.after_s),
            one.prompt,
            one.max_tokens,
            one.temperature,
            one.top_p,
        )


def test_audits_seldom_find_who_is_honest_with_new_keys() -> None:
    """Said plainly: this is not caught by audits, but for the few whose client stays on."""
    dice = random.Random(1)
    found = asked = 0
    for number in range(200):
        guesser = Guesser()
        cheated = [not guesser.fears(seen) for seen in canaries(dice, number)]
        asked += len(cheated)
        found += any(cheated)
    print(f"{found} of 200 audits, of {asked} canaries in all, had an answer that was junk")
    assert 0 < found < 60


def test_a_clients_own_replays_find_it_soon_after_it_begins() -> None:
    sold = []
    for number in range(1, 60):
        client = Client(number)
        client.live(Guesser())
        assert client.trust.weight(NODE, 0.0) == 0.0, "each client found it"
        assert client.honest >= Guesser().few
        sold.append(client.junk)
    mean = sum(sold) / len(sold)
    print(f"junk answers that a client bought before: {mean:.1f} on average, {max(sold)} at most")
    assert mean < MOST


def test_once_one_client_told_the_next_one_finds_it_by_its_first_junk_answer() -> None:
    for number in range(1, 20):
        client = Client(number)
        guesser = Guesser()
        [first, *_] = (seen for seen in [next(client.asks())])
        for at in range(guesser.few):  # a client of long standing
            guesser.fears(replace(first, at_s=at - 3 * DAY_S))
        client.trust.suspect(NODE, LAW, first.at_s)
        client.live(guesser)
        assert client.junk == 1


def test_a_client_that_replays_nothing_and_hears_nobody_never_finds_it() -> None:
    client = Client(1)
    client.live(Guesser(), most=0)
    assert client.junk > 500
    assert client.trust.weight(NODE, 0.0) == 1.0
