// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IHeaders} from "../src/interfaces/IHeaders.sol";
import {IProofs} from "../src/interfaces/IProofs.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {
    AccountProof,
    ChannelLeaf,
    ChannelProof,
    EntryLeaf,
    PayoutLeaf
} from "../src/types/Leaves.sol";
import {Books} from "./Books.sol";
import {Trees} from "./Trees.sol";

/// @title Each lie that a header can tell: the proof that shows it convicts, and the same proof
/// about a header without it does not.
contract CourtTest is Books {
    uint128 private constant MOST = 1_000;
    address private constant THIEF = address(0xBAD);

    uint128[][] private _amounts;

    // ── the lies ─────────────────────────────────────────────────────────────────────────────────

    function test_unfunded(uint256 seed) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 c = seed % NUM_CHANNELS;
        _expect(IProofs.NotALie.selector);
        court.proveUnfunded(honest, nothing(), showChannel(book, c));
        book.payouts[c][0].amount += 16 * MOST;
        sign(book, c, 2);
        PostedHeader memory lying = post(book);
        court.proveUnfunded(lying, honest, showChannel(book, c));
        _tookBack(1);
    }

    function test_forged_by_another(uint256 seed, uint256 key) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 c = seed % NUM_CHANNELS;
        _expect(IProofs.NotALie.selector);
        court.proveForged(
            honest, nothing(), showChannel(book, c), book.configs[c], book.signatures[c]
        );
        key = bound(key, 1, 2 ** 128);
        if (key == OPERATOR_KEY) key++;
        sign(book, c, 2);
        book.signatures[c] = signed(key, digestOf(receiptOf(book.channels[c])));
        book.channels[c].evidence = keccak256(book.signatures[c]);
        PostedHeader memory lying = _postMore(book);
        _expect(SumTree.BadProof.selector); // another signature than the leaf's
        court.proveForged(lying, honest, showChannel(book, c), book.configs[c], new bytes(65));
        court.proveForged(lying, honest, showChannel(book, c), book.configs[c], book.signatures[c]);
        _tookBack(1);
    }

    function test_forged_channel(uint256 seed, uint8 rule) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        ChannelConfig memory config = channel(payer, 99);
        if (rule % 2 == 0) config.receiver = THIEF;
        else config.token = address(collector);
        _expect(SumTree.BadProof.selector); // not the config of this channel
        court.proveForged(honest, nothing(), showChannel(book, 0), config, "");
        book.configs[0] = config;
        book.channels[0].channelId = channels.getChannelId(config);
        resign(book, 0);
        PostedHeader memory lying = _postMore(book);
        court.proveForged(lying, honest, showChannel(book, 0), config, "");
        _tookBack(1);
    }

    function test_missummed_trees(uint256 seed, uint128 more, bool ofChannels) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        _expect(IProofs.NotALie.selector);
        court.proveMissummed(honest, nothing(), openAccounts(book));
        _expect(IProofs.NotALie.selector);
        court.proveMissummed(honest, nothing(), openChannels(book));
        more = uint128(bound(more, 2, MOST));
        book.accounts[0].amount += more;
        if (ofChannels) book.channels[0].cumulative += 2 * more;
        PostedHeader memory lying = _postMore(book);
        _expect(SumTree.BadProof.selector);
        court.proveMissummed(lying, honest, openPayouts(book, 0));
        court.proveMissummed(lying, honest, openAccounts(book));
        _tookBack(1);
    }

    function test_a_tree_that_is_said_to_be_empty(uint256 seed, bytes32 root) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        PostedHeader memory lying = PostedHeader(headerOf(book), 0);
        lying.header.payoutTotal++;
        SumTree.Opening memory empty = SumTree.Opening(0, lying.header.payoutTotal, root);
        lying.header.channelsRoot = Trees.commitment(empty);
        lying = post(lying.header);
        court.proveMissummed(lying, honest, empty);
        _tookBack(1);
    }

    function test_missummed_channel(uint256 seed, uint128 more) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 c = seed % NUM_CHANNELS;
        _expect(IProofs.NotALie.selector);
        court.proveChannelMissummed(honest, nothing(), showChannel(book, c), openPayouts(book, c));
        book.channels[c].cumulative += uint128(bound(more, 1, MOST));
        book.channels[c].sequence++;
        resign(book, c);
        PostedHeader memory lying = _postMore(book);
        _expect(SumTree.BadProof.selector);
        court.proveChannelMissummed(
            lying, honest, showChannel(book, c), openPayouts(book, (c + 1) % NUM_CHANNELS)
        );
        court.proveChannelMissummed(lying, honest, showChannel(book, c), openPayouts(book, c));
        _tookBack(1);
    }

    function test_missummed_account(uint256 seed, uint128 more) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 a = seed % NUM_ACCOUNTS;
        _expect(IProofs.NotALie.selector);
        court.proveAccountMissummed(honest, nothing(), showAccount(book, a), openEntries(book, a));
        book.accounts[a].amount += uint128(bound(more, 1, MOST));
        PostedHeader memory lying = _postMore(book);
        court.proveAccountMissummed(lying, honest, showAccount(book, a), openEntries(book, a));
        _tookBack(1);
    }

    function test_unbacked(uint256 seed, uint8 how) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 a = seed % NUM_ACCOUNTS;
        uint256 c = seed % NUM_CHANNELS;
        _expect(IProofs.NotALie.selector);
        _proveUnbacked(honest, book, a, c);
        EntryLeaf memory entry = book.entries[a][c];
        how = how % 5;
        if (how == 0) entry.amount++;
        else if (how == 1) entry.channelId = book.channels[(c + 1) % NUM_CHANNELS].channelId;
        else if (how == 2) entry.channelIndex = uint64(NUM_CHANNELS + seed % 9);
        else if (how == 3) entry.place = uint64(NUM_ACCOUNTS + seed % 9);
        else book.accounts[a].account = THIEF;
        total(book, a);
        PostedHeader memory lying = _postMore(book);
        _expect(SumTree.BadProof.selector); // what stands elsewhere shows nothing
        court.proveUnbacked(
            lying,
            honest,
            showAccount(book, a),
            showEntry(book, a, (c + 1) % NUM_CHANNELS),
            showChannel(book, c),
            showPayout(book, c, a)
        );
        _proveUnbacked(lying, book, a, c);
        _tookBack(1);
    }

    function test_channel_twice(uint256 seed) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 c = seed % NUM_CHANNELS;
        uint256 d = (c + 1) % NUM_CHANNELS;
        _expect(IProofs.NotALie.selector);
        court.proveChannelTwice(honest, nothing(), showChannel(book, c), showChannel(book, c));
        _expect(IProofs.NotALie.selector);
        court.proveChannelTwice(honest, nothing(), showChannel(book, c), showChannel(book, d));
        book.channels[c].channelId = book.channels[d].channelId;
        PostedHeader memory lying = _postMore(book);
        court.proveChannelTwice(lying, honest, showChannel(book, c), showChannel(book, d));
        _tookBack(1);
    }

    function test_account_twice(uint256 seed) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 a = seed % NUM_ACCOUNTS;
        uint256 b = (a + 1) % NUM_ACCOUNTS;
        _expect(IProofs.NotALie.selector);
        court.proveAccountTwice(honest, nothing(), showAccount(book, a), showAccount(book, a));
        _expect(IProofs.NotALie.selector);
        court.proveAccountTwice(honest, nothing(), showAccount(book, a), showAccount(book, b));
        book.accounts[a].account = book.accounts[b].account;
        PostedHeader memory lying = _postMore(book);
        court.proveAccountTwice(lying, honest, showAccount(book, a), showAccount(book, b));
        _tookBack(1);
    }

    function test_entry_twice(uint256 seed) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        uint256 a = seed % NUM_ACCOUNTS;
        AccountProof memory account = showAccount(book, a);
        _expect(IProofs.NotALie.selector);
        court.proveEntryTwice(
            honest, nothing(), account, showEntry(book, a, 0), showEntry(book, a, 0)
        );
        _expect(IProofs.NotALie.selector);
        court.proveEntryTwice(
            honest, nothing(), account, showEntry(book, a, 0), showEntry(book, a, 1)
        );
        book.entries[a][1].channelId = book.entries[a][0].channelId;
        total(book, a);
        PostedHeader memory lying = _postMore(book);
        court.proveEntryTwice(
            lying, honest, showAccount(book, a), showEntry(book, a, 0), showEntry(book, a, 1)
        );
        _tookBack(1);
    }

    function test_taken_back(uint256 seed, uint8 how) external {
        (Book memory before, PostedHeader memory honest) = _begin(seed);
        Book memory book = write(_amounts, 2);
        uint256 c = seed % NUM_CHANNELS;
        PostedHeader memory second = _postMore(book);
        _expect(IProofs.NotALie.selector);
        court.proveTakenBack(second, honest, showChannel(before, c), showChannel(book, c));
        Book memory third = write(_amounts, 3);
        how = how % 5;
        if (how == 0) sign(third, c, 1);
        else if (how == 1) (third.channels[c].sequence, third.channels[c].body) = (2, bytes32("b"));
        else if (how == 2) third.channels[c].cumulative--;
        else if (how == 3) third.channels[c].channelId = third.channels[(c + 1) % 3].channelId;
        else c = NUM_CHANNELS - 1;
        if (how == 4) third.channels = _firstTwo(third.channels);
        PostedHeader memory lying = _postMore(third);
        _expect(IProofs.NotALie.selector);
        court.proveTakenBack(
            lying, second, showChannel(book, c == 0 ? 1 : 0), showChannel(third, c == 0 ? 1 : 0)
        );
        court.proveTakenBack(
            lying, second, showChannel(book, c), showChannel(third, how == 4 ? 0 : c)
        );
        _tookBack(2);
    }

    function test_lowered(uint256 seed, uint8 how) external {
        (Book memory before,) = _begin(seed);
        Book memory book = write(_amounts, 2);
        uint256 c = seed % NUM_CHANNELS;
        how = how % 3;
        if (how == 0) (book.payouts[c][3].amount, book.payouts[c][0].amount) = (0, 4 * MOST);
        else if (how == 1) book.payouts[c][3].account = THIEF;
        else book.payouts[c] = _firstTwo(book.payouts[c]);
        sign(book, c, 3);
        PostedHeader memory lying = _postMore(book);
        _expect(IProofs.NotALie.selector);
        _proveLowered(lying, before, book, (c + 1) % NUM_CHANNELS);
        _proveLowered(lying, before, book, c);
        _tookBack(1);
    }

    // ── who may convict, what, and until when ────────────────────────────────────────────────────

    function test_a_final_header_stays(uint256 seed, uint64 waited) external {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        book.channels[0].cumulative += 100 * MOST;
        PostedHeader memory lying = PostedHeader(headerOf(book), 0);
        lying.header.payoutTotal = honest.header.payoutTotal + 1;
        lying = post(lying.header);
        waited = uint64(bound(waited, 0, 2 * WINDOW));
        vm.warp(block.timestamp + waited);
        if (waited >= WINDOW) _expect(IHeaders.StillOpen.selector);
        court.proveUnfunded(lying, honest, showChannel(book, 0));
        checkEqual(settlement.lastEpoch(), waited >= WINDOW ? 2 : 1, "final after the window");
    }

    function test_half_of_the_bond_is_the_provers_and_the_other_half_nobodys(uint256 seed)
        external
    {
        (Book memory book, PostedHeader memory honest) = _begin(seed);
        book.channels[0].cumulative += 100 * MOST;
        PostedHeader memory lying = PostedHeader(headerOf(book), 0);
        lying.header.payoutTotal = honest.header.payoutTotal + 1;
        lying = post(lying.header);
        uint256 held = token.balanceOf(address(settlement));
        court.proveUnfunded(lying, honest, showChannel(book, 0));
        checkEqual(token.balanceOf(address(this)), BOND / 2, "half of it");
        checkEqual(token.balanceOf(address(0xdEaD)), BOND - BOND / 2, "the rest");
        checkEqual(token.balanceOf(address(settlement)), held - BOND, "and no more");
        check(settlement.aggregator() == address(0), "the office is vacant");
    }

    function test_nobody_but_the_court_convicts(address stranger) external {
        if (stranger == address(court)) return;
        (Book memory book, PostedHeader memory honest) = _begin(1);
        book.channels[0].channelId = book.channels[1].channelId;
        vm.expectRevert(abi.encodeWithSignature("NotCourt(address)", stranger));
        vm.prank(stranger);
        settlement.convict(honest, nothing(), stranger);
        vm.expectRevert(abi.encodeWithSignature("NotCourt(address)", stranger));
        vm.prank(stranger);
        settlement.punish(stranger);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev Three funded channels, and a first header that tells the truth of them.
    function _begin(uint256 seed) private returns (Book memory book, PostedHeader memory honest) {
        _amounts = amountsOf(seed, MOST);
        fundAll(3 * uint128(NUM_ACCOUNTS) * MOST);
        book = write(_amounts, 1);
        honest = post(book);
        book = write(_amounts, 2);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            sign(book, c, 1);
        }
    }

    /// @dev Posts books under a total that grew, whatever they add up to.
    function _postMore(Book memory book) private returns (PostedHeader memory posted) {
        posted.header = headerOf(book);
        uint128 least = settlement.payoutTotal() + 1;
        if (posted.header.payoutTotal < least) posted.header.payoutTotal = least;
        return post(posted.header);
    }

    function _proveUnbacked(PostedHeader memory here, Book memory book, uint256 a, uint256 c)
        private
    {
        EntryLeaf memory entry = book.entries[a][c];
        uint256 index = entry.channelIndex < NUM_CHANNELS ? entry.channelIndex : 0;
        uint256 place = entry.place < NUM_ACCOUNTS ? entry.place : 0;
        PostedHeader memory before = headerBefore(here);
        court.proveUnbacked(
            here,
            before,
            showAccount(book, a),
            showEntry(book, a, c),
            showChannel(book, index),
            showPayout(book, index, place)
        );
    }

    /// @dev By the last account's line, or where there is no such line any more, by the first.
    function _proveLowered(
        PostedHeader memory here,
        Book memory before,
        Book memory book,
        uint256 c
    ) private {
        uint256 place = NUM_ACCOUNTS - 1;
        court.proveLowered(
            here,
            headerBefore(here),
            showChannel(before, c),
            showChannel(book, c),
            showPayout(before, c, place),
            showPayout(book, c, place < book.payouts[c].length ? place : 0)
        );
    }

    function _firstTwo(ChannelLeaf[] memory all) private pure returns (ChannelLeaf[] memory few) {
        few = new ChannelLeaf[](2);
        (few[0], few[1]) = (all[0], all[1]);
    }

    function _firstTwo(PayoutLeaf[] memory all) private pure returns (PayoutLeaf[] memory few) {
        few = new PayoutLeaf[](2);
        (few[0], few[1]) = (all[0], all[1]);
    }

    function _tookBack(uint64 to) private view {
        checkEqual(settlement.lastEpoch(), to, "back to the header before");
        checkEqual(settlement.payoutTotal(), headers[to - 1].header.payoutTotal, "and its total");
        checkEqual(settlement.numReceipts(), headers[to - 1].header.numReceipts, "and receipts");
        checkEqual(settlement.lastPostedAt(), headers[to - 1].postedAt, "and its time");
        check(settlement.aggregator() == address(0), "the office is vacant");
        checkEqual(settlement.bond(), 0, "the bond is lost");
    }

    function _expect(bytes4 selector) private {
        vm.expectPartialRevert(selector);
    }
}
