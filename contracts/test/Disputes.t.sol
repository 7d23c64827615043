// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DisputeRules, DisputeState, IDisputes} from "../src/interfaces/IDisputes.sol";
import {Claim, IRegistry, Registration} from "../src/interfaces/IRegistry.sol";
import {Disputes} from "../src/registry/Disputes.sol";
import {Registry} from "../src/registry/Registry.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {Checks} from "./Checks.sol";
import {Sequences} from "./Sequences.sol";

/// @title A registry whose registrations are disputed, and people with something to put up.
abstract contract DisputesWorld is Checks {
    uint64 internal constant DELAY = 60;
    uint64 internal constant WINDOW = 1_000;
    uint64 internal constant ANSWER_TIME = 300;
    uint64 internal constant JUDGE_TIME = 400;
    uint256 internal constant STAKED = 101; // odd: a fifth of it is not a fifth
    uint16 internal constant BURN_BPS = 2_000;
    uint256 internal constant BURNED = 20;
    uint256 internal constant PURSE = 100_000;
    uint256 internal constant NUM_PEOPLE = 4;

    LorikeetToken internal immutable lori = new LorikeetToken(address(this));
    address internal immutable timelock = address(0x71);
    Disputes internal immutable disputes;
    Registry internal immutable registry;

    constructor() {
        vm.warp(1_000_000);
        disputes = new Disputes(
            lori, timelock, DisputeRules(STAKED, BURN_BPS, ANSWER_TIME, JUDGE_TIME), DELAY, WINDOW
        );
        registry = disputes.registry();
        for (uint256 p = 0; p < NUM_PEOPLE; p++) {
            require(lori.transfer(person(p), PURSE));
            vm.prank(person(p));
            lori.approve(address(disputes), type(uint256).max);
        }
    }

    function person(uint256 number) internal pure returns (address) {
        return vm.addr(0xD15 + number % NUM_PEOPLE);
    }

    function weights(uint256 number) internal pure returns (bytes32) {
        return keccak256(abi.encode("weights", number));
    }

    /// @dev Registers two digests to a person; the registration's number.
    function register(uint256 by, uint256 number) internal returns (uint256) {
        Claim memory claim = Claim({
            creator: person(by),
            brain: weights(2 * number),
            half: weights(2 * number + 1),
            manifest: "m",
            royaltyBps: 0,
            parents: new bytes32[](0),
            salt: bytes32(number)
        });
        bytes32 digest = registry.digestOf(claim);
        registry.commit(digest);
        vm.warp(block.timestamp + DELAY);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(0xD15 + by % NUM_PEOPLE, digest);
        return registry.register(claim, abi.encodePacked(r, s, v));
    }

    function open(uint256 by, uint256 number) internal returns (uint256) {
        vm.prank(person(by));
        return disputes.open(weights(2 * number));
    }

    function answer(uint256 by, uint256 number) internal {
        vm.prank(person(by));
        disputes.answer(number);
    }

    function decide(uint256 number, bool isUpheld) internal {
        vm.prank(timelock);
        disputes.decide(number, isUpheld);
    }

    function ownerOf(uint256 number) internal view returns (address) {
        (Registration memory found,) = registry.find(weights(2 * number), 0);
        check(found.owner != address(0), "it is registered");
        return found.owner;
    }

    function stateOf(uint256 number) internal view returns (DisputeState state) {
        (,,, state,) = disputes.disputes(number);
    }
}

contract DisputesTest is DisputesWorld {
    constructor() {
        register(0, 1);
    }

    function test_who_does_not_answer_loses(uint64 waited) external {
        uint256 number = open(1, 1);
        checkEqual(lori.balanceOf(person(1)), PURSE - STAKED, "it costs the bond");
        uint64 until = uint64(block.timestamp) + ANSWER_TIME;
        waited = uint64(bound(waited, 0, ANSWER_TIME - 1));
        vm.warp(block.timestamp + waited);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotNow.selector, until));
        disputes.close(number);
        check(ownerOf(1) == person(0), "not yet");
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotNow.selector, until));
        answer(0, number);
        disputes.close(number);
        (Registration memory found,) = registry.find(0, weights(3));
        check(found.owner == person(1) && found.creator == person(1), "it is the challenger's");
        checkEqual(lori.balanceOf(person(1)), PURSE, "and his bond");
        vm.expectPartialRevert(IDisputes.NotInState.selector);
        disputes.close(number);
    }

    function test_the_winner_has_the_loser_s_bond_but_for_what_is_burned(bool isUpheld) external {
        uint256 number = open(1, 1);
        answer(2, number); // a friend of the owner
        uint256 supply = lori.totalSupply();
        decide(number, isUpheld);
        check(ownerOf(1) == person(isUpheld ? 1 : 0), "whose it is");
        uint256 winner = isUpheld ? 1 : 2;
        checkEqual(lori.balanceOf(person(winner)), PURSE + STAKED - BURNED, "the winner");
        checkEqual(lori.balanceOf(person(3 - winner)), PURSE - STAKED, "the loser");
        checkEqual(supply - lori.totalSupply(), BURNED, "the rest");
        checkEqual(lori.balanceOf(address(disputes)), 0, "nothing is left");
        vm.expectPartialRevert(IDisputes.NotInState.selector);
        decide(number, isUpheld);
    }

    function test_what_nobody_decides_stays_as_it_was() external {
        uint256 number = open(1, 1);
        answer(0, number);
        uint64 until = uint64(block.timestamp) + JUDGE_TIME;
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotNow.selector, until));
        disputes.lapse(number);
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotNow.selector, until));
        decide(number, true);
        disputes.lapse(number);
        check(ownerOf(1) == person(0), "still the owner's");
        checkEqual(lori.balanceOf(person(0)) + lori.balanceOf(person(1)), 2 * PURSE, "both bonds");
    }

    function test_only_the_timelock_decides(address other) external {
        if (other == timelock) return;
        uint256 number = open(1, 1);
        answer(0, number);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotTimelock.selector, other));
        vm.prank(other);
        disputes.decide(number, true);
    }

    function test_only_disputes_award_weights(address other) external {
        if (other == address(disputes)) return;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotDisputes.selector, other));
        vm.prank(other);
        registry.award(1, other);
        Registry lone = new Registry(DELAY, WINDOW, address(0));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotDisputes.selector, address(disputes)));
        vm.prank(address(disputes));
        lone.award(1, other);
    }

    function test_an_owner_keeps_nobody_away_by_disputing_himself() external {
        open(0, 1);
        uint256 number = open(1, 1);
        vm.warp(block.timestamp + ANSWER_TIME);
        disputes.close(1);
        check(ownerOf(1) == person(0), "it is his still");
        disputes.close(number);
        check(ownerOf(1) == person(1), "until the other one is closed");
    }

    function test_handing_on_does_not_escape_a_dispute(uint256 to) external {
        uint256 number = open(1, 1);
        vm.prank(person(0));
        registry.handOn(weights(2), person(to));
        vm.warp(block.timestamp + ANSWER_TIME);
        disputes.close(number);
        check(ownerOf(1) == person(1), "the challenger's, whoever has it meanwhile");
    }

    function test_nothing_is_disputed_that_is_not_registered() external {
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NotThere.selector, weights(6)));
        open(1, 3);
        vm.expectPartialRevert(IDisputes.NotInState.selector);
        answer(1, 7);
        vm.expectPartialRevert(IDisputes.NotInState.selector);
        disputes.lapse(0);
    }

    function test_odd_rules_are_refused(uint256 which) external {
        which = bound(which, 0, 3);
        DisputeRules memory odd = DisputeRules(STAKED, BURN_BPS, ANSWER_TIME, JUDGE_TIME);
        if (which == 0) odd.bond = 0;
        if (which == 1) odd.burnBps = 10_001;
        if (which == 2) odd.answerTime = 0;
        if (which == 3) odd.judgeTime = 0;
        vm.expectRevert(abi.encodeWithSelector(IDisputes.BadRules.selector));
        new Disputes(lori, timelock, odd, DELAY, WINDOW);
    }
}

/// @title Everybody disputes everything, in any order.
contract DisputesInvariants is DisputesWorld, Sequences {
    uint256 private constant NUM_WEIGHTS = 6;

    bytes4[] private _operations = [
        this.dispute.selector,
        this.standUp.selector,
        this.close.selector,
        this.judge.selector,
        this.lapse.selector,
        this.handOn.selector,
        this.seize.selector,
        this.passTime.selector
    ];
    address[NUM_WEIGHTS] private _owner; // as it must be
    uint256 private _bonds; // that must lie here
    uint256 private _burned;

    modifier counted() {
        numTried++;
        _;
    }

    constructor() {
        for (uint256 w = 0; w < NUM_WEIGHTS; w++) {
            register(w, w);
            _owner[w] = person(w);
        }
    }

    function invariant_bonds_are_conserved_and_owners_change_by_outcomes_alone() external view {
        checkEqual(lori.balanceOf(address(disputes)), _bonds * STAKED, "a bond for each side");
        uint256 all = lori.balanceOf(address(disputes)) + _burned;
        for (uint256 p = 0; p < NUM_PEOPLE; p++) {
            all += lori.balanceOf(person(p));
        }
        checkEqual(all, NUM_PEOPLE * PURSE, "what nobody has was burned");
        checkEqual(lori.SUPPLY() - lori.totalSupply(), _burned, "no more than that");
        for (uint256 w = 0; w < NUM_WEIGHTS; w++) {
            check(ownerOf(w) == _owner[w], "whom it was awarded or handed to");
        }
    }

    function operations() internal view override returns (bytes4[] memory) {
        return _operations;
    }

    function dispute(uint256 by, uint256 which) external counted {
        if (lori.balanceOf(person(by)) < STAKED) return;
        open(by, which % NUM_WEIGHTS);
        _bonds++;
        numSucceeded[msg.sig]++;
    }

    function standUp(uint256 by, uint256 which) external counted {
        (uint256 number, bool found) = _find(which, DisputeState.OPEN, false);
        if (!found || lori.balanceOf(person(by)) < STAKED) return;
        answer(by, number);
        _bonds++;
        numSucceeded[msg.sig]++;
    }

    function close(uint256 which) external counted {
        (uint256 number, bool found) = _find(which, DisputeState.OPEN, true);
        if (!found) return;
        disputes.close(number);
        _award(number);
        _bonds--;
        numSucceeded[msg.sig]++;
    }

    function judge(uint256 which, bool isUpheld) external counted {
        if (which % 2 == 0) return; // people have other things to vote on
        (uint256 number, bool found) = _find(which, DisputeState.ANSWERED, false);
        if (!found) return;
        decide(number, isUpheld);
        if (isUpheld) _award(number);
        _bonds -= 2;
        _burned += BURNED;
        numSucceeded[msg.sig]++;
    }

    function lapse(uint256 which) external counted {
        (uint256 number, bool found) = _find(which, DisputeState.ANSWERED, true);
        if (!found) return;
        disputes.lapse(number);
        _bonds -= 2;
        numSucceeded[msg.sig]++;
    }

    function handOn(uint256 which, uint256 to) external counted {
        which = which % NUM_WEIGHTS;
        vm.prank(_owner[which]);
        registry.handOn(weights(2 * which), person(to));
        _owner[which] = person(to);
        numSucceeded[msg.sig]++;
    }

    /// @dev Somebody tries whatever is not his to do.
    function seize(uint256 by, uint256 which) external counted {
        which = bound(which, 0, disputes.count() + 1);
        DisputeState before = stateOf(which);
        vm.prank(person(by));
        try disputes.decide(which, true) {
            check(false, "only the timelock decides");
        } catch {}
        vm.prank(person(by));
        try registry.award(1 + which % NUM_WEIGHTS, person(by)) {
            check(false, "only disputes award");
        } catch {}
        check(stateOf(which) == before, "nothing changed");
        numSucceeded[msg.sig]++;
    }

    function passTime(uint256 time) external counted {
        vm.warp(block.timestamp + bound(time, 1, ANSWER_TIME));
        numSucceeded[msg.sig]++;
    }

    function _award(uint256 number) private {
        (uint256 registration, address challenger,,,) = disputes.disputes(number);
        _owner[registration - 1] = challenger;
    }

    /// @dev One in this state whose time is over, or is not.
    function _find(uint256 from, DisputeState state, bool isOver)
        private
        view
        returns (uint256, bool)
    {
        uint256 count = disputes.count();
        for (uint256 k = 0; k < count; k++) {
            uint256 number = 1 + (from % count + k) % count;
            (,, uint64 until, DisputeState found,) = disputes.disputes(number);
            if (found == state && (block.timestamp >= until) == isOver) return (number, true);
        }
        return (0, false);
    }
}
