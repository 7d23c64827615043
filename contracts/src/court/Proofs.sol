// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../interfaces/IChannels.sol";
import {IProofs} from "../interfaces/IProofs.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {
    AccountProof,
    ChannelLeaf,
    ChannelProof,
    EntryProof,
    PayoutProof
} from "../types/Leaves.sol";
import {Receipt} from "../types/Receipt.sol";

/// @title Judges what a header says by what it commits to, and by what the chain knows.
/// @notice Whether the accused header is posted and not final, the settlement contract checks
/// when it convicts.
///
/// Why these proofs are enough. In a header that none of them convicts, every channel is
/// funded and signed by its operator, owes its accounts exactly what it cost, and never less than
/// before; every entry is backed by one line of one channel, and no two by the same; so what all
/// accounts are awarded is at most what all channels owe. Both trees have the same sum, so nothing
/// is left out either.
///
/// Why an honest aggregator is safe. Each proof shows leaves by their index under the header's own
/// commitment, where only one leaf can be shown at an index; a config counts only when its digest is
/// the channel's id. Only two proofs ask the chain for more: what is claimed of a channel
/// (`proveUnfunded`) only grows, and when a channel leaves (`proveAfterExit`) is never moved to an
/// earlier time. Both were so in the block that the header's `Anchor` names, in whose branch alone,
/// and before the channel leaves, it can be posted.
abstract contract Proofs is IProofs {
    /// @inheritdoc IProofs
    ISettlement public immutable settlement;
    IChannels internal immutable channels;
    address internal immutable token;

    /// @dev Convicts by what the function shows, for whoever called it; or nothing happens at all.
    modifier convicting(PostedHeader calldata here, PostedHeader calldata before) {
        _;
        settlement.convict(here, before, msg.sender);
    }

    constructor(ISettlement settlement_, IChannels channels_, address token_) {
        settlement = settlement_;
        channels = channels_;
        token = token_;
    }

    /// @inheritdoc IProofs
    function proveUnfunded(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel
    ) external convicting(here, before) {
        _checkChannel(here, channel);
        require(!_isFunded(channel.leaf), NotALie());
    }

    /// @inheritdoc IProofs
    function proveForged(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        ChannelConfig calldata config,
        bytes calldata nodeSignature
    ) external convicting(here, before) {
        _checkChannel(here, channel);
        require(Receipts.isConfigOf(channels, channel.leaf.channelId, config), SumTree.BadProof());
        require(!_isOurs(config) || _isForged(channel.leaf, config, nodeSignature), NotALie());
    }

    /// @inheritdoc IProofs
    function proveMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        SumTree.Opening calldata opening
    ) external convicting(here, before) {
        bytes32 opened = _commitment(opening);
        require(
            opened == here.header.channelsRoot || opened == here.header.payoutRoot,
            SumTree.BadProof()
        );
        require(!_addsTo(opening, here.header.payoutTotal), NotALie());
    }

    /// @inheritdoc IProofs
    function proveChannelMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        SumTree.Opening calldata payouts
    ) external convicting(here, before) {
        _checkChannel(here, channel);
        require(_commitment(payouts) == channel.leaf.payouts, SumTree.BadProof());
        require(!_addsTo(payouts, channel.leaf.cumulative), NotALie());
    }

    /// @inheritdoc IProofs
    function proveAccountMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        SumTree.Opening calldata entries
    ) external convicting(here, before) {
        _checkAccount(here, account);
        require(_commitment(entries) == account.leaf.entries, SumTree.BadProof());
        require(!_addsTo(entries, account.leaf.amount), NotALie());
    }

    /// @inheritdoc IProofs
    function proveUnbacked(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        EntryProof calldata entry,
        ChannelProof calldata channel,
        PayoutProof calldata payout
    ) external convicting(here, before) {
        _checkEntry(here, account, entry);
        require(!_isBacked(here, account, entry, channel, payout), NotALie());
    }

    /// @inheritdoc IProofs
    function proveChannelTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata one,
        ChannelProof calldata other
    ) external convicting(here, before) {
        _checkChannel(here, one);
        _checkChannel(here, other);
        require(
            Receipts.isSame(one.leaf.channelId, other.leaf.channelId)
                && one.proof.index != other.proof.index,
            NotALie()
        );
    }

    /// @inheritdoc IProofs
    function proveAccountTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata one,
        AccountProof calldata other
    ) external convicting(here, before) {
        _checkAccount(here, one);
        _checkAccount(here, other);
        require(
            one.leaf.account == other.leaf.account && one.proof.index != other.proof.index,
            NotALie()
        );
    }

    /// @inheritdoc IProofs
    function proveEntryTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        EntryProof calldata one,
        EntryProof calldata other
    ) external convicting(here, before) {
        _checkEntry(here, account, one);
        require(other.commitment() == account.leaf.entries, SumTree.BadProof());
        require(
            Receipts.isSame(one.leaf.channelId, other.leaf.channelId)
                && one.proof.index != other.proof.index,
            NotALie()
        );
    }

    /// @inheritdoc IProofs
    function proveTakenBack(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata earlier,
        ChannelProof calldata later
    ) external convicting(here, before) {
        _checkEarlier(here, before, earlier);
        _checkChannel(here, later);
        require(
            later.proof.size <= earlier.proof.index
                || (later.proof.index == earlier.proof.index
                    && !_goesOn(earlier.leaf, later.leaf)),
            NotALie()
        );
    }

    /// @inheritdoc IProofs
    function proveLowered(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata earlier,
        ChannelProof calldata later,
        PayoutProof calldata owedEarlier,
        PayoutProof calldata owedLater
    ) external convicting(here, before) {
        _checkEarlier(here, before, earlier);
        _checkChannel(here, later);
        require(
            earlier.proof.index == later.proof.index
                && owedEarlier.commitment() == earlier.leaf.payouts
                && owedLater.commitment() == later.leaf.payouts,
            SumTree.BadProof()
        );
        require(
            owedLater.proof.size <= owedEarlier.proof.index
                || (owedLater.proof.index == owedEarlier.proof.index
                    && (owedLater.leaf.account != owedEarlier.leaf.account
                        || owedLater.leaf.amount < owedEarlier.leaf.amount)),
            NotALie()
        );
    }

    /// @inheritdoc IProofs
    function proveAfterExit(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        ChannelProof calldata earlier
    ) external convicting(here, before) {
        _checkChannel(here, channel);
        require(here.postedAt > settlement.leftAt(channel.leaf.channelId), NotALie());
        if (here.header.epoch > 1) {
            _checkEarlier(here, before, earlier);
            require(
                earlier.proof.size <= channel.proof.index
                    || (earlier.proof.index == channel.proof.index
                        && channel.leaf.sequence > earlier.leaf.sequence),
                NotALie()
            );
        }
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    function _checkChannel(PostedHeader calldata here, ChannelProof calldata channel)
        internal
        pure
    {
        require(channel.commitment() == here.header.channelsRoot, SumTree.BadProof());
    }

    function _checkAccount(PostedHeader calldata here, AccountProof calldata account)
        internal
        pure
    {
        require(account.commitment() == here.header.payoutRoot, SumTree.BadProof());
    }

    function _checkEntry(
        PostedHeader calldata here,
        AccountProof calldata account,
        EntryProof calldata entry
    ) internal pure {
        _checkAccount(here, account);
        require(entry.commitment() == account.leaf.entries, SumTree.BadProof());
    }

    function _commitment(SumTree.Opening calldata opening) internal pure returns (bytes32) {
        return SumTree.commitment(opening.size, opening.sum, opening.root);
    }

    /// @dev A tree that is said to be empty, though it is owed something, would have no leaf by
    /// which anything else could be shown.
    function _addsTo(SumTree.Opening calldata opening, uint128 amount)
        internal
        pure
        returns (bool)
    {
        return opening.sum == amount && opening.size != 0;
    }

    function _isOurs(ChannelConfig calldata config) internal view returns (bool) {
        return Receipts.isOurs(config, address(settlement), token);
    }

    function _isFunded(ChannelLeaf calldata leaf) internal view returns (bool) {
        return leaf.cumulative <= Receipts.claimedOf(channels, leaf.channelId);
    }

    /// @dev Whether the entry is a line of the channel's payouts. Reverts when the proofs show
    /// something else than what stands at its index and place.
    function _isBacked(
        PostedHeader calldata here,
        AccountProof calldata account,
        EntryProof calldata entry,
        ChannelProof calldata channel,
        PayoutProof calldata payout
    ) internal pure returns (bool) {
        _checkChannel(here, channel);
        if (channel.proof.size <= entry.leaf.channelIndex) return false;
        require(channel.proof.index == entry.leaf.channelIndex, SumTree.BadProof());
        if (!Receipts.isSame(channel.leaf.channelId, entry.leaf.channelId)) return false;
        require(payout.commitment() == channel.leaf.payouts, SumTree.BadProof());
        if (payout.proof.size <= entry.leaf.place) return false;
        require(payout.proof.index == entry.leaf.place, SumTree.BadProof());
        return
            payout.leaf.account == account.leaf.account && payout.leaf.amount == entry.leaf.amount;
    }

    function _isForged(
        ChannelLeaf calldata leaf,
        ChannelConfig calldata config,
        bytes calldata nodeSignature
    ) internal view returns (bool) {
        require(keccak256(nodeSignature) == leaf.evidence, SumTree.BadProof());
        Receipt memory receipt =
            Receipt(leaf.channelId, leaf.sequence, leaf.cumulative, leaf.payouts, leaf.body);
        return
            Receipts.signerOf(receipt, nodeSignature, address(settlement))
                != config.receiverAuthorizer;
    }

    function _checkEarlier(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata earlier
    ) private pure {
        require(here.header.epoch > 1, NotALie());
        _checkChannel(before, earlier);
    }

    function _goesOn(ChannelLeaf calldata earlier, ChannelLeaf calldata later)
        private
        pure
        returns (bool)
    {
        if (!Receipts.isSame(earlier.channelId, later.channelId)) return false;
        if (later.sequence == earlier.sequence) {
            return later.body == earlier.body && later.payouts == earlier.payouts
                && later.cumulative == earlier.cumulative;
        }
        return later.sequence > earlier.sequence && later.cumulative >= earlier.cumulative;
    }
}
