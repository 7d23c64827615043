// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The identifier of a channel: the EIP-712 digest of its `ChannelConfig`. Of all the
/// 32-byte words that are passed around here, a channel's is the one that names money.
type ChannelId is bytes32;

/// @notice What a channel is. Its EIP-712 digest is the channel's id, so nothing in here ever
/// changes.
struct ChannelConfig {
    address payer; // whose tokens are deposited, and who gets back what is not claimed
    address payerAuthorizer; // signs vouchers; zero: the payer, which may be a contract (ERC-1271)
    address receiver; // where settled tokens go
    address receiverAuthorizer; // who may claim and refund
    address token;
    uint40 withdrawDelay; // seconds between asking for money back and getting it
    bytes32 salt; // tells channels between the same parties apart
}

/// @notice "The receiver may claim up to this much of this channel, in all."
struct Voucher {
    ChannelConfig channel;
    uint128 maxClaimableAmount;
}

/// @notice A voucher with its signature, and how much of it the receiver takes: `totalClaimed`,
/// cumulative as well.
struct VoucherClaim {
    Voucher voucher;
    bytes signature;
    uint128 totalClaimed;
}
