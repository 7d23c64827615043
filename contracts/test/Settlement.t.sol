// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {Header, HeaderHash} from "../src/types/Header.sol";
import {PayoutTree} from "./PayoutTree.sol";
import {World} from "./World.sol";

contract SettlementTest is World {
    address[] private accounts = [address(1001), address(1002), address(1003)];

    function test_a_header_is_taken_when_it_awards_no_more_than_was_received(
        uint128 received,
        uint128 total
    ) external {
        received = _amount(received);
        total = uint128(bound(total, 0, 2 * uint256(received)));
        earn(received);
        Header memory header = _next(bytes32("root"), total);
        if (total > received) {
            vm.expectRevert(
                abi.encodeWithSelector(ISettlement.PayoutExceedsReceived.selector, total, received)
            );
        }
        vm.prank(aggregator);
        settlement.post(header);
        checkEqual(settlement.lastEpoch(), total > received ? 0 : 1, "the end of the chain");
    }

    function test_nobody_but_the_aggregator_posts(address stranger) external {
        if (stranger == aggregator) return;
        Header memory header = _next(bytes32(0), 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.NotAggregator.selector, stranger));
        vm.prank(stranger);
        settlement.post(header);
    }

    function test_headers_follow_one_another_and_totals_do_not_fall(
        uint64 epoch,
        uint64 numReceipts,
        uint128 total,
        HeaderHash previous
    ) external {
        earn(100);
        Header memory first = _next(bytes32("root"), 60);
        first.numReceipts = 2 ** 63;
        _post(first);
        Header memory header = _next(bytes32("root"), uint128(bound(total, 0, 100)));
        header.numReceipts = numReceipts;
        if (epoch % 4 == 0) header.epoch = epoch;
        if (epoch % 4 == 1) header.previous = previous;
        bool follows = header.epoch == 2 && header.previous == settlement.headerHashes(1)
            && header.payoutTotal >= 60 && numReceipts >= 2 ** 63;
        vm.prank(aggregator);
        try settlement.post(header) {
            check(follows, "taken, so it follows");
        } catch {
            check(!follows, "refused, so it does not follow");
        }
    }

    function test_an_account_is_paid_what_it_was_not_paid_yet(uint128 first, uint128 more)
        external
    {
        first = _amount(first);
        more = uint128(bound(more, 0, first));
        uint128[] memory amounts = new uint128[](3);
        (amounts[0], amounts[1], amounts[2]) = (first, 7, 9);
        earn(first + 16 + more);
        Header memory header = _award(amounts);
        _claim(header, amounts, 0);
        checkEqual(token.balanceOf(accounts[0]), first, "all of it");

        amounts[0] += more;
        Header memory later = _award(amounts);
        if (more == 0) vm.expectPartialRevert(ISettlement.NothingToClaim.selector);
        _claim(later, amounts, 0);
        checkEqual(token.balanceOf(accounts[0]), first + more, "the difference");
        checkEqual(settlement.totalPaid(), first + more, "and the books say so");
    }

    function test_a_tree_that_owes_more_than_its_header_says_pays_nobody(
        uint128[3] calldata owed,
        uint128 hidden
    ) external {
        uint128[] memory amounts = new uint128[](3);
        for (uint256 i = 0; i < 3; i++) {
            amounts[i] = uint128(bound(owed[i], 1, uint128(FUNDS) / 16));
        }
        (uint128 total, bytes32 root) = PayoutTree.rootOf(accounts, amounts, 0, amounts.length);
        earn(total);
        Header memory lying = _next(root, total - uint128(bound(hidden, 1, total)));
        _post(lying);
        for (uint256 i = 0; i < 3; i++) {
            vm.expectRevert(abi.encodePacked(ISettlement.BadProof.selector));
            _claim(lying, amounts, i);
        }
    }

    function test_only_headers_that_were_posted_here_pay(uint256 part, uint128 total, bytes32 word)
        external
    {
        uint128[] memory amounts = new uint128[](3);
        (amounts[0], amounts[1], amounts[2]) = (5, 7, 9);
        earn(21);
        Header memory header = _award(amounts);
        Header memory changed = _copy(header);
        part = part % 7;
        if (part == 0) changed.epoch = uint64(bound(total, 2, type(uint64).max));
        else if (part == 1) changed.previous = HeaderHash.wrap(_other(word, bytes32(0)));
        else if (part == 2) changed.receiptsRoot = _other(word, header.receiptsRoot);
        else if (part == 3) changed.numReceipts = uint64(bound(total, 2, type(uint64).max));
        else if (part == 4) changed.payoutRoot = _other(word, header.payoutRoot);
        else if (part == 5) changed.payoutTotal = uint128(bound(total, 22, type(uint128).max));
        else changed.batchDigest = _other(word, header.batchDigest);
        vm.expectPartialRevert(ISettlement.UnknownHeader.selector);
        _claim(changed, amounts, 0);
        _claim(header, amounts, 0);
    }

    function test_an_award_that_was_paid_and_then_moved_does_not_touch_later_fees(
        uint128 award,
        uint128 later
    ) external {
        award = _amount(award);
        later = _amount(later);
        uint128[] memory amounts = new uint128[](3);
        amounts[0] = award;
        earn(award);
        _claim(_award(amounts), amounts, 0);
        earn(later);
        (amounts[0], amounts[1]) = (0, award);
        Header memory unjust = _award(amounts);
        vm.expectPartialRevert(ISettlement.ClaimExceedsTotal.selector);
        _claim(unjust, amounts, 1);
        checkEqual(token.balanceOf(address(settlement)), later, "later fees are there");
    }

    function _amount(uint128 value) private pure returns (uint128) {
        return uint128(bound(value, 1, uint128(FUNDS) / 4));
    }

    function _other(bytes32 word, bytes32 than) private pure returns (bytes32) {
        return word == than ? ~word : word;
    }

    /// @dev A header that follows the last one.
    function _next(bytes32 root, uint128 total) private view returns (Header memory) {
        uint64 last = settlement.lastEpoch();
        return Header({
            epoch: last + 1,
            previous: settlement.headerHashes(last),
            receiptsRoot: bytes32("receipts"),
            numReceipts: settlement.numReceipts() + 1,
            payoutRoot: root,
            payoutTotal: total,
            batchDigest: bytes32("batch")
        });
    }

    function _copy(Header memory header) private pure returns (Header memory) {
        return abi.decode(abi.encode(header), (Header));
    }

    function _post(Header memory header) private {
        vm.prank(aggregator);
        settlement.post(header);
    }

    function _award(uint128[] memory amounts) private returns (Header memory header) {
        (uint128 total, bytes32 root) = PayoutTree.rootOf(accounts, amounts, 0, amounts.length);
        header = _next(root, total);
        _post(header);
    }

    function _claim(Header memory header, uint128[] memory amounts, uint256 index) private {
        SumTree.Sibling[] memory proof = PayoutTree.prove(accounts, amounts, index);
        settlement.claim(header, accounts[index], amounts[index], proof);
    }
}
