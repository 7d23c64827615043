// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IStake, Placed, StakeTerms} from "../src/interfaces/IStake.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Stake} from "../src/stake/Stake.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {Receipt} from "../src/types/Receipt.sol";
import {Sequences} from "./Sequences.sol";
import {World} from "./World.sol";

/// @title Operators, those who stand behind them, and what they sign.
abstract contract StakeWorld is World {
    uint64 internal constant THAW = 500;
    uint16 internal constant SLASH_BPS = 3_000;
    uint16 internal constant BOUNTY_BPS = 1_000;
    uint256 internal constant CAP = 10_000e6;
    uint256 internal constant PURSE = 1_000_000e6;

    LorikeetToken internal immutable lori = new LorikeetToken(address(this));
    Stake internal immutable stake;
    address internal immutable reporter = address(0x4E9);

    constructor() {
        stake = new Stake(lori, settlement, StakeTerms(THAW, 100e6, SLASH_BPS, CAP, BOUNTY_BPS));
    }

    function give(address holder, uint256 amount) internal {
        require(lori.transfer(holder, amount));
        vm.prank(holder);
        lori.approve(address(stake), type(uint256).max);
    }

    function put(address holder, address behind, uint256 amount) internal {
        vm.prank(holder);
        stake.stake(behind, amount);
    }

    function slash(ChannelConfig memory config, Placed[2] memory pair, uint64 sequence) internal {
        vm.prank(reporter);
        stake.slashReceipts(config, sequence, pair[0], pair[1]);
    }

    /// @dev A channel of the operator with this key.
    function channelOf(uint256 key, uint256 number)
        internal
        view
        returns (ChannelConfig memory c)
    {
        c = channel(payer, number);
        c.receiverAuthorizer = vm.addr(key);
    }

    /// @dev Two receipts for one place, signed by this key, for this settlement contract.
    function fork(ChannelConfig memory config, uint64 sequence, uint256 key, address contract_)
        internal
        view
        returns (Placed[2] memory pair)
    {
        for (uint256 i = 0; i < 2; i++) {
            bytes32 body = keccak256(abi.encode("body", i));
            bytes32 digest = Digests.ofReceipt(
                Receipt(channels.getChannelId(config), sequence, uint128(7 + i), "p", body),
                contract_
            );
            pair[i] = Placed(uint128(7 + i), "p", body, signed(key, digest));
        }
    }

    /// @dev What one holder has lost or kept, in all.
    function worth(address behind, address holder) internal view returns (uint256) {
        (uint256 amount, uint256 thawing) = stake.holdingOf(behind, holder);
        return amount + thawing;
    }
}

contract StakeTest is StakeWorld {
    address private immutable ann = address(0xA);
    address private immutable bob = address(0xB);

    constructor() {
        give(ann, PURSE);
        give(bob, PURSE);
    }

    function test_what_is_staked_comes_back_after_its_thaw(uint256 amount, uint256 part) external {
        amount = bound(amount, 1, PURSE);
        put(ann, operator, amount);
        checkEqual(stake.stakeOf(operator), amount, "it counts");
        part = bound(part, 1, amount);
        vm.prank(ann);
        stake.thaw(operator, part);
        checkEqual(stake.stakeOf(operator), amount - part, "what thaws does not");
        uint64 ready = uint64(block.timestamp) + THAW;
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(IStake.StillThawing.selector, ready));
        vm.prank(ann);
        stake.withdraw(operator);
        vm.warp(ready);
        vm.prank(ann);
        stake.withdraw(operator);
        checkEqual(lori.balanceOf(ann), PURSE - amount + part, "it is hers again");
        vm.expectRevert(abi.encodeWithSelector(IStake.NotSoMuch.selector, 0));
        vm.prank(ann);
        stake.withdraw(operator);
    }

    function test_nobody_takes_what_another_put_there(address thief) external {
        if (thief == ann) return;
        put(ann, operator, 5);
        vm.expectRevert(abi.encodeWithSelector(IStake.NotSoMuch.selector, 0));
        vm.prank(thief);
        stake.thaw(operator, 1);
        vm.expectRevert(abi.encodeWithSelector(IStake.NotSoMuch.selector, 5));
        vm.prank(ann);
        stake.thaw(operator, 6);
    }

    function test_two_receipts_cost_all_in_proportion_thawing_or_not(uint256 own, uint256 other)
        external
    {
        own = bound(own, 1e6, 10_000e6);
        other = bound(other, 1e6, 10_000e6);
        put(ann, operator, own);
        put(bob, operator, other);
        vm.prank(bob);
        stake.thaw(operator, other);
        uint256 supply = lori.totalSupply();
        ChannelConfig memory config = channel(payer, 1);
        slash(config, fork(config, 3, OPERATOR_KEY, address(settlement)), 3);
        _checkNear(worth(operator, ann), own - own * SLASH_BPS / 10_000, "hers");
        _checkNear(worth(operator, bob), other - other * SLASH_BPS / 10_000, "his");
        uint256 lost = own + other - lori.balanceOf(address(stake));
        _checkNear(lost, (own + other) * SLASH_BPS / 10_000, "no more");
        checkEqual(lori.balanceOf(reporter), lost * BOUNTY_BPS / 10_000, "the bounty");
        checkEqual(
            supply - lori.totalSupply(), lost - lori.balanceOf(reporter), "the rest is gone"
        );
    }

    function test_an_offence_costs_no_more_than_the_cap() external {
        put(ann, operator, PURSE);
        ChannelConfig memory config = channel(payer, 1);
        slash(config, fork(config, 1, OPERATOR_KEY, address(settlement)), 1);
        checkEqual(stake.stakeOf(operator), PURSE - CAP, "not a third of it");
    }

    function test_an_offence_is_punished_once_whatever_shows_it(uint64 later) external {
        put(ann, operator, PURSE);
        ChannelConfig memory config = channel(payer, 1);
        Placed[2] memory pair = fork(config, 1, OPERATOR_KEY, address(settlement));
        slash(config, pair, 1);
        vm.expectPartialRevert(IStake.SlashedBefore.selector);
        slash(config, pair, 1);
        (pair[0], pair[1]) = (pair[1], pair[0]);
        vm.expectPartialRevert(IStake.SlashedBefore.selector);
        slash(config, pair, 1);
        pair = fork(config, later, OPERATOR_KEY, address(settlement));
        vm.expectPartialRevert(IStake.SlashedBefore.selector);
        slash(config, pair, later);
        config = channel(payer, 2);
        slash(config, fork(config, 1, OPERATOR_KEY, address(settlement)), 1);
    }

    function test_only_the_node_of_a_channel_is_punished_for_it(uint256 key) external {
        key = bound(key, 1, type(uint128).max);
        if (vm.addr(key) == operator) return;
        put(ann, operator, PURSE);
        put(bob, vm.addr(key), 100);
        ChannelConfig memory config = channel(payer, 1);
        _refused(config, fork(config, 1, key, address(settlement)), 1);
        Placed[2] memory pair = fork(config, 1, OPERATOR_KEY, address(settlement));
        pair[1] = fork(config, 1, key, address(settlement))[1];
        _refused(config, pair, 1);
        // Both signed by the client: it may sign what it likes.
        _refused(config, fork(config, 1, PAYER_KEY, address(settlement)), 1);
    }

    /// @dev Nothing that was signed stands for anything else.
    function test_a_signature_is_of_one_receipt_in_one_network(uint256 field) external {
        put(ann, operator, PURSE);
        ChannelConfig memory config = channel(payer, 1);
        Placed[2] memory pair = fork(config, 1, OPERATOR_KEY, address(settlement));
        uint64 sequence = 1;
        field = field % 10;
        if (field == 0) pair[0].cumulative++;
        if (field == 1) pair[0].payouts = "q";
        if (field == 2) pair[0].body = "b";
        if (field == 3) pair[1].signature[7] ^= 0x01;
        if (field == 4) sequence = 2;
        if (field == 5) config.withdrawDelay++;
        if (field == 6) pair = fork(config, 1, OPERATOR_KEY, address(court));
        if (field == 7) vm.chainId(5);
        if (field == 8) pair[1] = pair[0];
        if (field == 9) {
            (pair[0].signature, pair[1].signature) = (pair[1].signature, pair[0].signature);
        }
        _refused(config, pair, sequence);
    }

    function test_channels_that_pay_somebody_else_are_not_judged(uint256 field) external {
        put(ann, operator, PURSE);
        ChannelConfig memory config = channel(payer, 1);
        field = field % 3;
        if (field == 0) config.receiver = address(court);
        if (field == 1) config.token = address(lori);
        if (field == 2) config.receiverAuthorizer = address(0);
        _refused(config, fork(config, 1, OPERATOR_KEY, address(settlement)), 1);
    }

    function test_who_has_nothing_at_stake_is_not_punished_yet() external {
        ChannelConfig memory config = channel(payer, 1);
        Placed[2] memory pair = fork(config, 1, OPERATOR_KEY, address(settlement));
        vm.expectRevert(abi.encodeWithSelector(IStake.NothingAtStake.selector, operator));
        slash(config, pair, 1);
        put(ann, operator, PURSE);
        slash(config, pair, 1);
    }

    function test_whoever_joins_after_a_loss_does_not_bear_it(uint256 first, uint256 then)
        external
    {
        first = bound(first, 10, PURSE);
        then = bound(then, 1, PURSE);
        put(ann, operator, first);
        ChannelConfig memory config = channel(payer, 1);
        slash(config, fork(config, 1, OPERATOR_KEY, address(settlement)), 1);
        uint256 left = stake.stakeOf(operator);
        put(bob, operator, then);
        _checkNear(worth(operator, bob), then, "his is whole");
        _checkNear(worth(operator, ann), left, "and hers no more than it was");
        check(worth(operator, ann) + worth(operator, bob) <= left + then, "nothing comes of it");
    }

    function test_the_convicted_aggregator_loses_its_stake_too(uint32 other) external {
        put(ann, aggregator, 1_000e6);
        uint32 term = settlement.term();
        vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
        stake.slashConvicted(term);
        vm.prank(address(court));
        settlement.punish(watcher);
        if (other != term) {
            vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
            stake.slashConvicted(other);
        }
        stake.slashConvicted(term);
        checkEqual(stake.stakeOf(aggregator), 700e6, "three tenths");
        vm.expectPartialRevert(IStake.SlashedBefore.selector);
        stake.slashConvicted(term);
    }

    function test_an_aggregator_that_was_silent_loses_nothing() external {
        put(ann, aggregator, 1_000e6);
        uint32 term = settlement.term();
        vm.warp(block.timestamp + SILENCE + 1);
        settlement.dismiss();
        vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
        stake.slashConvicted(term);
    }

    /// @dev Whatever bytes somebody signs, they cost his stake or nothing, and nobody else's.
    function test_odd_records_are_no_attestations(bytes calldata record) external {
        put(ann, operator, PURSE);
        bytes32 digest = sha256(abi.encodePacked("lorikeet attestation 1\x00", record));
        try stake.slashVerdict(record, signed(OPERATOR_KEY, digest)) {
            check(false, "no random bytes are one");
        } catch {}
    }

    function test_terms_that_take_all_or_nothing_are_refused() external {
        StakeTerms[6] memory odd;
        for (uint256 i = 0; i < 6; i++) {
            odd[i] = StakeTerms(THAW, 100e6, SLASH_BPS, CAP, BOUNTY_BPS);
        }
        odd[0].thaw = 0;
        odd[1].perAnswer = 0;
        odd[2].slashBps = 0;
        odd[3].slashBps = 10_000;
        odd[4].cap = 0;
        odd[5].bountyBps = 5_001;
        for (uint256 i = 0; i < 6; i++) {
            vm.expectRevert(abi.encodeWithSelector(IStake.BadTerms.selector));
            new Stake(lori, settlement, odd[i]);
        }
    }

    function _refused(ChannelConfig memory config, Placed[2] memory pair, uint64 sequence)
        private
    {
        vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
        slash(config, pair, sequence);
    }

    /// @dev Rounding takes two units at most.
    function _checkNear(uint256 left, uint256 right, string memory what) private pure {
        check(left <= right + 2 && right <= left + 2, what);
    }
}

/// @title Holders and operators, in any order, with offences, replays and forgeries.
contract StakeInvariants is StakeWorld, Sequences {
    uint256 private constant NUM_HOLDERS = 4;
    uint256 private constant NUM_OPERATORS = 3;

    bytes4[] private _operations = [
        this.add.selector,
        this.thaw.selector,
        this.withdraw.selector,
        this.signTwice.selector,
        this.showAgain.selector,
        this.showForged.selector,
        this.delegate.selector,
        this.passTime.selector
    ];
    ChannelConfig[] private _forked;
    uint256 private _staked;
    uint256 private _withdrawn;
    mapping(uint256 holder => uint256) private _voices; // whom each delegated his votes to, from 1

    modifier counted() {
        numTried++;
        _;
    }

    constructor() {
        for (uint256 h = 0; h < NUM_HOLDERS; h++) {
            give(holderAt(h), PURSE);
        }
    }

    // ── what holds after each of them ────────────────────────────────────────────────────────────

    function invariant_stake_is_conserved_and_lost_by_evidence_alone() external view {
        uint256 all = 0;
        for (uint256 o = 0; o < NUM_OPERATORS; o++) {
            all += _checkPool(operatorAt(o));
        }
        checkEqual(all, lori.balanceOf(address(stake)), "all that is here is somebody's");
        uint256 gone = _staked - _withdrawn - all;
        uint256 burned = lori.SUPPLY() - lori.totalSupply();
        checkEqual(gone, burned + lori.balanceOf(reporter), "what is lost is burned or a bounty");
        check(gone == 0 || numSucceeded[this.signTwice.selector] > 0, "by evidence");
        check(lori.balanceOf(reporter) <= gone / 2, "the bounty is the smaller part");
        _checkVotes();
    }

    /// @dev The shares are the holders', and worth what is there.
    function _checkPool(address operator_) private view returns (uint256) {
        (uint256 amount, uint256 shares, uint256 thawing, uint256 thawingShares) =
            stake.pools(operator_);
        uint256 own = 0;
        uint256 ownThawing = 0;
        uint256 value = 0;
        for (uint256 h = 0; h < NUM_HOLDERS; h++) {
            (uint256 some, uint256 other,) = stake.positions(operator_, holderAt(h));
            own += some;
            ownThawing += other;
            value += worth(operator_, holderAt(h));
        }
        checkEqual(own, shares, "shares");
        checkEqual(ownThawing, thawingShares, "thawing shares");
        check((amount == 0) == (shares == 0), "no share is worth nothing, no unit is nobody's");
        check((thawing == 0) == (thawingShares == 0), "nor of what thaws");
        check(shares >= amount && thawingShares >= thawing, "so nobody is diluted by joining");
        check(value <= amount + thawing, "no more is owed than is here");
        check(value + 2 * NUM_HOLDERS >= amount + thawing, "but for what rounding leaves");
        return amount + thawing;
    }

    /// @dev What is staked does not vote; what is not does, as its holder said.
    function _checkVotes() private view {
        for (uint256 h = 0; h < NUM_HOLDERS; h++) {
            uint256 votes = 0;
            for (uint256 k = 0; k < NUM_HOLDERS; k++) {
                if (_voices[k] == h + 1) votes += lori.balanceOf(holderAt(k));
            }
            checkEqual(lori.getVotes(holderAt(h)), votes, "votes");
        }
    }

    function operations() internal view override returns (bytes4[] memory) {
        return _operations;
    }

    // ── what they do ─────────────────────────────────────────────────────────────────────────────

    function add(uint256 holder, uint256 behind, uint256 amount) external counted {
        amount = bound(amount, 1, 1 + lori.balanceOf(holderAt(holder)) / 4);
        if (amount > lori.balanceOf(holderAt(holder))) return;
        put(holderAt(holder), operatorAt(behind), amount);
        _staked += amount;
        numSucceeded[msg.sig]++;
    }

    function thaw(uint256 holder, uint256 behind, uint256 shares) external counted {
        (uint256 own,,) = stake.positions(operatorAt(behind), holderAt(holder));
        if (own == 0) return;
        vm.prank(holderAt(holder));
        try stake.thaw(operatorAt(behind), bound(shares, 1, own)) {
            numSucceeded[msg.sig]++;
        } catch {} // so few shares that they are worth nothing
    }

    function withdraw(uint256 holder, uint256 behind) external counted {
        for (uint256 k = 0; k < NUM_HOLDERS * NUM_OPERATORS; k++) {
            address from = holderAt(holder % NUM_HOLDERS + k);
            address of_ = operatorAt(behind % NUM_OPERATORS + k / NUM_HOLDERS);
            (, uint256 shares, uint64 readyAt) = stake.positions(of_, from);
            if (shares == 0 || block.timestamp < readyAt) continue;
            uint256 before = lori.balanceOf(from);
            vm.prank(from);
            stake.withdraw(of_);
            _withdrawn += lori.balanceOf(from) - before;
            numSucceeded[msg.sig]++;
            return;
        }
    }

    function signTwice(uint256 by, uint64 sequence) external counted {
        ChannelConfig memory config = channelOf(keyAt(by), _forked.length);
        Placed[2] memory pair = fork(config, sequence, keyAt(by), address(settlement));
        vm.prank(reporter);
        try stake.slashReceipts(config, sequence, pair[0], pair[1]) {
            _forked.push(config);
            numSucceeded[msg.sig]++;
        } catch {} // nothing is at stake
    }

    function showAgain(uint256 which, uint64 sequence) external counted {
        if (_forked.length == 0) return;
        ChannelConfig memory config = _forked[which % _forked.length];
        for (uint256 o = 0; o < NUM_OPERATORS; o++) {
            if (operatorAt(o) != config.receiverAuthorizer) continue;
            Placed[2] memory pair = fork(config, sequence, keyAt(o), address(settlement));
            try stake.slashReceipts(config, sequence, pair[0], pair[1]) {
                check(false, "nobody is punished twice");
            } catch {
                numSucceeded[msg.sig]++; // it is there to be refused
            }
        }
    }

    function showForged(uint256 by, uint256 whose, uint64 sequence) external counted {
        if (by % NUM_OPERATORS == whose % NUM_OPERATORS) return;
        ChannelConfig memory config = channelOf(keyAt(whose), uint256(2 ** 40) + sequence);
        Placed[2] memory pair = fork(config, sequence, keyAt(by), address(settlement));
        try stake.slashReceipts(config, sequence, pair[0], pair[1]) {
            check(false, "nobody is punished for what he did not sign");
        } catch {
            numSucceeded[msg.sig]++; // likewise
        }
    }

    function delegate(uint256 from, uint256 to) external counted {
        vm.prank(holderAt(from));
        lori.delegate(holderAt(to));
        _voices[from % NUM_HOLDERS] = to % NUM_HOLDERS + 1;
        numSucceeded[msg.sig]++;
    }

    function passTime(uint256 time) external counted {
        vm.warp(block.timestamp + bound(time, 1, THAW));
        numSucceeded[msg.sig]++;
    }

    function holderAt(uint256 number) private pure returns (address) {
        return address(uint160(0x1000 + number % NUM_HOLDERS));
    }

    function keyAt(uint256 number) private pure returns (uint256) {
        return 0x0B0B + number % NUM_OPERATORS;
    }

    function operatorAt(uint256 number) private pure returns (address) {
        return vm.addr(keyAt(number));
    }
}
