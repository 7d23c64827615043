// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What a test stands on in which forge calls its operations in any order.
/// @dev Properties that nothing ever challenged would hold as well, so in a whole run each operation
/// must have succeeded.
abstract contract Sequences {
    uint256 internal constant FULL_RUN = 512; // the depth that foundry.toml sets

    mapping(bytes4 operation => uint256) internal numSucceeded;
    uint256 internal numTried;

    error NeverSucceeded(bytes4 operation);

    /// @dev As forge asks for it: which functions of a contract it is to call.
    struct Selectors {
        address target;
        bytes4[] selectors;
    }

    /// @dev A short sequence is one that forge shrank or tries again.
    function afterInvariant() external view {
        checkAtTheEnd();
        if (numTried < FULL_RUN) return;
        bytes4[] memory all = operations();
        for (uint256 i = 0; i < all.length; i++) {
            require(numSucceeded[all[i]] > 0, NeverSucceeded(all[i]));
        }
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(this);
    }

    function targetSelectors() external view returns (Selectors[] memory targets) {
        targets = new Selectors[](1);
        targets[0].target = address(this);
        targets[0].selectors = operations();
    }

    /// @dev The functions that forge calls.
    function operations() internal view virtual returns (bytes4[] memory);

    /// @dev What is too much to look at after each of them.
    function checkAtTheEnd() internal view virtual {}
}
