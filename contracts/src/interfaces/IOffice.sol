// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {IChannels} from "./IChannels.sol";

/// @notice What is fixed at deployment. Times in seconds, amounts in the fee token's units.
struct Terms {
    uint64 window; // from a header's post until its awards can be claimed
    uint64 answerTime; // within which a demand must be answered
    uint64 silence; // without a header after which an aggregator may be dismissed
    uint64 timelock; // between the proposal of a new board and its installation
    uint128 bond; // what must lie here before a header can be posted
    uint128 demandFee; // what a demand costs; half of it goes to whoever answers
}

/// @notice Who decides what: the owner proposes boards, the aggregator posts headers, and `quorum`
/// of the witnesses must have signed each.
struct Board {
    address owner;
    address aggregator;
    address[] witnesses;
    uint8 quorum;
}

/// @title The aggregator's office: who holds it, what it pledges, and how it is lost.
interface IOffice {
    event BondFunded(address indexed from, uint128 amount, uint128 bond);
    event BoardProposed(Board board, uint64 effectiveAt);
    event BoardInstalled(address indexed aggregator, uint32 term);
    event Dismissed(address indexed aggregator, uint128 bond);
    event Convicted(
        address indexed aggregator, address indexed prover, uint64 firstEpoch, uint128 reward
    );
    event Credited(address indexed account, uint128 amount);
    event Collected(address indexed account, uint128 amount);

    /// @notice The terms do not fit together: the window must hold 48 answer times (on development
    /// chains two), and the silence the window.
    error BadTerms();
    /// @notice The quorum must not exceed the witnesses, who are at most 16, all different.
    error BadBoard();
    /// @notice Only the aggregator may do this.
    error NotAggregator(address caller);
    /// @notice Only the court may do this.
    error NotCourt(address caller);
    /// @notice Only the owner may do this.
    error NotOwner(address caller);
    /// @notice The aggregator's bond is not full; fund it first.
    error BondMissing(uint128 bond, uint128 required);
    /// @notice There is no aggregator now; the owner must have a board installed first.
    error OfficeVacant();
    /// @notice A new board's timelock is over, so the old one posts no more; install the new one.
    error OfficeFrozen();
    /// @notice No board was proposed, or its timelock is not over yet.
    error NotEffective(uint64 effectiveAt);
    /// @notice This is not the board that was proposed last.
    error NotProposed();
    /// @notice The last header can still be challenged; wait for its window and its demands.
    error NotFinal();
    /// @notice The aggregator showed itself too recently to be dismissed.
    error NotSilent(uint64 silentFrom);
    /// @notice There is nothing to collect for this account.
    error NothingToCollect(address account);

    /// @notice Adds to the bond of whoever is aggregator now; anybody may.
    function fundBond(uint128 amount) external;

    /// @notice Says that the aggregator is there, when there is nothing to post. Only the
    /// aggregator.
    function alive() external;

    /// @notice Ends the office of an aggregator that neither posted nor said `alive` for the
    /// silence. Its bond is credited to it: it did not lie.
    function dismiss() external;

    /// @notice Proposes a new board; it replaces any proposal before it. Only the owner.
    function propose(Board memory board) external;

    /// @notice Installs the proposed board, after its timelock and when no header can be
    /// challenged any more; anybody may. The bond of a replaced aggregator is credited to it.
    function install(Board memory board) external;

    /// @notice Sends an account what is credited to it, whoever calls: released bonds, returned
    /// fees, and payments that the token refused.
    function collect(address account) external;

    /// @notice Ends the office of an aggregator that broke its word; half of its bond goes to the
    /// prover, the other half to nobody. Only the court.
    function punish(address prover) external;

    /// @notice Who alone may convict: it judges the proofs.
    function court() external view returns (address);

    /// @notice The channels whose fees come here.
    function channels() external view returns (IChannels);

    /// @notice The token in which fees come, bonds lie and payouts go.
    function token() external view returns (IERC20);

    /// @notice What was fixed at deployment.
    function terms() external view returns (Terms memory);

    /// @notice The block of the deployment: no event of this contract is older.
    function deployedAt() external view returns (uint256);

    /// @notice Who may propose boards.
    function owner() external view returns (address);

    /// @notice Who may post headers; zero while the office is vacant.
    function aggregator() external view returns (address);

    /// @notice How many witnesses must have signed a header.
    function quorum() external view returns (uint8);

    /// @notice Whether this address is one of the witnesses.
    function isWitness(address account) external view returns (bool);

    /// @notice The addresses of the witnesses.
    function witnesses() external view returns (address[] memory);

    /// @notice What the aggregator has pledged.
    function bond() external view returns (uint128);

    /// @notice How often the office changed hands, conviction and dismissal included.
    function term() external view returns (uint32);

    /// @notice The aggregator that lied or broke its word in a term; zero where none did. For
    /// whoever punishes it beyond its bond.
    function convicted(uint32 term) external view returns (address);

    /// @notice When the aggregator's office began.
    function installedAt() external view returns (uint64);

    /// @notice When the proposed board may be installed; zero when none is proposed.
    function effectiveAt() external view returns (uint64);

    /// @notice keccak256 of the proposed board's ABI encoding; zero when none is proposed.
    function proposal() external view returns (bytes32);

    /// @notice When the aggregator may be dismissed, if it shows nothing until then.
    function silentFrom() external view returns (uint64);

    /// @notice What waits here to be collected by an account.
    function credit(address account) external view returns (uint128);
}
