// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig, ChannelId, VoucherClaim} from "../types/Channel.sol";

/// @title Unidirectional payment channels: the ABI of x402's `batch-settlement` scheme.
/// @notice A payer deposits once and signs vouchers off chain, each for a channel's total so far; a
/// receiver claims the newest and has it sent. A voucher reserves nothing: until it is claimed, the
/// payer may ask for the money back, and the withdraw delay is the receiver's time to claim first.
interface IChannels {
    event ChannelCreated(ChannelId indexed channelId, ChannelConfig config);
    event ChannelClosed(ChannelId indexed channelId, ChannelConfig config);
    event Deposited(
        ChannelId indexed channelId, address indexed sender, uint128 amount, uint128 newBalance
    );
    event Claimed(
        ChannelId indexed channelId,
        address indexed sender,
        uint128 amount,
        uint128 newTotalClaimed
    );
    event Settled(
        address indexed receiver, address indexed token, address indexed sender, uint128 amount
    );
    event WithdrawInitiated(ChannelId indexed channelId, uint128 amount, uint40 finalizableAt);
    event WithdrawFinalized(ChannelId indexed channelId, address indexed sender, uint128 amount);
    event Refunded(ChannelId indexed channelId, address indexed sender, uint128 amount);

    /// @notice A channel needs a payer, a receiver, a receiver authorizer and a token that are not
    /// the zero address.
    error IncompleteConfig();
    /// @notice The withdraw delay must lie between 15 minutes and 30 days.
    error WithdrawDelayOutOfRange(uint40 withdrawDelay);
    /// @notice An amount of zero moves nothing; send a positive one.
    error ZeroAmount();
    /// @notice The collector brought another amount than the deposit states.
    error WrongAmountCollected(uint256 expected, uint256 collected);
    /// @notice Only the channel's receiver or receiver authorizer may do this.
    error NotReceiverSide(address caller);
    /// @notice Only the channel's payer or payer authorizer may do this.
    error NotPayerSide(address caller);
    /// @notice There is no claim in this batch.
    error EmptyBatch();
    /// @notice All claims of a signed batch must have the same receiver authorizer.
    error MixedReceiverAuthorizers();
    /// @notice The receiver authorizer's signature does not fit what it should sign.
    error BadAuthorizerSignature();
    /// @notice The voucher's signature is not that of the channel's payer authorizer (or of its
    /// payer when there is none).
    error BadVoucherSignature(ChannelId channelId);
    /// @notice The claim asks for more than its voucher allows.
    error ClaimExceedsVoucher(
        ChannelId channelId, uint128 totalClaimed, uint128 maxClaimableAmount
    );
    /// @notice The claim asks for more than the channel holds.
    error ClaimExceedsBalance(ChannelId channelId, uint128 totalClaimed, uint128 balance);
    /// @notice The channel does not hold that much unclaimed money.
    error InsufficientUnclaimed(uint128 requested, uint128 unclaimed);
    /// @notice A withdrawal of this channel is already under way; finalize it first.
    error WithdrawalPending(uint40 initiatedAt);
    /// @notice No withdrawal of this channel is under way; initiate one first.
    error NoWithdrawalPending();
    /// @notice The withdraw delay has not passed yet.
    error WithdrawDelayNotOver(uint256 finalizableAt);
    /// @notice The refund was signed for another nonce.
    error WrongRefundNonce(uint256 expected, uint256 given);

    // ── the payer's side ─────────────────────────────────────────────────────────────────────────

    /// @notice Adds `amount` to a channel, brought by `collector`; the first deposit opens the
    /// channel.
    /// @param collectorData what the collector needs: the payer's authorisation, in its encoding
    function deposit(
        ChannelConfig calldata config,
        uint128 amount,
        address collector,
        bytes calldata collectorData
    ) external;

    /// @notice Asks for unclaimed money back; the receiver has the channel's withdraw delay to
    /// claim its vouchers. Only the payer or the payer authorizer.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Pays the payer what was asked for, or what is still unclaimed where that is less.
    /// Only the payer or the payer authorizer, after the delay.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    // ── the receiver's side ──────────────────────────────────────────────────────────────────────

    /// @notice Books vouchers to their receivers. Moves no token; the caller is receiver or
    /// receiver authorizer of all. A row that is not above what is booked already changes nothing.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice The same for a relayer: whoever calls, the receiver authorizer of all claims signed
    /// the batch.
    function claimWithSignature(
        VoucherClaim[] calldata voucherClaims,
        bytes calldata authorizerSignature
    ) external;

    /// @notice Sends a receiver what was claimed for it and not sent yet, whoever calls. Nothing to
    /// send is no error.
    function settle(address receiver, address token) external;

    /// @notice Gives unclaimed money back to the payer at once: up to `amount`, less where less is
    /// unclaimed. Only the receiver or the receiver authorizer.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice The same for a relayer, with a signature of the receiver authorizer that works once.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external;

    // ── what is on the books ─────────────────────────────────────────────────────────────────────

    /// @notice A channel's money: what was deposited and not given back, and what of it is claimed.
    function channels(ChannelId channelId)
        external
        view
        returns (uint128 balance, uint128 totalClaimed);

    /// @notice A withdrawal under way; zeros when there is none.
    function pendingWithdrawals(ChannelId channelId)
        external
        view
        returns (uint128 amount, uint40 initiatedAt);

    /// @notice The nonce that the channel's next signed refund must name.
    function refundNonce(ChannelId channelId) external view returns (uint256);

    /// @notice A receiver's money in one token: what was claimed for it, and what of it was sent.
    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    // ── digests, for whoever signs or checks ─────────────────────────────────────────────────────

    /// @notice The id of the channel that this config describes, here.
    function getChannelId(ChannelConfig calldata config) external view returns (ChannelId);

    /// @notice What a payer authorizer signs to let the receiver claim up to this much, in all.
    function getVoucherDigest(ChannelId channelId, uint128 maxClaimableAmount)
        external
        view
        returns (bytes32);

    /// @notice What a receiver authorizer signs to let anybody relay a refund.
    function getRefundDigest(ChannelId channelId, uint256 nonce, uint128 amount)
        external
        view
        returns (bytes32);

    /// @notice What a receiver authorizer signs to let anybody relay a batch of claims.
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims)
        external
        view
        returns (bytes32);
}
