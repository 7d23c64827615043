// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a value is; docs/protocols/governance.md has their bounds.
enum Kind {
    Count,
    BasisPoints,
    Amount, // of the fee token's smallest unit
    Seconds,
    Digest
}

/// @notice A parameter, and the value with which it begins.
struct Declaration {
    bytes32 name; // ASCII, filled with zeros
    Kind kind;
    uint256 value;
}

/// @notice A new value for a parameter.
struct Change {
    bytes32 name;
    uint256 value;
}

/// @title What a network's people decided, version by version. Nothing of it is ever overwritten.
interface IParameters {
    event Written(uint32 indexed version, uint64 since, bytes32 digest);

    /// @notice Only the timelock may do this: propose it, and have it voted.
    error NotTimelock(address caller);
    /// @notice A change must change something, and there are at most 64 parameters.
    error NotSoMany(uint256 count);
    /// @notice A name is 1 to 31 of a to z, 0 to 9, . and -, and then zeros.
    error BadName(bytes32 name);
    /// @notice This parameter is declared already.
    error Declared(bytes32 name);
    /// @notice There is no such parameter; declare it first.
    error Unknown(bytes32 name);
    /// @notice A parameter of this kind has no such value.
    error NotOfKind(bytes32 name, uint256 value);
    /// @notice There is no such version; the first is 1.
    error NoVersion(uint32 version);

    /// @notice Writes a new version, with these values changed. Only the timelock.
    function set(Change[] calldata changes) external;

    /// @notice Writes a new version, with these parameters added. Only the timelock.
    function declare(Declaration[] calldata declarations) external;

    /// @notice Who alone may write.
    function timelock() external view returns (address);

    /// @notice The last version.
    function version() external view returns (uint32);

    /// @notice Each parameter's name, in order; a version has as many of them as it has values.
    function names() external view returns (bytes32[] memory);

    /// @notice What a parameter is.
    function kindOf(bytes32 name) external view returns (Kind);

    /// @notice When a version was written, in seconds of the chain's clock, and its values.
    function read(uint32 version) external view returns (uint64 since, uint256[] memory values);

    /// @notice keccak256 of a version's byte form: for each parameter name 32 || value 32.
    function digestOf(uint32 version) external view returns (bytes32);
}
