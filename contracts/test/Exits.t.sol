// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ExitRequest, IExits} from "../src/interfaces/IExits.sol";
import {Board, IOffice} from "../src/interfaces/IOffice.sol";
import {IProofs} from "../src/interfaces/IProofs.sol";
import {ChannelId} from "../src/types/Channel.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {AccountProof, ChannelProof, PayoutLeaf} from "../src/types/Leaves.sol";
import {Books} from "./Books.sol";

/// @title A channel settles itself: what it pays, when, and that nothing is paid twice.
contract ExitsTest is Books {
    uint128 private constant MOST = 1_000;
    uint128 private constant FUND = 4 * uint128(NUM_ACCOUNTS) * MOST;

    function test_an_exit_pays_each_account_what_the_header_does_not(uint256 seed, bool cosigned)
        external
    {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        uint256 c = seed % NUM_CHANNELS;
        ExitRequest memory request = exitOf(book, c, before, here, cosigned);
        vm.expectPartialRevert(IOffice.NotSilent.selector);
        settlement.exit(request);
        silence();
        settlement.exit(request);
        check(settlement.aggregator() == address(0), "the first exit dismisses who is silent");
        if (!cosigned) {
            checkEqual(settlement.totalExited(), 0, "one signature waits for the window");
            ChannelId id = request.receipt.channelId;
            vm.warp(block.timestamp + WINDOW - 1);
            vm.expectPartialRevert(IExits.NoExitDue.selector);
            settlement.finishExit(id, request.paid, request.owed);
            vm.warp(block.timestamp + 1);
            settlement.finishExit(id, request.paid, request.owed);
            vm.expectPartialRevert(IExits.NoExitDue.selector);
            settlement.finishExit(id, request.paid, request.owed);
        }
        for (uint256 a = 0; a < NUM_ACCOUNTS; a++) {
            uint256 more = book.payouts[c][a].amount - before.payouts[c][a].amount;
            checkEqual(token.balanceOf(accountAt(a)), more, "the difference");
        }
        uint256 cost = book.channels[c].cumulative - before.channels[c].cumulative;
        checkEqual(settlement.totalExited(), cost, "and the books say so");
        vm.expectPartialRevert(IExits.NotBeyond.selector);
        settlement.exit(request);
    }

    function test_exits_and_claims_together_pay_what_the_receipts_say(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            settlement.exit(exitOf(book, c, before, here, true));
        }
        for (uint256 a = 0; a < NUM_ACCOUNTS; a++) {
            AccountProof memory proof = showAccount(before, a);
            settlement.claim(here, proof.leaf, proof.proof);
            checkEqual(token.balanceOf(accountAt(a)), book.accounts[a].amount, "to the last unit");
        }
    }

    function test_a_later_exit_pays_only_what_is_more(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        settlement.exit(exitOf(book, 0, before, here, true));
        uint256 exited = settlement.totalExited();
        book.payouts[0][1].amount += 5;
        Book memory middle = _rewrite(seed, 2);
        sign(book, 0, 7);
        ExitRequest memory wrong = exitOf(book, 0, before, here, true);
        vm.expectRevert(abi.encodePacked(IExits.WrongPayouts.selector)); // paid already
        settlement.exit(wrong);
        settlement.exit(exitOf(book, 0, middle, here, true));
        checkEqual(settlement.totalExited(), exited + 5, "only what is more");
    }

    function test_no_exit_goes_beyond_what_was_claimed_or_takes_back(uint256 seed, uint8 how)
        external
    {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        bytes4 refused = IExits.WrongPayouts.selector;
        how = how % 8;
        if (how == 0) book.payouts[0][0].amount += FUND;
        if (how == 1) (book.payouts[0][0].amount, book.payouts[0][1].amount) = (0, FUND / 2);
        if (how == 2) book.payouts[0][0].account = watcher;
        sign(book, 0, 2);
        ExitRequest memory request = exitOf(book, 0, before, here, true);
        if (how == 0) refused = IExits.Unclaimed.selector;
        if (how == 3) request.owed[1].amount++;
        if (how == 4) request.paid = new PayoutLeaf[](0);
        if (how == 5) {
            (request.nodeSignature, refused) =
            (request.clientSignature, IExits.BadReceiptSignature.selector);
        }
        if (how == 6) {
            (request.clientSignature, refused) =
            (request.nodeSignature, IExits.BadReceiptSignature.selector);
        }
        if (how == 7) {
            (request.config, refused) = (channel(payer, 1), IExits.NotOurChannel.selector);
        }
        vm.expectPartialRevert(refused);
        settlement.exit(request);
    }

    function test_two_signatures_take_the_place_of_one(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        book.payouts[0][1].amount += 100;
        sign(book, 0, 2);
        Book memory cheat = _rewrite(seed, 2);
        cheat.payouts[0][0].amount += 100; // the node gives itself another's share
        sign(cheat, 0, 9);
        settlement.exit(exitOf(cheat, 0, before, here, false));
        settlement.exit(exitOf(book, 0, before, here, true));
        ExitRequest memory late = exitOf(cheat, 0, book, here, false);
        vm.warp(block.timestamp + WINDOW);
        vm.expectRevert(abi.encodePacked(IExits.WrongPayouts.selector));
        settlement.finishExit(late.receipt.channelId, late.paid, late.owed);
        checkEqual(
            token.balanceOf(accountAt(1)),
            book.payouts[0][1].amount - before.payouts[0][1].amount,
            "paid as both signed"
        );
    }

    function test_one_signature_does_not_take_the_place_of_two_that_wait(uint256 seed) external {
        (Book memory book,, PostedHeader memory here) = _begin(seed);
        silence();
        ExitRequest memory request = exitOf(book, 0, book, here, true);
        request.base = _absent();
        request.paid = new PayoutLeaf[](0);
        settlement.exit(request); // claims that the header has no such channel: waits
        sign(book, 0, 12);
        ExitRequest memory other = exitOf(book, 0, book, here, false);
        (other.base, other.paid) = (_absent(), new PayoutLeaf[](0));
        vm.expectPartialRevert(IExits.ExitPending.selector);
        settlement.exit(other);
    }

    function test_an_exit_that_hides_its_leaf_is_cancelled_by_the_leaf(uint256 seed, bool noticed)
        external
    {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        ExitRequest memory request = exitOf(book, 0, before, here, true);
        (request.base, request.paid) = (_absent(), new PayoutLeaf[](0));
        settlement.exit(request);
        checkEqual(settlement.totalExited(), 0, "absence waits, whoever signed");
        vm.expectPartialRevert(IExits.NoExitDue.selector);
        settlement.cancelExit(here, showChannel(before, 1)); // another channel's leaf
        if (noticed) settlement.cancelExit(here, showChannel(before, 0));
        vm.warp(block.timestamp + WINDOW);
        if (noticed) vm.expectPartialRevert(IExits.NoExitDue.selector);
        settlement.finishExit(request.receipt.channelId, request.paid, request.owed);
        checkEqual(
            settlement.totalExited(), noticed ? 0 : book.channels[0].cumulative, "nobody watched"
        );
    }

    function test_without_any_header_a_channel_is_in_none(uint256 seed) external {
        fundAll(FUND);
        Book memory book = write(amountsOf(seed, MOST), 1);
        silence();
        settlement.exit(exitOf(book, 0, book, nothing(), true));
        checkEqual(settlement.totalExited(), book.channels[0].cumulative, "all of it, at once");
    }

    function test_no_exit_while_the_last_header_can_be_challenged(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        book.channels[1].channelId = book.channels[0].channelId;
        PostedHeader memory lying = post(book);
        court.proveChannelTwice(lying, here, showChannel(book, 0), showChannel(book, 1));
        ExitRequest memory request = exitOf(_rewrite(seed, 2), 0, before, here, true);
        vm.expectRevert(abi.encodePacked(IExits.ExitsClosed.selector));
        settlement.exit(request);
        vm.warp(here.postedAt + WINDOW);
        settlement.exit(request);
    }

    function test_a_channel_that_left_is_not_moved_by_a_header(uint256 seed, bool moves) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        settlement.exit(exitOf(book, 0, before, here, true));
        _replace();
        Book memory next = _rewrite(seed, 2);
        if (!moves) {
            (next.channels[0], next.payouts[0]) = (before.channels[0], before.payouts[0]);
        }
        PostedHeader memory later = post(next);
        if (!moves) vm.expectRevert(abi.encodePacked(IProofs.NotALie.selector));
        court.proveAfterExit(later, here, showChannel(next, 0), showChannel(before, 0));
        if (!moves) return;
        checkEqual(settlement.lastEpoch(), 1, "taken back");
    }

    function test_an_exit_that_a_vacancy_allowed_ends_with_it(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        silence();
        ExitRequest memory request = exitOf(book, 0, before, here, false);
        settlement.exit(request);
        _replace();
        vm.expectPartialRevert(IExits.NoExitDue.selector);
        settlement.finishExit(request.receipt.channelId, request.paid, request.owed);
    }

    // ── forced receipts ──────────────────────────────────────────────────────────────────────────

    function test_a_forced_receipt_that_is_ignored_lets_its_channel_go(uint256 seed, uint8 how)
        external
    {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        _force(book, 0);
        ExitRequest memory request = exitOf(book, 0, before, here, true);
        vm.expectPartialRevert(IExits.HasLeft.selector);
        settlement.force(request.config, request.receipt, request.nodeSignature);
        (, uint64 deadline,) = settlement.forced(book.channels[0].channelId);
        vm.warp(deadline);
        vm.prank(aggregator);
        settlement.alive();
        vm.expectPartialRevert(IOffice.NotSilent.selector);
        settlement.exit(request);
        vm.warp(deadline + 1);
        how = how % 3;
        if (how == 0) {
            uint256 had = token.balanceOf(watcher);
            settlement.exit(request);
            check(settlement.aggregator() == aggregator, "alone; the aggregator stays");
            checkEqual(token.balanceOf(watcher) - had, DEMAND_FEE, "the fee comes back");
            checkEqual(settlement.leftAt(book.channels[0].channelId), deadline, "then it left");
        }
        Book memory next = _rewrite(seed, 2);
        if (how == 1) {
            (next.channels[0], next.payouts[0]) = (before.channels[0], before.payouts[0]);
        }
        PostedHeader memory later = post(next);
        if (how == 1) vm.expectRevert(abi.encodePacked(IProofs.NotALie.selector));
        court.proveAfterExit(later, here, showChannel(next, 0), showChannel(before, 0));
    }

    function test_a_forced_receipt_that_is_shown_pays_the_fee(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        _force(book, 0);
        ChannelProof memory proof = showChannel(before, 0);
        vm.expectPartialRevert(IExits.NotForced.selector);
        settlement.answerForced(here, proof);
        PostedHeader memory later = post(book);
        uint256 had = token.balanceOf(address(this));
        settlement.answerForced(later, showChannel(book, 0));
        checkEqual(token.balanceOf(address(this)) - had, DEMAND_FEE, "whoever answers");
        checkEqual(settlement.leftAt(book.channels[0].channelId), type(uint64).max, "it stays");
        vm.expectPartialRevert(IExits.NotForced.selector);
        settlement.answerForced(later, showChannel(book, 0));
    }

    function test_a_channel_that_left_goes_on_from_a_header_after_that(uint256 seed) external {
        (Book memory book, Book memory before, PostedHeader memory here) = _begin(seed);
        _force(book, 0);
        (, uint64 deadline,) = settlement.forced(book.channels[0].channelId);
        vm.warp(deadline - 1);
        Book memory next = _rewrite(seed, 2);
        (next.channels[0], next.payouts[0]) = (before.channels[0], before.payouts[0]);
        post(next);
        vm.warp(deadline + WINDOW);
        ExitRequest memory stale = exitOf(book, 0, before, here, true);
        vm.expectRevert(abi.encodePacked(IExits.ExitsClosed.selector));
        settlement.exit(stale);
        settlement.exit(exitOf(book, 0, next, headers[1], true));
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev A first header with one receipt of each channel, and books with a second.
    function _begin(uint256 seed)
        private
        returns (Book memory book, Book memory before, PostedHeader memory here)
    {
        fundAll(FUND);
        before = write(amountsOf(seed, MOST), 1);
        here = post(before);
        book = _rewrite(seed, 2);
    }

    function _rewrite(uint256 seed, uint64 sequence) private view returns (Book memory) {
        uint128[][] memory amounts = amountsOf(seed, MOST);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            for (uint256 a = 0; a < NUM_ACCOUNTS; a++) {
                amounts[c][a] += uint128(10 * c + a);
            }
        }
        return write(amounts, sequence);
    }

    function _absent() private pure returns (ChannelProof memory none) {}

    function _force(Book memory book, uint256 index) private {
        vm.startPrank(watcher);
        token.approve(address(settlement), DEMAND_FEE);
        vm.stopPrank();
        vm.prank(watcher);
        settlement.force(
            book.configs[index], receiptOf(book.channels[index]), book.signatures[index]
        );
    }

    /// @dev Installs a new aggregator in the vacant office.
    function _replace() private {
        Board memory board = Board(owner, address(0x2ED), new address[](0), 0);
        vm.prank(owner);
        settlement.propose(board);
        vm.warp(settlement.effectiveAt());
        settlement.install(board);
        fundBond();
    }
}
