// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IOffice} from "../interfaces/IOffice.sol";
import {IPromises} from "../interfaces/IPromises.sol";
import {Bodies} from "../libraries/Bodies.sol";
import {Digests} from "../libraries/Digests.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {ChannelId} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {ChannelProof} from "../types/Leaves.sol";
import {Promise, Receipt, Reminder} from "../types/Receipt.sol";
import {Demands} from "./Demands.sol";

/// @title Judges whether promises are kept.
/// @notice Why an honest aggregator is safe, whatever happened to it:
///
/// - It posts nothing while it is away, and only what is posted breaks a promise.
/// - Its disk may be lost: the receipt, its channel and its manifest are in the demand, and the
///   receipt follows what a posted header has. What it follows fixes everything else.
/// - A reorganisation may have taken back that the receipt was claimed: then nobody can ask. Whoever
///   can, asks in a branch in which it is claimed, and from then on there is time.
/// - The node may sign another receipt for the same place: a header that has the channel there, or
///   beyond, keeps the promise, since nobody but the channel's operator could bring it there.
/// - A channel that is forced or has left settles by itself.
abstract contract Promises is Demands, IPromises {
    using SafeERC20 for IERC20;

    /// @inheritdoc IPromises
    function stand(
        Reminder calldata reminder,
        PostedHeader calldata here,
        ChannelProof calldata earlier
    ) external {
        Promise calldata pledge = reminder.pledge;
        require(block.timestamp > pledge.deadline, NotDue(pledge.deadline));
        require(
            _isPromised(pledge, reminder.signature) && !_isLeaving(pledge.channelId)
                && _canBeKept(reminder) && _isNext(reminder, here, earlier),
            NotOwed()
        );
        bytes32 id = _standId(pledge, settlement.term());
        uint64 dueAt = uint64(block.timestamp) + window;
        _open(id, dueAt);
        emit StandDemanded(id, msg.sender, dueAt, msg.data);
        IERC20(token).safeTransferFrom(msg.sender, address(this), demandFee);
    }

    /// @inheritdoc IPromises
    function answerStand(
        Promise calldata pledge,
        PostedHeader calldata here,
        ChannelProof calldata channel
    ) external {
        _checkPosted(here);
        _checkChannel(here, channel);
        require(
            Receipts.isSame(channel.leaf.channelId, pledge.channelId)
                && channel.leaf.sequence >= pledge.sequence,
            NoAnswer()
        );
        bytes32 id = _standId(pledge, settlement.term());
        _close(id);
        emit Answered(id, msg.sender, 0, msg.data);
        _pay(msg.sender, demandFee / 2);
    }

    /// @inheritdoc IPromises
    function convictBroken(Promise calldata pledge, uint32 inTerm, PostedHeader calldata here)
        external
    {
        bytes32 id = _standId(pledge, inTerm);
        uint64 until = demands[id].until;
        address by = _default(id);
        if (inTerm == settlement.term() && !_isLeaving(pledge.channelId)) {
            // From the end of a timelock on the aggregator can't post what it promised.
            uint64 frozenFrom = settlement.effectiveAt();
            require(frozenFrom == 0 || block.timestamp < frozenFrom, IOffice.OfficeFrozen());
            _checkPosted(here);
            uint64 from = here.postedAt > until ? here.postedAt + answerTime : type(uint64).max;
            require(block.timestamp > from, NotDue(from));
            settlement.punish(by);
        }
        _pay(by, demandFee);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev A promise is asked for once in a term.
    function _standId(Promise calldata pledge, uint32 inTerm) private pure returns (bytes32) {
        return keccak256(abi.encode(pledge, inTerm));
    }

    /// @dev A promise counts while its deadline lies in the term of whoever signed it. A term before
    /// may have made promises that nobody can keep any more; the timelock is longer than they run.
    function _isPromised(Promise calldata pledge, bytes calldata signature)
        private
        view
        returns (bool)
    {
        bytes32 digest = Digests.ofPromise(pledge, address(settlement));
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        return signer != address(0) && signer == settlement.aggregator()
            && pledge.deadline > settlement.installedAt();
    }

    /// @dev Whether the channel settles by itself, or will unless an answer comes.
    function _isLeaving(ChannelId id) private view returns (bool) {
        return settlement.leftAt(id) != type(uint64).max;
    }

    /// @dev The receipt is here, of a channel of ours and signed for by its operator, and claimed.
    function _canBeKept(Reminder calldata reminder) private view returns (bool) {
        Promise calldata pledge = reminder.pledge;
        if (
            !Receipts.isConfigOf(channels, pledge.channelId, reminder.config)
                || !_isOurs(reminder.config) || sha256(reminder.body) != pledge.body
                || pledge.cumulative > Receipts.claimedOf(channels, pledge.channelId)
        ) return false;
        Receipt memory receipt = Receipt(
            pledge.channelId, pledge.sequence, pledge.cumulative, reminder.payouts, pledge.body
        );
        return Receipts.signerOf(receipt, reminder.nodeSignature, address(settlement))
            == reminder.config.receiverAuthorizer;
    }

    /// @dev The receipt comes next in its channel, and its manifest is here: so everything that a
    /// header needs of it is known.
    function _isNext(
        Reminder calldata reminder,
        PostedHeader calldata here,
        ChannelProof calldata earlier
    ) private view returns (bool) {
        Promise calldata pledge = reminder.pledge;
        (bytes32 previous, bytes32 adapter) =
            Bodies.read(reminder.body, block.chainid, pledge.sequence);
        if (adapter != 0 && sha256(reminder.manifest) != adapter) return false;
        if (pledge.sequence == 1) return true;
        _checkPosted(here);
        _checkChannel(here, earlier);
        return Receipts.isSame(earlier.leaf.channelId, pledge.channelId)
            && earlier.leaf.sequence == pledge.sequence - 1 && earlier.leaf.body == previous;
    }
}
