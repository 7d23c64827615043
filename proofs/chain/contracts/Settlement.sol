// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {SumTree} from "./SumTree.sol";

interface IChannels {
    function settle(address receiver, address token) external;
}

/// @title Receives the channels' fees, keeps the aggregator's header chain, and pays accounts their shares by proof.
/// @notice What holds, and why:
///
/// - Never insolvent. `totalPaid ≤ payoutTotal ≤ tokens ever received (balance + totalPaid)`. The right half is checked
///   when a header is posted, after the fees were pulled in; the left half at every claim; nothing else moves tokens.
///   A tree cannot owe more than its header's total, because a proof must lead to that total (see SumTree).
/// - No double claim. Amounts are cumulative and `claimed[account]` remembers what was paid: a proof that was used, or
///   an older one, has nothing left to pay.
/// - No replay elsewhere. There are no signatures here. A claim needs a header whose hash this contract stored because
///   its aggregator posted it, and pays from this contract's balance only.
///
/// What does not hold by construction: that the aggregator divides justly. It could lower one account's amount and
/// raise another's under the same total. Anybody can recompute a header from the batch whose digest it names, and sees
/// it; the contract then still pays no more than `payoutTotal`, so fees of later epochs stay safe.
contract Settlement {
    using SafeERC20 for IERC20;

    /// @notice One epoch: what the aggregator posts. Its hash is keccak256 of its ABI encoding, seven words.
    struct Header {
        uint64 epoch;
        bytes32 previous; // hash of the previous epoch's header, zero before the first
        bytes32 receiptsRoot; // RFC 9162 log of all receipts so far
        uint64 numReceipts; // size of that log
        bytes32 payoutRoot; // hash of the payout sum tree's root
        uint128 payoutTotal; // its sum: what all accounts together were ever awarded
        bytes32 batchDigest; // sha-256 of the published batch from which all this can be recomputed
    }

    address public immutable aggregator;
    IChannels public immutable channels;
    IERC20 public immutable token;

    // One slot: the end of the header chain.
    uint64 public lastEpoch;
    uint64 public numReceipts;
    uint128 public payoutTotal;

    uint128 public totalPaid;
    mapping(uint64 epoch => bytes32) public headerHashes;
    mapping(address account => uint128) public claimed;

    event Posted(uint64 indexed epoch, bytes32 indexed headerHash, Header header);
    event Claimed(address indexed account, uint128 amount, uint128 cumulativeAmount, uint64 epoch);

    /// @notice Only the aggregator may post a header.
    error NotAggregator(address caller);
    /// @notice The header must be of the epoch after the last posted one.
    error WrongEpoch(uint64 expected, uint64 given);
    /// @notice The header does not name the hash of the previous header.
    error WrongPrevious(bytes32 expected, bytes32 given);
    /// @notice The cumulative totals of a header may not be lower than those of the previous one.
    error TotalsFell();
    /// @notice The header awards more than this contract ever received in fees; claim vouchers first.
    error PayoutExceedsReceived(uint128 payoutTotal, uint256 received);
    /// @notice This header was not posted here.
    error UnknownHeader(uint64 epoch, bytes32 headerHash);
    /// @notice The proof does not lead from this account and amount to the header's payout root and total.
    error BadProof();
    /// @notice The account was already paid this much or more.
    error NothingToClaim(address account, uint128 claimed, uint128 cumulativeAmount);
    /// @notice Paying this would pay out more than was awarded in all: a header took an award back after it was paid.
    error ClaimExceedsTotal(uint128 totalPaid, uint128 payoutTotal);

    constructor(address aggregator_, IChannels channels_, IERC20 token_) {
        aggregator = aggregator_;
        channels = channels_;
        token = token_;
    }

    /// @notice Pulls in the fees that were claimed for this contract, then appends a header to the chain.
    function post(Header calldata header) external {
        require(msg.sender == aggregator, NotAggregator(msg.sender));
        require(header.epoch == lastEpoch + 1, WrongEpoch(lastEpoch + 1, header.epoch));
        bytes32 previous = headerHashes[lastEpoch];
        require(header.previous == previous, WrongPrevious(previous, header.previous));
        require(header.payoutTotal >= payoutTotal && header.numReceipts >= numReceipts, TotalsFell());

        lastEpoch = header.epoch;
        numReceipts = header.numReceipts;
        payoutTotal = header.payoutTotal;
        bytes32 hash = headerHash(header);
        headerHashes[header.epoch] = hash;
        emit Posted(header.epoch, hash, header);

        // Last, because it counts the fees that this very call brings. The channels' code is fixed and knows no
        // callback into here but the token's transfer.
        channels.settle(address(this), address(token));
        uint256 received = token.balanceOf(address(this)) + totalPaid;
        require(header.payoutTotal <= received, PayoutExceedsReceived(header.payoutTotal, received));
    }

    /// @notice Pays `account` what it was awarded up to this header and not paid yet, whoever calls.
    function claim(
        Header calldata header,
        address account,
        uint128 cumulativeAmount,
        SumTree.Sibling[] calldata proof
    ) external {
        bytes32 hash = headerHash(header);
        require(hash == headerHashes[header.epoch], UnknownHeader(header.epoch, hash));
        (uint128 total, bytes32 root) = SumTree.rootOf(account, cumulativeAmount, proof);
        require(root == header.payoutRoot && total == header.payoutTotal, BadProof());
        uint128 before = claimed[account];
        require(cumulativeAmount > before, NothingToClaim(account, before, cumulativeAmount));
        uint128 amount = cumulativeAmount - before;
        uint128 paid = totalPaid + amount;
        require(paid <= payoutTotal, ClaimExceedsTotal(paid, payoutTotal));

        claimed[account] = cumulativeAmount;
        totalPaid = paid;
        emit Claimed(account, amount, cumulativeAmount, header.epoch);
        token.safeTransfer(account, amount);
    }

    function headerHash(Header calldata header) public pure returns (bytes32) {
        return keccak256(abi.encode(header));
    }

    /// @notice The root that a proof leads to, for whoever wants to check one without claiming.
    function payoutRootOf(address account, uint128 cumulativeAmount, SumTree.Sibling[] calldata proof)
        external
        pure
        returns (uint128 total, bytes32 root)
    {
        return SumTree.rootOf(account, cumulativeAmount, proof);
    }
}
