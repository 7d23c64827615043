// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGuardian} from "../interfaces/IGuardian.sol";

/// @title The guardian's office: may pause posting, and nothing else.
/// @notice Holds no money, and no contract that does obeys it: the aggregator and the witnesses read
/// it, without whose signatures no header is posted. Claims, exits, demands and proofs go on while it
/// says pause. It pauses for half of the time at most, and its office ends by itself.
contract Guardian is IGuardian {
    /// @inheritdoc IGuardian
    address public immutable guardian;
    /// @inheritdoc IGuardian
    address public immutable timelock;
    /// @inheritdoc IGuardian
    uint64 public immutable maxPause;

    /// @inheritdoc IGuardian
    uint64 public expiresAt;
    /// @inheritdoc IGuardian
    uint64 public pausedUntil;
    uint64 private _restsUntil;

    constructor(address guardian_, address timelock_, uint64 term, uint64 maxPause_) {
        require(guardian_ != address(0) && term > 0 && maxPause_ > 0, BadOffice());
        guardian = guardian_;
        timelock = timelock_;
        maxPause = maxPause_;
        expiresAt = uint64(block.timestamp) + term;
    }

    /// @inheritdoc IGuardian
    function pause(uint64 duration) external {
        require(msg.sender == guardian, NotGuardian(msg.sender));
        require(block.timestamp < expiresAt, OfficeOver(expiresAt));
        require(duration > 0 && duration <= maxPause, TooLong(maxPause));
        require(block.timestamp >= _restsUntil, TooSoon(_restsUntil));
        uint64 until = uint64(block.timestamp) + duration;
        pausedUntil = until < expiresAt ? until : expiresAt;
        _restsUntil = until + duration;
        emit Paused(pausedUntil);
    }

    /// @inheritdoc IGuardian
    function resume() external {
        require(
            msg.sender == guardian || msg.sender == timelock, NotGuardianOrTimelock(msg.sender)
        );
        pausedUntil = uint64(block.timestamp);
        emit Resumed();
    }

    /// @inheritdoc IGuardian
    function end() external {
        require(msg.sender == timelock, NotTimelock(msg.sender));
        pausedUntil = expiresAt = uint64(block.timestamp);
        emit Ended();
    }

    /// @inheritdoc IGuardian
    function isPaused() external view returns (bool) {
        return block.timestamp < pausedUntil;
    }
}
