// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IChannels} from "../interfaces/IChannels.sol";
import {Board, IOffice, Terms} from "../interfaces/IOffice.sol";

/// @title Who may post headers, what it pledges for them, and how the office changes hands.
/// @notice The owner never touches money: a board that it proposes waits for the timelock, pledges
/// a bond like the one before, and is convicted by the same proofs.
///
/// A header must never outlive the office of whoever posted it without being final: a bond would be
/// released that a lie should cost, or a successor's be lost for another's lie. So from the end of
/// the timelock on nobody posts, and the new board is installed once the last header is final. For
/// the same reason only an aggregator whose last header is final can be dismissed.
abstract contract Office is IOffice {
    using SafeERC20 for IERC20;

    uint256 private constant MAX_WITNESSES = 16;
    /// @dev How many answers, one after the other, a window must have time for: so many as it takes to
    /// find a lie among 100,000 accounts with 8,192 entries each, and as many again.
    uint64 private constant MIN_ANSWERS = 48;
    uint64 private constant MIN_ANSWERS_DEVELOPMENT = 2;
    /// @dev Where the half of a lost bond goes that no prover gets. Without it an aggregator that
    /// lied could convict itself, before an honest watcher does, and have its whole bond back.
    address internal constant NOBODY = 0x000000000000000000000000000000000000dEaD;

    /// @inheritdoc IOffice
    IChannels public immutable channels;
    /// @inheritdoc IOffice
    IERC20 public immutable token;
    /// @inheritdoc IOffice
    address public immutable court;
    /// @inheritdoc IOffice
    uint256 public immutable deployedAt = block.number;
    uint64 internal immutable window;
    uint64 internal immutable answerTime;
    uint64 internal immutable silence;
    uint64 private immutable timelock;
    uint128 private immutable requiredBond;
    uint128 internal immutable demandFee;

    // One slot: all that a post asks of the office.
    /// @inheritdoc IOffice
    address public aggregator;
    uint64 private _frozenFrom; // when the proposed board becomes effective; zero without one
    /// @inheritdoc IOffice
    uint8 public quorum;
    bool private _isBonded;

    // One slot.
    /// @inheritdoc IOffice
    uint128 public bond;
    uint64 private _aliveAt;
    /// @inheritdoc IOffice
    uint32 public term;

    /// @inheritdoc IOffice
    address public owner;
    /// @inheritdoc IOffice
    uint64 public installedAt;
    address[] private _witnesses;
    /// @inheritdoc IOffice
    mapping(address account => bool) public isWitness;
    /// @inheritdoc IOffice
    mapping(address account => uint128) public credit;
    /// @inheritdoc IOffice
    bytes32 public proposal;
    /// @inheritdoc IOffice
    mapping(uint32 term => address) public convicted;

    modifier onlyCourt() {
        require(msg.sender == court, NotCourt(msg.sender));
        _;
    }

    constructor(
        Board memory board,
        IChannels channels_,
        IERC20 token_,
        Terms memory terms_,
        address court_
    ) {
        require(
            terms_.answerTime > 0 && terms_.window / terms_.answerTime >= _minAnswers()
                && terms_.silence >= terms_.window && terms_.timelock > 0,
            BadTerms()
        );
        court = court_;
        channels = channels_;
        token = token_;
        window = terms_.window;
        answerTime = terms_.answerTime;
        silence = terms_.silence;
        timelock = terms_.timelock;
        requiredBond = terms_.bond;
        demandFee = terms_.demandFee;
        _checkBoard(board);
        _seat(board);
    }

    /// @inheritdoc IOffice
    function fundBond(uint128 amount) external {
        require(aggregator != address(0), OfficeVacant());
        bond += amount;
        _isBonded = bond >= requiredBond;
        emit BondFunded(msg.sender, amount, bond);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IOffice
    function alive() external {
        require(msg.sender == aggregator, NotAggregator(msg.sender));
        _aliveAt = uint64(block.timestamp);
    }

    /// @inheritdoc IOffice
    function dismiss() external {
        require(aggregator != address(0), OfficeVacant());
        _dismissSilent();
    }

    /// @inheritdoc IOffice
    function punish(address prover) external onlyCourt {
        _punish(prover, type(uint64).max);
    }

    /// @inheritdoc IOffice
    function propose(Board memory board) external {
        require(msg.sender == owner, NotOwner(msg.sender));
        _checkBoard(board);
        proposal = keccak256(abi.encode(board));
        _frozenFrom = uint64(block.timestamp) + timelock;
        emit BoardProposed(board, _frozenFrom);
    }

    /// @inheritdoc IOffice
    function install(Board memory board) external {
        require(_isFrozen(), NotEffective(_frozenFrom));
        require(keccak256(abi.encode(board)) == proposal, NotProposed());
        require(_isLastFinal(), NotFinal());
        if (board.aggregator != aggregator) _release();
        _seat(board);
    }

    /// @inheritdoc IOffice
    function collect(address account) external {
        uint128 amount = credit[account];
        require(amount > 0, NothingToCollect(account));
        credit[account] = 0;
        emit Collected(account, amount);
        token.safeTransfer(account, amount);
    }

    /// @inheritdoc IOffice
    function terms() external view returns (Terms memory) {
        return Terms(window, answerTime, silence, timelock, requiredBond, demandFee);
    }

    /// @inheritdoc IOffice
    function witnesses() external view returns (address[] memory) {
        return _witnesses;
    }

    /// @inheritdoc IOffice
    function effectiveAt() external view returns (uint64) {
        return _frozenFrom;
    }

    /// @inheritdoc IOffice
    function silentFrom() public view returns (uint64) {
        uint64 posted = _lastPost();
        return (posted > _aliveAt ? posted : _aliveAt) + silence;
    }

    // ── inside ───────────────────────────────────────────────────────────────────────────────────

    /// @dev When the last header was posted.
    function _lastPost() internal view virtual returns (uint64);

    /// @dev Whether the last header can't be challenged any more.
    function _isLastFinal() internal view virtual returns (bool);

    function _checkPoster() internal view {
        require(msg.sender == aggregator, NotAggregator(msg.sender));
        // No require: it would read the bond, to say how much it is, each time.
        if (!_isBonded) revert BondMissing(bond, requiredBond);
        require(!_isFrozen(), OfficeFrozen());
    }

    function _isFrozen() internal view returns (bool) {
        return _frozenFrom != 0 && block.timestamp >= _frozenFrom;
    }

    function _dismissSilent() internal {
        require(block.timestamp > silentFrom(), NotSilent(silentFrom()));
        require(_isLastFinal(), NotFinal());
        emit Dismissed(aggregator, bond);
        _release();
    }

    /// @dev Ends the office of an aggregator that lied or broke its word. Half of its bond goes to
    /// whoever showed it. An aggregator that is gone already has nothing left to lose.
    function _punish(address prover, uint64 firstEpoch) internal {
        uint128 lost = bond;
        uint128 reward = lost / 2;
        emit Convicted(aggregator, prover, firstEpoch, reward);
        convicted[term] = aggregator;
        _vacate();
        _pay(prover, reward);
        _pay(NOBODY, lost - reward);
    }

    /// @dev Sends, or credits where the token refuses: one account that the token's issuer blocked
    /// must not hold up the others.
    function _pay(address account, uint128 amount) internal {
        if (amount == 0) return;
        if (!token.trySafeTransfer(account, amount)) _credit(account, amount);
    }

    function _release() private {
        if (bond > 0) _credit(aggregator, bond);
        _vacate();
    }

    function _vacate() private {
        if (aggregator != address(0)) term++;
        aggregator = address(0);
        bond = 0;
        _isBonded = requiredBond == 0;
    }

    function _credit(address account, uint128 amount) private {
        credit[account] += amount;
        emit Credited(account, amount);
    }

    function _seat(Board memory board) private {
        address[] memory before = _witnesses;
        for (uint256 i = 0; i < before.length; i++) {
            isWitness[before[i]] = false;
        }
        for (uint256 i = 0; i < board.witnesses.length; i++) {
            isWitness[board.witnesses[i]] = true;
        }
        _witnesses = board.witnesses;
        owner = board.owner;
        aggregator = board.aggregator;
        quorum = board.quorum;
        _isBonded = bond >= requiredBond;
        _aliveAt = installedAt = uint64(block.timestamp);
        term++;
        _frozenFrom = 0;
        proposal = 0;
        emit BoardInstalled(board.aggregator, term);
    }

    /// @dev A chain that anybody starts for himself is for trees of a few leaves. The ids are those that
    /// `DevDollar` knows.
    function _minAnswers() private view returns (uint64) {
        bool isForDevelopment = block.chainid == 31337 || block.chainid == 1337;
        return isForDevelopment ? MIN_ANSWERS_DEVELOPMENT : MIN_ANSWERS;
    }

    function _checkBoard(Board memory board) private pure {
        uint256 count = board.witnesses.length;
        require(count <= MAX_WITNESSES && board.quorum <= count, BadBoard());
        for (uint256 i = 0; i < count; i++) {
            require(board.witnesses[i] != address(0), BadBoard());
            for (uint256 j = 0; j < i; j++) {
                require(board.witnesses[i] != board.witnesses[j], BadBoard());
            }
        }
    }
}
