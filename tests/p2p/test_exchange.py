"""The fetch plan alone, under thousands of fault schedules: no network, no clock."""

import heapq
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.blocks.exchange import ANSWER_DEADLINE_S, Ask, BlockRef, Drop, Exchange, Keep
from p2p.cid import Cid

BLOCKS = [bytes([index]) * (1 + 37 * index % 200) for index in range(1, 60)]
REFS = [BlockRef(Cid.of(data), len(data)) for data in BLOCKS]
INDEX = {ref.cid: index for index, ref in enumerate(REFS)}
DATA = {ref.cid: data for ref, data in zip(REFS, BLOCKS, strict=True)}

behaviours = st.fixed_dictionaries(
    {
        "seconds_per_block": st.floats(0.001, 3.0),
        "joins_at": st.floats(0, 5),
        "corrupts_at": st.none() | st.integers(0, 10),  # its n-th answer is wrong
        "dies_at": st.none() | st.integers(0, 20),  # it is lost instead of giving its n-th answer
        "stalls_at": st.none() | st.integers(0, 20),  # it goes silent
        "lacks": st.sets(st.integers(0, len(BLOCKS) - 1), max_size=10),
    }
)
HONEST = {
    "seconds_per_block": 0.2,
    "joins_at": 0.0,
    "corrupts_at": None,
    "dies_at": None,
    "stalls_at": None,
    "lacks": set(),
}


class Simulation:
    """Peers that answer in order, each at its own speed, with its own faults."""

    def __init__(self, num_blocks, peers, patience_s=0.0):
        self.exchange = Exchange(REFS[:num_blocks])
        self.exchange.expect(len(peers), 0.0)
        self.peers = {
            f"peer{index}": {**peer, "queue": [], "num_answers": 0, "is_busy": False}
            for index, peer in enumerate(peers)
        }
        self.events = []
        self.kept = {}
        self.dropped = {}
        self.num_asked = 0
        self.now = 0.0
        self._order = 0
        for peer_id, peer in self.peers.items():
            self.schedule(peer["joins_at"], "join", peer_id)
        self.schedule(patience_s, "stop_waiting", None)

    def schedule(self, at, kind, peer_id):
        self._order += 1
        heapq.heappush(self.events, (at, self._order, kind, peer_id))

    def run(self):
        while self.events and not self.exchange.is_done:
            self.now, _, kind, peer_id = heapq.heappop(self.events)
            getattr(self, kind)(peer_id)
            self.exchange.check()
            if not self.events and not self.exchange.is_done and not self.exchange.is_stuck:
                self.schedule(
                    self.now + ANSWER_DEADLINE_S, "tick", None
                )  # only silence is left: let deadlines judge
        return self

    def join(self, peer_id):
        self.act(self.exchange.add_peer(peer_id, self.now))

    def stop_waiting(self, _):
        self.act(self.exchange.expect(0, self.now))

    def tick(self, _):
        self.act(self.exchange.check_deadlines(self.now))

    def reply(self, peer_id):
        peer = self.peers[peer_id]
        peer["is_busy"] = False
        if peer_id in self.dropped or not peer["queue"]:
            return
        number = peer["num_answers"]
        peer["num_answers"] = peer["num_answers"] + 1
        if number == peer["stalls_at"]:
            peer["is_busy"] = True  # for ever
            return
        if number == peer["dies_at"]:
            self.dropped[peer_id] = "died"
            self.act(self.exchange.lose_peer(peer_id, self.now))
            return
        cid = peer["queue"].pop(0)
        data = b"" if INDEX[cid] in peer["lacks"] else DATA[cid]
        if number == peer["corrupts_at"] and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.act(self.exchange.answer(peer_id, data, self.now))
        self.work(peer_id)

    def work(self, peer_id):
        peer = self.peers[peer_id]
        if peer["queue"] and not peer["is_busy"]:
            peer["is_busy"] = True
            self.schedule(self.now + peer["seconds_per_block"], "reply", peer_id)

    def act(self, actions):
        for action in actions:
            match action:
                case Ask(peer_id, cids):
                    assert peer_id not in self.dropped, "a dropped peer is asked"
                    self.num_asked += len(cids)
                    self.peers[peer_id]["queue"] += cids
                    self.work(peer_id)
                case Keep(_, cid, data):
                    assert cid not in self.kept, "a block is kept twice"
                    assert cid.matches(data), "a wrong block is kept"
                    self.kept[cid] = data
                case Drop(peer_id, _, is_hostile):
                    self.dropped[peer_id] = "hostile" if is_hostile else "stalled"


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, len(BLOCKS)),
    st.lists(behaviours, min_size=1, max_size=5),
    st.floats(0, 6),
)
def test_one_honest_peer_is_enough_whatever_the_others_do(num_blocks, peers, patience_s):
    simulation = Simulation(num_blocks, [*peers, HONEST], patience_s).run()
    assert simulation.exchange.is_done
    assert set(simulation.kept) == {ref.cid for ref in REFS[:num_blocks]}
    assert f"peer{len(peers)}" not in simulation.dropped


@settings(max_examples=300, deadline=None)
@given(st.integers(1, len(BLOCKS)), st.lists(behaviours, min_size=1, max_size=5))
def test_every_fetch_ends_done_or_stuck_and_blames_only_who_is_guilty(num_blocks, peers):
    simulation = Simulation(num_blocks, peers).run()
    assert simulation.exchange.is_done or simulation.exchange.is_stuck
    assert set(simulation.kept) | set(simulation.exchange.missing) == {
        ref.cid for ref in REFS[:num_blocks]
    }
    for rejection in simulation.exchange.rejected:
        peer = simulation.peers[rejection.peer_id]
        assert peer["corrupts_at"] is not None or peer["stalls_at"] is not None
    for peer_id, why in simulation.dropped.items():
        if why == "hostile":
            assert simulation.peers[peer_id]["corrupts_at"] is not None


def test_a_stuck_fetch_names_what_nobody_has():
    simulation = Simulation(5, [{**HONEST, "lacks": {2}}, {**HONEST, "lacks": {2, 3}}]).run()
    assert simulation.exchange.is_stuck
    assert simulation.exchange.missing == (REFS[2].cid,)


def test_a_late_provider_brings_what_the_first_ones_lack():
    simulation = Simulation(5, [{**HONEST, "lacks": {2}}, {**HONEST, "joins_at": 30.0}]).run()
    assert simulation.exchange.is_done


def test_a_slow_peer_gets_less_and_does_not_hold_up_the_end():
    big = [random.Random(index).randbytes(1000) for index in range(200)]
    refs = [BlockRef(Cid.of(data), 256 << 10) for data in big]
    global_data = dict(zip((ref.cid for ref in refs), big, strict=True))
    exchange = Exchange(refs)
    queues = {"fast": [], "slow": []}
    kept = {"fast": 0, "slow": 0}
    now = 0.0

    def act(actions):
        for action in actions:
            if isinstance(action, Ask):
                queues[action.peer_id] += action.cids
            elif isinstance(action, Keep):
                kept[action.peer_id] += 1

    for peer_id in queues:
        act(exchange.add_peer(peer_id, now))
    due = {"fast": 0.01, "slow": 0.5}
    pace = dict(due)
    while not exchange.is_done:
        peer_id = min((peer for peer in due if queues[peer]), key=due.__getitem__)
        now = due[peer_id]
        due[peer_id] += pace[peer_id]
        act(exchange.answer(peer_id, global_data[queues[peer_id].pop(0)], now))
        exchange.check()
    assert kept["slow"] <= 6
    assert (
        now < 2.6
    )  # the fast peer alone needs 2 s; waiting for all that the slow one owed would take longer


def test_an_answer_nobody_asked_for_is_hostile():
    exchange = Exchange(REFS[:1])
    exchange.add_peer("p", 0.0)
    exchange.answer("p", DATA[REFS[0].cid], 0.1)
    assert [action.is_hostile for action in exchange.answer("p", b"more", 0.2)] == [True]
    assert exchange.answer("p", b"and more", 0.3) == []


def test_a_right_block_over_its_allowed_size_is_refused_without_a_ban():
    exchange = Exchange([BlockRef(REFS[5].cid, 3)])
    exchange.add_peer("p", 0.0)
    actions = exchange.answer("p", DATA[REFS[5].cid], 0.1)
    assert actions == []
    assert exchange.is_stuck
    assert (
        exchange.rejected[0].reason.startswith("187 bytes")
        or "allowed" in exchange.rejected[0].reason
    )


def test_a_silent_peer_is_dropped_at_the_deadline_and_not_before():
    exchange = Exchange(REFS[:2])
    exchange.add_peer("p", 0.0)
    assert exchange.check_deadlines(ANSWER_DEADLINE_S - 0.1) == []
    (drop,) = exchange.check_deadlines(ANSWER_DEADLINE_S + 1)
    assert (drop.peer_id, drop.is_hostile) == ("p", False)
    assert exchange.is_stuck


def asked_of(actions):
    return {action.peer_id: len(action.cids) for action in actions if isinstance(action, Ask)}


def test_whoever_is_first_leaves_the_others_their_share_while_they_are_expected():
    exchange = Exchange(REFS[:12])
    assert exchange.expect(3, 0.0) == []
    assert asked_of(exchange.add_peer("first", 0.0)) == {"first": 3}  # of 12: one of four
    assert asked_of(exchange.expect(2, 0.1)) == {"first": 1}  # one has failed: a third
    assert asked_of(exchange.add_peer("second", 0.2)) == {"second": 3}
    left = asked_of(exchange.expect(0, 0.3))  # patience is over
    assert sum(left.values()) == 5
    exchange.check()


def test_a_newcomer_takes_over_the_end_of_what_the_first_one_owes():
    big = [bytes([index]) * 100_000 for index in range(12)]
    exchange = Exchange([BlockRef(Cid.of(data), 100_000) for data in big])
    exchange.add_peer("first", 0.0)
    now = 0.001
    while exchange._unasked:
        exchange.answer("first", big.pop(0), now)
        now += 0.001
    assert len(exchange._peers["first"].owed) >= 2
    assert asked_of(exchange.add_peer("second", now))["second"] >= 1
    exchange.check()


def test_a_window_is_filled_up_when_half_of_it_is_free_and_not_for_each_answer():
    big = [bytes([index]) * 1000 for index in range(200)]
    exchange = Exchange([BlockRef(Cid.of(data), 1000) for data in big])
    owed = [*exchange.add_peer("p", 0.0)[0].cids]
    data_of = {Cid.of(data): data for data in big}
    num_requests, now = 1, 0.0
    while not exchange.is_done:
        now += 0.001
        for action in exchange.answer("p", data_of[owed.pop(0)], now):
            if isinstance(action, Ask):
                owed += action.cids
                num_requests += 1
    assert num_requests <= 200 / 32


def test_what_is_outstanding_follows_rate_and_round_trip():
    def window_after(round_trip_s, bytes_per_s):
        size = 100_000
        blocks = [index.to_bytes(2, "big") * (size // 2) for index in range(120)]
        data_of = {Cid.of(data): data for data in blocks}
        exchange = Exchange([BlockRef(cid, size) for cid in data_of])
        asked = [(0.0, cid) for cid in exchange.add_peer("p", 0.0)[0].cids]
        now = 0.0
        while asked:
            asked_at, cid = asked.pop(0)
            now = max(asked_at + round_trip_s, now) + size / bytes_per_s
            for action in exchange.answer("p", data_of[cid], now):
                if isinstance(action, Ask):
                    asked += [(now, cid) for cid in action.cids]
            if exchange._peers["p"].owed:
                window = exchange._peers["p"].window_bytes
        return window

    near, far = window_after(0.001, 10e6), window_after(0.2, 10e6)
    assert near < 1_000_000  # and not a quarter of a second's worth
    assert 3_500_000 < far < 6_000_000  # two round trips' worth
    assert window_after(0.001, 1e6) == 256 << 10
