// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig, ChannelId} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {ChannelProof, PayoutLeaf} from "../types/Leaves.sol";
import {Receipt} from "../types/Receipt.sol";

/// @notice A receipt that a channel's parties settle with, without any aggregator.
struct ExitRequest {
    ChannelConfig config;
    Receipt receipt;
    bytes nodeSignature; // the operator's, over the receipt
    bytes clientSignature; // the payer's or the payer authorizer's; empty: the node's word alone
    PostedHeader here; // the final header that the exit goes on from; zeros where none was ever posted
    ChannelProof base; // the channel's leaf in it; `proof.size` 0 says that there is none
    PayoutLeaf[] paid; // all payouts of the channel that are paid already, or under `here`
    PayoutLeaf[] owed; // all payouts of the channel as the receipt has them
}

/// @title The way out: a channel's last receipt is a settlement that needs no aggregator.
interface IExits {
    event Forced(ChannelId indexed channelId, uint64 sequence, uint64 deadline, Receipt receipt);
    event ForceAnswered(ChannelId indexed channelId, uint64 sequence);
    event ExitStarted(ChannelId indexed channelId, uint64 sequence, uint64 dueAt);
    event ExitCancelled(ChannelId indexed channelId, uint64 sequence);
    event Exited(ChannelId indexed channelId, uint64 sequence, uint128 amount, bytes32 payouts);

    /// @notice The config is not that of the receipt's channel, or the channel does not pay this
    /// contract's token to it.
    error NotOurChannel(ChannelId channelId);
    /// @notice The signature is not that of the channel's operator, or not that of its client.
    error BadReceiptSignature();
    /// @notice The channel's vouchers are not claimed this far; claim them first.
    error Unclaimed(uint128 cumulative, uint128 totalClaimed);
    /// @notice A channel leaves while the office is vacant and the last header is final, or when
    /// its forced receipt was ignored; and it goes on from a final header after that.
    error ExitsClosed();
    /// @notice What is said to be paid, or owed, is not what was committed to.
    error WrongPayouts();
    /// @notice The receipt is not beyond what the channel was settled to, or takes an award back.
    error NotBeyond(uint64 sequence, uint64 settled);
    /// @notice An exit of this channel with better evidence is under way.
    error ExitPending(uint64 sequence);
    /// @notice No exit of this channel is under way that could be finished now.
    error NoExitDue(uint64 dueAt);
    /// @notice The channel has left, or was forced already.
    error HasLeft(ChannelId channelId);
    /// @notice No forced receipt of this channel waits for an answer.
    error NotForced(ChannelId channelId);

    /// @notice Demands that the channel's receipt be included within the silence; costs the fee of
    /// a demand. If nobody shows it in a header by then, the channel has left: it settles by exits
    /// only, and no later header may move it.
    function force(
        ChannelConfig calldata config,
        Receipt calldata receipt,
        bytes calldata nodeSignature
    ) external;

    /// @notice Shows that a header has the channel at the forced receipt or beyond; earns the fee.
    function answerForced(PostedHeader calldata here, ChannelProof calldata channel) external;

    /// @notice Settles a channel: pays each account what the receipt owes it beyond what is paid. At
    /// once where the client signed too and the channel's leaf is shown; else after the window.
    function exit(ExitRequest calldata request) external;

    /// @notice Shows that a channel whose exit says it has no leaf has one.
    function cancelExit(PostedHeader calldata here, ChannelProof calldata channel) external;

    /// @notice Pays an exit whose window is over.
    function finishExit(
        ChannelId channelId,
        PayoutLeaf[] calldata paid,
        PayoutLeaf[] calldata owed
    ) external;

    /// @notice The second after which no header may move the channel; 2^64 - 1 while headers may.
    /// A channel has left when that second is over.
    function leftAt(ChannelId channelId) external view returns (uint64);

    /// @notice Where a channel was settled to by exits; zeros when it was not. No header that was
    /// posted after `left` may move it.
    function exited(ChannelId channelId)
        external
        view
        returns (bytes32 payouts, uint64 sequence, uint64 left);

    /// @notice The forced receipt of a channel; the channel has left when `deadline` is over.
    function forced(ChannelId channelId)
        external
        view
        returns (address by, uint64 deadline, uint64 sequence);

    /// @notice The exit of a channel that is under way.
    function pendingExits(ChannelId channelId)
        external
        view
        returns (
            bytes32 payouts,
            bytes32 base,
            uint128 cumulative,
            uint64 sequence,
            uint64 dueAt,
            uint64 absentFrom,
            uint32 term,
            bool isCosigned
        );
}
