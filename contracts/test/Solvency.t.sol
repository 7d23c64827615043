// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ExitRequest} from "../src/interfaces/IExits.sol";
import {Board} from "../src/interfaces/IOffice.sol";
import {DemandState, Part, Question} from "../src/interfaces/IDemands.sol";
import {ChannelConfig, ChannelId} from "../src/types/Channel.sol";
import {PostedHeader} from "../src/types/Header.sol";
import {AccountProof, PayoutLeaf} from "../src/types/Leaves.sol";
import {Books} from "./Books.sol";
import {Sequences} from "./Sequences.sol";

/// @title Everybody, honest or not, in any order, and one watcher who is awake. Whatever may be
/// refused is tried all the same; what is refused is not counted as done.
/// @dev Channel `c` pays account `c` alone, and all of them pay one account besides, so that what
/// each channel paid can be told from what the accounts have. Time only passes through `passTime`,
/// where the watcher looks first.
contract SolvencyTest is Books, Sequences {
    uint128 private constant MOST = 100;
    uint256 private constant SHARED = NUM_CHANNELS; // the account that all channels pay

    bytes4[] private _operations = [
        this.makeDeposit.selector,
        this.claimVoucher.selector,
        this.serve.selector,
        this.postHeader.selector,
        this.postLie.selector,
        this.claimPayout.selector,
        this.demandAnswered.selector,
        this.demandUnanswered.selector,
        this.exitAtOnce.selector,
        this.exitByOneSignature.selector,
        this.finishExit.selector,
        this.passTime.selector,
        this.replaceAggregator.selector,
        this.dismissSilent.selector,
        this.giveBack.selector,
        this.donate.selector
    ];

    /// @dev A vacant office is filled after a while, so that exits and headers both have their time.
    modifier counted() {
        if (++numTried % 24 == 0 && settlement.aggregator() == address(0)) {
            _install(uint8(numTried));
        }
        _;
    }

    // What the parties of each channel signed last, and what each header and exit says of it.
    uint128[2][NUM_CHANNELS] private _signed; // to its own account, and to the shared one
    uint64[NUM_CHANNELS] private _sequences;
    uint128[2][NUM_CHANNELS] private _left; // where exits left it
    bool[NUM_CHANNELS] private _hasLeft;
    uint128[2][NUM_CHANNELS][] private _posted; // by epoch - 1
    uint64[NUM_CHANNELS][] private _postedSequences;
    uint128[2][NUM_CHANNELS] private _waiting;
    uint64 private _lyingFrom; // the first header that lies; 0: none does

    // ── what holds after each of them ────────────────────────────────────────────────────────────

    function invariant_nobody_is_paid_what_was_not_claimed_of_a_channel() external view {
        uint256 shared = 0;
        uint256 received = 0;
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            (, uint128 claimed) = channels.channels(channels.getChannelId(channel(payer, c)));
            uint256 own = token.balanceOf(accountAt(c));
            check(own <= claimed, "a channel pays its account within what was claimed of it");
            check(own <= _signed[c][0], "and within what its parties signed");
            shared += smaller(_signed[c][1], claimed - own);
            received += claimed;
        }
        check(token.balanceOf(accountAt(SHARED)) <= shared, "and the shared account too");
        uint256 paid = uint256(settlement.totalPaid()) + settlement.totalExited();
        check(paid <= received, "no more is paid than came");
        check(settlement.totalPaid() <= settlement.payoutTotal(), "or was awarded by headers");
        check(
            uint256(settlement.payoutTotal()) + settlement.totalExited() <= received,
            "nor promised"
        );
    }

    function invariant_all_money_is_where_the_books_say() external view {
        (uint128 claimed, uint128 settled) =
            channels.receivers(address(settlement), address(token));
        uint256 fees = settled - settlement.totalPaid() - settlement.totalExited();
        uint256 released = settlement.credit(aggregator) + settlement.credit(address(0x2ED));
        check(
            token.balanceOf(address(settlement)) >= fees + settlement.bond() + released,
            "fees, bond and what is released lie here"
        );
        uint256 accounts = 0;
        for (uint256 a = 0; a <= SHARED; a++) {
            accounts += token.balanceOf(accountAt(a));
        }
        checkEqual(
            accounts, uint256(settlement.totalPaid()) + settlement.totalExited(), "who was paid"
        );
        check(settled <= claimed, "settled is what was claimed");
    }

    function operations() internal view override returns (bytes4[] memory) {
        return _operations;
    }

    // ── channels ─────────────────────────────────────────────────────────────────────────────────

    function makeDeposit(uint256 c, uint128 amount) external counted {
        deposit(PAYER_KEY, channel(payer, c % NUM_CHANNELS), uint128(bound(amount, 1, 20 * MOST)));
        numSucceeded[msg.sig]++;
    }

    /// @dev Sometimes more than the channel holds.
    function claimVoucher(uint256 c, uint128 more) external counted {
        ChannelConfig memory config = channel(payer, c % NUM_CHANNELS);
        (, uint128 before) = channels.channels(channels.getChannelId(config));
        try this.claimAs(config, before + uint128(bound(more, 1, 6 * MOST))) {
            numSucceeded[msg.sig]++;
        } catch {}
    }

    /// @dev The parties sign one more receipt; whether it is claimed is another matter.
    function serve(uint256 c, uint128 own, uint128 shared) external counted {
        c = c % NUM_CHANNELS;
        _signed[c][0] += uint128(bound(own, 1, MOST));
        _signed[c][1] += uint128(bound(shared, 1, MOST));
        _sequences[c]++;
        numSucceeded[msg.sig]++;
    }

    function giveBack(uint256 c, uint128 amount) external counted {
        uint256 before = token.balanceOf(payer);
        vm.prank(operator);
        channels.refund(channel(payer, c % NUM_CHANNELS), uint128(bound(amount, 1, MOST)));
        if (token.balanceOf(payer) > before) numSucceeded[msg.sig]++;
    }

    /// @dev Money that nobody asked for must not confuse the books.
    function donate(uint128 amount) external counted {
        dollars.mint(address(settlement), bound(amount, 0, MOST));
        numSucceeded[msg.sig]++;
    }

    // ── headers ──────────────────────────────────────────────────────────────────────────────────

    /// @dev Everything that is claimed and has not left.
    function postHeader() external counted {
        if (_postHonest()) numSucceeded[msg.sig]++;
    }

    /// @dev Awards somebody what no channel owes it, within what came.
    function postLie(uint256 c, uint128 more, uint8 how) external counted {
        if (settlement.aggregator() == address(0)) return;
        c = c % NUM_CHANNELS;
        (uint128[2][NUM_CHANNELS] memory state, uint64[NUM_CHANNELS] memory sequences) = _honest();
        state[c][how % 2] += uint128(bound(more, 1, 6 * MOST)); // beyond what was signed or claimed
        sequences[c]++;
        Book memory book = _bookOf(state, sequences);
        book.signatures[c] = new bytes(65);
        book.channels[c].evidence = keccak256(book.signatures[c]);
        if (_post(book)) {
            _note(state, sequences);
            if (_lyingFrom == 0) _lyingFrom = settlement.lastEpoch();
            numSucceeded[msg.sig]++;
        }
    }

    /// @dev Under any header that was posted, final or not.
    function claimPayout(uint256 which, uint256 a) external counted {
        if (settlement.lastEpoch() == 0) return;
        uint256 epoch = which % settlement.lastEpoch();
        Book memory book = _bookOf(_posted[epoch], _postedSequences[epoch]);
        AccountProof memory proof = showAccount(book, a % (SHARED + 1));
        try settlement.claim(headers[epoch], proof.leaf, proof.proof) {
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function demandAnswered(uint256 c, uint8 part) external counted {
        _postHonest();
        if (settlement.lastEpoch() == 0 || _lyingFrom != 0) return;
        uint256 epoch = settlement.lastEpoch() - 1;
        c = c % NUM_CHANNELS;
        Question memory question = Question(Part(part % 2), uint64(c), 0);
        if (!_demand(headers[epoch], question)) return;
        Book memory book = _bookOf(_posted[epoch], _postedSequences[epoch]);
        if (question.part == Part.CHANNEL) {
            court.answerChannel(
                headers[epoch], showChannel(book, c), book.configs[c], book.signatures[c]
            );
        } else {
            court.answerAccount(headers[epoch], showAccount(book, c), openEntries(book, c));
        }
        (,, DemandState state) = court.demands(court.demandId(headers[epoch], question));
        if (state == DemandState.HELD) {
            _passTime(ANSWER_TIME);
            court.release(headers[epoch], question);
        }
        numSucceeded[msg.sig]++;
    }

    /// @dev The header may be right: who does not show it loses the office all the same.
    function demandUnanswered(uint64 index, uint8 dice) external counted {
        _postHonest(); // a header that is new enough
        if (settlement.lastEpoch() == 0 || dice % 2 != 0) return;
        PostedHeader memory last = headers[settlement.lastEpoch() - 1];
        Question memory question = Question(Part.CHANNEL, index, 0);
        if (!_demand(last, question)) return;
        vm.warp(block.timestamp + ANSWER_TIME + 1);
        court.convictDefault(last, headerBefore(last), question);
        if (_lyingFrom == last.header.epoch) _lyingFrom = 0;
        numSucceeded[msg.sig]++;
    }

    // ── exits ────────────────────────────────────────────────────────────────────────────────────

    function exitAtOnce(uint256 c) external counted {
        c = c % 2; // the last channel stays: a header needs something to say
        _endOffice(c);
        try settlement.exit(_exit(c, true)) {
            _left[c] = _signed[c];
            _hasLeft[c] = true;
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function exitByOneSignature(uint256 c) external counted {
        c = c % 2;
        _endOffice(c);
        try settlement.exit(_exit(c, false)) {
            _waiting[c] = _signed[c];
            numSucceeded[msg.sig]++;
        } catch {}
    }

    function finishExit(uint256 c) external counted {
        c = c % 2;
        ChannelId id = channels.getChannelId(channel(payer, c));
        _passTime(WINDOW);
        try settlement.finishExit(
            id, _lines(c, _base(c), _baseIsEmpty(c)), _lines(c, _waiting[c], false)
        ) {
            _left[c] = _waiting[c];
            _hasLeft[c] = true;
            numSucceeded[msg.sig]++;
        } catch {}
    }

    // ── time and office ──────────────────────────────────────────────────────────────────────────

    function passTime(uint64 seconds_) external counted {
        _passTime(bound(seconds_, 1, 2 * uint256(WINDOW)));
        numSucceeded[msg.sig]++;
    }

    function dismissSilent(uint8 dice) external counted {
        if (settlement.aggregator() == address(0) || dice % 2 != 0) return;
        _passTime(SILENCE + 1);
        if (settlement.aggregator() == address(0)) return;
        settlement.dismiss();
        numSucceeded[msg.sig]++;
    }

    function replaceAggregator(uint8 dice) external counted {
        if (settlement.aggregator() != address(0) && dice % 4 != 0) return;
        _install(dice);
        numSucceeded[msg.sig]++;
    }

    /// @dev From outside, so that it can be tried.
    function claimAs(ChannelConfig calldata config, uint128 sum) external {
        claim(config, sum);
    }

    function postAs(Book calldata book) external {
        post(book);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev The watcher looks before any time passes, which is what it takes to be in time.
    function _passTime(uint256 seconds_) private {
        if (_lyingFrom != 0) {
            uint64 place = _lyingFrom - 1;
            _proveLie(_bookOf(_posted[place], _postedSequences[place]), headers[place]);
            _lyingFrom = 0;
        }
        vm.warp(block.timestamp + seconds_);
    }

    function _install(uint8 dice) private {
        Board memory board =
            Board(owner, dice % 2 == 0 ? aggregator : address(0x2ED), new address[](0), 0);
        vm.prank(owner);
        settlement.propose(board);
        _passTime(TIMELOCK);
        settlement.install(board);
        if (settlement.bond() == 0) fundBond();
    }

    /// @dev The lie is in one channel's evidence.
    function _proveLie(Book memory book, PostedHeader memory lying) private {
        PostedHeader memory before = headerBefore(lying);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            Book memory lied = abi.decode(abi.encode(book), (Book));
            lied.signatures[c] = new bytes(65);
            lied.channels[c].evidence = keccak256(lied.signatures[c]);
            try court.proveForged(
                lying, before, showChannel(lied, c), lied.configs[c], lied.signatures[c]
            ) {
                return;
            } catch {}
        }
        check(false, "the watcher finds the lie");
    }

    /// @dev Now and then an aggregator is silent for so long that a channel, with one receipt more,
    /// can leave.
    function _endOffice(uint256 c) private {
        _passTime(numTried % 3 == 0 ? SILENCE + 1 : 0);
        _signAndClaim(c);
    }

    /// @dev Something new is there to post, and the watcher looks.
    function _postHonest() private returns (bool done) {
        _passTime(0);
        if (settlement.aggregator() == address(0)) return false;
        _signAndClaim(NUM_CHANNELS - 1);
        (uint128[2][NUM_CHANNELS] memory state, uint64[NUM_CHANNELS] memory sequences) = _honest();
        done = _post(_bookOf(state, sequences));
        if (done) _note(state, sequences);
    }

    /// @dev The channel's parties sign one more receipt, and all of it is claimed.
    function _signAndClaim(uint256 c) private {
        _signed[c][0]++;
        _sequences[c]++;
        uint128 needed = _signed[c][0] + _signed[c][1];
        ChannelConfig memory config = channel(payer, c);
        (uint128 balance, uint128 claimed) = channels.channels(channels.getChannelId(config));
        if (needed > balance) deposit(PAYER_KEY, config, needed - balance);
        if (needed > claimed) claim(config, needed);
    }

    function _honest()
        private
        view
        returns (uint128[2][NUM_CHANNELS] memory state, uint64[NUM_CHANNELS] memory sequences)
    {
        uint64 last = settlement.lastEpoch();
        if (last > 0) (state, sequences) = (_posted[last - 1], _postedSequences[last - 1]);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            (, uint128 claimed) = channels.channels(channels.getChannelId(channel(payer, c)));
            if (_hasLeft[c] || _signed[c][0] + _signed[c][1] > claimed) continue;
            (state[c], sequences[c]) = (_signed[c], _sequences[c]);
        }
    }

    /// @dev Books over these receipts, in which channel `c` pays account `c` and the shared one.
    function _bookOf(uint128[2][NUM_CHANNELS] memory state, uint64[NUM_CHANNELS] memory sequences)
        private
        view
        returns (Book memory book)
    {
        uint128[][] memory amounts = new uint128[][](NUM_CHANNELS);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            amounts[c] = new uint128[](SHARED + 1);
            (amounts[c][c], amounts[c][SHARED]) = (state[c][0], state[c][1]);
        }
        book = write(amounts, 1);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            sign(book, c, sequences[c]);
        }
    }

    function _post(Book memory book) private returns (bool) {
        try this.postAs(book) {
            return true;
        } catch {
            return false;
        }
    }

    function _note(uint128[2][NUM_CHANNELS] memory state, uint64[NUM_CHANNELS] memory sequences)
        private
    {
        while (_posted.length >= settlement.lastEpoch()) {
            _posted.pop();
            _postedSequences.pop();
        }
        _posted.push(state);
        _postedSequences.push(sequences);
    }

    function _demand(PostedHeader memory here, Question memory question) private returns (bool) {
        vm.startPrank(watcher);
        token.approve(address(court), DEMAND_FEE);
        bool done;
        try court.demand(here, question) {
            done = true;
        } catch {}
        vm.stopPrank();
        return done;
    }

    function _exit(uint256 c, bool isCosigned) private view returns (ExitRequest memory request) {
        uint64 last = settlement.lastEpoch();
        uint128[2][NUM_CHANNELS] memory state;
        uint64[NUM_CHANNELS] memory sequences;
        if (last > 0) (state, sequences) = (_posted[last - 1], _postedSequences[last - 1]);
        Book memory before = _bookOf(state, sequences);
        (state[c], sequences[c]) = (_signed[c], _sequences[c]);
        Book memory book = _bookOf(state, sequences);
        PostedHeader memory here = last > 0 ? headers[last - 1] : nothing();
        request = exitOf(book, c, before, here, isCosigned);
        request.paid = _lines(c, _base(c), _baseIsEmpty(c));
    }

    /// @dev What is paid of a channel: by exits, or under the last header.
    function _base(uint256 c) private view returns (uint128[2] memory) {
        uint64 last = settlement.lastEpoch();
        if (_hasLeft[c] || last == 0) return _left[c];
        return _posted[last - 1][c];
    }

    function _baseIsEmpty(uint256 c) private view returns (bool) {
        return !_hasLeft[c] && settlement.lastEpoch() == 0;
    }

    function _lines(uint256 c, uint128[2] memory amounts, bool empty)
        private
        pure
        returns (PayoutLeaf[] memory lines)
    {
        if (empty) return lines;
        lines = new PayoutLeaf[](SHARED + 1);
        for (uint256 a = 0; a <= SHARED; a++) {
            lines[a] = PayoutLeaf(accountAt(a), 0);
        }
        (lines[c].amount, lines[SHARED].amount) = (amounts[0], amounts[1]);
    }
}
