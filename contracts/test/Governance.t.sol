// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";

import {Parameters} from "../src/governance/Parameters.sol";
import {Guardian} from "../src/governance/Guardian.sol";
import {IGuardian} from "../src/interfaces/IGuardian.sol";
import {Change, Declaration, IParameters, Kind} from "../src/interfaces/IParameters.sol";
import {Assembly} from "./Assembly.sol";

/// @title What a vote can do, and what nobody can without one.
contract GovernanceTest is Assembly {
    string private constant FILE = "../tests/golden/parameters.json";

    // ── from a proposal to a parameter ───────────────────────────────────────────────────────────

    function test_what_was_voted_is_written_after_its_time(uint256 value) external {
        value = bound(value, 0, 10_000);
        lori.delegate(address(this));
        vm.warp(block.timestamp + 1);
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
            setting(SHARE, value);
        uint256 proposal = governor.propose(targets, values, calls, "why");
        vm.warp(block.timestamp + VOTING_DELAY + 1);
        governor.castVote(proposal, FOR);
        vm.warp(block.timestamp + VOTING_PERIOD);
        governor.queue(targets, values, calls, keccak256("why"));
        vm.expectPartialRevert(
            bytes4(keccak256("TimelockUnexpectedOperationState(bytes32,bytes32)"))
        );
        governor.execute(targets, values, calls, keccak256("why"));
        vm.warp(block.timestamp + WAIT);
        vm.prank(address(0xABCD)); // anybody may
        governor.execute(targets, values, calls, keccak256("why"));

        checkEqual(parameters.version(), 2, "a version more");
        checkEqual(valueOf(SHARE), value, "as was voted");
        (uint64 since, uint256[] memory first) = parameters.read(1);
        check(since == 1_000_000 && first[0] == 6_000, "what was before stands as it was");
        (since, first) = parameters.read(2);
        checkEqual(since, block.timestamp, "from now on");
        checkEqual(first[1], 0, "and nothing else is changed");
    }

    function test_what_too_few_voted_for_never_happens(uint256 votes) external {
        votes = bound(votes, THRESHOLD, lori.SUPPLY() * QUORUM_PERCENT / 100 - 1);
        address small = address(0x5A11);
        require(lori.transfer(small, votes));
        vm.startPrank(small);
        lori.delegate(small);
        vm.warp(block.timestamp + 1);
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
            setting(FLOOR, 1);
        uint256 proposal = governor.propose(targets, values, calls, "");
        vm.warp(block.timestamp + VOTING_DELAY + 1);
        governor.castVote(proposal, FOR);
        vm.warp(block.timestamp + VOTING_PERIOD);
        check(isState(proposal, IGovernor.ProposalState.Defeated), "no quorum");
        vm.expectPartialRevert(
            bytes4(keccak256("GovernorUnexpectedProposalState(uint256,uint8,bytes32)"))
        );
        governor.queue(targets, values, calls, keccak256(""));
        vm.stopPrank();
    }

    function test_nobody_but_the_timelock_writes(address caller) external {
        if (caller == address(timelock)) return;
        Change[] memory changes = new Change[](1);
        changes[0] = Change(SHARE, 1);
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IParameters.NotTimelock.selector, caller));
        parameters.set(changes);
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IParameters.NotTimelock.selector, caller));
        parameters.declare(new Declaration[](1));
    }

    function test_nobody_puts_anything_into_the_timelock_past_the_governor() external {
        vm.expectPartialRevert(
            bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)"))
        );
        timelock.schedule(address(parameters), 0, "", 0, 0, WAIT);
        check(!timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), address(this)), "no deployer");
    }

    // ── the registry ─────────────────────────────────────────────────────────────────────────────

    function test_a_value_is_of_its_kind(uint256 share, uint256 amount, uint256 rule) external {
        _set(SHARE, share, share <= 10_000);
        _set(FLOOR, amount, amount < 1 << 63);
        _set(RULE, rule, true);
    }

    function test_an_unknown_name_is_refused(bytes32 name) external {
        if (name == SHARE || name == FLOOR || name == RULE) return;
        Change[] memory changes = new Change[](1);
        changes[0] = Change(name, 1);
        vm.prank(address(timelock));
        vm.expectRevert(abi.encodeWithSelector(IParameters.Unknown.selector, name));
        parameters.set(changes);
    }

    function test_a_later_program_s_parameters_are_added_behind_the_others() external {
        Declaration[] memory added = new Declaration[](1);
        added[0] = Declaration("stake.least", Kind.Amount, 7);
        vm.prank(address(timelock));
        parameters.declare(added);
        checkEqual(parameters.names().length, 4, "one more");
        checkEqual(valueOf("stake.least"), 7, "with its value");
        check(parameters.kindOf("stake.least") == Kind.Amount, "and its kind");
        (, uint256[] memory first) = parameters.read(1);
        checkEqual(first.length, 3, "which the version before did not have");
        vm.prank(address(timelock));
        vm.expectRevert(abi.encodeWithSelector(IParameters.Declared.selector, added[0].name));
        parameters.declare(added);
    }

    function test_names_are_words() external {
        bytes32[6] memory bad = [
            bytes32(0),
            "Large",
            "with space",
            bytes32(bytes3(hex"610062")),
            "abcdefghijklmnopqrstuvwxyzabcdef",
            bytes32(bytes2(hex"c3bc"))
        ];
        for (uint256 i = 0; i < bad.length; i++) {
            Declaration[] memory added = new Declaration[](1);
            added[0] = Declaration(bad[i], Kind.Count, 0);
            vm.prank(address(timelock));
            vm.expectRevert(abi.encodeWithSelector(IParameters.BadName.selector, bad[i]));
            parameters.declare(added);
        }
    }

    function test_there_are_64_at_most() external {
        Declaration[] memory added = new Declaration[](62);
        vm.prank(address(timelock));
        vm.expectRevert(abi.encodeWithSelector(IParameters.NotSoMany.selector, 65));
        parameters.declare(added);
    }

    /// @dev The defaults, as Python writes them.
    function test_the_digest_is_python_s() external {
        string memory file = vm.readFile(FILE);
        uint256 count = 0;
        while (vm.keyExistsJson(file, _at(".parameters", count, ""))) count++;
        check(count > 5, "there are parameters");
        Declaration[] memory declared = new Declaration[](count);
        for (uint256 i = 0; i < count; i++) {
            declared[i] = Declaration(
                bytes32(bytes(vm.parseJsonString(file, _at(".parameters", i, ".name")))),
                Kind(vm.parseJsonUint(file, _at(".parameters", i, ".kind"))),
                vm.parseUint(vm.parseJsonString(file, _at(".parameters", i, ".default")))
            );
        }
        string memory digest = vm.parseJsonString(file, ".accept[0].digest");
        check(
            new Parameters(address(this), declared).digestOf(1)
                == bytes32(vm.parseBytes(string.concat("0x", digest))),
            "of the same bytes"
        );
    }

    // ── the guardian ─────────────────────────────────────────────────────────────────────────────

    function test_the_guardian_pauses_for_half_of_the_time_at_most(uint64 first, uint64 rest)
        external
    {
        first = uint64(bound(first, 1, MAX_PAUSE));
        rest = uint64(bound(rest, 0, 3 * MAX_PAUSE));
        uint256 begin = block.timestamp;
        vm.startPrank(warden);
        guardian.pause(first);
        check(guardian.isPaused(), "at once");
        vm.warp(begin + first);
        check(!guardian.isPaused(), "and not for longer");
        vm.warp(begin + first + rest);
        if (rest < first) {
            vm.expectPartialRevert(IGuardian.TooSoon.selector);
        }
        guardian.pause(1);
        vm.stopPrank();
    }

    function test_the_guardian_is_nobody_after_its_term(uint64 later) external {
        vm.warp(block.timestamp + TERM - 1);
        vm.prank(warden);
        guardian.pause(MAX_PAUSE);
        vm.warp(block.timestamp + 1);
        check(!guardian.isPaused(), "a pause ends with the office");
        vm.warp(block.timestamp + bound(later, 0, 10 * TERM));
        vm.prank(warden);
        vm.expectPartialRevert(IGuardian.OfficeOver.selector);
        guardian.pause(1);
    }

    function test_a_vote_ends_the_office() external {
        vm.prank(warden);
        guardian.pause(MAX_PAUSE);
        vm.prank(address(timelock));
        guardian.end();
        check(!guardian.isPaused(), "and the pause");
        vm.warp(block.timestamp + 10 * MAX_PAUSE);
        vm.prank(warden);
        vm.expectPartialRevert(IGuardian.OfficeOver.selector);
        guardian.pause(1);
    }

    function test_nobody_else_pauses(address caller) external {
        if (caller == warden) return;
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.NotGuardian.selector, caller));
        guardian.pause(1);
        if (caller == address(timelock)) return;
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.NotGuardianOrTimelock.selector, caller));
        guardian.resume();
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(IGuardian.NotTimelock.selector, caller));
        guardian.end();
    }

    function test_no_office_without_an_end() external {
        vm.expectRevert(abi.encodeWithSelector(IGuardian.BadOffice.selector));
        new Guardian(warden, address(timelock), 0, MAX_PAUSE);
    }

    function _set(bytes32 name, uint256 value, bool fits) private {
        Change[] memory changes = new Change[](1);
        changes[0] = Change(name, value);
        vm.prank(address(timelock));
        if (!fits) {
            vm.expectRevert(abi.encodeWithSelector(IParameters.NotOfKind.selector, name, value));
        }
        parameters.set(changes);
        if (fits) checkEqual(valueOf(name), value, "as was said");
    }

    function _at(string memory list, uint256 index, string memory key)
        private
        pure
        returns (string memory)
    {
        return string.concat(list, "[", vm.toString(index), "]", key);
    }
}
