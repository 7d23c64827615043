// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig} from "../types/Channel.sol";

/// @notice What is fixed at deployment. Amounts in the token's smallest unit.
struct StakeTerms {
    uint64 thaw; // seconds from asking for stake back until it can be taken
    uint256 perAnswer; // what must stand behind an operator for each answer at once that it announces
    uint16 slashBps; // of what stands behind an operator, what an offence costs
    uint256 cap; // and at most
    uint16 bountyBps; // of that, what whoever shows the offence gets; the rest is burned
}

/// @notice What stands behind one operator: what counts, and what thaws. Each is divided by shares, so
/// that a loss is everybody's in proportion.
struct Pool {
    uint256 amount;
    uint256 shares;
    uint256 thawing;
    uint256 thawingShares;
}

/// @notice What one holder has behind one operator.
struct Position {
    uint256 shares;
    uint256 thawingShares;
    uint64 readyAt; // when what thaws can be taken
}

/// @notice What a node signed of a receipt, without its channel and its place there.
struct Placed {
    uint128 cumulative;
    bytes32 payouts;
    bytes32 body; // sha-256 of the receipt's body, which is not needed
    bytes signature; // the node's
}

/// @title Tokens that stand behind operators, and what costs them.
/// @notice Whoever puts tokens behind an operator, its owner or anybody else, is slashed with it.
interface IStake {
    event Staked(address indexed operator, address indexed holder, uint256 amount, uint256 shares);
    event Thawing(
        address indexed operator, address indexed holder, uint256 amount, uint64 readyAt
    );
    event Withdrawn(address indexed operator, address indexed holder, uint256 amount);
    event Slashed(
        address indexed operator,
        address indexed reporter,
        bytes32 offence,
        uint256 amount,
        uint256 bounty
    );

    /// @notice The terms do not fit together: an offence costs a part and not all, the bounty is at
    /// most half of it, and nothing else is zero.
    error BadTerms();
    /// @notice Nothing was put behind this operator, or not so much.
    error NotSoMuch(uint256 shares);
    /// @notice What thaws cannot be taken yet.
    error StillThawing(uint64 readyAt);
    /// @notice This shows no offence that is punished here.
    error NoOffence();
    /// @notice This offence was punished already, whatever bytes show it.
    error SlashedBefore(bytes32 offence);
    /// @notice Nothing stands behind this operator that could be lost.
    error NothingAtStake(address operator);

    /// @notice Puts tokens of the caller's behind an operator, who may be somebody else's.
    function stake(address operator, uint256 amount) external;

    /// @notice Has shares of the caller's thaw: they do not count any more, and can be lost until they
    /// are taken. What thaws already waits as long as they do.
    function thaw(address operator, uint256 shares) external;

    /// @notice Takes what has thawed.
    function withdraw(address operator) external;

    /// @notice Punishes a node that signed two receipts for one place of a channel that pays it.
    function slashReceipts(
        ChannelConfig calldata config,
        uint64 sequence,
        Placed calldata first,
        Placed calldata second
    ) external;

    /// @notice Punishes an auditor whose attestation contradicts itself: what it says of its own score,
    /// or the question and answer that it shows, which are not its receipt's.
    /// @param record the attestation without its last element, which is the signature
    function slashVerdict(bytes calldata record, bytes calldata signature) external;

    /// @notice Punishes an aggregator that the court convicted in this term of its office.
    function slashConvicted(uint32 term) external;

    /// @notice What counts for an operator: all that stands behind it and does not thaw.
    function stakeOf(address operator) external view returns (uint256);

    /// @notice What one holder has behind an operator, in tokens: what counts, and what thaws.
    function holdingOf(address operator, address holder)
        external
        view
        returns (uint256 amount, uint256 thawing);

    /// @notice What was fixed at deployment.
    function terms() external view returns (StakeTerms memory);
}
