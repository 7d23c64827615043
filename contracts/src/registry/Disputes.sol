// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Dispute, DisputeRules, DisputeState, IDisputes} from "../interfaces/IDisputes.sol";
import {Registry} from "./Registry.sol";

/// @title Bonded disputes about the registrations of the registry that it brings along.
/// @notice A registration may be disputed by several at once: else its owner would keep others away by
/// disputing it himself. Each dispute is decided for itself, and the last one that is upheld counts.
///
/// It has no owner; the timelock decides disputes that were answered, and can do nothing else here.
contract Disputes is IDisputes {
    using SafeERC20 for IERC20;

    uint256 private constant WHOLE_BPS = 10_000;

    /// @notice Whose registrations are disputed.
    Registry public immutable registry;
    /// @notice What bonds are of.
    ERC20Burnable public immutable token;
    /// @notice Who decides.
    address public immutable timelock;

    /// @notice How many disputes there were; their numbers begin with 1.
    uint256 public count;
    mapping(uint256 number => Dispute) public disputes;

    uint256 private immutable _bond;
    uint16 private immutable _burnBps;
    uint64 private immutable _answerTime;
    uint64 private immutable _judgeTime;

    constructor(
        ERC20Burnable token_,
        address timelock_,
        DisputeRules memory rules_,
        uint64 delay,
        uint64 window
    ) {
        require(
            rules_.bond > 0 && rules_.burnBps <= WHOLE_BPS && rules_.answerTime > 0
                && rules_.judgeTime > 0,
            BadRules()
        );
        token = token_;
        timelock = timelock_;
        _bond = rules_.bond;
        _burnBps = rules_.burnBps;
        _answerTime = rules_.answerTime;
        _judgeTime = rules_.judgeTime;
        registry = new Registry(delay, window, address(this));
    }

    /// @inheritdoc IDisputes
    function open(bytes32 digest) external returns (uint256 number) {
        uint256 registration = registry.idOf(digest);
        require(registration != 0, NotThere(digest));
        number = ++count;
        uint64 until = uint64(block.timestamp) + _answerTime;
        disputes[number] = Dispute(registration, msg.sender, until, DisputeState.OPEN, address(0));
        emit Opened(number, registration, msg.sender, digest, until);
        IERC20(token).safeTransferFrom(msg.sender, address(this), _bond);
    }

    /// @inheritdoc IDisputes
    function answer(uint256 number) external {
        Dispute storage found = _in(number, DisputeState.OPEN);
        require(block.timestamp < found.until, NotNow(found.until));
        found.state = DisputeState.ANSWERED;
        found.respondent = msg.sender;
        found.until = uint64(block.timestamp) + _judgeTime;
        emit Answered(number, msg.sender, found.until);
        IERC20(token).safeTransferFrom(msg.sender, address(this), _bond);
    }

    /// @inheritdoc IDisputes
    function close(uint256 number) external {
        Dispute storage found = _in(number, DisputeState.OPEN);
        require(block.timestamp >= found.until, NotNow(found.until));
        found.state = DisputeState.CLOSED;
        emit Decided(number, true);
        registry.award(found.registration, found.challenger);
        IERC20(token).safeTransfer(found.challenger, _bond);
    }

    /// @inheritdoc IDisputes
    function decide(uint256 number, bool isUpheld) external {
        require(msg.sender == timelock, NotTimelock(msg.sender));
        Dispute storage found = _in(number, DisputeState.ANSWERED);
        require(block.timestamp < found.until, NotNow(found.until));
        found.state = DisputeState.CLOSED;
        emit Decided(number, isUpheld);
        if (isUpheld) registry.award(found.registration, found.challenger);
        uint256 burned = Math.mulDiv(_bond, _burnBps, WHOLE_BPS);
        token.burn(burned);
        address winner = isUpheld ? found.challenger : found.respondent;
        IERC20(token).safeTransfer(winner, 2 * _bond - burned);
    }

    /// @inheritdoc IDisputes
    function lapse(uint256 number) external {
        Dispute storage found = _in(number, DisputeState.ANSWERED);
        require(block.timestamp >= found.until, NotNow(found.until));
        found.state = DisputeState.CLOSED;
        emit Lapsed(number);
        IERC20(token).safeTransfer(found.challenger, _bond);
        IERC20(token).safeTransfer(found.respondent, _bond);
    }

    /// @inheritdoc IDisputes
    function rules() external view returns (DisputeRules memory) {
        return DisputeRules(_bond, _burnBps, _answerTime, _judgeTime);
    }

    function _in(uint256 number, DisputeState state) private view returns (Dispute storage found) {
        found = disputes[number];
        require(found.state == state, NotInState(found.state));
    }
}
