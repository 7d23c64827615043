// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {ExitRequest, IExits} from "../interfaces/IExits.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {ChannelConfig, ChannelId} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {ChannelProof, Leaves, PayoutLeaf} from "../types/Leaves.sol";
import {Receipt} from "../types/Receipt.sol";
import {Headers} from "./Headers.sol";

/// @title Settles a channel by its last receipt, without any aggregator.
/// @notice Nothing is paid twice, by a header and by an exit:
///
/// - An exit goes on from the channel's leaf in a final header, and pays only what the receipt owes
///   beyond it. While the office is vacant that header is the last, and nobody can post another:
///   an aggregator that was silent is dismissed by the first exit. So an exit and a post never race.
/// - A channel that settled by an exit is settled by exits for ever. A later header that moves it is
///   taken back (`proveAfterExit`).
///
/// A forced receipt can't convict. The contract sees only the hash of a receipt, so it can't tell a
/// receipt that was ignored from one that nobody can include, because the receipts before it are
/// withheld or it breaks a rule. What it can do is let that channel go, alone.
///
/// A node's word alone waits for the window, in which the client's counts more: a node could sign
/// a receipt that gives the others' shares to itself.
abstract contract Exits is Headers, IExits {
    using SafeERC20 for IERC20;

    uint256 private constant MAX_PAYOUTS = 256;

    struct Exit {
        bytes32 payouts; // commitment of what is paid, headers included
        uint64 sequence; // of the receipt that it was paid by
        uint64 leftAt; // no header that was posted later may move the channel
    }

    struct Force {
        address by; // who gets the fee back when nobody answers
        uint64 deadline;
        uint64 sequence;
    }

    struct PendingExit {
        bytes32 payouts;
        bytes32 base; // commitment of the payouts in the header that it goes on from
        uint128 cumulative;
        uint64 sequence;
        uint64 dueAt;
        uint64 absentFrom; // the epoch whose header is said to have no leaf; 0: the leaf was shown
        uint32 term; // an exit that a vacancy allowed ends with it
        bool isCosigned;
    }

    /// @inheritdoc IExits
    mapping(ChannelId channelId => Exit) public exited;
    /// @inheritdoc IExits
    mapping(ChannelId channelId => Force) public forced;
    /// @inheritdoc IExits
    mapping(ChannelId channelId => PendingExit) public pendingExits;

    // ── a receipt that is ignored ────────────────────────────────────────────────────────────────

    /// @inheritdoc IExits
    function force(
        ChannelConfig calldata config,
        Receipt calldata receipt,
        bytes calldata nodeSignature
    ) external {
        ChannelId id = receipt.channelId;
        require(aggregator != address(0), OfficeVacant());
        require(forced[id].deadline == 0 && exited[id].sequence == 0, HasLeft(id));
        _checkReceipt(config, receipt, nodeSignature);
        uint64 deadline = uint64(block.timestamp) + silence;
        forced[id] = Force(msg.sender, deadline, receipt.sequence);
        emit Forced(id, receipt.sequence, deadline, receipt);
        token.safeTransferFrom(msg.sender, address(this), demandFee);
    }

    /// @inheritdoc IExits
    function answerForced(PostedHeader calldata here, ChannelProof calldata channel) external {
        ChannelId id = channel.leaf.channelId;
        Force memory waiting = forced[id];
        require(
            waiting.by != address(0) && block.timestamp <= waiting.deadline
                && channel.leaf.sequence >= waiting.sequence,
            NotForced(id)
        );
        _checkPosted(here);
        require(channel.commitment() == here.header.channelsRoot, SumTree.BadProof());
        delete forced[id];
        emit ForceAnswered(id, waiting.sequence);
        _pay(msg.sender, demandFee);
    }

    // ── exits ────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IExits
    function exit(ExitRequest calldata request) external {
        Receipt calldata receipt = request.receipt;
        ChannelId id = receipt.channelId;
        if (!_hasLeft(id) && aggregator != address(0)) _dismissSilent();
        _checkReceipt(request.config, receipt, request.nodeSignature);
        bool isCosigned = request.clientSignature.length != 0;
        if (isCosigned) _checkClient(request);
        (bytes32 base, uint64 settled, bool isAbsent) = _findBase(request);
        require(receipt.sequence > settled, NotBeyond(receipt.sequence, settled));
        _checkPayouts(request.paid, base);
        require(_checkPayouts(request.owed, receipt.payouts) == receipt.cumulative, WrongPayouts());
        _checkGrowth(request.paid, request.owed);

        if (isCosigned && !isAbsent) {
            if (receipt.sequence >= pendingExits[id].sequence) delete pendingExits[id];
            _settle(receipt, request.paid, request.owed);
        } else {
            _checkBetter(pendingExits[id], receipt, isCosigned);
            uint64 dueAt = uint64(block.timestamp) + window;
            pendingExits[id] = PendingExit({
                payouts: receipt.payouts,
                base: base,
                cumulative: receipt.cumulative,
                sequence: receipt.sequence,
                dueAt: dueAt,
                absentFrom: isAbsent ? request.here.header.epoch : 0,
                term: term,
                isCosigned: isCosigned
            });
            emit ExitStarted(id, receipt.sequence, dueAt);
        }
    }

    /// @inheritdoc IExits
    function cancelExit(PostedHeader calldata here, ChannelProof calldata channel) external {
        ChannelId id = channel.leaf.channelId;
        PendingExit storage pending = pendingExits[id];
        require(
            pending.absentFrom != 0 && here.header.epoch <= pending.absentFrom,
            NoExitDue(pending.dueAt)
        );
        _checkPosted(here);
        require(channel.commitment() == here.header.channelsRoot, SumTree.BadProof());
        emit ExitCancelled(id, pending.sequence);
        delete pendingExits[id];
    }

    /// @inheritdoc IExits
    function finishExit(
        ChannelId channelId,
        PayoutLeaf[] calldata paid,
        PayoutLeaf[] calldata owed
    ) external {
        PendingExit memory pending = pendingExits[channelId];
        require(
            pending.sequence != 0 && block.timestamp >= pending.dueAt
                && _isLive(channelId, pending),
            NoExitDue(pending.dueAt)
        );
        Exit memory before = exited[channelId];
        require(pending.sequence > before.sequence, NotBeyond(pending.sequence, before.sequence));
        _checkPayouts(paid, before.sequence == 0 ? pending.base : before.payouts);
        _checkPayouts(owed, pending.payouts);
        _checkGrowth(paid, owed);
        delete pendingExits[channelId];
        Receipt memory receipt =
            Receipt(channelId, pending.sequence, pending.cumulative, pending.payouts, 0);
        _settle(receipt, paid, owed);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IExits
    function leftAt(ChannelId id) public view returns (uint64) {
        if (exited[id].sequence != 0) return exited[id].leftAt;
        uint64 deadline = forced[id].deadline;
        return deadline == 0 ? type(uint64).max : deadline;
    }

    function _hasLeft(ChannelId id) private view returns (bool) {
        return block.timestamp > leftAt(id);
    }

    /// @dev The channel is one of ours, this receipt is its operator's, and the money for it came.
    function _checkReceipt(
        ChannelConfig calldata config,
        Receipt calldata receipt,
        bytes calldata nodeSignature
    ) private view {
        ChannelId id = receipt.channelId;
        require(
            Receipts.isConfigOf(channels, id, config)
                && Receipts.isOurs(config, address(this), address(token)),
            NotOurChannel(id)
        );
        require(
            Receipts.signerOf(receipt, nodeSignature, address(this)) == config.receiverAuthorizer,
            BadReceiptSignature()
        );
        uint128 totalClaimed = Receipts.claimedOf(channels, id);
        require(receipt.cumulative <= totalClaimed, Unclaimed(receipt.cumulative, totalClaimed));
    }

    function _checkClient(ExitRequest calldata request) private view {
        address signer = Receipts.signerOf(request.receipt, request.clientSignature, address(this));
        require(
            signer != address(0)
                && (signer == request.config.payer || signer == request.config.payerAuthorizer),
            BadReceiptSignature()
        );
    }

    /// @dev What is paid of the channel, or payable under a final header that nothing follows.
    function _findBase(ExitRequest calldata request)
        private
        view
        returns (bytes32 payouts, uint64 sequence, bool isAbsent)
    {
        ChannelId id = request.receipt.channelId;
        Exit memory before = exited[id];
        if (before.sequence != 0) return (before.payouts, before.sequence, false);
        bytes32 nothing = SumTree.commitment(0, 0, 0);
        if (_tip.epoch == 0) return (nothing, 0, false);

        PostedHeader calldata here = request.here;
        _checkPosted(here);
        require(
            _isFinal(here.header.epoch, here.postedAt)
                && (here.header.epoch == _tip.epoch || here.postedAt > leftAt(id)),
            ExitsClosed()
        );
        if (request.base.proof.size == 0) return (nothing, 0, true);
        require(
            request.base.commitment() == here.header.channelsRoot
                && Receipts.isSame(request.base.leaf.channelId, id),
            SumTree.BadProof()
        );
        return (request.base.leaf.payouts, request.base.leaf.sequence, false);
    }

    /// @dev The list is the whole tree that was committed to.
    function _checkPayouts(PayoutLeaf[] calldata list, bytes32 commitment)
        private
        pure
        returns (uint128 sum)
    {
        uint256 count = list.length;
        require(count <= MAX_PAYOUTS, WrongPayouts());
        uint128[] memory sums = new uint128[](count);
        bytes32[] memory hashes = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) {
            sums[i] = list[i].amount;
            hashes[i] = Leaves.hash(list[i]);
        }
        bytes32 root;
        (sum, root) = SumTree.rootOfAll(sums, hashes);
        require(SumTree.commitment(uint64(count), sum, root) == commitment, WrongPayouts());
    }

    /// @dev Accounts keep their places, and no award is taken back.
    function _checkGrowth(PayoutLeaf[] calldata paid, PayoutLeaf[] calldata owed) private pure {
        require(paid.length <= owed.length, WrongPayouts());
        for (uint256 i = 0; i < paid.length; i++) {
            require(
                paid[i].account == owed[i].account && paid[i].amount <= owed[i].amount,
                WrongPayouts()
            );
        }
    }

    /// @dev Two signatures take the place of one, and a later receipt that of an earlier one.
    function _checkBetter(PendingExit memory pending, Receipt calldata receipt, bool isCosigned)
        private
        view
    {
        if (pending.sequence == 0 || !_isLive(receipt.channelId, pending)) return;
        bool isBetter =
            isCosigned == pending.isCosigned ? receipt.sequence > pending.sequence : isCosigned;
        require(isBetter, ExitPending(pending.sequence));
    }

    /// @dev What an exit goes on from stays as it is for as long as the vacancy that allowed it, or
    /// for ever where the channel left.
    function _isLive(ChannelId id, PendingExit memory pending) private view returns (bool) {
        return _hasLeft(id) || (aggregator == address(0) && pending.term == term);
    }

    /// @dev The books first, then the money. What is credited after a transfer is what the token refused.
    // slither-disable-next-line reentrancy-benign,reentrancy-events
    function _settle(
        Receipt memory receipt,
        PayoutLeaf[] calldata paid,
        PayoutLeaf[] calldata owed
    ) private {
        ChannelId id = receipt.channelId;
        uint64 left = _hasLeft(id) ? leftAt(id) : uint64(block.timestamp) - 1;
        exited[id] = Exit(receipt.payouts, receipt.sequence, left);
        uint128 amount = receipt.cumulative;
        for (uint256 i = 0; i < paid.length; i++) {
            amount -= paid[i].amount;
        }
        totalExited += amount;
        address by = forced[id].by;
        if (by != address(0)) forced[id].by = address(0);
        emit Exited(id, receipt.sequence, amount, receipt.payouts);
        _checkReceived(_tip.payoutTotal);

        for (uint256 i = 0; i < owed.length; i++) {
            uint128 more = owed[i].amount - (i < paid.length ? paid[i].amount : 0);
            if (more == 0) continue;
            _pay(owed[i].account, more);
        }
        if (by != address(0)) _pay(by, demandFee);
    }
}
