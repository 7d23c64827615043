// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice How disputes go. Times in seconds, the bond in the token's smallest unit.
struct DisputeRules {
    uint256 bond; // what each side puts up
    uint16 burnBps; // of the loser's bond, what is burned; the rest is the winner's
    uint64 answerTime; // within which the other side puts up the same
    uint64 judgeTime; // within which, from then on, the timelock decides
}

/// @notice Where a dispute stands.
enum DisputeState {
    NONE,
    OPEN,
    ANSWERED,
    CLOSED
}

/// @notice One dispute about one registration.
struct Dispute {
    uint256 registration;
    address challenger;
    uint64 until; // when the time to answer, or to decide, is over
    DisputeState state;
    address respondent;
}

/// @title Who says for a bond that weights are registered to the wrong one, and what comes of it.
/// @notice The other side puts up the same or loses by default; what both sides stand for, the network's
/// people decide. The winner has the registration.
interface IDisputes {
    event Opened(
        uint256 indexed number,
        uint256 indexed registration,
        address indexed challenger,
        bytes32 digest,
        uint64 until
    );
    event Answered(uint256 indexed number, address indexed respondent, uint64 until);
    event Decided(uint256 indexed number, bool isUpheld);
    event Lapsed(uint256 indexed number);

    /// @notice The rules do not fit together: no time and no bond is zero, and not more is burned than
    /// there is.
    error BadRules();
    /// @notice Nothing is registered under this digest.
    error NotThere(bytes32 digest);
    /// @notice This dispute does not wait for that.
    error NotInState(DisputeState state);
    /// @notice It is too late for that, or too early.
    error NotNow(uint64 until);
    /// @notice Only the timelock may do this: propose it, and have it voted.
    error NotTimelock(address caller);

    /// @notice Says that what is registered under a digest is the caller's; costs the bond.
    function open(bytes32 digest) external returns (uint256 number);

    /// @notice Stands up for the registration as it is, by the same bond; anybody may.
    function answer(uint256 number) external;

    /// @notice Closes a dispute that nobody answered in time: the challenger has the registration, and
    /// his bond back. Anybody may.
    function close(uint256 number) external;

    /// @notice Decides. Only the timelock.
    function decide(uint256 number, bool isUpheld) external;

    /// @notice Gives both sides their bonds back where nobody decided in time; nothing changes. Anybody
    /// may.
    function lapse(uint256 number) external;

    /// @notice What was fixed at deployment.
    function rules() external view returns (DisputeRules memory);
}
