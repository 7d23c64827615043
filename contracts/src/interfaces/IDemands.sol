// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../libraries/SumTree.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {PostedHeader} from "../types/Header.sol";
import {AccountProof, ChannelProof, EntryProof, PayoutProof} from "../types/Leaves.sol";

/// @notice What of a header is demanded.
enum Part {
    CHANNEL, // leaf `index` of the tree of channels
    ACCOUNT, // leaf `index` of the tree of accounts
    ENTRY // entry `entry` of the account at `index`
}

struct Question {
    Part part;
    uint64 index;
    uint64 entry; // zero but for entries
}

enum DemandState {
    NONE,
    OPEN, // until `until`, the answer is due
    HELD, // answered; blocks the header until `until`, for whoever proves a lie by the answer
    CLOSED
}

/// @title What the aggregator must show of a header on demand, for lies that nobody can locate
/// because data is missing or does not add up.
/// @notice A demand costs a fee, of which half goes to whoever answers: anybody can who has the data;
/// the other half is lost. While one is open, its header and all later ones are not final. Unanswered
/// in time, it convicts.
interface IDemands {
    event Demanded(
        uint64 indexed epoch, bytes32 indexed id, address by, Question question, uint64 dueAt
    );
    event Answered(bytes32 indexed id, address by, uint64 heldUntil, bytes call);
    event Closed(bytes32 indexed id);

    /// @notice The header is final, or two windows have passed: nothing of it can be demanded any more.
    error TooLate(uint64 until);
    /// @notice The header is still posted: the demand is answered or convicts.
    error StillPosted(uint64 epoch);
    /// @notice This was demanded before.
    error DemandedBefore(bytes32 id);
    /// @notice There is no such demand, or it is not at a stage in which this can be done.
    error NoSuchDemand(bytes32 id);
    /// @notice There is still time, until then.
    error NotDue(uint64 until);
    /// @notice This does not answer the demand: what it shows is invalid or something else.
    error NoAnswer();

    /// @notice Demands to see one leaf of a header that can be challenged; costs the fee.
    function demand(PostedHeader calldata here, Question calldata question) external;

    /// @notice Shows a channel's leaf: ours, funded, and signed by its operator.
    function answerChannel(
        PostedHeader calldata here,
        ChannelProof calldata channel,
        ChannelConfig calldata config,
        bytes calldata nodeSignature
    ) external;

    /// @notice Shows an account's leaf, whose entries add up to it.
    function answerAccount(
        PostedHeader calldata here,
        AccountProof calldata account,
        SumTree.Opening calldata entries
    ) external;

    /// @notice Shows an account's entry, backed by a line of a channel's payouts.
    function answerEntry(
        PostedHeader calldata here,
        AccountProof calldata account,
        EntryProof calldata entry,
        ChannelProof calldata channel,
        PayoutProof calldata payout
    ) external;

    /// @notice Shows that there is no such leaf, because the tree is smaller.
    /// @param account for an entry, the account's leaf, if there is one
    /// @param opening of the tree that is too small
    function answerAbsent(
        PostedHeader calldata here,
        Question calldata question,
        AccountProof calldata account,
        SumTree.Opening calldata opening
    ) external;

    /// @notice Ends the hold of an answer that came late in the window.
    function release(PostedHeader calldata here, Question calldata question) external;

    /// @notice Convicts because a demand was not answered in time; whoever demanded gets the fee
    /// back, and the reward.
    function convictDefault(
        PostedHeader calldata here,
        PostedHeader calldata before,
        Question calldata question
    ) external;

    /// @notice Gives the fee of a demand back whose header was taken back meanwhile.
    function refund(PostedHeader calldata here, Question calldata question) external;

    /// @notice The name of a demand.
    function demandId(PostedHeader calldata here, Question calldata question)
        external
        pure
        returns (bytes32);

    /// @notice Where a demand stands.
    function demands(bytes32 id)
        external
        view
        returns (address by, uint64 until, DemandState state);
}
