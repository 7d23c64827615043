// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {SumTree} from "../libraries/SumTree.sol";
import {Header, HeaderHash} from "../types/Header.sol";
import {IChannels} from "./IChannels.sol";

/// @title What the settlement contract can be told and asked.
/// @notice Fees of channels come in, headers commit to who is owed what of them, and whoever shows a
/// proof under a header has its account paid.
interface ISettlement {
    event Posted(uint64 indexed epoch, HeaderHash indexed headerHash, Header header);
    event Claimed(address indexed account, uint128 amount, uint128 cumulativeAmount, uint64 epoch);

    /// @notice Only the aggregator may post a header.
    error NotAggregator(address caller);
    /// @notice The header must be of the epoch after the last posted one.
    error WrongEpoch(uint64 expected, uint64 given);
    /// @notice The header does not name the hash of the previous header.
    error WrongPrevious(HeaderHash expected, HeaderHash given);
    /// @notice The cumulative totals of a header may not be lower than those of the previous one.
    error TotalsFell();
    /// @notice The header awards more than this contract ever received in fees; claim vouchers
    /// first.
    error PayoutExceedsReceived(uint128 payoutTotal, uint256 received);
    /// @notice This header was not posted here.
    error UnknownHeader(uint64 epoch, HeaderHash headerHash);
    /// @notice The proof does not lead from this account and amount to the header's payout root and
    /// total.
    error BadProof();
    /// @notice The account was already paid this much or more.
    error NothingToClaim(address account, uint128 claimed, uint128 cumulativeAmount);
    /// @notice Paying this would pay out more than was awarded in all: a header took an award back
    /// after it was paid.
    error ClaimExceedsTotal(uint128 totalPaid, uint128 payoutTotal);

    // ── what changes money ───────────────────────────────────────────────────────────────────────

    /// @notice Pulls in the fees that were claimed for this contract, then appends a header to the
    /// chain. Only the aggregator.
    function post(Header calldata header) external;

    /// @notice Pays `account` what it was awarded up to this header and not paid yet, whoever
    /// calls.
    /// @param header any header that was posted here, not only the last
    /// @param cumulativeAmount what the header's payout tree awards the account, in all
    /// @param proof the siblings from the account's leaf up to the tree's root
    function claim(
        Header calldata header,
        address account,
        uint128 cumulativeAmount,
        SumTree.Sibling[] calldata proof
    ) external;

    // ── who and where, fixed at deployment ───────────────────────────────────────────────────────

    /// @notice Who may post headers.
    function aggregator() external view returns (address);

    /// @notice The channels whose fees come here.
    function channels() external view returns (IChannels);

    /// @notice The token in which fees come and payouts go.
    function token() external view returns (IERC20);

    // ── where the header chain stands ────────────────────────────────────────────────────────────

    /// @notice The epoch of the last posted header, 0 before the first.
    function lastEpoch() external view returns (uint64);

    /// @notice The number of receipts in the log that the last header commits to.
    function numReceipts() external view returns (uint64);

    /// @notice What the last header awards all accounts together, since the beginning.
    function payoutTotal() external view returns (uint128);

    /// @notice What was paid to all accounts together, since the beginning.
    function totalPaid() external view returns (uint128);

    /// @notice The hash of an epoch's header; zero for an epoch without one.
    function headerHashes(uint64 epoch) external view returns (HeaderHash);

    /// @notice What was paid to one account, since the beginning.
    function claimed(address account) external view returns (uint128);

    // ── for whoever checks before sending ────────────────────────────────────────────────────────

    /// @notice The hash under which a header is stored and claimed.
    function headerHash(Header calldata header) external pure returns (HeaderHash);

    /// @notice The root that a proof leads to, for whoever wants to check one without claiming.
    function payoutRootOf(
        address account,
        uint128 cumulativeAmount,
        SumTree.Sibling[] calldata proof
    ) external pure returns (uint128 total, bytes32 root);
}
