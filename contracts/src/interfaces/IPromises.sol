// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PostedHeader} from "../types/Header.sol";
import {ChannelProof} from "../types/Leaves.sol";
import {Promise, Reminder} from "../types/Receipt.sol";

/// @title What holds the aggregator to the promises that it gave for receipts.
/// @notice A promise counts where whoever asks for it brings everything that is needed to keep it: an
/// aggregator that lost its disk takes the receipt from here.
interface IPromises {
    event StandDemanded(bytes32 indexed id, address by, uint64 dueAt, bytes call);

    /// @notice This is no promise of the aggregator's that it could keep now: not signed in this
    /// term, of a channel that leaves, or without what is needed to keep it.
    error NotOwed();

    /// @notice Demands that a promise be kept whose deadline is over; costs the fee.
    /// @param here a posted header that has the receipt before; zeros for a channel's first receipt
    /// @param earlier the channel's leaf in it, which the promised receipt follows
    function stand(
        Reminder calldata reminder,
        PostedHeader calldata here,
        ChannelProof calldata earlier
    ) external;

    /// @notice Shows that the channel has come as far as the promise, in any posted header.
    function answerStand(
        Promise calldata pledge,
        PostedHeader calldata here,
        ChannelProof calldata channel
    ) external;

    /// @notice Convicts because something else was posted, a whole answer time ago, after the
    /// promise was due. Where the aggregator who gave it is gone, or the channel leaves, only the fee
    /// comes back.
    /// @param inTerm the term of the office in which it was demanded
    /// @param here a header that was posted after that; anything where only the fee comes back
    function convictBroken(Promise calldata pledge, uint32 inTerm, PostedHeader calldata here)
        external;
}
