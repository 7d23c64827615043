// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The few of forge's cheat codes that these tests use.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest)
        external
        pure
        returns (uint8 v, bytes32 r, bytes32 s);
    function eip712HashStruct(string calldata typeDefinition, bytes calldata encoded)
        external
        pure
        returns (bytes32);
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function roll(uint256 height) external;
    function warp(uint256 timestamp) external;
    function chainId(uint256 id) external;
    function etch(address target, bytes calldata code) external;
    function readFile(string calldata path) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonString(string calldata json, string calldata key)
        external
        pure
        returns (string memory);
    function parseJsonUint(string calldata json, string calldata key)
        external
        pure
        returns (uint256);
    function parseUint(string calldata text) external pure returns (uint256);
    function parseBytes(string calldata text) external pure returns (bytes memory);
    function toString(uint256 value) external pure returns (string memory);
    function expectRevert(bytes calldata data) external;
    function expectPartialRevert(bytes4 selector) external;
}

/// @title What every test stands on: cheat codes, assertions that say what is wrong, and bounds.
abstract contract Checks {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error CheckFailed(string what);
    error NotEqual(string what, uint256 left, uint256 right);

    function check(bool holds, string memory what) internal pure {
        require(holds, CheckFailed(what));
    }

    function checkEqual(uint256 left, uint256 right, string memory what) internal pure {
        require(left == right, NotEqual(what, left, right));
    }

    /// @dev Brings a fuzzed number between two bounds, both included.
    function bound(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }

    function smaller(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }
}
