"""A small world for the two machines of the infer protocol: one client, one node, one channel,
streams that break, processes that die, a disk on each side, a chain, an engine, and messages that
lie.

A schedule is bytes: each chooses what happens next. What must hold is checked after every step.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec

from engine import messages as m
from engine.messages import Choosing
from node.errors import EngineError, EngineLost, NodeCheated, NodeError, PaymentRequired
from node.wire import client_session as client
from node.wire import infer as wire
from node.wire import node_session as node
from node.wire.channels import (
    ChannelFacts,
    ChannelRow,
    Funds,
    PayeeChannel,
    PayerChannel,
    Persist,
)
from node.wire.client_session import ClientSession, Question
from node.wire.infer import PAY_TOKENS
from node.wire.metering import Price
from node.wire.node_session import NodeSession, NodeTerms
from node.wire.notary import Notary
from node.wire.session import Draw, Drew, Fail, Failed, PeerGone, Send, Tick
from proofs.attribution.credit import Drawn
from proofs.attribution.shares import (
    POLICY,
    AdapterTerms,
    Share,
    award,
    fee,
    shares_for,
)
from proofs.errors import ReceiptError, VoucherError
from proofs.payouts import ChannelPayouts
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    Receipt,
    SignedReceipt,
    VerifiedReceipt,
    check_terms,
    commit,
    decode_body,
    derive_shares,
    digest_of,
    encode_body,
)
from proofs.voucher import ChannelConfig, Voucher, channel_id, operator_salt
from tests.proofs.scene import NETWORK, signer

PRICE = Price(3, 10)
DEPOSIT = 5_000
GRACE_S = 60.0
MAX_LIVE = 3
MAX_STREAMS = 7
BASE = bytes(32)
READY = m.Ready(BASE, "float32", 1000, 4096, kv_pages=1, page_tokens=1, threads=1, load_ms=0.0)
TERMS = Choosing(
    0.0, 0, 1.0, 0.0, 1.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=[], grammar=None
)


CREATOR = b"\x0c" * 20
LAW = b"\x01" * 32
DRAWN = b"\x02" * 32
TERMS_OF: dict[bytes, AdapterTerms | None] = {
    BARE_BASE: None,
    LAW: AdapterTerms.of_one(CREATOR, ((b"\x0d" * 20, 2), (b"\x0e" * 20, 1)), BASE),
    DRAWN: AdapterTerms.of_one(CREATOR, ((b"\x0d" * 20, 2), (b"\x0e" * 20, 1)), BASE, 4),
}


Draws = Callable[[Draw], Drew | Failed]


def drawn_of(answer_ids: Sequence[int]) -> Drawn:
    """What both sides find that an answer drew on; one in seven on nobody."""
    total = sum(answer_ids)
    part = 1 + total % 9_999
    return (((0, part), (1, 10_000 - part)),) if total % 7 else ()


def one_unit_otherwise(drawn: Drawn) -> Drawn:
    """What a node says that pays a friend."""
    if not drawn:
        return (((0, 10_000),),)
    part = drawn[0][0][1]
    part += 1 if part < 9_999 else -1
    return (((0, part), (1, 10_000 - part)),)


class CheapNotary(Notary):
    """Signs with a hash: whoever knows an address can sign, so only this file's liars must not."""

    def __init__(self, name: str) -> None:
        self.network = NETWORK
        self.address = hashlib.sha256(name.encode()).digest()[:20]
        self.highest_voucher = 0

    @staticmethod
    def seal(address: bytes, payload: bytes) -> bytes:
        digest = hashlib.sha256(address + payload).digest()
        return digest + digest + b"\x1b"

    def sign_receipt(self, receipt: Receipt) -> bytes:
        return self.seal(self.address, encode_body(receipt))

    def sign_voucher(self, channel_id: bytes, amount: int) -> bytes:
        self.highest_voucher = max(self.highest_voucher, amount)
        return self.seal(self.address, b"%s %d" % (channel_id, amount))

    def check_voucher(self, voucher: Voucher, config: ChannelConfig) -> None:
        payload = b"%s %d" % (voucher.channel_id, voucher.max_claimable_amount)
        if voucher.signature != self.seal(config.voucher_signer, payload):
            raise VoucherError("voucher signature", "not the signer's")

    def read_draft(self, body: bytes, node_signature: bytes, operator: bytes) -> Receipt:
        receipt = decode_body(body)
        check_terms(receipt, self.network)
        if node_signature != self.seal(operator, body):
            raise ReceiptError("node signature", "not the node's")
        return receipt

    def verify_receipt(self, signed: SignedReceipt) -> VerifiedReceipt:
        receipt = self.read_draft(
            signed.body, signed.node_signature, decode_body(signed.body).operator
        )
        theirs = signed.client_signature
        if theirs != NO_SIGNATURE and theirs != self.seal(receipt.client, signed.body):
            raise ReceiptError("client signature", "not the client's")
        return VerifiedReceipt(receipt, signed)


class RealNotary(Notary):
    """Signs as the product does, and remembers the highest voucher."""

    def __init__(self, name: str) -> None:
        super().__init__(signer(name), NETWORK)
        self.highest_voucher = 0

    def sign_voucher(self, channel_id: bytes, amount: int) -> bytes:
        self.highest_voucher = max(self.highest_voucher, amount)
        return super().sign_voucher(channel_id, amount)


class Crash(Exception):
    """A process dies between two deeds."""


@dataclass
class Disk:
    """What one side wrote."""

    row: ChannelRow
    receipts: list[VerifiedReceipt] = field(default_factory=list)

    def keep(self, persist: Persist) -> None:
        self.row = persist.row
        if persist.receipt is None:
            return
        for place, known in enumerate(self.receipts):
            if known.digest == persist.receipt.digest:
                if persist.receipt.is_cosigned:
                    self.receipts[place] = persist.receipt
                return
        self.receipts.append(persist.receipt)


@dataclass
class Stream:
    """One question on its way, and both machines that deal with it."""

    number: int
    adapter: bytes
    owner: bytes
    prompt: tuple[int, ...]
    max_tokens: int
    salt: bytes
    client: ClientSession | None
    node: NodeSession | None
    to_node: deque[wire.FromClient] = field(default_factory=deque)
    to_client: deque[wire.FromNode] = field(default_factory=deque)
    client_ended: bool = False  # no more comes from there
    node_ended: bool = False
    client_deeds: deque[client.Deposit | client.Agree | Draw] = field(default_factory=deque)
    node_deeds: deque[node.NodeAction] = field(default_factory=deque)
    credit: int | None = None  # of the engine, while it runs
    is_cancelled: bool = False
    made: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    paid_limit: int = 0  # the highest that the client said
    heard_limit: int = 0  # the highest that the node heard
    seed: bytes | None = None
    outcome: client.Outcome | None = None
    client_error: Exception | None = None
    node_error: Exception | None = None
    has_lied: bool = False

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        return shares_for(POLICY, self.owner, TERMS_OF[self.adapter])

    def cost(self, num_tokens: int) -> int:
        price = PRICE.cost(len(self.prompt), num_tokens)
        return fee(POLICY, price, self.shares) if Price(0, 0) != PRICE else 0


class World:
    """Everything; `run` takes a schedule."""

    def __init__(
        self,
        notary: Callable[[str], Any] = CheapNotary,
        *,
        is_attributed: bool = False,
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        self.stop_ids = stop_ids
        self.payer_notary = notary("client")
        self.payee_notary = notary("node")
        operator = self.payee_notary.address
        own = self.payer_notary.address
        config = ChannelConfig(
            own,
            own,
            NETWORK.settlement,
            operator,
            NETWORK.token,
            900,
            operator_salt(operator, bytes(12)),
        )
        row = ChannelRow(channel_id(config, NETWORK), operator, config)
        self.client_disk = Disk(row)
        self.node_disk = Disk(row)
        self.balance = DEPOSIT
        self.now = 1000.0
        self.drafted: dict[bytes, float] = {}  # when, in Unix seconds, by the body's digest
        self.streams: list[Stream] = []
        self.turn: Stream | None = None
        self.waiting: deque[Stream] = deque()
        self.fuse: int | None = None
        self.token = 0
        self.max_unsettled = 0
        self.checked: dict[int, object] = {}  # what each end's row was when it was looked at
        self.log: list[str] = []
        self.node_draws: Draws | None = None  # what each side finds that an answer drew on
        self.client_draws: Draws | None = None
        self.is_mixed = is_attributed  # one question in three is attributed to nobody
        if is_attributed:
            self.client_draws = lambda draw: Drew(drawn_of(draw.answer_ids))
            self.node_draws = self.draw_as_node
        self.accused: list[client.Accuse] = []
        self.boot_client()
        self.boot_node()

    # --- processes ---

    def boot_client(self) -> None:
        self.checked.clear()
        self.payer = PayerChannel(self.client_disk.row, self.payer_notary)
        self.note_balance()

    def note_balance(self) -> None:
        """The client asks the chain."""
        self.client_disk.keep(self.payer.note(Funds(self.balance)))

    def boot_node(self) -> None:
        self.checked.clear()
        self.payee = PayeeChannel(self.node_disk.row, self.payee_notary, grace_s=GRACE_S)

    @property
    def unix(self) -> float:
        """What both sides' clocks say."""
        return 4000.0 + self.now

    def keep_node(self, persist: Persist) -> None:
        """The node writes; nothing becomes due before its client had time to sign."""
        for draft in persist.row.drafts:
            self.drafted.setdefault(digest_of(draft.body), self.unix)
        if persist.receipt is not None and not persist.receipt.is_cosigned:
            age_s = self.unix - self.drafted[persist.receipt.digest]
            assert age_s > GRACE_S - 1, f"the client had {age_s} s to sign"
        self.node_disk.keep(persist)

    def tick_node(self) -> None:
        """The node looks what has become due."""
        try:
            for persist in self.payee.tick(self.unix):
                self.burn()
                self.keep_node(persist)
        except Crash:
            self.crash_node()

    def crash_client(self) -> None:
        self.log.append("the client crashes")
        for stream in self.streams:
            stream.client = None
            stream.client_ended = True
            stream.client_deeds.clear()
        self.boot_client()

    def crash_node(self) -> None:
        self.log.append("the node crashes")
        for stream in self.streams:
            stream.node = None
            stream.node_ended = True
            stream.node_deeds.clear()
            stream.credit = None
        self.turn = None
        self.waiting.clear()
        self.boot_node()

    # --- a stream ---

    def open(self, size: int) -> Stream:
        number = len(self.streams)
        prompt = tuple(range(1, 2 + size % 5))
        max_tokens = (1, 20, 40, 100)[size % 4]
        is_drawn = self.client_draws is not None and not (self.is_mixed and size % 3 == 0)
        adapter = DRAWN if is_drawn else (BARE_BASE, LAW)[size // 4 % 2]
        seed = hashlib.sha256(b"seed %d" % number).digest()
        question = Question(
            base=BASE,
            adapter=adapter,
            prompt_ids=prompt,
            max_tokens=max_tokens,
            terms=TERMS,
            logprobs=None,
            stop_ids=self.stop_ids,
            client_seed=seed,
            attribution=TERMS_OF[adapter],
            is_attributed=is_drawn,
        )
        owner = self.payee_notary.address
        terms = NodeTerms(BASE, self.payee_notary.address, owner, PRICE, True, engine=READY)
        if self.node_draws is not None:
            terms = replace(terms, can_draw=lambda ask: not self.is_mixed or ask.adapter == DRAWN)
        asking = ClientSession(
            question,
            self.payer,
            PRICE,
            peer="peer",
            operator=self.payee_notary.address,
            client=self.payer_notary.address,
            salt=seed[:16],
            clock=lambda: self.unix,
        )
        node_seed = hashlib.sha256(b"node %d" % number).digest()
        answering = NodeSession(terms, node_seed=node_seed, clock=lambda: self.unix)
        stream = Stream(number, adapter, owner, prompt, max_tokens, seed[:16], asking, answering)
        self.streams.append(stream)
        answering.start(self.now)
        self.do_client(stream, asking.start(self.now))
        return stream

    def tell_client(self, stream: Stream, event: client.ClientEvent) -> None:
        if stream.client is None:
            return
        try:
            self.do_client(stream, stream.client.receive(event, self.now))
        except Crash:
            self.crash_client()

    def tell_node(self, stream: Stream, event: node.NodeEvent) -> None:
        if stream.node is None:
            return
        pay = event.payment if isinstance(event, wire.Begin) else event
        if isinstance(pay, wire.Pay):
            stream.heard_limit = max(stream.heard_limit, pay.limit)
        try:
            self.do_node(stream, stream.node.receive(event, self.now))
        except Crash:
            self.crash_node()

    def burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Crash

    def do_client(self, stream: Stream, actions: Sequence[client.ClientAction]) -> None:
        ordered = sorted(actions, key=lambda action: not isinstance(action, Persist))
        for action in ordered:
            self.burn()
            match action:
                case Persist():
                    self.client_disk.keep(action)
                case Send():
                    self.note_payment(stream, action.message)
                    if not stream.node_ended:
                        stream.to_node.append(action.message)  # type: ignore[arg-type]
                case client.Deposit() | Draw():
                    stream.client_deeds.append(action)
                case client.Accuse():
                    self.accused.append(action)
                case client.Agree():
                    stream.seed = action.deal.seed
                    stream.client_deeds.append(action)
                case client.Begun():
                    pass
                case client.Emit():
                    stream.seen += action.output.token_ids
                case client.Finish():
                    stream.outcome = action.outcome
                case Fail():
                    stream.client_error = action.error
        assert stream.client is not None
        if stream.client.is_over:
            stream.client_ended = True

    def note_payment(self, stream: Stream, message: wire.Message) -> None:
        pay = message.payment if isinstance(message, wire.Begin) else message
        if isinstance(pay, wire.Pay) and PRICE.completion:
            stream.paid_limit = max(stream.paid_limit, pay.limit)
            rest = stream.paid_limit - PRICE.cost(len(stream.prompt), 0)
            least = fee(POLICY, 0, stream.shares) // PRICE.completion
            ahead = rest // PRICE.completion
            assert stream.client is not None
            ahead -= stream.client.num_tokens
            assert ahead <= max(PAY_TOKENS, least), f"the client paid {ahead} tokens ahead"

    def do_node(self, stream: Stream, actions: Sequence[node.NodeAction]) -> None:
        ordered = sorted(actions, key=lambda action: not isinstance(action, Persist))
        for action in ordered:
            self.burn()
            match action:
                case Persist():
                    self.keep_node(action)
                case Send():
                    if isinstance(action.message, wire.Output):
                        stream.sent += action.message.token_ids
                        self.check_paid(stream)
                    if not stream.client_ended:
                        stream.to_client.append(action.message)  # type: ignore[arg-type]
                case node.StartEngine():
                    stream.credit = action.credit
                    stream.seed = action.deal.seed
                case node.GrantCredit():
                    if stream.credit is not None:
                        stream.credit = max(stream.credit, action.credit)
                case node.CancelEngine():
                    stream.is_cancelled = True
                case node.TakeTurn():
                    self.waiting.append(stream)
                case node.GiveTurn():
                    assert self.turn is stream, "who has no turn gave it away"
                    self.turn = None
                case Fail():
                    stream.node_error = action.error
                    code = (
                        action.error.code if isinstance(action.error, NodeError) else "bad_request"
                    )
                    if not stream.client_ended:
                        stream.to_client.append(wire.Refusal(code, str(action.error)[:1000]))
                case node.GiveUp():
                    pass
                case _:
                    stream.node_deeds.append(action)
        assert stream.node is not None
        if stream.node.is_over:
            stream.node_ended = True
            stream.credit = None
            stream.node_deeds.clear()
            if stream in self.waiting:
                self.waiting.remove(stream)

    # --- what may happen ---

    def moves(self) -> list[Callable[[], None]]:
        """What would bring something on, in a fixed order."""
        found: list[Callable[[], None]] = []
        for stream in self.streams:
            if stream.client is not None and not stream.client.is_over:
                if stream.client_deeds and isinstance(stream.client_deeds[0], Draw):
                    pass  # nothing is heard meanwhile
                elif stream.to_client:
                    found.append(lambda s=stream: self.tell_client(s, s.to_client.popleft()))  # type: ignore[misc]
                elif stream.node_ended:
                    found.append(lambda s=stream: self.tell_client(s, PeerGone("ended")))  # type: ignore[misc]
                if stream.client_deeds:
                    found.append(lambda s=stream: self.finish_client_deed(s))  # type: ignore[misc]
            if stream.node is not None and not stream.node.is_over:
                if stream.to_node:
                    found.append(lambda s=stream: self.tell_node(s, s.to_node.popleft()))  # type: ignore[misc]
                elif stream.client_ended:
                    found.append(lambda s=stream: self.tell_node(s, PeerGone("ended")))  # type: ignore[misc]
                if stream.node_deeds:
                    found.append(lambda s=stream: self.finish_deed(s))  # type: ignore[misc]
                if self.can_generate(stream):
                    found.append(lambda s=stream: self.generate(s))  # type: ignore[misc]
        if self.turn is None and self.waiting:
            found.append(self.give_turn)
        if self.payee.due_at <= self.unix:
            found.append(self.tick_node)
        return found

    def give_turn(self) -> None:
        self.turn = self.waiting.popleft()
        self.tell_node(self.turn, node.TurnTaken())

    def finish_client_deed(self, stream: Stream) -> None:
        deed = stream.client_deeds.popleft()
        if isinstance(deed, client.Agree):
            self.tell_client(stream, client.Accepted())
            return
        if isinstance(deed, Draw):
            assert self.client_draws is not None
            self.tell_client(stream, self.client_draws(deed))
            return
        if missing := self.payer.missing(deed.key, deed.limit):
            amount = max(missing, DEPOSIT)
            self.balance += amount
            self.note_balance()
        self.tell_client(stream, client.Deposited())

    def draw_as_node(self, draw: Draw) -> Drew:
        """The node pays a friend now and then."""
        drawn = drawn_of(draw.answer_ids)
        return Drew(drawn if self.token % 8 else one_unit_otherwise(drawn))

    def finish_deed(self, stream: Stream) -> None:
        deed = stream.node_deeds.popleft()
        match deed:
            case node.HoldAdapter():
                terms = TERMS_OF[deed.adapter]
                self.tell_node(stream, node.AdapterHeld(terms, {}))
            case node.OpenChannel():
                self.tell_node(stream, node.ChannelOpened(self.payee))
            case node.ReadChannel():
                self.now = max(self.now, deed.at)
                if self.payee.read_at < deed.at:
                    self.payee.note(ChannelFacts(self.balance, is_withdrawing=False), self.now)
                self.tell_node(stream, node.ChannelRead())
            case Draw():
                assert self.node_draws is not None
                self.tell_node(stream, self.node_draws(deed))
            case _:
                raise AssertionError(deed)

    @staticmethod
    def can_generate(stream: Stream) -> bool:
        """Whether the engine has a request, and credit or a reason to end it."""
        if stream.credit is None:
            return False
        made = len(stream.made)
        return stream.is_cancelled or made == stream.max_tokens or made < stream.credit

    def generate(self, stream: Stream) -> None:
        """The engine's next word: as many as five tokens, or the end."""
        assert stream.credit is not None
        room = min(stream.credit, stream.max_tokens) - len(stream.made)
        if stream.is_cancelled or len(stream.made) == stream.max_tokens:
            reason = "cancelled" if stream.is_cancelled else "length"
            self.finish_engine(stream, reason)
        elif room > 0:
            ids = []
            for _ in range(min(room, 1 + self.token % 5)):
                self.token += 1
                ids.append(self.token % 1000)
            stream.made += ids
            self.tell_node(stream, m.Tokens(0, ids, 0))

    def finish_engine(self, stream: Stream, reason: str) -> None:
        stream.credit = None
        self.tell_node(
            stream,
            m.Finished(
                0,
                reason,
                1,
                len(stream.made),
                0.0,
                load_ms=0.0,
                prefill_ms=0.0,
                decode_ms=0.0,
                neighbours=1,
            ),
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for stream in self.streams:
            if stream.client is not None and stream.client.deadline <= self.now:
                self.tell_client(stream, Tick())
            if stream.node is not None and stream.node.deadline <= self.now:
                self.tell_node(stream, Tick())

    # --- what may go wrong ---

    def live(self) -> list[Stream]:
        return [
            stream
            for stream in self.streams
            if (stream.client and not stream.client.is_over)
            or (stream.node and not stream.node.is_over)
        ]

    def break_stream(self, stream: Stream, how: int) -> None:
        """The stream dies; what is under way may still arrive, or not."""
        if how & 1:
            stream.to_node.clear()
        if how & 2:
            stream.to_client.clear()
        stream.client_ended = True
        stream.node_ended = True

    def trouble(self, kind: int, which: int) -> None:
        live = self.live()
        stream = live[which % len(live)] if live else None
        self.log.append(f"trouble {kind % 12} with {stream.number if stream else None}")
        match kind % 12:
            case 0 | 1:
                if stream:
                    self.break_stream(stream, which // 8)
            case 2:
                self.crash_client()
            case 3:
                self.crash_node()
            case 4 | 5:
                self.fuse = which % 6  # whoever does that many deeds more dies of it
            case 6:
                self.pass_time((1.0, 5.0, 11.0, 50.0, 130.0)[which % 5])
            case 7:
                if stream and stream.client and stream.seed:
                    self.tell_client(stream, client.StopWanted())
            case 8:
                if stream and stream.credit is not None:
                    if which & 16:
                        stream.credit = None
                        self.tell_node(stream, Failed(EngineLost("it died")))
                    elif stream.made:
                        self.finish_engine(stream, "stop")
                elif stream and stream.node_deeds and isinstance(stream.node_deeds[0], Draw):
                    stream.node_deeds.popleft()
                    self.tell_node(stream, Failed(NodeError("the index is gone")))
            case 9:
                if stream and stream.client_deeds:
                    # Also instead of taking an offer: another node's came first.
                    stream.client_deeds.popleft()
                    self.tell_client(stream, Failed(PaymentRequired("no more money")))
            case 10:
                if stream and stream.to_node:
                    self.lie_to_node(stream, which // 4)
            case 11:
                if stream and stream.to_client:
                    self.lie_to_client(stream, which // 4)

    def lie_to_node(self, stream: Stream, how: int) -> None:
        """A client of another make: it has its own key, and says what it likes."""
        message = stream.to_node[0]
        is_begin = isinstance(message, wire.Begin)
        pay = message.payment if isinstance(message, wire.Begin) else message
        if isinstance(pay, wire.Pay):
            signed = self.payer_notary.sign_voucher
            lies = (
                lambda: wire.Pay(pay.limit, pay.amount, bytes(65)),
                lambda: wire.Pay(pay.limit + 500, pay.amount, pay.signature),
                lambda: wire.Pay(1, pay.amount, pay.signature),
                lambda: wire.Pay(
                    pay.limit, pay.amount // 2, signed(self.payee.channel_id, pay.amount // 2)
                ),
                lambda: wire.Pay(pay.limit, pay.amount + 1, pay.signature),
                lambda: wire.Pay(0, 0, signed(self.payee.channel_id, 0)),
            )
            lie = lies[how % len(lies)]()
            stream.to_node[0] = msgspec.structs.replace(message, payment=lie) if is_begin else lie
            if how % len(lies) == 2:  # the true one first, then one that takes it back
                stream.to_node[0] = message
                if not is_begin:
                    stream.to_node.insert(1, lie)
                else:
                    stream.to_node.append(lie)
        elif isinstance(message, wire.Settle):
            if how % 2:
                stream.to_node.appendleft(message)  # twice
            else:
                stream.to_node[0] = wire.Settle(bytes(65))
        elif isinstance(message, wire.Ask):
            stream.to_node[0] = msgspec.structs.replace(message, version=1)
        stream.has_lied = True

    def lie_to_client(self, stream: Stream, how: int) -> None:
        """A node of another make, with the node's key."""
        message = stream.to_client[0]
        lie: wire.FromNode | None = None
        if isinstance(message, wire.Output):
            more = message.token_ids * (1 + how % 64)
            lie = wire.Output([7] if how % 3 else more, [])
        elif isinstance(message, wire.Done | wire.Pending) and message.body:
            receipt = decode_body(message.body)
            changes: dict[str, Any] = (
                {
                    "completion_tokens": receipt.completion_tokens + 1,
                    "amount": receipt.amount + PRICE.completion,
                    "cumulative": receipt.cumulative + PRICE.completion,
                },
                {"sequence": receipt.sequence + 1},
                {"seed": bytes(32)},
                {"previous": bytes(31) + b"\x01"},
                {"cumulative": receipt.cumulative + 1},
                {"client": bytes(20)},
                {"drawn": one_unit_otherwise(receipt.drawn)},
            )[how % (7 if self.is_mixed else 6)]
            if isinstance(message, wire.Pending) and "amount" in changes:
                more = 1000 * PRICE.completion  # a client does not recount what it did not see
                changes = {
                    "completion_tokens": receipt.completion_tokens + 1000,
                    "amount": receipt.amount + more,
                    "cumulative": receipt.cumulative + more,
                }
            forged = msgspec.structs.replace(receipt, **changes)
            lie = msgspec.structs.replace(
                message,
                body=encode_body(forged),
                node_signature=self.payee_notary.sign_receipt(forged),
            )
        elif isinstance(message, wire.Offer):
            lie = msgspec.structs.replace(message, completion_price=PRICE.completion + 1)
        elif isinstance(message, wire.Settled):
            lie = message
            stream.to_client.append(message)
        if lie is not None:
            stream.to_client[0] = lie
            stream.has_lied = True

    # --- running ---

    def run(self, schedule: bytes) -> None:
        choices = iter(schedule)
        for choice in choices:
            if choice >= 240 and len(self.streams) < MAX_STREAMS and len(self.live()) < MAX_LIVE:
                self.guard(lambda size=choice: self.open(size))  # type: ignore[misc]
            elif choice >= 226:
                kind = next(choices, 0)
                self.trouble(kind, next(choices, 0))
            elif moves := self.moves():
                moves[choice % len(moves)]()
            elif len(self.streams) < MAX_STREAMS:
                self.guard(lambda size=choice: self.open(size))  # type: ignore[misc]
            else:
                self.pass_time(1.0)
            self.check()
        self.fuse = None
        for stream in self.streams:
            self.break_stream(stream, 3)
        self.drain()
        if schedule[-1] % 2:
            self.stay_away()
        self.recover()

    def guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Crash:
            self.crash_client()

    def stay_away(self) -> None:
        """The client never comes back: what it was sent is paid all the same."""
        self.pass_time(GRACE_S + 1)
        self.drain()
        assert all(draft.is_sent for draft in self.payee.row.drafts), "a draft was left"
        paid = self.node_disk.receipts[-1].receipt.cumulative if self.node_disk.receipts else 0
        assert paid == self.payee.row.owed <= self.balance, "what is owed is not paid"
        self.check_billed()

    def recover(self) -> None:
        """Whatever happened: once the streams are gone, an honest visit settles all of it."""
        self.fuse = None
        for stream in self.streams:
            self.break_stream(stream, 3)
        self.drain()
        last = self.open(6)
        self.drain()
        unsigned = self.payee.pending
        if unsigned is not None and decode_body(unsigned.body).drawn:
            # An answer that broke off behind its last token: its client cannot recompute what it
            # drew on, signs nothing, and the node takes its fee when the grace is over.
            assert "recomputed" in str(last.client_error)
            self.stay_away()
            return
        assert last.outcome is not None, (
            f"no answer any more: {last.client_error!r}, {last.node_error!r}"
        )
        assert last.outcome.token_ids == last.made
        assert self.payee.pending is None, "a draft was left"
        assert [r.signed for r in self.node_disk.receipts] == [
            r.signed for r in self.client_disk.receipts
        ], "the two sides keep different receipts"
        self.check_billed()

    def check_billed(self) -> None:
        """What was sent is billed in whole, unless the node died over it or its engine broke."""
        billed = {r.receipt.seed: r.receipt.completion_tokens for r in self.node_disk.receipts}
        for stream in self.streams:
            if stream.node is None or isinstance(stream.node_error, EngineError):
                continue
            if stream.sent:
                assert stream.seed is not None
                assert billed.get(stream.seed) == len(stream.sent), "what was sent is not billed"

    def drain(self) -> None:
        for _ in range(2000):
            moves = self.moves()
            if not moves:
                return
            moves[0]()
            self.check()
        raise AssertionError("it never ends")

    # --- what must hold ---

    def check_blamed(self) -> None:
        """No honest node, which pays no friend, was caught in a lie, whatever broke."""
        for stream in self.streams:
            error = stream.client_error
            if isinstance(error, NodeCheated) and not stream.has_lied:
                assert "drew on" in str(error), f"an honest node is blamed: {error}"

    def check(self) -> None:
        for end in (self.payer, self.payee):
            end._account.check()
            if end.row is not self.checked.get(id(end)):
                end.check()
                self.checked[id(end)] = end.row
        assert self.payer.row == self.client_disk.row, "the client did not write down what it knows"
        assert self.payee.row == self.node_disk.row, "the node did not write down what it knows"
        assert self.payee.row.voucher <= self.payer_notary.highest_voucher, "a voucher was invented"
        self.check_coverage()
        self.check_exposure()
        self.check_receipts()

    def check_paid(self, stream: Stream) -> None:
        assert len(stream.sent) <= stream.max_tokens
        assert stream.cost(len(stream.sent)) <= stream.heard_limit, "a token was sent unpaid"

    def check_coverage(self) -> None:
        """Everything that the node sent and may still bill is covered by vouchers that it has."""
        row = self.payee.row
        running = sum(
            stream.cost(len(stream.sent))
            for stream in self.streams
            if stream.node and not stream.node.is_over and stream.sent and self.is_unbilled(stream)
        )
        owed = row.owed + running
        assert owed <= row.voucher, f"{owed} is owed and {row.voucher} vouched for"

    def is_unbilled(self, stream: Stream) -> bool:
        assert stream.node is not None
        return self.payee.owes(stream.node._key)

    def check_exposure(self) -> None:
        """The client vouched for what it got and at most PAY_TOKENS more for each request."""
        unsettled = [s for s in self.streams if s.paid_limit]
        settled = {r.receipt.seed for r in self.client_disk.receipts}
        unsettled = [s for s in unsettled if s.seed not in settled]
        self.max_unsettled = max(self.max_unsettled, len(unsettled))
        due = self.payer.row.cumulative + sum(s.cost(len(s.seen)) for s in unsettled)
        most = (PAY_TOKENS + 5) * PRICE.completion + 5 * PRICE.prompt
        most = max(most, fee(POLICY, 0, shares_for(POLICY, CREATOR[:19] + b"!", TERMS_OF[LAW])))
        ahead = self.payer.row.voucher - due
        assert ahead <= (1 + self.max_unsettled) * most, f"{ahead} was vouched for in advance"

    def check_receipts(self) -> None:
        """One chain on each side: the client's is what it signed, of which the node may lack the
        last, and the node's goes on with what the client has not seen or signed.
        """
        ours = self.client_disk.receipts
        theirs = self.node_disk.receipts
        if (len(ours), theirs) == self.checked.get(0):
            return
        self.checked[0] = (len(ours), list(theirs))
        common = min(len(ours), len(theirs))
        assert [r.digest for r in theirs[:common]] == [r.digest for r in ours[:common]], (
            "receipts differ"
        )
        assert len(ours) - len(theirs) <= 1, "the node lost receipts"
        assert not any(r.is_cosigned for r in theirs[common:]), "who signed that?"
        if ours:
            self.check_receipt(ours)
            assert ours[-1].receipt.cumulative == self.payer.row.cumulative
        if theirs:
            self.check_receipt(theirs)

    def check_receipt(self, receipts: list[VerifiedReceipt]) -> None:
        """The last of a chain, which is whole up to it."""
        last = receipts[-1].receipt
        assert last.sequence == len(receipts), "a place in the chain is empty or taken twice"
        assert last.previous == (receipts[-2].digest if len(receipts) > 1 else bytes(32))
        assert last.cumulative == sum(r.receipt.amount for r in receipts), "a unit was paid twice"
        seeds = [r.receipt.seed for r in receipts]
        assert len(set(seeds)) == len(seeds), "an answer was paid twice"
        stream = next((s for s in self.streams if s.seed == last.seed), None)
        assert stream is not None, "the answer was not asked for"
        self.check_payouts([r.receipt for r in receipts])
        if not stream.has_lied:
            sent = stream.made[: last.completion_tokens]
            assert last.completion_tokens == len(sent), "more was billed than was made"
            assert last.answer_commitment == commit(stream.salt, sent), "another answer was billed"
            if self.is_mixed and receipts[-1].is_cosigned:
                self.check_drawn(stream, last, sent)

    def check_drawn(self, stream: Stream, receipt: Receipt, sent: Sequence[int]) -> None:
        """Shares follow a whole answer that both sides computed; all else pays standing weights."""
        whole = drawn_of(sent) if stream.adapter == DRAWN and self.client_draws else ()
        assert receipt.drawn in ((), whole), "another split was billed"

    def check_payouts(self, receipts: list[Receipt]) -> None:
        """Everybody gets his part of every answer, to the unit."""
        paid: dict[bytes, int] = {}
        for receipt in receipts:
            shares = derive_shares(receipt, TERMS_OF[receipt.adapter])
            for account, part in award(receipt.amount, shares):
                paid[account] = paid.get(account, 0) + part
        commitment = ChannelPayouts(paid.items()).commitment
        assert receipts[-1].payouts == commitment, "somebody is paid another part"

    def stream_of(self, receipt: Receipt) -> Stream:
        return next(stream for stream in self.streams if stream.seed == receipt.seed)
