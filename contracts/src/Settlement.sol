// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IChannels} from "./interfaces/IChannels.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {SumTree} from "./libraries/SumTree.sol";
import {Header, HeaderHash} from "./types/Header.sol";

/// @title Receives the channels' fees, keeps the aggregator's header chain, and pays accounts their
/// shares by proof.
/// @notice What holds, and why:
///
/// - Never insolvent. `totalPaid ≤ payoutTotal ≤ tokens ever received (balance + totalPaid)`. The
///   right half is checked when a header is posted, after the fees were pulled in; the left half at
///   every claim; nothing else moves tokens. A tree cannot owe more than its header's total,
///   because a proof must lead to that total (see SumTree).
/// - No double claim. Amounts are cumulative and `claimed[account]` remembers what was paid: a
///   proof that was used, or an older one, has nothing left to pay.
/// - No replay elsewhere. There are no signatures here. A claim needs a header whose hash this
///   contract stored because its aggregator posted it, and pays from this contract's balance only.
///
/// What does not hold by construction: that the aggregator divides justly. It could lower one
/// account's amount and raise another's under the same total. Anybody can recompute a header from
/// the batch whose digest it names, and sees it; the contract then still pays no more than
/// `payoutTotal`, so fees of later epochs stay safe.
contract Settlement is ISettlement {
    using SafeERC20 for IERC20;

    /// @inheritdoc ISettlement
    address public immutable aggregator;
    /// @inheritdoc ISettlement
    IChannels public immutable channels;
    /// @inheritdoc ISettlement
    IERC20 public immutable token;

    // One slot: the end of the header chain.
    /// @inheritdoc ISettlement
    uint64 public lastEpoch;
    /// @inheritdoc ISettlement
    uint64 public numReceipts;
    /// @inheritdoc ISettlement
    uint128 public payoutTotal;

    /// @inheritdoc ISettlement
    uint128 public totalPaid;
    /// @inheritdoc ISettlement
    mapping(uint64 epoch => HeaderHash) public headerHashes;
    /// @inheritdoc ISettlement
    mapping(address account => uint128) public claimed;

    constructor(address aggregator_, IChannels channels_, IERC20 token_) {
        aggregator = aggregator_;
        channels = channels_;
        token = token_;
    }

    /// @inheritdoc ISettlement
    function post(Header calldata header) external {
        require(msg.sender == aggregator, NotAggregator(msg.sender));
        require(header.epoch == lastEpoch + 1, WrongEpoch(lastEpoch + 1, header.epoch));
        HeaderHash previous = headerHashes[lastEpoch];
        require(header.previous == previous, WrongPrevious(previous, header.previous));
        require(
            header.payoutTotal >= payoutTotal && header.numReceipts >= numReceipts, TotalsFell()
        );

        lastEpoch = header.epoch;
        numReceipts = header.numReceipts;
        payoutTotal = header.payoutTotal;
        HeaderHash hash = header.hash();
        headerHashes[header.epoch] = hash;
        emit Posted(header.epoch, hash, header);

        // Last, because it counts the fees that this very call brings. The channels' code is fixed
        // and knows no callback into here but the token's transfer.
        channels.settle(address(this), address(token));
        uint256 received = token.balanceOf(address(this)) + totalPaid;
        require(
            header.payoutTotal <= received, PayoutExceedsReceived(header.payoutTotal, received)
        );
    }

    /// @inheritdoc ISettlement
    function claim(
        Header calldata header,
        address account,
        uint128 cumulativeAmount,
        SumTree.Sibling[] calldata proof
    ) external {
        HeaderHash hash = header.hash();
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

    /// @inheritdoc ISettlement
    function headerHash(Header calldata header) external pure returns (HeaderHash) {
        return header.hash();
    }

    /// @inheritdoc ISettlement
    function payoutRootOf(
        address account,
        uint128 cumulativeAmount,
        SumTree.Sibling[] calldata proof
    ) external pure returns (uint128 total, bytes32 root) {
        return SumTree.rootOf(account, cumulativeAmount, proof);
    }
}
