// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDemands, Part, Question} from "../src/interfaces/IDemands.sol";
import {Board, IOffice} from "../src/interfaces/IOffice.sol";
import {IPromises} from "../src/interfaces/IPromises.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {ChannelLeaf, ChannelProof} from "../src/types/Leaves.sol";
import {Promise, Receipt, Reminder} from "../src/types/Receipt.sol";
import {Books} from "./Books.sol";

/// @title Who breaks a promise loses its office; who could not keep it, or had no time to, does not.
contract PromisesTest is Books {
    uint128 private constant MOST = 1_000;
    bytes private constant MANIFEST = "of an adapter";

    uint64 private _deadline;

    function test_a_promise_is_broken_by_what_is_posted_after_it_was_due(
        bool kept,
        bool answered,
        uint64 postedLate,
        uint64 waited
    ) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        vm.warp(reminder.pledge.deadline);
        vm.expectPartialRevert(IDemands.NotDue.selector);
        court.stand(reminder, here, showChannel(book, 0));
        vm.warp(reminder.pledge.deadline + 1);
        _stand(reminder, here, book);
        uint256 due = block.timestamp + WINDOW;
        vm.warp(due + bound(postedLate, 0, 10) - 5);
        Book memory next = write(amountsOf(1, MOST), 2);
        next.channels[1].sequence = 3;
        if (!kept) next.channels[0] = book.channels[0];
        PostedHeader memory second = _postMore(next);
        bool owed = second.postedAt > due;
        if (answered) {
            ChannelProof memory shown = showChannel(next, 0);
            if (!kept) vm.expectRevert(abi.encodePacked(IDemands.NoAnswer.selector));
            court.answerStand(reminder.pledge, second, shown);
        }
        vm.warp(second.postedAt + bound(waited, 0, 2 * ANSWER_TIME));
        bool isConvicted =
            !(kept && answered) && owed && block.timestamp > second.postedAt + ANSWER_TIME;
        if (kept && answered) vm.expectPartialRevert(IDemands.NoSuchDemand.selector);
        else if (!isConvicted) vm.expectPartialRevert(IDemands.NotDue.selector);
        court.convictBroken(reminder.pledge, 1, second);
        check((settlement.aggregator() == address(0)) == isConvicted, "who breaks its word goes");
        checkEqual(settlement.lastEpoch(), 2, "no header is taken back");
    }

    function test_who_posts_nothing_breaks_no_promise(uint64 waited) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        vm.warp(reminder.pledge.deadline + 1);
        _stand(reminder, here, book);
        vm.warp(block.timestamp + bound(waited, WINDOW + 1, 100 * WINDOW));
        vm.expectPartialRevert(IDemands.NotDue.selector);
        court.convictBroken(reminder.pledge, 1, here);
        vm.expectPartialRevert(bytes4(keccak256("UnknownHeader(uint64)")));
        court.convictBroken(reminder.pledge, 1, nothing());
    }

    function test_what_cannot_be_kept_is_not_owed(uint8 how) external {
        (Book memory book, PostedHeader memory here) = _begin();
        how = how % 10;
        Reminder memory reminder = _reminder(book, 0, 2);
        ChannelProof memory earlier = showChannel(book, 0);
        vm.warp(reminder.pledge.deadline + 1);
        if (how == 0) reminder = _promise(reminder, "", 3); // not next in its channel
        else if (how == 1) reminder.manifest = "another";
        else if (how == 2) reminder.body = bytes.concat(reminder.body, "x");
        else if (how == 3) reminder.nodeSignature = signed(PAYER_KEY, bytes32("x"));
        else if (how == 4) reminder.signature = signed(OPERATOR_KEY, bytes32("x"));
        else if (how == 5) reminder.config = book.configs[1];
        else if (how == 6) earlier = showChannel(book, 1);
        else if (how == 7) reminder = _promise(reminder, _body(3, bytes32("other")), 3);
        else if (how == 8) reminder = _claimless(reminder);
        else _force(book);
        vm.expectRevert(abi.encodePacked(IPromises.NotOwed.selector));
        court.stand(reminder, here, earlier);
    }

    function test_a_receipt_that_follows_another_than_the_header_has_is_not_owed() external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        reminder = _promise(reminder, _body(2, bytes32("another")), 2);
        vm.warp(reminder.pledge.deadline + 1);
        vm.expectRevert(abi.encodePacked(IPromises.NotOwed.selector));
        court.stand(reminder, here, showChannel(book, 0));
    }

    function test_the_first_receipt_of_a_channel_follows_nothing() external {
        _begin();
        ChannelConfig memory config = channel(payer, 77);
        deposit(PAYER_KEY, config, MOST);
        claim(config, MOST);
        Reminder memory reminder;
        reminder.config = config;
        reminder.manifest = MANIFEST;
        reminder.pledge.channelId = channels.getChannelId(config);
        reminder.pledge.cumulative = MOST;
        reminder = _promise(reminder, _body(1, 0), 1);
        vm.warp(reminder.pledge.deadline + 1);
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        ChannelProof memory none;
        court.stand(reminder, nothing(), none);
        vm.stopPrank();
    }

    function test_promises_that_are_asked_for_give_no_time_to_show_leaves() external {
        (Book memory book, PostedHeader memory here) = _begin();
        vm.warp(block.timestamp + 100);
        for (uint64 i = 0; i < 65; i++) {
            _deadline = uint64(block.timestamp) - 1 - i; // one receipt, promised again and again
            _stand(_reminder(book, 0, 2), here, book);
        }
        Question memory question = Question(Part.CHANNEL, 0, 0);
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        court.demand(here, question);
        vm.stopPrank();
        (, uint64 until,) = court.demands(court.demandId(here, question));
        checkEqual(until, block.timestamp + ANSWER_TIME, "as if nothing else were open");
    }

    function test_another_receipt_of_the_same_node_in_its_place_keeps_it() external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        vm.warp(reminder.pledge.deadline + 1);
        _stand(reminder, here, book);
        Book memory next = write(amountsOf(1, MOST), 2);
        check(next.channels[0].body != reminder.pledge.body, "another");
        PostedHeader memory second = _postMore(next);
        ChannelProof memory elsewhere = showChannel(next, 1);
        vm.expectRevert(abi.encodePacked(IDemands.NoAnswer.selector));
        court.answerStand(reminder.pledge, second, elsewhere);
        court.answerStand(reminder.pledge, second, showChannel(next, 0));
    }

    function test_a_channel_that_is_forced_later_convicts_nobody() external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        vm.warp(reminder.pledge.deadline + 1);
        _stand(reminder, here, book);
        _force(book);
        vm.warp(block.timestamp + WINDOW + 1);
        Book memory next = write(amountsOf(1, MOST), 1);
        next.channels[1].sequence = 3;
        PostedHeader memory second = _postMore(next);
        vm.warp(block.timestamp + ANSWER_TIME + 1);
        uint256 had = token.balanceOf(watcher);
        court.convictBroken(reminder.pledge, 1, second);
        check(settlement.aggregator() == aggregator, "it settles by itself");
        checkEqual(token.balanceOf(watcher) - had, DEMAND_FEE, "the fee comes back");
    }

    function test_a_promise_of_a_term_that_is_over_only_gives_the_fee_back() external {
        (Book memory book, PostedHeader memory here) = _begin();
        Reminder memory reminder = _reminder(book, 0, 2);
        vm.warp(block.timestamp + 6);
        _stand(reminder, here, book);
        Board memory board = Board(owner, aggregator, new address[](0), 0);
        vm.prank(owner);
        settlement.propose(board);
        vm.warp(settlement.effectiveAt());
        vm.expectRevert(abi.encodePacked(IOffice.OfficeFrozen.selector));
        court.convictBroken(reminder.pledge, 1, here);
        settlement.install(board);
        uint256 had = token.balanceOf(watcher);
        court.convictBroken(reminder.pledge, 1, nothing());
        checkEqual(token.balanceOf(watcher) - had, DEMAND_FEE, "the fee");
        check(settlement.aggregator() == aggregator, "and nothing else");
        ChannelProof memory shown = showChannel(book, 0);
        vm.expectRevert(abi.encodePacked(IPromises.NotOwed.selector));
        court.stand(reminder, here, shown);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    function _begin() private returns (Book memory book, PostedHeader memory here) {
        fundAll(3 * uint128(NUM_ACCOUNTS) * MOST);
        book = write(amountsOf(1, MOST), 1);
        here = post(book);
        _deadline = uint64(block.timestamp) + 5;
    }

    function _postMore(Book memory book) private returns (PostedHeader memory posted) {
        posted.header = headerOf(book);
        posted.header.payoutTotal = settlement.payoutTotal() + 1;
        return post(posted.header);
    }

    /// @dev Everything that there is about the receipt after the one that a channel stands at.
    function _reminder(Book memory book, uint256 index, uint64 sequence)
        private
        view
        returns (Reminder memory reminder)
    {
        ChannelLeaf memory leaf = book.channels[index];
        reminder.config = book.configs[index];
        reminder.manifest = MANIFEST;
        reminder.pledge.channelId = leaf.channelId;
        reminder.pledge.cumulative = leaf.cumulative + 1;
        return _promise(reminder, _body(sequence, leaf.body), sequence);
    }

    /// @dev The same with this body, signed by the node and promised.
    function _promise(Reminder memory reminder, bytes memory body, uint64 sequence)
        private
        view
        returns (Reminder memory)
    {
        ChannelLeaf memory leaf;
        leaf.channelId = reminder.pledge.channelId;
        leaf.cumulative = reminder.pledge.cumulative;
        leaf.sequence = sequence;
        leaf.payouts = reminder.payouts;
        leaf.body = sha256(body);
        reminder.body = body;
        reminder.nodeSignature = signed(OPERATOR_KEY, digestOf(receiptOf(leaf)));
        (reminder.pledge, reminder.signature) = promised(leaf, _deadline);
        return reminder;
    }

    /// @dev The same for more money than was claimed.
    function _claimless(Reminder memory reminder) private view returns (Reminder memory) {
        reminder.pledge.cumulative = 100 * MOST;
        return _promise(reminder, reminder.body, 2);
    }

    /// @dev The first ten fields of a receipt's body, as far as the court reads them.
    function _body(uint64 sequence, bytes32 previous) private view returns (bytes memory) {
        bytes memory head = abi.encodePacked(hex"dc001702cd7a69c414", address(settlement));
        bytes memory place = abi.encodePacked(hex"c420", bytes32("channel"), uint8(sequence));
        bytes memory parties = abi.encodePacked(hex"c420", previous, new bytes(44));
        bytes memory model =
            abi.encodePacked(hex"c420", bytes32("base"), hex"c420", sha256(MANIFEST));
        check(block.chainid == 31337, "what the head says");
        return bytes.concat(head, place, parties, model);
    }

    function _stand(Reminder memory reminder, PostedHeader memory here, Book memory book) private {
        ChannelProof memory earlier = showChannel(book, 0);
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        court.stand(reminder, here, earlier);
        vm.stopPrank();
    }

    function _force(Book memory book) private {
        Receipt memory receipt = receiptOf(book.channels[0]);
        vm.startPrank(watcher);
        token.approve(address(settlement), DEMAND_FEE);
        settlement.force(book.configs[0], receipt, book.signatures[0]);
        vm.stopPrank();
    }
}
