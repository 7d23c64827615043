// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Claim, IRegistry, Registration} from "../interfaces/IRegistry.sol";

/// @title Who was first to register weights, and whose they are now.
/// @notice What holds, and why:
///
/// - Nobody is overtaken by who sees his claim. It is committed to before it is shown, a commitment
///   counts from the second in which it was made, and nobody can make one without knowing the weights.
///   Whoever sees a claim and registers the same weights sooner, since he keeps the first one's
///   transaction back, loses them again to who had committed before, for as long as `WINDOW` lasts.
/// - Nobody registers in another's name: the creator signs. Anybody may pay the gas, and who repeats
///   somebody's call does him a favour.
/// - A registration moves no money and costs none. It knows who came first to it, not who made what;
///   where it was given one, the contract of disputes hands on what was decided there.
///
/// It has no owner, and nothing else in it can be changed or stopped.
contract Registry is IRegistry, EIP712 {
    /// @notice How many parents an adapter names at most.
    uint256 public constant MAX_PARENTS = 8;
    /// @notice How many basis points are everything.
    uint16 public constant MAX_ROYALTY_BPS = 10_000;

    bytes32 private constant CLAIM_TYPE = keccak256(
        "Claim(address creator,bytes32 brain,bytes32 half,bytes32 manifest,uint16 royaltyBps,"
        "bytes32[] parents,bytes32 salt)"
    );

    struct Commitment {
        uint64 madeAt;
        uint64 number;
    }

    /// @notice Seconds from a commitment until its claim may be shown.
    uint64 public immutable DELAY;
    /// @notice Seconds after a registration in which an earlier commitment displaces it.
    uint64 public immutable WINDOW;
    /// @notice Where registrations are disputed; zero: nowhere.
    address public immutable DISPUTES;

    /// @notice How many registrations there are; their numbers begin with 1.
    uint256 public count;
    /// @notice Under which number a digest is registered; 0: it is not.
    mapping(bytes32 digest => uint256 id) public idOf;
    /// @notice When, and in which block, a claim was committed to.
    mapping(bytes32 claim => Commitment) public commitments;

    mapping(uint256 id => Registration) private _registrations;
    mapping(uint256 id => bytes32[]) private _parents;

    constructor(uint64 delay, uint64 window, address disputes) EIP712("Lorikeet Registry", "1") {
        DELAY = delay;
        WINDOW = window;
        DISPUTES = disputes;
    }

    function commit(bytes32 claim) external {
        if (commitments[claim].madeAt != 0) return;
        commitments[claim] = Commitment(uint64(block.timestamp), uint64(block.number));
    }

    function register(Claim calldata claim, bytes calldata signature)
        external
        returns (uint256 id)
    {
        Commitment memory commitment = _check(claim, signature);
        id = ++count;
        _take(claim.brain, id, commitment.madeAt);
        _take(claim.half, id, commitment.madeAt);
        _registrations[id] = Registration({
            creator: claim.creator,
            committedAt: commitment.madeAt,
            royaltyBps: claim.royaltyBps,
            owner: claim.creator,
            registeredAt: uint64(block.timestamp),
            numParents: uint32(claim.parents.length),
            manifest: claim.manifest,
            firstBlock: commitment.number
        });
        _parents[id] = claim.parents;
        emit Registered(id, claim.brain, claim.half, claim.creator, claim.manifest);
    }

    function handOn(bytes32 digest, address to) external {
        uint256 id = idOf[digest];
        require(id != 0, NotRegistered(digest));
        require(_registrations[id].owner == msg.sender, NotOwner(msg.sender));
        require(to != address(0), NoReceiver());
        _registrations[id].owner = to;
        emit HandedOn(id, msg.sender, to);
    }

    function award(uint256 id, address to) external {
        require(msg.sender == DISPUTES, NotDisputes(msg.sender));
        Registration storage registration = _registrations[id];
        emit Awarded(id, registration.owner, to);
        registration.creator = to;
        registration.owner = to;
    }

    function find(bytes32 brain, bytes32 half)
        external
        view
        returns (Registration memory registration, bytes32[] memory parents)
    {
        uint256 id = idOf[brain];
        uint256 other = idOf[half];
        if (id == 0 || (other != 0 && _isEarlier(other, id))) id = other;
        return (_registrations[id], _parents[id]);
    }

    function digestOf(Claim calldata claim) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    CLAIM_TYPE,
                    claim.creator,
                    claim.brain,
                    claim.half,
                    claim.manifest,
                    claim.royaltyBps,
                    keccak256(abi.encodePacked(claim.parents)),
                    claim.salt
                )
            )
        );
    }

    /// @dev Everything that does not depend on who registered the same before.
    function _check(Claim calldata claim, bytes calldata signature)
        private
        view
        returns (Commitment memory commitment)
    {
        bytes32 digest = digestOf(claim);
        commitment = commitments[digest];
        require(commitment.madeAt != 0, NotCommitted(digest));
        require(block.timestamp >= commitment.madeAt + DELAY, TooYoung(commitment.madeAt + DELAY));
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        require(signer != address(0) && signer == claim.creator, NotSigned(signer));
        require(claim.brain != 0 && claim.half != 0 && claim.brain != claim.half, BadDigest());
        require(claim.royaltyBps <= MAX_ROYALTY_BPS, BadRoyalty(claim.royaltyBps));
        require(claim.parents.length <= MAX_PARENTS, TooManyParents(claim.parents.length));
        for (uint256 i = 0; i < claim.parents.length; i++) {
            require(idOf[claim.parents[i]] != 0, UnknownParent(claim.parents[i]));
        }
    }

    /// @dev Gives a digest to a registration, also one that somebody has who committed later.
    function _take(bytes32 digest, uint256 id, uint64 committedAt) private {
        uint256 before = idOf[digest];
        if (before != 0) {
            Registration storage found = _registrations[before];
            bool isLate = block.timestamp > found.registeredAt + WINDOW;
            require(committedAt < found.committedAt && !isLate, Taken(digest, found.creator));
            emit Displaced(digest, before, id);
        }
        idOf[digest] = id;
    }

    function _isEarlier(uint256 one, uint256 other) private view returns (bool) {
        return _registrations[one].committedAt < _registrations[other].committedAt;
    }
}
