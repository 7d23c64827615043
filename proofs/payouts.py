"""Adds up what a channel's receipts paid whom: a small sum tree that each receipt commits to.

So a channel's last receipt says by itself how all of the channel's money is divided. Knows no
receipt, and not why an account is owed.

    leaf content = account 20 || amount 16, in the order in which the accounts were first paid

The tree itself is sumtree.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from .attribution.shares import Share, award
from .epoch import PayoutLeaf
from .errors import ReceiptError
from .sumtree import Opening, Proof, SumNode, SumTree

MAX_CHANNEL_ACCOUNTS = 256
ADDRESS_BYTES = 20


class ChannelPayouts:
    """What each account was paid in all by one channel, at most MAX_CHANNEL_ACCOUNTS of them.

    Immutable: a channel's tip is kept, compared and taken back as a value.
    """

    def __init__(self, rows: Iterable[tuple[bytes, int]] = ()) -> None:
        """Raise ReceiptError unless each account stands there once, and there are not too many."""
        found = list(rows)
        if len({account for account, _ in found}) != len(found):
            raise ReceiptError("accounts", "an account stands twice in a channel's payouts")
        self._accounts = b"".join(account for account, _ in found)
        self._check_size()
        self._tree = SumTree(PayoutLeaf(account, amount).node for account, amount in found)

    @classmethod
    def of_lines(cls, lines: Iterable[bytes]) -> ChannelPayouts:
        """Build them from the contents of their leaves, each account once: quicker than by rows."""
        found = list(lines)
        accounts = b"".join([line[:ADDRESS_BYTES] for line in found])
        return cls._of(
            accounts, SumTree.of_contents((line[ADDRESS_BYTES:], line) for line in found)
        )

    @classmethod
    def _of(cls, accounts: bytes, tree: SumTree) -> ChannelPayouts:
        made = cls.__new__(cls)
        made._accounts = accounts
        made._tree = tree
        made._check_size()
        return made

    def __len__(self) -> int:
        return len(self._accounts) // ADDRESS_BYTES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelPayouts) and self.commitment == other.commitment

    def __hash__(self) -> int:
        return hash(self.commitment)

    def __repr__(self) -> str:
        return f"ChannelPayouts({self.rows!r})"

    @property
    def rows(self) -> tuple[tuple[bytes, int], ...]:
        """Return (account, amount) in the order of the leaves."""
        return tuple((self.account(place), self.amount(place)) for place in range(len(self)))

    def account(self, place: int) -> bytes:
        """Return the account of a leaf."""
        return self._accounts[place * ADDRESS_BYTES : (place + 1) * ADDRESS_BYTES]

    def amount(self, place: int) -> int:
        """Return what the account of a leaf was paid. Raises IndexError where there is none."""
        return self._tree.leaf(place).sum

    def find(self, account: bytes) -> int | None:
        """Return the place of an account, or None when it was never paid."""
        found = self._accounts.find(account)
        # An address may also begin inside another one.
        while found >= 0 and found % ADDRESS_BYTES:
            found = self._accounts.find(account, found + 1)
        return found // ADDRESS_BYTES if found >= 0 else None

    @property
    def total(self) -> int:
        """Return what the channel paid in all."""
        return self._tree.root.sum

    @cached_property
    def commitment(self) -> bytes:
        """Return what a receipt names as `payouts`: size, sum and root in one."""
        return self._tree.commitment

    @property
    def opening(self) -> Opening:
        """Return what the commitment commits to."""
        return self._tree.opening

    def award(self, shares: Sequence[Share], amount: int) -> ChannelPayouts:
        """Divide a fee among these shares.

        Raises ReceiptError when that makes more accounts than a channel may pay.
        """
        accounts = self._accounts
        leaves: dict[int, SumNode] = {}
        for account, part in award(amount, shares):
            place = self.find(account)
            if place is None:
                place = len(accounts) // ADDRESS_BYTES
                accounts += account
            before = self.amount(place) if place < len(self) else 0
            leaves[place] = PayoutLeaf(account, before + part).node
        tree = self._tree.copy()
        tree.update(leaves)
        return self._of(accounts, tree)

    def prove(self, place: int) -> Proof:
        """Prove a leaf. Raises IndexError where there is none."""
        return self._tree.prove(place)

    def _check_size(self) -> None:
        if len(self) > MAX_CHANNEL_ACCOUNTS:
            raise ReceiptError(
                "accounts",
                f"a channel pays at most {MAX_CHANNEL_ACCOUNTS} accounts; open another one",
            )


NO_PAYOUTS = ChannelPayouts()
