// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The one function of Multicall3 that x402's facilitator calls, for development chains.
/// @notice Every public chain has the real contract at 0xcA11bde05977b3631167028862bE2a173976CA11.
contract Multicall3 {
    struct Call {
        address target;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    /// @notice A call failed, and the caller required that none does.
    error CallFailed(uint256 index);

    /// @notice Makes all calls in their order, and says of each whether it succeeded.
    function tryAggregate(bool requireSuccess, Call[] calldata calls)
        external
        returns (Result[] memory results)
    {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; i++) {
            (results[i].success, results[i].returnData) = calls[i].target.call(calls[i].callData);
            require(results[i].success || !requireSuccess, CallFailed(i));
        }
    }
}
