// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";

import {Guardian} from "../src/governance/Guardian.sol";
import {LorikeetGovernor, Rules} from "../src/governance/LorikeetGovernor.sol";
import {Parameters} from "../src/governance/Parameters.sol";
import {Timelock} from "../src/governance/Timelock.sol";
import {Change, Declaration, IParameters, Kind} from "../src/interfaces/IParameters.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {Checks} from "./Checks.sol";

/// @title Everything that a network votes with, deployed as development chains have it.
abstract contract Assembly is Checks {
    uint48 internal constant VOTING_DELAY = 10;
    uint32 internal constant VOTING_PERIOD = 100;
    uint256 internal constant THRESHOLD = 1_000e6;
    uint256 internal constant QUORUM_PERCENT = 4;
    uint256 internal constant WAIT = 50;
    uint64 internal constant TERM = 100_000;
    uint64 internal constant MAX_PAUSE = 1_000;
    bytes32 internal constant SHARE = "shares.node";
    bytes32 internal constant FLOOR = "prices.prompt-floor";
    bytes32 internal constant RULE = "attribution.rule";
    uint8 internal constant AGAINST = 0;
    uint8 internal constant FOR = 1;

    LorikeetToken internal immutable lori;
    Timelock internal immutable timelock;
    LorikeetGovernor internal immutable governor;
    Parameters internal immutable parameters;
    Guardian internal immutable guardian;
    address internal immutable warden = address(0x6A4D);

    constructor() {
        vm.warp(1_000_000);
        lori = new LorikeetToken(address(this));
        timelock = new Timelock(WAIT, address(this));
        Declaration[] memory declared = new Declaration[](3);
        declared[0] = Declaration(SHARE, Kind.BasisPoints, 6_000);
        declared[1] = Declaration(FLOOR, Kind.Amount, 0);
        declared[2] = Declaration(RULE, Kind.Digest, uint256(keccak256("a rule")));
        parameters = new Parameters(address(timelock), declared);
        guardian = new Guardian(warden, address(timelock), TERM, MAX_PAUSE);
        governor = new LorikeetGovernor(
            lori,
            timelock,
            parameters,
            guardian,
            Rules(VOTING_DELAY, VOTING_PERIOD, THRESHOLD, QUORUM_PERCENT)
        );
        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));
    }

    /// @dev The one call of a proposal that sets a parameter.
    function setting(bytes32 name, uint256 value)
        internal
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        Change[] memory changes = new Change[](1);
        changes[0] = Change(name, value);
        return calling(address(parameters), abi.encodeCall(IParameters.set, (changes)));
    }

    function calling(address target, bytes memory data)
        internal
        pure
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        targets = new address[](1);
        targets[0] = target;
        values = new uint256[](1);
        calls = new bytes[](1);
        calls[0] = data;
    }

    function valueOf(bytes32 name) internal view returns (uint256) {
        (, uint256[] memory values) = parameters.read(parameters.version());
        bytes32[] memory names = parameters.names();
        for (uint256 i = 0; i < names.length; i++) {
            if (names[i] == name) return values[i];
        }
        revert IParameters.Unknown(name);
    }

    function isState(uint256 proposal, IGovernor.ProposalState state)
        internal
        view
        returns (bool)
    {
        return governor.state(proposal) == state;
    }
}
