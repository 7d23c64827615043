"""A settlement contract in use: 10,000 channels and 100,000 accounts, of which one channel and the
accounts that share it are real.

The others are leaves that nobody looks behind: what a proof costs depends on how many there are.
Its owner may write whatever it likes. Measures nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import msgspec

from proofs.chain.anchoring import find_anchor
from proofs.chain.structs import ANYWHERE, PostedHeader
from proofs.court import (
    AbsentAnswer,
    AccountAnswer,
    AccountMissummed,
    AccountTwice,
    Accusation,
    AfterExit,
    Answer,
    ChannelAnswer,
    ChannelMissummed,
    ChannelTwice,
    EntryAnswer,
    EntryTwice,
    ExitRequest,
    Forged,
    Lowered,
    Missummed,
    Part,
    Question,
    TakenBack,
    Unbacked,
    Unfunded,
)
from proofs.digest import keccak
from proofs.epoch import AccountLeaf, ChannelLeaf, EntryLeaf, EpochHeader, PayoutLeaf, Shown
from proofs.promise import Promise, Reminder, promise_digest
from proofs.receipt import (
    BARE_BASE,
    NO_SIGNATURE,
    VERSION,
    Receipt,
    SignedReceipt,
    digest_of,
    encode_body,
    sign_receipt,
    signed_digest,
)
from proofs.signing import Signer
from proofs.sumtree import SumTree, leaf
from proofs.voucher import ChannelConfig, channel_id
from proofs.witness import in_order, sign_header
from tests.proofs.chain.world import World, address, secret

NUM_CHANNELS = 10_000
NUM_ACCOUNTS = 100_000
NUM_SHARES = 8  # accounts that the real channel pays
NUM_ENTRIES = 64  # of each of them
WITNESSES = ("witness 1", "witness 2")
MUCH = 10**9
TRACKED = NUM_CHANNELS // 2  # the real channel's index


@dataclass
class Crowd:
    """What one header commits to, and the headers that were posted."""

    world: World
    channel: ChannelLeaf
    config: ChannelConfig
    signatures: tuple[bytes, bytes]
    payouts: list[PayoutLeaf]
    entries: list[list[EntryLeaf]]
    channels: SumTree
    accounts: SumTree
    posted: list[PostedHeader]

    def copy(self) -> Crowd:
        """The same, to change."""
        return replace(
            self,
            payouts=list(self.payouts),
            entries=[list(each) for each in self.entries],
            channels=self.channels.copy(),
            accounts=self.accounts.copy(),
            posted=list(self.posted),
        )

    # ── writing ──

    def pay(self) -> None:
        """The channel's next receipt: each account gets a little more."""
        for place, line in enumerate(self.payouts):
            self.payouts[place] = replace(line, amount=line.amount + 100)
        self.sign(sequence=self.channel.sequence + 1)
        self.book()

    def book(self) -> None:
        """Have the accounts say what the channel's payouts say."""
        for place, line in enumerate(self.payouts):
            entry = EntryLeaf(self.channel.channel_id, line.amount, TRACKED, place)
            self.entries[place][0] = entry
        self.accounts.update({i: self.account(i).node for i in range(NUM_SHARES)})

    def sign(self, **changes: object) -> None:
        """A receipt of the channel over its payouts as they are."""
        tree = self.payout_tree
        new = replace(self.channel, payouts=tree.commitment, cumulative=tree.root.sum)
        body = hashlib.sha256(b"body %d" % (self.channel.sequence + 1)).digest()
        new = replace(new, **{"body": body, **changes})
        names = ("operator", "payer")
        digest = self.digest(new)
        node, client = (Signer(secret(name)).sign_digest(digest) for name in names)
        self.signatures = (node, client)
        self.set_channel(replace(new, evidence=keccak(node)))

    def set_channel(self, new: ChannelLeaf) -> None:
        """Write the channel's leaf as it is given."""
        self.channel = new
        self.channels.update({TRACKED: new.node})

    def digest(self, of: ChannelLeaf) -> bytes:
        """What is signed of a receipt."""
        network = self.world.deployment.network
        place = (of.channel_id, of.sequence, of.cumulative, of.payouts)
        return signed_digest(*place, body=of.body, network=network)

    def post(self, *, lying: bool = False) -> int:
        """Post a header after one more receipt, or over the books as they are; the gas."""
        if not lying:
            self.pay()
        before = self.posted[-1] if self.posted else None
        least = before.header.payout_total + 1 if before else 1
        header = EpochHeader(
            epoch=before.header.epoch + 1 if before else 1,
            previous=before.header.hash if before else bytes(32),
            receipts_root=keccak(b"receipts"),
            num_receipts=before.header.num_receipts + 1 if before else 1,
            channels_root=self.channels.commitment,
            payout_root=self.accounts.commitment,
            payout_total=max(self.accounts.root.sum, least),
            batch_digest=keccak(b"batch"),
        )
        self.world.earn(100_000)
        client = self.world.client("aggregator")
        network = client.network
        signers = (Signer(secret(name)) for name in WITNESSES)
        signatures = [sign_header(signer, header.hash, network) for signer in signers]
        needed = client.settlement.witnesses()[1]
        anchor = find_anchor(client, {self.channel.channel_id: self.channel.cumulative})
        call = client.settlement.encode_post(
            header, in_order(signatures, header.hash, network)[:needed], anchor or ANYWHERE
        )
        receipt = client.wallet.send(*call)
        found = client.settlement.find_header(header.epoch)
        assert found is not None, "it was just posted"
        self.posted.append(found)
        return receipt.gas_used

    def final(self) -> PostedHeader:
        """The last header, when its window is over."""
        self.world.wait(self.world.client("anybody").settlement.terms.window)
        return self.posted[-1]

    # ── showing ──

    @property
    def payout_tree(self) -> SumTree:
        """The channel's payouts."""
        return SumTree(line.node for line in self.payouts)

    def entry_tree(self, index: int) -> SumTree:
        """An account's entries."""
        return SumTree(entry.node for entry in self.entries[index])

    def account(self, index: int) -> AccountLeaf:
        """The leaf of one of the real accounts."""
        tree = self.entry_tree(index)
        return AccountLeaf(self.payouts[index].account, tree.root.sum, tree.commitment)

    def show_channel(self) -> Shown[ChannelLeaf]:
        """The channel's leaf."""
        return Shown(self.channel, self.channels.prove(TRACKED))

    def show_account(self, index: int) -> Shown[AccountLeaf]:
        """The leaf of one of the real accounts."""
        return Shown(self.account(index), self.accounts.prove(index))

    def show_entry(self, index: int, number: int = 0) -> Shown[EntryLeaf]:
        """An entry of one of the real accounts."""
        return Shown(self.entries[index][number], self.entry_tree(index).prove(number))

    def show_payout(self, place: int) -> Shown[PayoutLeaf]:
        """A line of the channel's payouts."""
        return Shown(self.payouts[place], self.payout_tree.prove(place))

    def answer(self, question: Question) -> Answer:
        """What an honest aggregator shows of the real channel and its accounts."""
        index = question.index
        if question.part is Part.CHANNEL:
            return ChannelAnswer(self.show_channel(), self.config, self.signatures[0])
        account = self.show_account(index)
        if question.part is Part.ACCOUNT:
            return AccountAnswer(account, self.entry_tree(index).opening)
        if question.entry >= NUM_ENTRIES:
            return AbsentAnswer(question, account, self.entry_tree(index).opening)
        return EntryAnswer(
            account, self.show_entry(index), self.show_channel(), self.show_payout(index)
        )

    def exit_to(self, later: Crowd, *, cosigned: bool = True) -> ExitRequest:
        """How the channel settles by a later receipt, going on from here."""
        return ExitRequest(
            config=later.config,
            receipt=later.channel,
            node_signature=later.signatures[0],
            client_signature=later.signatures[1] if cosigned else NO_SIGNATURE,
            base=self.show_channel(),
            paid=tuple(self.payouts),
            owed=tuple(later.payouts),
        )


def gather(world: World) -> Crowd:
    """A crowd before its first header."""
    config = world.config()
    world.fund(config, MUCH)
    world.earn(MUCH)
    identity = channel_id(config, world.deployment.network)
    payouts = [PayoutLeaf(address(f"account {n}"), 0) for n in range(NUM_SHARES)]
    others = [
        [EntryLeaf(keccak(b"%d %d" % (n, k)), 10, k, n) for k in range(NUM_ENTRIES)]
        for n in range(NUM_SHARES)
    ]
    return Crowd(
        world=world,
        channel=ChannelLeaf(identity, 0, 0, bytes(32), bytes(32), bytes(32)),
        config=config,
        signatures=(NO_SIGNATURE, NO_SIGNATURE),
        payouts=payouts,
        entries=others,
        channels=SumTree(leaf(b"channel %d" % n, 30) for n in range(NUM_CHANNELS)),
        accounts=SumTree(leaf(b"account %d" % n, 3) for n in range(NUM_ACCOUNTS)),
        posted=[],
    )


# ── lies: each writes one into a crowd, and says what shows it ──


def unfunded(crowd: Crowd) -> Accusation:
    """Let the receipts cost more than was claimed."""
    crowd.sign(sequence=crowd.channel.sequence + 1, cumulative=2 * MUCH)
    return Unfunded(crowd.show_channel())


def forged(crowd: Crowd) -> Accusation:
    """Have somebody else sign."""
    signature = Signer(secret("other")).sign_digest(crowd.digest(crowd.channel))
    crowd.set_channel(replace(crowd.channel, evidence=keccak(signature)))
    return Forged(crowd.show_channel(), crowd.config, signature)


def missummed(crowd: Crowd) -> Accusation:
    """Give the header another total than its channels."""
    return Missummed(crowd.channels.opening)


def channel_missummed(crowd: Crowd) -> Accusation:
    """Let the channel cost more than it owes."""
    crowd.sign(sequence=crowd.channel.sequence + 1, cumulative=crowd.channel.cumulative + 1)
    return ChannelMissummed(crowd.show_channel(), crowd.payout_tree.opening)


def account_missummed(crowd: Crowd) -> Accusation:
    """Award more than the entries say."""
    lying = replace(crowd.account(0), amount=crowd.account(0).amount + 1)
    crowd.accounts.update({0: lying.node})
    shown = Shown(lying, crowd.accounts.prove(0))
    return AccountMissummed(shown, crowd.entry_tree(0).opening)


def unbacked(crowd: Crowd) -> Accusation:
    """Award more than the channel owes."""
    crowd.entries[0][0] = replace(crowd.entries[0][0], amount=crowd.entries[0][0].amount + 1)
    crowd.accounts.update({0: crowd.account(0).node})
    entry = crowd.show_entry(0)
    return Unbacked(crowd.show_account(0), entry, crowd.show_channel(), crowd.show_payout(0))


def channel_twice(crowd: Crowd) -> Accusation:
    """Count the channel twice."""
    crowd.channels.update({0: crowd.channel.node})
    return ChannelTwice(Shown(crowd.channel, crowd.channels.prove(0)), crowd.show_channel())


def account_twice(crowd: Crowd) -> Accusation:
    """Count an account twice."""
    last = NUM_ACCOUNTS // 2
    crowd.accounts.update({last: crowd.account(0).node})
    other = Shown(crowd.account(0), crowd.accounts.prove(last))
    return AccountTwice(crowd.show_account(0), other)


def entry_twice(crowd: Crowd) -> Accusation:
    """Count an entry twice."""
    crowd.entries[0][1] = crowd.entries[0][0]
    crowd.accounts.update({0: crowd.account(0).node})
    return EntryTwice(crowd.show_account(0), crowd.show_entry(0), crowd.show_entry(0, 1))


def taken_back(crowd: Crowd) -> Accusation:
    """Go back to the first receipt."""
    earlier = crowd.show_channel()
    crowd.sign(sequence=1)
    return TakenBack(earlier, crowd.show_channel())


def lowered(crowd: Crowd) -> Accusation:
    """Take an account's share back."""
    earlier = crowd.show_channel()
    owed = crowd.show_payout(0)
    crowd.payouts[0] = replace(crowd.payouts[0], amount=1)
    crowd.sign(sequence=crowd.channel.sequence + 1)
    return Lowered(earlier, crowd.show_channel(), owed, crowd.show_payout(0))


def remind(crowd: Crowd) -> Reminder:
    """Promise the channel's next receipt, of which nobody has heard."""
    network = crowd.world.deployment.network
    leaf = crowd.channel
    signer = Signer(secret("operator"))
    body = Receipt(
        version=VERSION,
        chain_id=network.chain_id,
        settlement=network.settlement,
        channel_id=leaf.channel_id,
        sequence=leaf.sequence + 1,
        previous=leaf.body,
        operator=signer.address,
        client=crowd.config.payer,
        base=keccak(b"base"),
        adapter=BARE_BASE,
        owner=signer.address,
        prompt_commitment=keccak(b"prompt"),
        answer_commitment=keccak(b"answer"),
        prompt_tokens=10,
        completion_tokens=100,
        prompt_price=10,
        completion_price=10,
        amount=1_100,
        cumulative=leaf.cumulative + 1_100,
        seed=bytes(32),
        dtype=b"bfloat16",
        started_at=1_800_000_000,
        payouts=keccak(b"payouts"),
    )
    signed = SignedReceipt(encode_body(body), sign_receipt(signer, body, network), NO_SIGNATURE)
    place = (leaf.channel_id, body.sequence, body.cumulative)
    deadline = crowd.posted[-1].posted_at
    given = Promise(*place, body=digest_of(signed.body), deadline=deadline, signature=bytes(65))
    signature = Signer(secret("aggregator")).sign_digest(promise_digest(given, network))
    promise = msgspec.structs.replace(given, signature=signature)
    return Reminder(promise, crowd.config, signed, b"")


def after_exit(crowd: Crowd) -> Accusation:
    """Move the channel after it has left."""
    earlier = crowd.show_channel()
    settlement = crowd.world.client("anybody").settlement
    settlement.force(crowd.config, crowd.channel, crowd.signatures[0])
    crowd.world.wait(settlement.terms.silence + 1)
    crowd.pay()
    return AfterExit(crowd.show_channel(), earlier)


LIES = (
    unfunded,
    forged,
    missummed,
    channel_missummed,
    account_missummed,
    unbacked,
    channel_twice,
    account_twice,
    entry_twice,
    taken_back,
    lowered,
    after_exit,
)
