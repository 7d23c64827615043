// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {ChannelConfig, ChannelDigest, Voucher, VoucherClaim} from "./ChannelTypes.sol";
import {ICollector} from "./ICollector.sol";

/// @title Unidirectional payment channels with the ABI and the digests of x402's `batch-settlement` scheme.
/// @notice For development chains, placed at x402's address so that an x402 client pays here unchanged. Where the real
/// contract exists, use that one.
///
/// A channel's money:   0 ≤ totalClaimed ≤ balance = deposited − refunded − withdrawn
/// A receiver's money:  totalSettled ≤ totalClaimed = Σ totalClaimed of its channels in that token
/// The contract holds, of each token, Σ (balance − totalClaimed) of channels + Σ (totalClaimed − totalSettled) of
/// receivers, and nobody else's calls move either sum.
contract Channels is Multicall, ReentrancyGuardTransient {
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

    mapping(bytes32 channelId => Channel) public channels;
    mapping(bytes32 channelId => PendingWithdrawal) public pendingWithdrawals;
    mapping(bytes32 channelId => uint256) public refundNonce;
    mapping(address receiver => mapping(address token => ReceiverTotals)) public receivers;

    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizableAt);
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);

    /// @notice A channel needs a payer, a receiver, a receiver authorizer and a token that are not the zero address.
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
    /// @notice The voucher's signature is not that of the channel's payer authorizer (or of its payer when there is none).
    error BadVoucherSignature(bytes32 channelId);
    /// @notice The claim asks for more than its voucher allows.
    error ClaimExceedsVoucher(bytes32 channelId, uint128 totalClaimed, uint128 maxClaimableAmount);
    /// @notice The claim asks for more than the channel holds.
    error ClaimExceedsBalance(bytes32 channelId, uint128 totalClaimed, uint128 balance);
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

    // ── the payer's side ────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Adds `amount` to a channel, brought by `collector`; the first deposit opens the channel.
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external
        nonReentrant
    {
        _checkConfig(config);
        require(amount > 0, ZeroAmount());
        bytes32 channelId = ChannelDigest.ofConfig(config);
        Channel storage channel = channels[channelId];
        if (channel.balance == 0 && channel.totalClaimed == 0) emit ChannelCreated(channelId, config);
        channel.balance += amount;
        emit Deposited(channelId, msg.sender, amount, channel.balance);

        // The collector is whatever the caller names, so what counts is what arrived. The guard keeps every other
        // function that moves tokens out while it runs.
        uint256 before = IERC20(config.token).balanceOf(address(this));
        ICollector(collector).collect(config.payer, config.token, amount, channelId, collectorData);
        uint256 collected = IERC20(config.token).balanceOf(address(this)) - before;
        require(collected == amount, WrongAmountCollected(amount, collected));
    }

    /// @notice Asks for unclaimed money back; the receiver has the channel's withdraw delay to claim its vouchers.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        bytes32 channelId = _payerSide(config);
        PendingWithdrawal memory pending = pendingWithdrawals[channelId];
        uint128 unclaimed = _unclaimed(channels[channelId]);
        require(pending.initiatedAt == 0, WithdrawalPending(pending.initiatedAt));
        require(amount > 0, ZeroAmount());
        require(amount <= unclaimed, InsufficientUnclaimed(amount, unclaimed));
        pendingWithdrawals[channelId] = PendingWithdrawal(amount, uint40(block.timestamp));
        emit WithdrawInitiated(channelId, amount, uint40(block.timestamp) + config.withdrawDelay);
    }

    /// @notice Pays the payer what was asked for, or what is still unclaimed where that is less.
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        bytes32 channelId = _payerSide(config);
        PendingWithdrawal memory pending = pendingWithdrawals[channelId];
        require(pending.initiatedAt != 0, NoWithdrawalPending());
        uint256 finalizableAt = uint256(pending.initiatedAt) + config.withdrawDelay;
        require(block.timestamp >= finalizableAt, WithdrawDelayNotOver(finalizableAt));
        uint128 amount = _min(pending.amount, _unclaimed(channels[channelId]));
        delete pendingWithdrawals[channelId];
        emit WithdrawFinalized(channelId, msg.sender, amount);
        _payBack(channelId, config, amount);
    }

    // ── the receiver's side ─────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Books vouchers to their receivers. Moves no token; the caller is receiver or receiver authorizer of all.
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        require(voucherClaims.length > 0, EmptyBatch());
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            _receiverSide(voucherClaims[i].voucher.channel);
            _claim(voucherClaims[i]);
        }
    }

    /// @notice The same for a relayer: whoever calls, the receiver authorizer of all claims signed the batch.
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature)
        external
        nonReentrant
    {
        require(voucherClaims.length > 0, EmptyBatch());
        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        _checkAuthorizer(authorizer, ChannelDigest.ofBatch(voucherClaims), authorizerSignature);
        for (uint256 i = 0; i < voucherClaims.length; i++) {
            require(voucherClaims[i].voucher.channel.receiverAuthorizer == authorizer, MixedReceiverAuthorizers());
            _claim(voucherClaims[i]);
        }
    }

    /// @notice Sends a receiver what was claimed for it and not sent yet, whoever calls. Nothing to send is no error.
    function settle(address receiver, address token) external nonReentrant {
        ReceiverTotals storage totals = receivers[receiver][token];
        uint128 amount = totals.totalClaimed - totals.totalSettled;
        if (amount == 0) return;
        totals.totalSettled = totals.totalClaimed;
        emit Settled(receiver, token, msg.sender, amount);
        IERC20(token).safeTransfer(receiver, amount);
    }

    /// @notice Gives unclaimed money back to the payer at once: up to `amount`, less where less is unclaimed.
    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        _receiverSide(config);
        _refund(ChannelDigest.ofConfig(config), config, amount);
    }

    /// @notice The same for a relayer, with a signature of the receiver authorizer that works once.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        bytes32 channelId = ChannelDigest.ofConfig(config);
        require(nonce == refundNonce[channelId], WrongRefundNonce(refundNonce[channelId], nonce));
        bytes32 digest = ChannelDigest.ofRefund(channelId, nonce, amount);
        _checkAuthorizer(config.receiverAuthorizer, digest, receiverAuthorizerSignature);
        _refund(channelId, config, amount);
    }

    // ── digests, for whoever signs or checks ────────────────────────────────────────────────────────────────────────

    function getChannelId(ChannelConfig calldata config) external view returns (bytes32) {
        return ChannelDigest.ofConfig(config);
    }

    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32) {
        return ChannelDigest.ofVoucher(channelId, maxClaimableAmount);
    }

    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32) {
        return ChannelDigest.ofRefund(channelId, nonce, amount);
    }

    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32) {
        return ChannelDigest.ofBatch(voucherClaims);
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Books one voucher. A claim that is not above what is booked already changes nothing: two relayers that race
    /// with the same voucher both succeed, and it counts once.
    function _claim(VoucherClaim calldata row) private {
        ChannelConfig calldata config = row.voucher.channel;
        bytes32 channelId = ChannelDigest.ofConfig(config);
        Channel storage channel = channels[channelId];
        uint128 limit = row.voucher.maxClaimableAmount;
        require(row.totalClaimed <= limit, ClaimExceedsVoucher(channelId, row.totalClaimed, limit));
        _checkVoucher(config, channelId, limit, row.signature);
        if (row.totalClaimed <= channel.totalClaimed) return;
        uint128 balance = channel.balance;
        require(row.totalClaimed <= balance, ClaimExceedsBalance(channelId, row.totalClaimed, balance));
        uint128 amount = row.totalClaimed - channel.totalClaimed;
        channel.totalClaimed = row.totalClaimed;
        receivers[config.receiver][config.token].totalClaimed += amount;
        emit Claimed(channelId, msg.sender, amount, row.totalClaimed);
    }

    /// @dev Advances the nonce first, so that a direct refund voids every refund that was signed before it.
    function _refund(bytes32 channelId, ChannelConfig calldata config, uint128 wanted) private {
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

    function _payBack(bytes32 channelId, ChannelConfig calldata config, uint128 amount) private {
        if (amount == 0) return;
        Channel storage channel = channels[channelId];
        channel.balance -= amount;
        if (channel.balance == 0 && channel.totalClaimed == 0) emit ChannelClosed(channelId, config);
        IERC20(config.token).safeTransfer(config.payer, amount);
    }

    function _checkConfig(ChannelConfig calldata config) private pure {
        require(
            config.payer != address(0) && config.receiver != address(0) && config.receiverAuthorizer != address(0)
                && config.token != address(0),
            IncompleteConfig()
        );
        require(
            config.withdrawDelay >= MIN_WITHDRAW_DELAY && config.withdrawDelay <= MAX_WITHDRAW_DELAY,
            WithdrawDelayOutOfRange(config.withdrawDelay)
        );
    }

    function _checkVoucher(
        ChannelConfig calldata config,
        bytes32 channelId,
        uint128 maxClaimableAmount,
        bytes calldata signature
    ) private view {
        bytes32 digest = ChannelDigest.ofVoucher(channelId, maxClaimableAmount);
        bool valid;
        if (config.payerAuthorizer == address(0)) {
            valid = SignatureChecker.isValidSignatureNowCalldata(config.payer, digest, signature);
        } else {
            (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
            valid = failure == ECDSA.RecoverError.NoError && signer == config.payerAuthorizer;
        }
        require(valid, BadVoucherSignature(channelId));
    }

    function _checkAuthorizer(address authorizer, bytes32 digest, bytes calldata signature) private view {
        require(
            SignatureChecker.isValidSignatureNowCalldata(authorizer, digest, signature), BadAuthorizerSignature()
        );
    }

    function _receiverSide(ChannelConfig calldata config) private view {
        require(
            msg.sender == config.receiver || msg.sender == config.receiverAuthorizer, NotReceiverSide(msg.sender)
        );
    }

    function _payerSide(ChannelConfig calldata config) private view returns (bytes32 channelId) {
        require(msg.sender == config.payer || msg.sender == config.payerAuthorizer, NotPayerSide(msg.sender));
        return ChannelDigest.ofConfig(config);
    }

    function _unclaimed(Channel memory channel) private pure returns (uint128) {
        return channel.balance - channel.totalClaimed;
    }

    function _min(uint128 a, uint128 b) private pure returns (uint128) {
        return a < b ? a : b;
    }
}
