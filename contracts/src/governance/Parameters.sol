// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Change, Declaration, IParameters, Kind} from "../interfaces/IParameters.sol";

/// @title The parameters of a network: typed, by version, written by the timelock alone.
/// @notice Knows what a value can be, not what is wise: the bounds that no vote leaves are each
/// node's own, since a contract could be told to drop them. Holds no money and calls nobody.
contract Parameters is IParameters {
    uint256 private constant MAX_PARAMETERS = 64;
    uint256 private constant MAX_BASIS_POINTS = 10_000;
    uint256 private constant MAX_NUMBER = type(uint64).max >> 1;

    /// @dev All of a version: what was decided is read as it was, whatever is decided later.
    struct Version {
        uint64 since;
        uint256[] values;
    }

    /// @inheritdoc IParameters
    address public immutable timelock;

    bytes32[] private _names;
    Kind[] private _kinds;
    mapping(bytes32 name => uint256) private _places; // from 1
    Version[] private _versions;

    modifier onlyTimelock() {
        require(msg.sender == timelock, NotTimelock(msg.sender));
        _;
    }

    constructor(address timelock_, Declaration[] memory declarations) {
        timelock = timelock_;
        _write(_declare(new uint256[](0), declarations));
    }

    /// @inheritdoc IParameters
    function set(Change[] calldata changes) external onlyTimelock {
        require(changes.length > 0, NotSoMany(0));
        uint256[] memory values = _versions[_versions.length - 1].values;
        for (uint256 i = 0; i < changes.length; i++) {
            uint256 place = _placeOf(changes[i].name);
            _checkValue(changes[i].name, _kinds[place], changes[i].value);
            values[place] = changes[i].value;
        }
        _write(values);
    }

    /// @inheritdoc IParameters
    function declare(Declaration[] calldata declarations) external onlyTimelock {
        require(declarations.length > 0, NotSoMany(0));
        _write(_declare(_versions[_versions.length - 1].values, declarations));
    }

    /// @inheritdoc IParameters
    function version() public view returns (uint32) {
        return uint32(_versions.length);
    }

    /// @inheritdoc IParameters
    function names() external view returns (bytes32[] memory) {
        return _names;
    }

    /// @inheritdoc IParameters
    function kindOf(bytes32 name) external view returns (Kind) {
        return _kinds[_placeOf(name)];
    }

    /// @inheritdoc IParameters
    function read(uint32 version_) public view returns (uint64 since, uint256[] memory values) {
        require(version_ > 0 && version_ <= _versions.length, NoVersion(version_));
        Version storage found = _versions[version_ - 1];
        return (found.since, found.values);
    }

    /// @inheritdoc IParameters
    function digestOf(uint32 version_) external view returns (bytes32) {
        (, uint256[] memory values) = read(version_);
        return _digest(values);
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    function _write(uint256[] memory values) private {
        uint64 since = uint64(block.timestamp);
        _versions.push(Version(since, values));
        emit Written(version(), since, _digest(values));
    }

    /// @dev Adds parameters behind those that are there; all values, with theirs.
    function _declare(uint256[] memory before, Declaration[] memory declarations)
        private
        returns (uint256[] memory values)
    {
        uint256 count = before.length + declarations.length;
        require(count <= MAX_PARAMETERS, NotSoMany(count));
        values = new uint256[](count);
        for (uint256 i = 0; i < before.length; i++) {
            values[i] = before[i];
        }
        for (uint256 i = 0; i < declarations.length; i++) {
            Declaration memory one = declarations[i];
            _checkName(one.name);
            require(_places[one.name] == 0, Declared(one.name));
            _checkValue(one.name, one.kind, one.value);
            _names.push(one.name);
            _kinds.push(one.kind);
            _places[one.name] = _names.length;
            values[before.length + i] = one.value;
        }
    }

    function _placeOf(bytes32 name) private view returns (uint256) {
        uint256 place = _places[name];
        require(place > 0, Unknown(name));
        return place - 1;
    }

    function _digest(uint256[] memory values) private view returns (bytes32) {
        bytes32[] memory rows = new bytes32[](2 * values.length);
        for (uint256 i = 0; i < values.length; i++) {
            rows[2 * i] = _names[i];
            rows[2 * i + 1] = bytes32(values[i]);
        }
        return keccak256(abi.encodePacked(rows));
    }

    function _checkValue(bytes32 name, Kind kind, uint256 value) private pure {
        if (kind == Kind.Digest) return;
        uint256 most = kind == Kind.BasisPoints ? MAX_BASIS_POINTS : MAX_NUMBER;
        require(value <= most, NotOfKind(name, value));
    }

    function _checkName(bytes32 name) private pure {
        uint256 length = 0;
        while (length < 32 && name[length] != 0) {
            require(_isNameByte(name[length]), BadName(name));
            length++;
        }
        require(length > 0 && length < 32 && uint256(name) << (8 * length) == 0, BadName(name));
    }

    function _isNameByte(bytes1 one) private pure returns (bool) {
        return (one >= "a" && one <= "z") || (one >= "0" && one <= "9") || one == "." || one == "-";
    }
}
