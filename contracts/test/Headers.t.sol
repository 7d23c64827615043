// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Settlement} from "../src/Settlement.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {IHeaders} from "../src/interfaces/IHeaders.sol";
import {Board, IOffice, Terms} from "../src/interfaces/IOffice.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {Anchor, Header, HeaderHash, PostedHeader} from "../src/types/Header.sol";
import {AccountProof} from "../src/types/Leaves.sol";
import {Books} from "./Books.sol";

/// @title What a header must keep to be posted, and who is paid under it when.
contract HeadersTest is Books {
    uint128 private constant MOST = 1_000;
    uint128 private constant FUND = 3 * uint128(NUM_ACCOUNTS) * MOST;

    function test_a_header_is_taken_when_it_awards_no_more_than_was_received(
        uint256 seed,
        uint128 received
    ) external {
        Header memory header = headerOf(write(amountsOf(seed, MOST), 1));
        received = uint128(bound(received, 1, 2 * header.payoutTotal));
        earn(received);
        dollars.mint(address(settlement), MOST); // gifts and bonds do not count
        bool fits = header.payoutTotal <= received;
        if (!fits) vm.expectPartialRevert(IHeaders.PayoutExceedsReceived.selector);
        vm.prank(aggregator);
        settlement.post(header, new bytes[](0), anywhere());
        checkEqual(settlement.lastEpoch(), fits ? 1 : 0, "the end of the chain");
    }

    function test_headers_follow_one_another_within_bounds(
        uint64 epoch,
        uint64 numReceipts,
        uint128 total,
        HeaderHash previous
    ) external {
        fundAll(FUND);
        PostedHeader memory first = post(write(amountsOf(1, MOST), 1));
        Header memory header = headerOf(write(amountsOf(1, MOST), 2));
        header.numReceipts = numReceipts % 5 == 0 ? numReceipts : numReceipts % 1_100;
        header.payoutTotal = first.header.payoutTotal + total % 3 - 1;
        if (epoch % 4 == 0) header.epoch = epoch;
        if (epoch % 4 == 1) header.previous = previous;
        bool follows = header.epoch == 2 && HeaderHash.unwrap(header.previous) == hashOf(first)
            && header.numReceipts > 1 && header.numReceipts <= 1_001
            && header.payoutTotal > first.header.payoutTotal;
        vm.prank(aggregator);
        try settlement.post(header, new bytes[](0), anywhere()) {
            check(follows, "taken, so it follows");
        } catch {
            check(!follows, "refused, so it does not follow");
        }
    }

    function test_a_header_is_posted_on_its_branch_and_in_time_or_not_at_all(
        uint64 height,
        uint64 number,
        uint64 notAfter,
        bool another
    ) external {
        fundAll(FUND);
        Header memory header = headerOf(write(amountsOf(1, MOST), 1));
        height = uint64(bound(height, 300, 10_000));
        vm.roll(height);
        number = uint64(bound(number, height - 300, height + 10));
        notAfter = uint64(bound(notAfter, block.timestamp - 2, block.timestamp + 2));
        bytes32 hash = blockhash(number);
        if (another) hash = keccak256(abi.encode(hash));
        vm.prank(aggregator);
        if (notAfter < block.timestamp) vm.expectPartialRevert(IHeaders.Expired.selector);
        else if (another) vm.expectPartialRevert(IHeaders.WrongBranch.selector);
        settlement.post(header, new bytes[](0), Anchor(number, hash, notAfter));
    }

    function test_nobody_but_a_bonded_aggregator_posts(address stranger) external {
        fundAll(FUND);
        Header memory header = headerOf(write(amountsOf(1, MOST), 1));
        if (stranger != aggregator) {
            vm.expectRevert(abi.encodeWithSelector(IOffice.NotAggregator.selector, stranger));
            vm.prank(stranger);
            settlement.post(header, new bytes[](0), anywhere());
        }
        Settlement poor = new Settlement(
            Board(owner, aggregator, new address[](0), 0),
            IChannels(CHANNELS),
            token,
            Terms(WINDOW, ANSWER_TIME, SILENCE, TIMELOCK, BOND, DEMAND_FEE)
        );
        vm.expectRevert(abi.encodeWithSelector(IOffice.BondMissing.selector, 0, BOND));
        vm.prank(aggregator);
        poor.post(header, new bytes[](0), anywhere());
    }

    function test_a_quorum_of_different_witnesses_signed(uint8 quorum, uint8 signers, bool twice)
        external
    {
        quorum = uint8(bound(quorum, 1, 3));
        signers = uint8(bound(signers, 0, 3));
        uint256[] memory keys = new uint256[](3);
        address[] memory witnesses = new address[](3);
        (keys[0], keys[1], keys[2]) = (71, 72, 73);
        for (uint256 i = 0; i < 3; i++) {
            for (uint256 j = i; j > 0 && vm.addr(keys[j]) < vm.addr(keys[j - 1]); j--) {
                (keys[j], keys[j - 1]) = (keys[j - 1], keys[j]);
            }
        }
        for (uint256 i = 0; i < 3; i++) {
            witnesses[i] = vm.addr(keys[i]);
        }
        _install(Board(owner, aggregator, witnesses, quorum));
        fundAll(FUND);
        Header memory header = headerOf(write(amountsOf(1, MOST), 1));
        bytes32 digest = digestOfHeader(keccak256(abi.encode(header)));
        bytes[] memory signatures = new bytes[](signers);
        for (uint256 i = 0; i < signers; i++) {
            signatures[i] = signed(keys[twice ? 0 : i], digest);
        }
        bool enough = signers >= quorum && (!twice || quorum == 1);
        if (!enough) vm.expectPartialRevert(IHeaders.WitnessesMissing.selector);
        vm.prank(aggregator);
        settlement.post(header, signatures, anywhere());
        checkEqual(settlement.lastEpoch(), enough ? 1 : 0, "as many as are asked for");
    }

    function test_an_account_is_paid_what_it_was_not_paid_yet_when_the_window_is_over(
        uint256 seed,
        uint64 waited
    ) external {
        fundAll(FUND);
        uint128[][] memory amounts = amountsOf(seed, MOST);
        Book memory book = write(amounts, 1);
        PostedHeader memory posted = post(book);
        AccountProof memory proof = showAccount(book, seed % NUM_ACCOUNTS);
        vm.warp(posted.postedAt + bound(waited, 0, WINDOW - 1));
        vm.expectPartialRevert(IHeaders.StillOpen.selector);
        settlement.claim(posted, proof.leaf, proof.proof);
        vm.warp(posted.postedAt + WINDOW);
        settlement.claim(posted, proof.leaf, proof.proof);
        checkEqual(token.balanceOf(proof.leaf.account), proof.leaf.amount, "all of it");
        vm.expectPartialRevert(IHeaders.NothingToClaim.selector);
        settlement.claim(posted, proof.leaf, proof.proof);

        amounts[0][seed % NUM_ACCOUNTS] += 7;
        book = write(amounts, 2);
        PostedHeader memory second = post(book);
        proof = showAccount(book, seed % NUM_ACCOUNTS);
        vm.warp(second.postedAt + WINDOW);
        settlement.claim(second, proof.leaf, proof.proof);
        checkEqual(token.balanceOf(proof.leaf.account), proof.leaf.amount, "the difference");
        checkEqual(settlement.totalPaid(), proof.leaf.amount, "and the books say so");
    }

    function test_only_a_header_as_it_was_posted_pays(uint256 part, uint64 word) external {
        fundAll(FUND);
        Book memory book = write(amountsOf(1, MOST), 1);
        PostedHeader memory posted = post(book);
        vm.warp(posted.postedAt + WINDOW);
        AccountProof memory proof = showAccount(book, 0);
        PostedHeader memory changed = abi.decode(abi.encode(posted), (PostedHeader));
        word = uint64(bound(word, 1, type(uint64).max / 2));
        part = part % 8;
        if (part == 0) changed.header.epoch += word;
        else if (part == 1) changed.header.previous = HeaderHash.wrap(bytes32(uint256(word)));
        else if (part == 2) changed.header.receiptsRoot ^= bytes32(uint256(word));
        else if (part == 3) changed.header.numReceipts += word;
        else if (part == 4) changed.header.payoutRoot ^= bytes32(uint256(word));
        else if (part == 5) changed.header.payoutTotal += word;
        else if (part == 6) changed.header.channelsRoot ^= bytes32(uint256(word));
        else changed.postedAt -= uint64(bound(word, 1, changed.postedAt));
        vm.expectPartialRevert(IHeaders.UnknownHeader.selector);
        settlement.claim(changed, proof.leaf, proof.proof);
        settlement.claim(posted, proof.leaf, proof.proof);
    }

    function test_a_proof_pays_its_own_account_its_own_amount(uint256 part, uint128 more)
        external
    {
        fundAll(FUND);
        Book memory book = write(amountsOf(1, MOST), 1);
        PostedHeader memory posted = post(book);
        vm.warp(posted.postedAt + WINDOW);
        AccountProof memory proof = showAccount(book, 0);
        if (part % 3 == 0) proof.leaf.account = watcher;
        else if (part % 3 == 1) proof.leaf.amount += uint128(bound(more, 1, MOST));
        else proof.leaf.entries ^= bytes32(uint256(bound(more, 1, MOST)));
        vm.expectRevert(abi.encodePacked(SumTree.BadProof.selector));
        settlement.claim(posted, proof.leaf, proof.proof);
    }

    function _install(Board memory board) private {
        vm.prank(owner);
        settlement.propose(board);
        vm.warp(block.timestamp + TIMELOCK);
        settlement.install(board);
    }
}
