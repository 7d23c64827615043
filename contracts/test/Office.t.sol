// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Settlement} from "../src/Settlement.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {Board, IOffice, Terms} from "../src/interfaces/IOffice.sol";
import {Header, PostedHeader} from "../src/types/Header.sol";
import {Books} from "./Books.sol";

/// @title How the aggregator's office changes hands, and what becomes of its bond.
contract OfficeTest is Books {
    address private constant NEXT = address(0x2ED);

    function test_terms_that_do_not_fit_together_are_refused(
        uint64 window,
        uint64 answerTime,
        uint64 silence
    ) external {
        window = uint64(bound(window, 0, 100));
        answerTime = uint64(bound(answerTime, 0, 100));
        silence = uint64(bound(silence, 0, 100));
        bool fits = answerTime > 0 && window >= 2 * answerTime && silence >= window;
        try new Settlement(
            _board(aggregator),
            IChannels(CHANNELS),
            token,
            Terms(window, answerTime, silence, 1, 1, 1)
        ) {
            check(fits, "taken, so they fit");
        } catch {
            check(!fits, "refused, so they do not");
        }
    }

    function test_a_window_that_is_too_short_for_a_search_is_for_development_chains(
        uint64 chain,
        uint64 window
    ) external {
        window = uint64(bound(window, 2 * ANSWER_TIME, 60 * ANSWER_TIME));
        vm.chainId(bound(chain, 1, type(uint64).max - 1));
        bool isForDevelopment = block.chainid == 31337 || block.chainid == 1337;
        if (!isForDevelopment && window < 48 * ANSWER_TIME) {
            vm.expectRevert(abi.encodePacked(IOffice.BadTerms.selector));
        }
        new Settlement(
            _board(aggregator),
            IChannels(CHANNELS),
            token,
            Terms(window, ANSWER_TIME, 60 * ANSWER_TIME, 1, 1, 1)
        );
    }

    function test_a_board_waits_for_its_timelock_and_for_the_last_header(
        uint64 postedAfter,
        uint64 waited
    ) external {
        fundAll(10_000);
        vm.expectRevert(abi.encodeWithSelector(IOffice.NotOwner.selector, address(this)));
        settlement.propose(_board(NEXT));
        vm.prank(owner);
        settlement.propose(_board(NEXT));
        uint64 effectiveAt = settlement.effectiveAt();
        checkEqual(effectiveAt, block.timestamp + TIMELOCK, "after the timelock");

        vm.warp(block.timestamp + bound(postedAfter, 0, TIMELOCK - 1));
        PostedHeader memory posted = post(write(amountsOf(1, 100), 1));
        vm.warp(block.timestamp + bound(waited, 0, 2 * TIMELOCK));
        bool ready = block.timestamp >= effectiveAt && block.timestamp >= posted.postedAt + WINDOW;
        if (block.timestamp < effectiveAt) vm.expectPartialRevert(IOffice.NotEffective.selector);
        else if (!ready) vm.expectPartialRevert(IOffice.NotFinal.selector);
        settlement.install(_board(NEXT));
        check(settlement.aggregator() == (ready ? NEXT : aggregator), "who is aggregator");
        checkEqual(settlement.credit(aggregator), ready ? BOND : 0, "the old bond is released");
        if (!ready) return;
        uint256 before = token.balanceOf(aggregator);
        settlement.collect(aggregator);
        checkEqual(token.balanceOf(aggregator) - before, BOND, "and paid once");
        vm.expectPartialRevert(IOffice.NothingToCollect.selector);
        settlement.collect(aggregator);
    }

    function test_from_the_end_of_the_timelock_the_old_board_posts_no_more() external {
        fundAll(10_000);
        Header memory header = headerOf(write(amountsOf(1, 100), 1));
        vm.prank(owner);
        settlement.propose(_board(NEXT));
        vm.warp(settlement.effectiveAt());
        vm.expectRevert(abi.encodePacked(IOffice.OfficeFrozen.selector));
        vm.prank(aggregator);
        settlement.post(header, new bytes[](0), anywhere());
        vm.expectRevert(abi.encodePacked(IOffice.NotProposed.selector));
        settlement.install(_board(aggregator));
        settlement.install(_board(NEXT));
        vm.expectPartialRevert(IOffice.BondMissing.selector);
        vm.prank(NEXT);
        settlement.post(header, new bytes[](0), anywhere());
        fundBond();
        vm.prank(NEXT);
        settlement.post(header, new bytes[](0), anywhere());
    }

    function test_the_same_aggregator_keeps_its_bond_when_the_witnesses_change() external {
        vm.prank(owner);
        settlement.propose(_board(aggregator));
        vm.warp(settlement.effectiveAt());
        settlement.install(_board(aggregator));
        checkEqual(settlement.bond(), BOND, "it stays");
        checkEqual(settlement.credit(aggregator), 0, "and is not released besides");
    }

    function test_who_is_silent_is_dismissed_and_keeps_its_bond(uint64 waited, bool saysAlive)
        external
    {
        if (saysAlive) {
            vm.warp(block.timestamp + SILENCE / 2);
            vm.prank(aggregator);
            settlement.alive();
        }
        waited = uint64(bound(waited, 0, 2 * SILENCE));
        vm.warp(block.timestamp + waited);
        bool silent = waited > SILENCE;
        if (!silent) vm.expectPartialRevert(IOffice.NotSilent.selector);
        settlement.dismiss();
        check((settlement.aggregator() == address(0)) == silent, "who is silent is dismissed");
        checkEqual(settlement.credit(aggregator), silent ? BOND : 0, "it did not lie");
        checkEqual(settlement.bond(), silent ? 0 : BOND, "the bond is not there twice");
    }

    function test_a_board_with_impossible_witnesses_is_refused(
        uint8 count,
        uint8 quorum,
        uint8 same
    ) external {
        count = uint8(bound(count, 0, 18));
        Board memory board = Board(owner, NEXT, new address[](count), quorum % 20);
        for (uint256 i = 0; i < count; i++) {
            board.witnesses[i] = address(uint160(100 + i));
        }
        bool doubled = count > 1 && same % 3 == 0;
        if (doubled) board.witnesses[count - 1] = board.witnesses[0];
        bool good = count <= 16 && board.quorum <= count && !doubled;
        if (!good) vm.expectRevert(abi.encodePacked(IOffice.BadBoard.selector));
        vm.prank(owner);
        settlement.propose(board);
    }

    function _board(address next) private view returns (Board memory) {
        return Board(owner, next, new address[](0), 0);
    }
}
