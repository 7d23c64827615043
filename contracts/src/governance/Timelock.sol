// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title What was voted waits here, in everybody's sight, before it happens. OpenZeppelin's own.
/// @notice The deployer administers it until it has given the proposer's and canceller's role to the
/// governor, and then renounces; anybody may execute what is due.
contract Timelock is TimelockController {
    constructor(uint256 minDelay, address deployer)
        TimelockController(minDelay, new address[](0), _anybody(), deployer)
    {}

    function _anybody() private pure returns (address[] memory executors) {
        executors = new address[](1);
    }
}
