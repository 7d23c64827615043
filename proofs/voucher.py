"""Describes x402 batch-settlement channels, and signs a payer's cumulative promises (vouchers).

Byte-equal to the x402 package.

A channel's id is the EIP-712 digest of its configuration. All channels of a network have the
settlement contract as receiver; the receiver authorizer says whose answers this one pays for.
Decides nothing about balances; the chain knows them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .codec import Address, Amount, Digest, Record, Signature
from .digest import Network, keccak, struct_hash, typed_digest
from .errors import BadSignature, VoucherError
from .signing import Signer, recover

SALT_NONCE_BYTES = 12
NO_ADDRESS = bytes(20)

_CONFIG_TYPE = keccak(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address"
    b" receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER_TYPE = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")


class ChannelConfig(Record, frozen=True):
    """The terms of a channel, for ever: the contract's fields in the contract's order.

    `withdraw_delay` in seconds.
    """

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
    salt: Digest

    @property
    def voucher_signer(self) -> bytes:
        """Return the address whose signature makes a voucher: the authorizer, or the payer where
        none is named.
        """
        return self.payer if self.payer_authorizer == NO_ADDRESS else self.payer_authorizer

    @property
    def operator(self) -> bytes:
        """Return the node operator whose answers this channel pays for: who alone claims of it, and
        refunds.
        """
        return self.receiver_authorizer


class Voucher(Record, frozen=True):
    """A promise that the receiver may claim up to `max_claimable_amount` of this channel,
    in all.
    """

    channel_id: Digest
    max_claimable_amount: Amount
    signature: Signature


def operator_salt(operator: bytes, nonce: bytes) -> bytes:
    """Return the salt of our own client's channel that pays this operator.

    The 12-byte nonce tells several channels of one pair apart; another client's salt may be any.
    """
    assert len(operator) == 20, "an operator is a 20-byte address"
    assert len(nonce) == SALT_NONCE_BYTES, "a salt's nonce has 12 bytes"
    return operator + nonce


def channel_id(config: ChannelConfig, network: Network) -> bytes:
    """Return a channel's id on this network."""
    fields = (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        config.salt,
    )
    return typed_digest(network.channels_domain, struct_hash(_CONFIG_TYPE, *fields))


def check_channel(config: ChannelConfig, operator: bytes, client: bytes, network: Network) -> None:
    """Raise VoucherError unless this channel pays the settlement contract, for this client to this
    operator, who alone can claim or refund.
    """
    if config.receiver != network.settlement:
        raise VoucherError(
            "receiver",
            f"the channel pays {config.receiver.hex()}, not the settlement contract"
            f" {network.settlement.hex()}",
        )
    if config.token != network.token:
        raise VoucherError(
            "token",
            f"the channel holds token {config.token.hex()}; fees are paid in {network.token.hex()}",
        )
    # Whoever is the authorizer may refund everything at once, without the delay of a withdrawal.
    if config.operator != operator:
        raise VoucherError(
            "receiver authorizer",
            f"{config.operator.hex()} may claim and refund the channel; it must be the operator"
            f" {operator.hex()}",
        )
    if client not in (config.payer, config.voucher_signer):
        raise VoucherError(
            "client", f"{client.hex()} is neither payer nor authorizer of the channel"
        )


def voucher_digest(channel: bytes, max_claimable_amount: int, network: Network) -> bytes:
    """Return the 32 bytes that a payer signs."""
    return typed_digest(
        network.channels_domain, struct_hash(_VOUCHER_TYPE, channel, max_claimable_amount)
    )


def sign_voucher(
    signer: Signer, channel: bytes, max_claimable_amount: int, network: Network
) -> Voucher:
    """Promise that up to this much of the channel may be claimed."""
    return Voucher(
        channel,
        max_claimable_amount,
        signer.sign_digest(voucher_digest(channel, max_claimable_amount, network)),
    )


def verify_voucher(voucher: Voucher, config: ChannelConfig, network: Network) -> None:
    """Raise VoucherError unless this voucher is for this channel and its voucher signer made it."""
    if voucher.channel_id != channel_id(config, network):
        raise VoucherError("channel", "the voucher names another channel")
    try:
        signer = recover(
            voucher_digest(voucher.channel_id, voucher.max_claimable_amount, network),
            voucher.signature,
        )
    except BadSignature as error:
        raise VoucherError("voucher signature", str(error)) from error
    if signer != config.voucher_signer:
        raise VoucherError(
            "voucher signature", f"made by {signer.hex()}, not by {config.voucher_signer.hex()}"
        )
