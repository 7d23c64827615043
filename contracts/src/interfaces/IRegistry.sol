// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a creator signs about weights: "they are mine". Its EIP-712 digest is also what is
/// committed to before, and `salt` keeps that from telling anything.
struct Claim {
    address creator; // signs, and is the creator of the manifest
    bytes32 brain; // weights digest, of the numbers as bfloat16
    bytes32 half; // weights digest, of the numbers as float16
    bytes32 manifest; // sha-256 of the manifest, the adapter's identity
    uint16 royaltyBps; // of what an adapter that is made of this one earns its creator
    bytes32[] parents; // weights digests of what this one is made of, each registered
    bytes32 salt;
}

/// @notice What the registry knows of weights.
struct Registration {
    address creator; // who signed the claim, or to whom a dispute awarded it
    uint64 committedAt; // seconds, of the chain's clock: who committed first is first
    uint32 royaltyBps;
    address owner; // the creator until it is handed on
    uint64 registeredAt;
    uint32 numParents;
    bytes32 manifest;
    uint64 firstBlock; // the commitment's
}

/// @title Who was first to register weights, and whose they are now.
interface IRegistry {
    /// @notice Weights were registered, as number `id`.
    event Registered(
        uint256 indexed id,
        bytes32 indexed brain,
        bytes32 indexed half,
        address creator,
        bytes32 manifest
    );
    /// @notice A digest went to registration `id` of who had committed before.
    event Displaced(bytes32 indexed digest, uint256 indexed before, uint256 indexed id);
    /// @notice A registration has another owner.
    event HandedOn(uint256 indexed id, address indexed from, address indexed to);
    /// @notice A dispute was upheld: the registration is the challenger's, as if he had made it.
    event Awarded(uint256 indexed id, address indexed from, address indexed to);

    /// @notice Nobody committed to this claim; commit to its digest first.
    error NotCommitted(bytes32 claim);
    /// @notice The commitment is too young; wait until the delay is over.
    error TooYoung(uint64 readyAt);
    /// @notice The claim is not signed by the creator that it names.
    error NotSigned(address signer);
    /// @notice The weights are registered to somebody who committed no later, or for too long.
    error Taken(bytes32 digest, address creator);
    /// @notice The claim names a digest of zero, or one twice.
    error BadDigest();
    /// @notice A royalty is at most 10,000 basis points.
    error BadRoyalty(uint16 royaltyBps);
    /// @notice An adapter names at most 8 parents.
    error TooManyParents(uint256 count);
    /// @notice A parent is not registered; whoever made it registers it first.
    error UnknownParent(bytes32 parent);
    /// @notice Nothing is registered under this digest.
    error NotRegistered(bytes32 digest);
    /// @notice Only the owner hands weights on.
    error NotOwner(address sender);
    /// @notice Weights are not handed on to nobody.
    error NoReceiver();
    /// @notice Only the contract of disputes awards weights.
    error NotDisputes(address sender);

    /// @notice Says that somebody will claim something; by anybody, and again without effect.
    function commit(bytes32 claim) external;

    /// @notice Registers weights to the creator who signed the claim; by anybody.
    function register(Claim calldata claim, bytes calldata signature) external returns (uint256 id);

    /// @notice Has somebody else own what is registered under this digest.
    function handOn(bytes32 digest, address to) external;

    /// @notice Gives a registration to who won a dispute about it. Only the contract of disputes.
    function award(uint256 id, address to) external;

    /// @notice The registration under either digest whose commitment is earliest; of zeros: none.
    function find(bytes32 brain, bytes32 half)
        external
        view
        returns (Registration memory registration, bytes32[] memory parents);

    /// @notice What a creator signs, and what is committed to: the claim's EIP-712 digest.
    function digestOf(Claim calldata claim) external view returns (bytes32);
}
