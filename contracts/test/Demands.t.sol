// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DemandState, IDemands, Part, Question} from "../src/interfaces/IDemands.sol";
import {IHeaders} from "../src/interfaces/IHeaders.sol";
import {Board, IOffice} from "../src/interfaces/IOffice.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {AccountProof, ChannelProof, EntryLeaf} from "../src/types/Leaves.sol";
import {Promise} from "../src/types/Receipt.sol";
import {Books} from "./Books.sol";

/// @title What is demanded is shown or convicts, and who is honest can always show it.
contract DemandsTest is Books {
    uint128 private constant MOST = 1_000;

    function test_an_honest_aggregator_answers_every_question(
        uint8 part,
        uint64 index,
        uint64 entry
    ) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Question memory question = Question(Part(part % 3), index % 6, 0);
        if (question.part == Part.ENTRY) question.entry = entry % 6;
        _demand(here, question);
        uint256 had = token.balanceOf(address(this));
        vm.warp(here.postedAt + WINDOW);
        AccountProof memory account = showAccount(book, 0);
        vm.expectPartialRevert(IHeaders.StillOpen.selector);
        settlement.claim(here, account.leaf, account.proof);

        _answer(here, book, question);
        checkEqual(token.balanceOf(address(this)) - had, DEMAND_FEE / 2, "half is the answerer's");
        checkEqual(token.balanceOf(address(court)), DEMAND_FEE - DEMAND_FEE / 2, "half is lost");
        vm.expectPartialRevert(IDemands.NoSuchDemand.selector);
        _answer(here, book, question);
        vm.expectPartialRevert(IHeaders.StillOpen.selector); // held: the answer came late
        settlement.claim(here, account.leaf, account.proof);
        vm.expectPartialRevert(IDemands.NotDue.selector);
        court.release(here, question);
        vm.warp(block.timestamp + ANSWER_TIME);
        court.release(here, question);
        settlement.claim(here, account.leaf, account.proof);
    }

    function test_an_answer_early_in_the_window_holds_nothing_up(uint64 waited) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Question memory question = Question(Part.CHANNEL, 1, 0);
        _demand(here, question);
        vm.warp(here.postedAt + bound(waited, 0, WINDOW - ANSWER_TIME));
        _answer(here, book, question);
        checkEqual(settlement.firstDemanded(), type(uint64).max, "nothing blocks it");
    }

    function test_what_is_not_shown_in_time_convicts(uint8 part, uint64 waited) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Question memory question = Question(Part(part % 3), 1, 0);
        _demand(here, question);
        vm.warp(here.postedAt + bound(waited, 0, 3 * uint256(ANSWER_TIME)));
        bool late = block.timestamp > here.postedAt + ANSWER_TIME;
        uint256 had = token.balanceOf(watcher);
        if (!late) vm.expectPartialRevert(IDemands.NotDue.selector);
        court.convictDefault(here, nothing(), question);
        checkEqual(
            token.balanceOf(watcher) - had,
            late ? BOND / 2 + DEMAND_FEE : 0,
            "whoever demanded has its fee back, and the reward"
        );
        checkEqual(settlement.lastEpoch(), late ? 0 : 1, "taken back");
        if (late) return;
        _answer(here, book, question);
    }

    function test_a_lie_cannot_be_answered(uint8 how) external {
        (Book memory book,) = _begin();
        how = how % 6;
        Question memory question = Question(Part.CHANNEL, 0, 0);
        if (how == 0) book.channels[0].evidence = bytes32("evidence");
        if (how == 1) book.channels[0].cumulative += 100 * MOST;
        if (how == 2) {
            (book.accounts[0].amount, question.part) = (book.accounts[0].amount + 9, Part.ACCOUNT);
        }
        if (how > 2) {
            EntryLeaf memory entry = book.entries[0][0];
            if (how == 3) entry.amount++;
            else if (how == 4) entry.place++;
            else entry.channelIndex++;
            total(book, 0);
            question.part = Part.ENTRY;
        }
        book.signatures[0] = signed(OPERATOR_KEY, digestOf(receiptOf(book.channels[0])));
        if (how == 1) book.channels[0].evidence = keccak256(book.signatures[0]);
        PostedHeader memory lying = PostedHeader(headerOf(book), 0);
        lying.header.payoutTotal = settlement.payoutTotal() + 1;
        lying = post(lying.header);
        _demand(lying, question);
        try this.answerAs(lying, book, question) {
            check(false, "a lie was answered");
        } catch {}
        vm.warp(block.timestamp + ANSWER_TIME + 1);
        court.convictDefault(lying, headers[0], question);
        checkEqual(settlement.lastEpoch(), 1, "back to the header before");
    }

    function test_nothing_is_demanded_twice_or_of_a_final_header(uint64 waited) external {
        (Book memory book, PostedHeader memory here) = _begin();
        Question memory question = Question(Part.ACCOUNT, 2, 0);
        _demand(here, question);
        vm.expectPartialRevert(IDemands.DemandedBefore.selector);
        court.demand(here, question);
        vm.expectRevert(abi.encodePacked(IDemands.NoAnswer.selector)); // one name for one question
        court.demand(here, Question(Part.ACCOUNT, 2, 1));
        _answer(here, book, question);
        vm.warp(here.postedAt + WINDOW + waited % WINDOW);
        vm.expectPartialRevert(IDemands.TooLate.selector);
        court.demand(here, Question(Part.ACCOUNT, 3, 0));
    }

    function test_what_is_held_can_be_asked_more_for_one_more_window_and_no_longer() external {
        (Book memory book, PostedHeader memory here) = _begin();
        uint64 end = here.postedAt + 2 * WINDOW;
        vm.warp(here.postedAt + WINDOW - 1);
        uint64 index = 0;
        _demand(here, Question(Part.ACCOUNT, index, 0));
        for (; block.timestamp + ANSWER_TIME < end; index++) {
            vm.warp(block.timestamp + ANSWER_TIME / 2);
            _answer(here, book, Question(Part.ACCOUNT, index, 0)); // which holds it
            vm.warp(block.timestamp + ANSWER_TIME / 2);
            _demand(here, Question(Part.ACCOUNT, index + 1, 0));
        }
        check(!settlement.isFinal(here), "asked about for two windows");
        checkEqual(index, 5, "as often as answer times fit");
        vm.warp(end);
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        vm.expectRevert(abi.encodeWithSelector(IDemands.TooLate.selector, end));
        court.demand(here, Question(Part.CHANNEL, 0, 0));
        vm.stopPrank();
        _answer(here, book, Question(Part.ACCOUNT, index, 0));
        vm.warp(end + ANSWER_TIME);
        for (uint64 i = 0; i <= index; i++) {
            court.release(here, Question(Part.ACCOUNT, i, 0));
        }
        check(settlement.isFinal(here), "an answer time later it is final");
    }

    function test_a_demand_blocks_its_header_and_later_ones_and_no_earlier(uint8 order) external {
        (Book memory book, PostedHeader memory first) = _begin();
        PostedHeader memory second = _next(book);
        PostedHeader memory third = _next(book);
        Question memory question = Question(Part.CHANNEL, 0, 0);
        bool ascending = order % 2 == 0;
        _demand(ascending ? second : third, question);
        _demand(ascending ? third : second, question);
        checkEqual(settlement.firstDemanded(), 2, "the lowest");
        vm.warp(third.postedAt + WINDOW);
        check(settlement.isFinal(first), "no earlier one");
        check(!settlement.isFinal(second) && !settlement.isFinal(third), "it and later ones");
        vm.warp(third.postedAt + WINDOW - ANSWER_TIME);
        _answer(second, book, question);
        checkEqual(settlement.firstDemanded(), 3, "the next one");
        _answer(third, book, question);
        checkEqual(settlement.firstDemanded(), type(uint64).max, "none");
    }

    function test_the_next_demanded_header_is_found_however_far(uint16 far) external {
        (Book memory book, PostedHeader memory first) = _begin();
        Question memory question = Question(Part.CHANNEL, 0, 0);
        _demand(first, question);
        uint256 count = bound(far, 1, 600);
        if (far % 8 != 0) count = count % 5 + 1; // a long way takes long
        PostedHeader memory last;
        for (uint256 i = 0; i < count; i++) {
            last = _next(book);
        }
        _demand(last, question);
        _answer(first, book, question);
        checkEqual(settlement.firstDemanded(), 1 + count, "the last one");
    }

    function test_demands_of_headers_that_fell_come_back_and_block_nothing() external {
        (Book memory book, PostedHeader memory first) = _begin();
        book.channels[0].channelId = book.channels[1].channelId;
        PostedHeader memory lying = _next(book);
        Question memory question = Question(Part.ACCOUNT, 0, 0);
        _demand(lying, question);
        uint256 had = token.balanceOf(watcher);
        vm.expectPartialRevert(IDemands.StillPosted.selector);
        court.refund(lying, question);
        court.proveChannelTwice(lying, first, showChannel(book, 0), showChannel(book, 1));
        checkEqual(settlement.firstDemanded(), type(uint64).max, "nothing is blocked");
        court.refund(lying, question);
        checkEqual(token.balanceOf(watcher) - had, DEMAND_FEE, "the fee is back");
        vm.expectPartialRevert(IDemands.NoSuchDemand.selector);
        court.refund(lying, question);
    }

    function test_many_demands_at_once_give_more_time(uint8 count) external {
        (, PostedHeader memory here) = _begin();
        count = uint8(bound(count, 1, 130));
        Question memory question;
        for (uint64 i = 0; i < count; i++) {
            question = Question(Part.ACCOUNT, 100 + i, 0);
            _demand(here, question);
        }
        (, uint64 until,) = court.demands(court.demandId(here, question));
        checkEqual(
            until, block.timestamp + ANSWER_TIME * (1 + uint64(count - 1) / 64), "64 at a time"
        );
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev From outside, so that it can be tried.
    function answerAs(PostedHeader calldata here, Book calldata book, Question calldata question)
        external
    {
        _answer(here, book, question);
    }

    function _begin() private returns (Book memory book, PostedHeader memory here) {
        fundAll(3 * uint128(NUM_ACCOUNTS) * MOST);
        book = write(amountsOf(1, MOST), 1);
        here = post(book);
    }

    function _next(Book memory book) private returns (PostedHeader memory posted) {
        posted.header = headerOf(book);
        posted.header.payoutTotal = settlement.payoutTotal() + 1;
        return post(posted.header);
    }

    function _demand(PostedHeader memory here, Question memory question) private {
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        court.demand(here, question);
        vm.stopPrank();
    }

    function _answer(PostedHeader memory here, Book memory book, Question memory question)
        private
    {
        uint256 i = question.index;
        uint256 k = question.entry;
        AccountProof memory none;
        if (question.part == Part.CHANNEL && i < NUM_CHANNELS) {
            court.answerChannel(here, showChannel(book, i), book.configs[i], book.signatures[i]);
        } else if (question.part == Part.CHANNEL) {
            court.answerAbsent(here, question, none, openChannels(book));
        } else if (i >= NUM_ACCOUNTS) {
            court.answerAbsent(here, question, none, openAccounts(book));
        } else if (question.part == Part.ACCOUNT) {
            court.answerAccount(here, showAccount(book, i), openEntries(book, i));
        } else if (k >= NUM_CHANNELS) {
            court.answerAbsent(here, question, showAccount(book, i), openEntries(book, i));
        } else {
            _answerEntry(here, book, i, k);
        }
    }

    function _answerEntry(PostedHeader memory here, Book memory book, uint256 i, uint256 k)
        private
    {
        court.answerEntry(
            here,
            showAccount(book, i),
            showEntry(book, i, k),
            showChannel(book, k),
            showPayout(book, k, i)
        );
    }
}
