// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IHeaders} from "../interfaces/IHeaders.sol";
import {Terms} from "../interfaces/IOffice.sol";
import {DemandState, IDemands, Part, Question} from "../interfaces/IDemands.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {AccountProof, ChannelProof, EntryProof, PayoutProof} from "../types/Leaves.sol";
import {Proofs} from "./Proofs.sol";

/// @title Makes the aggregator show what it committed to.
/// @notice Every question has an answer: an index that a tree does not have is answered by the
/// tree's size. Whoever demands much to keep the aggregator busy pays for each answer, and gives it
/// more time: each `AT_ONCE` open demands add an answer time to the next one's. A question is asked
/// of a header once.
///
/// An answer may bring to light what convicts. So it holds the header for one more answer time,
/// unless that much of the window is left anyway. What is held can be asked more, for one more
/// window at most: a search is not cut off by answers that were made to take long, and nobody's
/// questions keep a header open for ever.
///
/// Half of the fee is lost where a demand is answered, whoever asked: an aggregator that asks itself,
/// to give itself more time, pays for it.
abstract contract Demands is Proofs, IDemands {
    using SafeERC20 for IERC20;

    uint256 private constant AT_ONCE = 64;

    struct Demand {
        address by;
        uint64 until;
        DemandState state;
    }

    /// @inheritdoc IDemands
    mapping(bytes32 id => Demand) public demands;
    /// @dev Of demands about leaves. One about a promise is open for a whole window: a liar's own would
    /// make everybody's take longer all that time.
    uint256 private _numOpen;

    uint64 internal immutable window;
    uint64 internal immutable answerTime;
    uint128 internal immutable demandFee;

    constructor(Terms memory terms) {
        window = terms.window;
        answerTime = terms.answerTime;
        demandFee = terms.demandFee;
    }

    // ── leaves of a header ───────────────────────────────────────────────────────────────────────

    /// @inheritdoc IDemands
    function demand(PostedHeader calldata here, Question calldata question) external {
        uint64 until = here.postedAt + 2 * window;
        require(block.timestamp < until && !settlement.isFinal(here), TooLate(until));
        require(question.part == Part.ENTRY || question.entry == 0, NoAnswer());
        bytes32 id = demandId(here, question);
        // slither-disable-next-line divide-before-multiply
        uint64 dueAt = uint64(block.timestamp + answerTime * (1 + _numOpen++ / AT_ONCE));
        _open(id, dueAt);
        emit Demanded(here.header.epoch, id, msg.sender, question, dueAt);
        settlement.blockHeader(here.header.epoch, here.word());
        IERC20(token).safeTransferFrom(msg.sender, address(this), demandFee);
    }

    /// @inheritdoc IDemands
    function answerChannel(
        PostedHeader calldata here,
        ChannelProof calldata channel,
        ChannelConfig calldata config,
        bytes calldata nodeSignature
    ) external {
        _checkChannel(here, channel);
        require(
            Receipts.isConfigOf(channels, channel.leaf.channelId, config) && _isOurs(config)
                && !_isForged(channel.leaf, config, nodeSignature) && _isFunded(channel.leaf),
            NoAnswer()
        );
        _answer(here, _idOf(here, Part.CHANNEL, channel.proof.index, 0));
    }

    /// @inheritdoc IDemands
    function answerAccount(
        PostedHeader calldata here,
        AccountProof calldata account,
        SumTree.Opening calldata entries
    ) external {
        _checkAccount(here, account);
        require(
            _commitment(entries) == account.leaf.entries && _addsTo(entries, account.leaf.amount),
            NoAnswer()
        );
        _answer(here, _idOf(here, Part.ACCOUNT, account.proof.index, 0));
    }

    /// @inheritdoc IDemands
    function answerEntry(
        PostedHeader calldata here,
        AccountProof calldata account,
        EntryProof calldata entry,
        ChannelProof calldata channel,
        PayoutProof calldata payout
    ) external {
        _checkEntry(here, account, entry);
        require(_isBacked(here, account, entry, channel, payout), NoAnswer());
        _answer(here, _idOf(here, Part.ENTRY, account.proof.index, entry.proof.index));
    }

    /// @inheritdoc IDemands
    function answerAbsent(
        PostedHeader calldata here,
        Question calldata question,
        AccountProof calldata account,
        SumTree.Opening calldata opening
    ) external {
        bytes32 tree = question.part == Part.CHANNEL
            ? here.header.channelsRoot
            : here.header.payoutRoot;
        uint64 index = question.index;
        if (question.part == Part.ENTRY && account.proof.size != 0) {
            _checkAccount(here, account);
            require(account.proof.index == index, NoAnswer());
            (tree, index) = (account.leaf.entries, question.entry);
        }
        require(_commitment(opening) == tree && index >= opening.size, NoAnswer());
        _answer(here, demandId(here, question));
    }

    /// @inheritdoc IDemands
    function release(PostedHeader calldata here, Question calldata question) external {
        _checkPosted(here);
        bytes32 id = demandId(here, question);
        Demand storage held = demands[id];
        require(held.state == DemandState.HELD, NoSuchDemand(id));
        require(block.timestamp >= held.until, NotDue(held.until));
        held.state = DemandState.CLOSED;
        emit Closed(id);
        settlement.unblockHeader(here.header.epoch, here.word());
    }

    /// @inheritdoc IDemands
    function convictDefault(
        PostedHeader calldata here,
        PostedHeader calldata before,
        Question calldata question
    ) external {
        address by = _default(demandId(here, question));
        _numOpen--;
        settlement.convict(here, before, by);
        _pay(by, demandFee);
    }

    /// @inheritdoc IDemands
    function refund(PostedHeader calldata here, Question calldata question) external {
        require(
            !settlement.isPosted(here.header.epoch, here.word()), StillPosted(here.header.epoch)
        );
        address by = _close(demandId(here, question));
        _numOpen--;
        _pay(by, demandFee);
    }

    /// @inheritdoc IDemands
    function demandId(PostedHeader calldata here, Question calldata question)
        public
        pure
        returns (bytes32)
    {
        return _idOf(here, question.part, question.index, question.entry);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    function _idOf(PostedHeader calldata here, Part part, uint64 index, uint64 entry)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(here.word(), part, index, entry));
    }

    function _open(bytes32 id, uint64 dueAt) internal {
        require(demands[id].state == DemandState.NONE, DemandedBefore(id));
        demands[id] = Demand(msg.sender, dueAt, DemandState.OPEN);
    }

    /// @dev The header is posted: a demand of one that was taken back can only be refunded.
    function _answer(PostedHeader calldata here, bytes32 id) private {
        _checkPosted(here);
        _close(id);
        _numOpen--;
        uint64 heldUntil = uint64(block.timestamp) + answerTime;
        bool isHeld = heldUntil > here.postedAt + window;
        if (isHeld) (demands[id].state, demands[id].until) = (DemandState.HELD, heldUntil);
        // The whole call, because whoever answers through a contract of its own could hide it: what
        // was shown is what the next demand goes by.
        emit Answered(id, msg.sender, isHeld ? heldUntil : 0, msg.data);
        if (!isHeld) settlement.unblockHeader(here.header.epoch, here.word());
        _pay(msg.sender, demandFee / 2);
    }

    function _default(bytes32 id) internal returns (address by) {
        by = _close(id);
        uint64 until = demands[id].until;
        require(block.timestamp > until, NotDue(until));
    }

    function _close(bytes32 id) internal returns (address by) {
        require(demands[id].state == DemandState.OPEN, NoSuchDemand(id));
        demands[id].state = DemandState.CLOSED;
        emit Closed(id);
        return demands[id].by;
    }

    function _checkPosted(PostedHeader calldata here) internal view {
        require(
            settlement.isPosted(here.header.epoch, here.word()),
            IHeaders.UnknownHeader(here.header.epoch)
        );
    }

    /// @dev Where the token refuses whoever should have a fee, the fee stays here, as the lost halves
    /// do: nobody's answer or conviction waits for it.
    function _pay(address account, uint128 amount) internal {
        IERC20(token).trySafeTransfer(account, amount);
    }
}
