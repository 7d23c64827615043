// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISettlement} from "./ISettlement.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {AccountProof, ChannelProof, EntryProof, PayoutProof} from "../types/Leaves.sol";

/// @title What convicts an aggregator: one short proof for each lie that a header can tell.
/// @notice `here` is the lying header, which must not be final, and `before` the one before it, to
/// which the chain returns (zeros for the first epoch). Whoever calls gets half of the bond; the
/// header and all after it are taken back, and the office is vacant.
interface IProofs {
    /// @notice This proves nothing against the aggregator.
    error NotALie();

    /// @notice The contract whose headers are judged here.
    function settlement() external view returns (ISettlement);

    /// @notice A channel's receipts cost more than was claimed of it.
    function proveUnfunded(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel
    ) external;

    /// @notice A channel does not pay this contract, or its last receipt is not its operator's.
    /// @param config the channel's: its digest is the channel's id
    /// @param nodeSignature what the leaf's evidence is the hash of; not needed where the config
    /// breaks a rule
    function proveForged(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        ChannelConfig calldata config,
        bytes calldata nodeSignature
    ) external;

    /// @notice The tree of channels, or that of accounts, does not add up to the header's total, or is
    /// said to be empty.
    /// @param opening of the header's `channelsRoot` or `payoutRoot`
    function proveMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        SumTree.Opening calldata opening
    ) external;

    /// @notice A channel's payouts do not add up to what its receipts cost, or are said to be none.
    function proveChannelMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        SumTree.Opening calldata payouts
    ) external;

    /// @notice An account's entries do not add up to what it is awarded, or are said to be none.
    function proveAccountMissummed(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        SumTree.Opening calldata entries
    ) external;

    /// @notice An account is awarded what no channel owes it.
    /// @param channel the leaf at the entry's index; where that is out of range, any leaf
    /// @param payout the leaf at the entry's place; where that is out of range, any leaf; unused
    /// where the channel is already another one
    function proveUnbacked(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        EntryProof calldata entry,
        ChannelProof calldata channel,
        PayoutProof calldata payout
    ) external;

    /// @notice A channel has two leaves.
    function proveChannelTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata one,
        ChannelProof calldata other
    ) external;

    /// @notice An account has two leaves.
    function proveAccountTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata one,
        AccountProof calldata other
    ) external;

    /// @notice An account has two entries of one channel.
    function proveEntryTwice(
        PostedHeader calldata here,
        PostedHeader calldata before,
        AccountProof calldata account,
        EntryProof calldata one,
        EntryProof calldata other
    ) external;

    /// @notice A channel stands behind where it stood in the header before, was rewritten there, or
    /// has lost its place.
    /// @param earlier its leaf in `before`
    /// @param later the leaf at the same index in `here`; where that is out of range, any leaf
    function proveTakenBack(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata earlier,
        ChannelProof calldata later
    ) external;

    /// @notice A channel went on, but owes an account less than it did, or another in its place.
    /// @param owedEarlier a leaf of the channel's payouts in `before`
    /// @param owedLater the leaf at the same place in `here`; where that is out of range, any leaf
    function proveLowered(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata earlier,
        ChannelProof calldata later,
        PayoutProof calldata owedEarlier,
        PayoutProof calldata owedLater
    ) external;

    /// @notice A channel that has left was moved.
    /// @param earlier its leaf in `before`; where it has none, any leaf; unused in the first epoch
    function proveAfterExit(
        PostedHeader calldata here,
        PostedHeader calldata before,
        ChannelProof calldata channel,
        ChannelProof calldata earlier
    ) external;
}
