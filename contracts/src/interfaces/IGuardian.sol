// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Somebody who may ask for a pause, for a while, until a day that was known beforehand.
interface IGuardian {
    event Paused(uint64 until);
    event Resumed();
    event Ended();

    /// @notice The guardian is somebody, a pause takes some time, and the office ends some day.
    error BadOffice();
    /// @notice Only the guardian may do this.
    error NotGuardian(address caller);
    /// @notice Only the guardian or the timelock may do this.
    error NotGuardianOrTimelock(address caller);
    /// @notice Only the timelock may do this.
    error NotTimelock(address caller);
    /// @notice The guardian's office is over.
    error OfficeOver(uint64 expiresAt);
    /// @notice A pause lasts at least a second and at most so many.
    error TooLong(uint64 most);
    /// @notice Between two pauses lies at least the time that the last one was asked for.
    error TooSoon(uint64 from);

    /// @notice Asks aggregator and witnesses to have no header posted for so many seconds. Only the
    /// guardian, and not again before as much time has passed as the last pause was asked for.
    function pause(uint64 duration) external;

    /// @notice Ends a pause. Only the guardian or the timelock.
    function resume() external;

    /// @notice Ends the office, and a pause with it, for good. Only the timelock.
    function end() external;

    /// @notice Whether no header is to be posted now.
    function isPaused() external view returns (bool);

    /// @notice Who may pause.
    function guardian() external view returns (address);

    /// @notice Who may end a pause, and the office.
    function timelock() external view returns (address);

    /// @notice When the office ends, in seconds of the chain's clock.
    function expiresAt() external view returns (uint64);

    /// @notice How long a pause may be.
    function maxPause() external view returns (uint64);

    /// @notice When the last pause ends or ended.
    function pausedUntil() external view returns (uint64);
}
