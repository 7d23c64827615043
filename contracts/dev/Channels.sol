// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {
    ReentrancyGuardTransient
} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ICollector} from "../src/interfaces/ICollector.sol";
import {ChannelConfig, ChannelId, VoucherClaim} from "../src/types/Channel.sol";
import {ChannelDigest} from "./ChannelDigest.sol";

/// @title Unidirectional payment channels with the ABI and the digests of x402's `batch-settlement`
/// scheme.
/// @notice For development chains, placed at x402's address so that an x402 client pays here
/// unchanged. Where the real contract exists, use that one.
///
/// A channel's money:   0 ≤ totalClaimed ≤ balance = deposited − refunded − withdrawn
/// A receiver's money:  totalSettled ≤ totalClaimed = Σ totalClaimed of its channels in that token
/// The contract holds, of each token, Σ (balance − totalClaimed) of channels + Σ (totalClaimed −
/// totalSettled) of receivers, and nobody else's calls move either sum.
contract Channels is IChannels, Multicall, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Channel {
        uint128 balance;
        uint128 totalClaimed;
    }

    struct PendingWithdrawal {
        uint128 amount;
        uint40 initiatedAt;
    }

    struct ReceiverTotals {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    uint40 public constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 public constant MAX_WITHDRAW_DELAY = 30 days;

    /// @inheritdoc IChannels
    mapping(ChannelId channelId => Channel) public channels;
    /// @inheritdoc IChannels
    mapping(ChannelId channelId => PendingWithdrawal) public pendingWithdrawals;
    /// @inheritdoc IChannels
    mapping(ChannelId channelId => uint256) public refundNonce;
    /// @inheritdoc IChannels
    mapping(address receiver => mapping(address token => ReceiverTotals)) public receivers;

    // ── the payer's side ─────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IChannels
    function deposit(
        ChannelConfig calldata config,
        uint128 amount,
        address collector,
        bytes calldata collectorData
    ) external nonReentrant {
        _checkConfig(config);
        require(amount > 0, ZeroAmount());
        ChannelId channelId = ChannelDigest.ofConfig(config);
        Channel storage channel = channels[channelId];
        if (channel.balance == 0 && channel.totalClaimed == 0) {
            emit ChannelCreated(channelId, config);
        }
        channel.balance += amount;
        emit Deposited(channelId, msg.sender, amount, channel.balance);

        // The collector is whatever the caller names, so what counts is what arrived. The guard
        // keeps every other function that moves tokens out while it runs.
        uint256 before = IERC20(config.token).balanceOf(address(this));
        ICollector(collector).collect(config.payer, config.token, amount, channelId, collectorData);
        uint256 collected = IERC20(config.token).balanceOf(address(this)) - before;
        require(collected == amount, WrongAmountCollected(amount, collected));
    }

    /// @inheritdoc IChannels
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount)
        external
        nonReentrant
    {
        ChannelId channelId = _payerSide(config);
        PendingWithdrawal memory pending = pendingWithdrawals[channelId];
        uint128 unclaimed = _unclaimed(channels[channelId]);
        require(pending.initiatedAt == 0, WithdrawalPending(pending.initiatedAt));
        require(amount > 0, ZeroAmount());
        require(amount <= unclaimed, InsufficientUnclaimed(amount, unclaimed));
        pendingWithdrawals[channelId] = PendingWithdrawal(amount, uint40(block.timestamp));
        emit WithdrawInitiated(channelId, amount, uint40(block.timestamp) + config.withdrawDelay);
    }

    /// @inheritdoc IChannels
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        ChannelId channelId = _payerSide(config);
        PendingWithdrawal memory pending = pendingWithdrawals[channelId];
        require(pending.initiatedAt != 0, NoWithdrawalPending());
        uint256 finalizableAt = uint256(pending.initiatedAt) + config.withdrawDelay;
        require(block.timestamp >= finalizableAt, WithdrawDelayNotOver(finalizableAt));
        uint128 amount = _min(pending.amount, _unclaimed(channels[channelId]));
        delete pendingWithdrawals[channelId];
        emit WithdrawFinalized(channelId, msg.sender, amount);
        _payBack(channelId, config, amount);
    }

    // ── the receiver's side ──────────────────────────────────────────────────────────────────────

    /// @inheritdoc IChannels
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        require(voucherClaims.length > 0, EmptyBatch());
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            _receiverSide(voucherClaims[i].voucher.channel);
            _claim(voucherClaims[i]);
        }
    }

    /// @inheritdoc IChannels
    function claimWithSignature(
        VoucherClaim[] calldata voucherClaims,
        bytes calldata authorizerSignature
    ) external nonReentrant {
        require(voucherClaims.length > 0, EmptyBatch());
        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        _checkAuthorizer(authorizer, ChannelDigest.ofBatch(voucherClaims), authorizerSignature);
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            require(
                voucherClaims[i].voucher.channel.receiverAuthorizer == authorizer,
                MixedReceiverAuthorizers()
            );
            _claim(voucherClaims[i]);
        }
    }

    /// @inheritdoc IChannels
    function settle(address receiver, address token) external nonReentrant {
        ReceiverTotals storage totals = receivers[receiver][token];
        uint128 amount = totals.totalClaimed - totals.totalSettled;
        if (amount == 0) return;
        totals.totalSettled = totals.totalClaimed;
        emit Settled(receiver, token, msg.sender, amount);
        IERC20(token).safeTransfer(receiver, amount);
    }

    /// @inheritdoc IChannels
    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        _receiverSide(config);
        _refund(ChannelDigest.ofConfig(config), config, amount);
    }

    /// @inheritdoc IChannels
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        ChannelId channelId = ChannelDigest.ofConfig(config);
        require(nonce == refundNonce[channelId], WrongRefundNonce(refundNonce[channelId], nonce));
        bytes32 digest = ChannelDigest.ofRefund(channelId, nonce, amount);
        _checkAuthorizer(config.receiverAuthorizer, digest, receiverAuthorizerSignature);
        _refund(channelId, config, amount);
    }

    // ── digests, for whoever signs or checks ─────────────────────────────────────────────────────

    /// @inheritdoc IChannels
    function getChannelId(ChannelConfig calldata config) external view returns (ChannelId) {
        return ChannelDigest.ofConfig(config);
    }

    /// @inheritdoc IChannels
    function getVoucherDigest(ChannelId channelId, uint128 maxClaimableAmount)
        external
        view
        returns (bytes32)
    {
        return ChannelDigest.ofVoucher(channelId, maxClaimableAmount);
    }

    /// @inheritdoc IChannels
    function getRefundDigest(ChannelId channelId, uint256 nonce, uint128 amount)
        external
        view
        returns (bytes32)
    {
        return ChannelDigest.ofRefund(channelId, nonce, amount);
    }

    /// @inheritdoc IChannels
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims)
        external
        view
        returns (bytes32)
    {
        return ChannelDigest.ofBatch(voucherClaims);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev Books one voucher. A claim that is not above what is booked already changes nothing:
    /// two relayers that race with the same voucher both succeed, and it counts once.
    function _claim(VoucherClaim calldata row) private {
        ChannelConfig calldata config = row.voucher.channel;
        ChannelId channelId = ChannelDigest.ofConfig(config);
        Channel storage channel = channels[channelId];
        uint128 limit = row.voucher.maxClaimableAmount;
        require(row.totalClaimed <= limit, ClaimExceedsVoucher(channelId, row.totalClaimed, limit));
        _checkVoucher(config, channelId, limit, row.signature);
        if (row.totalClaimed <= channel.totalClaimed) return;
        uint128 balance = channel.balance;
        require(
            row.totalClaimed <= balance, ClaimExceedsBalance(channelId, row.totalClaimed, balance)
        );
        uint128 amount = row.totalClaimed - channel.totalClaimed;
        channel.totalClaimed = row.totalClaimed;
        receivers[config.receiver][config.token].totalClaimed += amount;
        emit Claimed(channelId, msg.sender, amount, row.totalClaimed);
    }

    /// @dev Advances the nonce first, so that a direct refund voids every refund that was signed
    /// before it.
    function _refund(ChannelId channelId, ChannelConfig calldata config, uint128 wanted) private {
        require(wanted > 0, ZeroAmount());
        refundNonce[channelId]++;
        uint128 amount = _min(wanted, _unclaimed(channels[channelId]));
        if (amount == 0) return;
        PendingWithdrawal storage pending = pendingWithdrawals[channelId];
        if (pending.amount <= amount) delete pendingWithdrawals[channelId];
        else pending.amount -= amount;
        emit Refunded(channelId, msg.sender, amount);
        _payBack(channelId, config, amount);
    }

    function _payBack(ChannelId channelId, ChannelConfig calldata config, uint128 amount) private {
        if (amount == 0) return;
        Channel storage channel = channels[channelId];
        channel.balance -= amount;
        if (channel.balance == 0 && channel.totalClaimed == 0) {
            emit ChannelClosed(channelId, config);
        }
        IERC20(config.token).safeTransfer(config.payer, amount);
    }

    function _checkConfig(ChannelConfig calldata config) private pure {
        require(
            config.payer != address(0) && config.receiver != address(0)
                && config.receiverAuthorizer != address(0) && config.token != address(0),
            IncompleteConfig()
        );
        require(
            config.withdrawDelay >= MIN_WITHDRAW_DELAY
                && config.withdrawDelay <= MAX_WITHDRAW_DELAY,
            WithdrawDelayOutOfRange(config.withdrawDelay)
        );
    }

    function _checkVoucher(
        ChannelConfig calldata config,
        ChannelId channelId,
        uint128 maxClaimableAmount,
        bytes calldata signature
    ) private view {
        bytes32 digest = ChannelDigest.ofVoucher(channelId, maxClaimableAmount);
        bool valid;
        if (config.payerAuthorizer == address(0)) {
            valid = SignatureChecker.isValidSignatureNowCalldata(config.payer, digest, signature);
        } else {
            (address signer, ECDSA.RecoverError failure,) =
                ECDSA.tryRecoverCalldata(digest, signature);
            valid = failure == ECDSA.RecoverError.NoError && signer == config.payerAuthorizer;
        }
        require(valid, BadVoucherSignature(channelId));
    }

    function _checkAuthorizer(address authorizer, bytes32 digest, bytes calldata signature)
        private
        view
    {
        require(
            SignatureChecker.isValidSignatureNowCalldata(authorizer, digest, signature),
            BadAuthorizerSignature()
        );
    }

    function _receiverSide(ChannelConfig calldata config) private view {
        require(
            msg.sender == config.receiver || msg.sender == config.receiverAuthorizer,
            NotReceiverSide(msg.sender)
        );
    }

    function _payerSide(ChannelConfig calldata config) private view returns (ChannelId channelId) {
        require(
            msg.sender == config.payer || msg.sender == config.payerAuthorizer,
            NotPayerSide(msg.sender)
        );
        return ChannelDigest.ofConfig(config);
    }

    function _unclaimed(Channel memory channel) private pure returns (uint128) {
        return channel.balance - channel.totalClaimed;
    }

    function _min(uint128 a, uint128 b) private pure returns (uint128) {
        return a < b ? a : b;
    }
}
