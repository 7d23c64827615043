// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IStake, Pool, Position, StakeTerms} from "../interfaces/IStake.sol";

/// @title Who put how much behind whom, and how a loss is divided. Judges nothing.
/// @notice Shares begin at one for each unit of the token, and a loss makes each worth less. So there
/// are never fewer shares than units, whoever joins has at least as many as he brings units, and
/// rounding only ever favours those who stay. A loss never takes a pool's last unit.
abstract contract Pools is IStake {
    using SafeERC20 for IERC20;

    uint256 internal constant WHOLE_BPS = 10_000;

    /// @notice What is staked.
    ERC20Burnable public immutable token;

    mapping(address operator => Pool) public pools;
    mapping(address operator => mapping(address holder => Position)) public positions;
    /// @notice Which offences were punished.
    mapping(bytes32 offence => bool) public isPunished;

    uint64 private immutable _thaw;
    uint256 private immutable _perAnswer;
    uint16 private immutable _slashBps;
    uint256 private immutable _cap;
    uint16 private immutable _bountyBps;

    constructor(ERC20Burnable token_, StakeTerms memory terms_) {
        require(
            terms_.thaw > 0 && terms_.perAnswer > 0 && terms_.slashBps > 0
                && terms_.slashBps < WHOLE_BPS && terms_.cap > 0
                && terms_.bountyBps <= WHOLE_BPS / 2,
            BadTerms()
        );
        token = token_;
        _thaw = terms_.thaw;
        _perAnswer = terms_.perAnswer;
        _slashBps = terms_.slashBps;
        _cap = terms_.cap;
        _bountyBps = terms_.bountyBps;
    }

    /// @inheritdoc IStake
    function stake(address operator, uint256 amount) external {
        require(amount > 0, NotSoMuch(0));
        Pool storage pool = pools[operator];
        uint256 shares = pool.shares == 0 ? amount : Math.mulDiv(amount, pool.shares, pool.amount);
        pool.amount += amount;
        pool.shares += shares;
        positions[operator][msg.sender].shares += shares;
        emit Staked(operator, msg.sender, amount, shares);
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IStake
    function thaw(address operator, uint256 shares) external {
        Pool storage pool = pools[operator];
        Position storage own = positions[operator][msg.sender];
        require(shares > 0 && shares <= own.shares, NotSoMuch(own.shares));
        uint256 amount = Math.mulDiv(shares, pool.amount, pool.shares);
        uint256 thawingShares = pool.thawingShares == 0
            ? amount
            : Math.mulDiv(amount, pool.thawingShares, pool.thawing);
        own.shares -= shares;
        pool.shares -= shares;
        pool.amount -= amount;
        own.thawingShares += thawingShares;
        pool.thawingShares += thawingShares;
        pool.thawing += amount;
        own.readyAt = uint64(block.timestamp) + _thaw;
        emit Thawing(operator, msg.sender, amount, own.readyAt);
    }

    /// @inheritdoc IStake
    function withdraw(address operator) external {
        Pool storage pool = pools[operator];
        Position storage own = positions[operator][msg.sender];
        uint256 shares = own.thawingShares;
        require(shares > 0, NotSoMuch(0));
        require(block.timestamp >= own.readyAt, StillThawing(own.readyAt));
        uint256 amount = Math.mulDiv(shares, pool.thawing, pool.thawingShares);
        own.thawingShares = 0;
        pool.thawingShares -= shares;
        pool.thawing -= amount;
        emit Withdrawn(operator, msg.sender, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStake
    function stakeOf(address operator) external view returns (uint256) {
        return pools[operator].amount;
    }

    /// @inheritdoc IStake
    function holdingOf(address operator, address holder)
        external
        view
        returns (uint256 amount, uint256 thawing)
    {
        Pool storage pool = pools[operator];
        Position storage own = positions[operator][holder];
        if (own.shares > 0) amount = Math.mulDiv(own.shares, pool.amount, pool.shares);
        if (own.thawingShares > 0) {
            thawing = Math.mulDiv(own.thawingShares, pool.thawing, pool.thawingShares);
        }
    }

    /// @inheritdoc IStake
    function terms() external view returns (StakeTerms memory) {
        return StakeTerms(_thaw, _perAnswer, _slashBps, _cap, _bountyBps);
    }

    /// @dev Takes a part of all that stands behind an operator, thawing or not, once for an offence.
    function _slash(address operator, bytes32 offence) internal {
        require(!isPunished[offence], SlashedBefore(offence));
        isPunished[offence] = true;
        Pool storage pool = pools[operator];
        uint256 all = pool.amount + pool.thawing;
        uint256 most = Math.min(Math.mulDiv(all, _slashBps, WHOLE_BPS), _cap);
        require(most > 0, NothingAtStake(operator));
        uint256 counted = Math.mulDiv(most, pool.amount, all);
        uint256 thawing = Math.mulDiv(most, pool.thawing, all);
        uint256 lost = counted + thawing;
        uint256 bounty = Math.mulDiv(lost, _bountyBps, WHOLE_BPS);
        pool.amount -= counted;
        pool.thawing -= thawing;
        emit Slashed(operator, msg.sender, offence, lost, bounty);
        token.burn(lost - bounty);
        IERC20(token).safeTransfer(msg.sender, bounty);
    }
}
