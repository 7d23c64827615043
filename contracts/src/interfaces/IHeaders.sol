// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../libraries/SumTree.sol";
import {Anchor, Header, HeaderHash, PostedHeader} from "../types/Header.sol";
import {AccountLeaf} from "../types/Leaves.sol";

/// @title The header chain, and what is claimed under it.
interface IHeaders {
    event Posted(uint64 indexed epoch, Header header, uint64 postedAt);
    event Claimed(address indexed account, uint128 amount, uint128 cumulativeAmount, uint64 epoch);
    event TakenBack(uint64 firstEpoch, uint64 lastEpoch);

    /// @notice The header must be of the epoch after the last posted one.
    error WrongEpoch(uint64 expected, uint64 given);
    /// @notice The header does not name the hash of the previous header.
    error WrongPrevious(HeaderHash given);
    /// @notice A header brings 1 to 1,000 receipts and awards more than the one before.
    error TotalsOutOfRange(uint64 numReceipts, uint128 payoutTotal);
    /// @notice The header awards more than this contract ever received in fees; claim vouchers
    /// first.
    error PayoutExceedsReceived(uint256 awarded, uint128 received);
    /// @notice Too few witnesses signed the header; their signatures go by ascending address.
    error WitnessesMissing(uint8 quorum);
    /// @notice The header was sealed over another branch of the chain, or too many blocks ago.
    error WrongBranch(uint64 number);
    /// @notice The header was to be posted by then, or not at all.
    error Expired(uint64 notAfter);
    /// @notice This header is not posted here at this time, or was taken back.
    error UnknownHeader(uint64 epoch);
    /// @notice The header can still be challenged: nothing is paid under it yet.
    error StillOpen(uint64 epoch);
    /// @notice The account was already paid this much or more.
    error NothingToClaim(address account, uint128 claimed, uint128 cumulativeAmount);
    /// @notice Paying this would pay out more than was awarded in all.
    error ClaimExceedsTotal(uint256 totalPaid, uint128 payoutTotal);

    /// @notice Pulls in the fees that were claimed for this contract, then appends a header to the
    /// chain. Only the aggregator, with its full bond.
    /// @param witnessSignatures of at least a quorum, over the EIP-712 struct
    /// `Header(bytes32 header)`, by ascending address
    /// @param anchor where and until when this may be posted, for the aggregator's own protection
    function post(
        Header calldata header,
        bytes[] calldata witnessSignatures,
        Anchor calldata anchor
    ) external;

    /// @notice Pays an account what it was awarded up to a final header and not paid yet, whoever
    /// calls.
    /// @param here any final header, not only the last
    /// @param leaf the account's leaf in the header's tree of accounts
    function claim(
        PostedHeader calldata here,
        AccountLeaf calldata leaf,
        SumTree.Proof calldata proof
    ) external;

    /// @notice Takes back a header that is not final and all after it, and punishes the aggregator.
    /// Only the court.
    /// @param before the header before it, to which the chain returns; zeros for the first epoch
    function convict(PostedHeader calldata here, PostedHeader calldata before, address prover)
        external;

    /// @notice Has a demand block a header and all after it, until it is unblocked as often. Only
    /// the court.
    function blockHeader(uint64 epoch, bytes32 word) external;

    /// @notice Ends one blocking. Only the court.
    function unblockHeader(uint64 epoch, bytes32 word) external;

    /// @notice The epoch of the last posted header, 0 before the first.
    function lastEpoch() external view returns (uint64);

    /// @notice When the last header was posted.
    function lastPostedAt() external view returns (uint64);

    /// @notice The number of receipts in the log that the last header commits to.
    function numReceipts() external view returns (uint64);

    /// @notice What the last header awards all accounts together, since the beginning.
    function payoutTotal() external view returns (uint128);

    /// @notice What was paid to all accounts together under headers, since the beginning.
    function totalPaid() external view returns (uint128);

    /// @notice What was paid to all accounts together by exits, since the beginning.
    function totalExited() external view returns (uint128);

    /// @notice The lowest epoch with a demand that blocks it; 2^64 - 1 when there is none.
    function firstDemanded() external view returns (uint64);

    /// @notice keccak256(header hash || time of its post, 8 bytes), for each epoch up to the last.
    function posted(uint64 epoch) external view returns (bytes32);

    /// @notice What was paid to one account under headers, since the beginning.
    function claimed(address account) external view returns (uint128);

    /// @notice Whether this word stands for a posted header of this epoch.
    function isPosted(uint64 epoch, bytes32 word) external view returns (bool);

    /// @notice Whether claims are paid under this header.
    function isFinal(PostedHeader calldata here) external view returns (bool);
}
