// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claim, IRegistry, Registration} from "../src/interfaces/IRegistry.sol";
import {Registry} from "../src/registry/Registry.sol";
import {Checks} from "./Checks.sol";
import {Sequences} from "./Sequences.sol";

/// @title Claims of several creators to a few weights.
abstract contract RegistryWorld is Checks {
    uint64 internal constant DELAY = 60;
    uint64 internal constant WINDOW = 1_000;
    uint256 internal constant NUM_CREATORS = 3;
    uint256 internal constant NUM_DIGESTS = 64;

    Registry internal immutable registry = new Registry(DELAY, WINDOW, address(0));

    constructor() {
        vm.warp(1_000_000);
        vm.roll(500);
    }

    function keyOf(uint256 creator) internal pure returns (uint256) {
        return 0xC0DE + creator % NUM_CREATORS;
    }

    function digestAt(uint256 number) internal pure returns (bytes32) {
        return keccak256(abi.encode("weights", number % NUM_DIGESTS));
    }

    /// @dev A creator's claim to two digests that stand beside one another.
    function claimOf(uint256 creator, uint256 number, uint256 salt)
        internal
        pure
        returns (Claim memory)
    {
        return Claim({
            creator: vm.addr(keyOf(creator)),
            brain: digestAt(number),
            half: digestAt(number + 1),
            manifest: keccak256(abi.encode("manifest", creator)),
            royaltyBps: 250,
            parents: new bytes32[](0),
            salt: bytes32(salt)
        });
    }

    function sign(uint256 creator, Claim memory claim) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keyOf(creator), registry.digestOf(claim));
        return abi.encodePacked(r, s, v);
    }

    function commit(Claim memory claim) internal {
        registry.commit(registry.digestOf(claim));
    }

    /// @dev Commits, waits and registers.
    function register(uint256 creator, Claim memory claim) internal returns (uint256) {
        commit(claim);
        vm.warp(block.timestamp + DELAY);
        return registry.register(claim, sign(creator, claim));
    }

    function creatorOf(bytes32 digest) internal view returns (address) {
        (Registration memory found,) = registry.find(digest, digest);
        return found.creator;
    }
}

contract RegistryTest is RegistryWorld {
    function test_weights_belong_to_who_signed_for_them(uint256 creator, uint256 number) external {
        creator = creator % NUM_CREATORS;
        Claim memory claim = claimOf(creator, number % NUM_DIGESTS, 1);
        uint64 before = uint64(block.timestamp);
        uint256 id = register(creator, claim);
        (Registration memory found, bytes32[] memory parents) =
            registry.find(claim.brain, claim.half);
        checkEqual(id, 1, "the first");
        check(found.creator == claim.creator && found.owner == claim.creator, "his");
        check(found.manifest == claim.manifest, "for this manifest");
        checkEqual(found.committedAt, before, "since he committed");
        checkEqual(found.firstBlock, 500, "in that block");
        checkEqual(found.registeredAt, before + DELAY, "shown later");
        checkEqual(found.royaltyBps, 250, "as he said");
        checkEqual(parents.length, 0, "made of nothing");
        checkEqual(registry.idOf(claim.half), id, "under either digest");
    }

    function test_what_was_not_committed_to_or_not_for_long_is_refused(uint256 waited) external {
        Claim memory claim = claimOf(0, 0, 1);
        bytes memory signature = sign(0, claim);
        bytes32 digest = registry.digestOf(claim);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotCommitted.selector, digest));
        registry.register(claim, signature);
        commit(claim);
        waited = bound(waited, 0, DELAY - 1);
        uint64 ready = uint64(block.timestamp) + DELAY;
        vm.warp(block.timestamp + waited);
        commit(claim); // again, which changes nothing
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooYoung.selector, ready));
        registry.register(claim, signature);
        vm.warp(ready);
        registry.register(claim, signature);
    }

    function test_nobody_claims_in_another_s_name(uint256 byteAt, uint8 change) external {
        Claim memory claim = claimOf(0, 0, 1);
        commit(claim);
        vm.warp(block.timestamp + DELAY);
        bytes memory forged = sign(1, claim);
        vm.expectPartialRevert(IRegistry.NotSigned.selector);
        registry.register(claim, forged);
        bytes memory spoilt = sign(0, claim);
        spoilt[byteAt % 65] ^= bytes1(uint8(bound(change, 1, 255)));
        vm.expectPartialRevert(IRegistry.NotSigned.selector);
        registry.register(claim, spoilt);
    }

    /// @dev A signature under one claim is none under any other, nor in another registry.
    function test_a_signature_is_of_one_claim_in_one_registry(uint256 field) external {
        Claim memory claim = claimOf(0, 0, 1);
        bytes memory signature = sign(0, claim);
        Claim memory other = claimOf(0, 0, 1);
        field = field % 6;
        if (field == 0) other.brain = digestAt(3);
        if (field == 1) other.half = digestAt(3);
        if (field == 2) other.manifest = digestAt(3);
        if (field == 3) other.royaltyBps = 251;
        if (field == 4) other.parents = new bytes32[](1);
        if (field == 5) other.salt = bytes32(uint256(2));
        commit(other);
        vm.warp(block.timestamp + DELAY);
        vm.expectPartialRevert(IRegistry.NotSigned.selector);
        registry.register(other, signature);
        Registry elsewhere = new Registry(DELAY, WINDOW, address(0));
        elsewhere.commit(elsewhere.digestOf(claim));
        vm.warp(block.timestamp + DELAY);
        vm.expectPartialRevert(IRegistry.NotSigned.selector);
        elsewhere.register(claim, signature);
    }

    function test_a_second_claim_to_either_digest_is_refused(uint256 number) external {
        register(0, claimOf(0, 1, 1));
        number = bound(number, 0, 2); // each shares one of the digests 1 and 2
        Claim memory claim = claimOf(1, number, 2);
        commit(claim);
        vm.warp(block.timestamp + DELAY);
        bytes memory signature = sign(1, claim);
        vm.expectPartialRevert(IRegistry.Taken.selector);
        registry.register(claim, signature);
        check(creatorOf(digestAt(1)) == vm.addr(keyOf(0)), "still the first one's");
    }

    function test_a_claim_counts_once() external {
        Claim memory claim = claimOf(0, 0, 1);
        register(0, claim);
        bytes memory signature = sign(0, claim);
        vm.expectPartialRevert(IRegistry.Taken.selector);
        registry.register(claim, signature);
    }

    /// @dev A thief sees the claim, keeps it back, and registers the same with his own name.
    function test_who_overtakes_a_claim_loses_to_it(uint256 later, uint256 waited) external {
        Claim memory claim = claimOf(0, 0, 1);
        commit(claim);
        vm.warp(block.timestamp + bound(later, 1, 10 * WINDOW));
        register(1, claimOf(1, 0, 2));
        check(creatorOf(digestAt(0)) == vm.addr(keyOf(1)), "the thief was faster");
        waited = bound(waited, 0, 2 * WINDOW);
        vm.warp(block.timestamp + waited);
        bytes memory signature = sign(0, claim);
        if (waited > WINDOW) {
            vm.expectPartialRevert(IRegistry.Taken.selector);
            registry.register(claim, signature);
        } else {
            checkEqual(registry.register(claim, signature), 2, "it takes its place");
            check(creatorOf(digestAt(0)) == vm.addr(keyOf(0)), "under one digest");
            check(creatorOf(digestAt(1)) == vm.addr(keyOf(0)), "and the other");
        }
    }

    function test_parents_are_registered_and_few(uint256 count) external {
        register(0, claimOf(0, 0, 1));
        count = bound(count, 1, 12);
        Claim memory claim = claimOf(1, 2, 2);
        claim.parents = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) {
            claim.parents[i] = digestAt(i % 2);
        }
        commit(claim);
        vm.warp(block.timestamp + DELAY);
        bytes memory signature = sign(1, claim);
        if (count > 8) vm.expectPartialRevert(IRegistry.TooManyParents.selector);
        registry.register(claim, signature);
        (Registration memory found, bytes32[] memory parents) = registry.find(claim.brain, 0);
        checkEqual(found.numParents, count > 8 ? 0 : count, "as many as it named");
        checkEqual(parents.length, found.numParents, "and these");
    }

    function test_odd_claims_are_refused() external {
        Claim memory claim = claimOf(0, 0, 1);
        claim.parents = new bytes32[](1);
        claim.parents[0] = digestAt(4);
        _refused(claim, IRegistry.UnknownParent.selector);
        claim = claimOf(0, 0, 2);
        claim.royaltyBps = 10_001;
        _refused(claim, IRegistry.BadRoyalty.selector);
        claim = claimOf(0, 0, 3);
        claim.half = claim.brain;
        _refused(claim, IRegistry.BadDigest.selector);
        claim.half = 0;
        _refused(claim, IRegistry.BadDigest.selector);
        claim.creator = address(0);
        _refused(claim, IRegistry.NotSigned.selector);
    }

    function test_only_the_owner_hands_on(address stranger, address to) external {
        Claim memory claim = claimOf(0, 0, 1);
        register(0, claim);
        if (to == address(0)) to = address(1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotRegistered.selector, digestAt(4)));
        registry.handOn(digestAt(4), to);
        if (stranger != claim.creator) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOwner.selector, stranger));
            vm.prank(stranger);
            registry.handOn(claim.brain, to);
        }
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoReceiver.selector));
        vm.prank(claim.creator);
        registry.handOn(claim.brain, address(0));
        vm.prank(claim.creator);
        registry.handOn(claim.brain, to);
        (Registration memory found,) = registry.find(claim.half, claim.half);
        check(found.owner == to && found.creator == claim.creator, "another owner, one creator");
    }

    function test_of_two_registrations_the_earlier_one_counts() external {
        register(0, claimOf(0, 0, 1));
        register(1, claimOf(1, 2, 2));
        (Registration memory found,) = registry.find(digestAt(3), digestAt(0));
        check(found.creator == vm.addr(keyOf(0)), "whichever digest it stands under");
        (found,) = registry.find(digestAt(0), digestAt(3));
        check(found.creator == vm.addr(keyOf(0)), "in either order");
        (found,) = registry.find(digestAt(4), bytes32(0));
        check(found.creator == address(0), "nothing where there is none");
    }

    function _refused(Claim memory claim, bytes4 why) private {
        commit(claim);
        vm.warp(block.timestamp + DELAY);
        bytes memory signature = sign(0, claim);
        vm.expectPartialRevert(why);
        registry.register(claim, signature);
    }
}

/// @title Several creators claim the same few weights, in any order, with every trick.
contract RegistryInvariants is RegistryWorld, Sequences {
    uint256 private constant MOST_CLAIMS = 400;

    bytes4[] private _operations = [
        this.makeCommitment.selector,
        this.showClaim.selector,
        this.showForged.selector,
        this.overtake.selector,
        this.handOn.selector,
        this.passTime.selector
    ];

    Claim[] private _claims;
    uint256[] private _creators; // who made each
    // What must be true of each digest, kept beside the contract.
    address[NUM_DIGESTS] private _creator;
    address[NUM_DIGESTS] private _owner;
    uint64[NUM_DIGESTS] private _since;
    uint256 private _forged;

    modifier counted() {
        numTried++;
        _;
    }

    /// @dev Looks at a few after each step, and in the end at all.
    function invariant_each_digest_is_whose_it_should_be() external view {
        for (uint256 i = 0; i < 8; i++) {
            _checkDigest((8 * numTried + i) % NUM_DIGESTS);
        }
        checkEqual(_forged, 0, "no claim passed that its creator did not sign");
    }

    function checkAtTheEnd() internal view override {
        for (uint256 d = 0; d < NUM_DIGESTS; d++) {
            _checkDigest(d);
        }
    }

    function operations() internal view override returns (bytes4[] memory) {
        return _operations;
    }

    function makeCommitment(uint256 creator, uint256 number) external counted {
        if (_claims.length == MOST_CLAIMS) return;
        Claim memory claim = claimOf(creator, number % NUM_DIGESTS, _claims.length);
        commit(claim);
        _claims.push(claim);
        _creators.push(creator % NUM_CREATORS);
        numSucceeded[msg.sig]++;
    }

    function showClaim(uint256 which) external counted {
        if (_claims.length == 0) return;
        if (_show(which % _claims.length)) numSucceeded[msg.sig]++;
    }

    function showForged(uint256 which, uint256 thief) external counted {
        if (_claims.length == 0) return;
        which = which % _claims.length;
        thief = thief % NUM_CREATORS;
        if (thief == _creators[which]) return;
        try registry.register(_claims[which], sign(thief, _claims[which])) {
            _forged++;
        } catch {
            numSucceeded[msg.sig]++; // it is there to be refused
        }
    }

    /// @dev A claim is kept back until another one that was committed to later has been shown.
    function overtake(uint256 number) external counted {
        number = number % NUM_DIGESTS;
        uint256 first = _claims.length;
        if (first + 2 > MOST_CLAIMS) return;
        for (uint256 who = 0; who < 2; who++) {
            Claim memory claim = claimOf(who, number, first + who);
            commit(claim);
            _claims.push(claim);
            _creators.push(who);
            vm.warp(block.timestamp + 1);
        }
        vm.warp(block.timestamp + DELAY);
        if (_show(first + 1) && _show(first)) numSucceeded[msg.sig]++;
    }

    function handOn(uint256 number, uint256 to) external counted {
        number = number % NUM_DIGESTS;
        if (_owner[number] == address(0)) return;
        address receiver = vm.addr(keyOf(to));
        uint256 id = registry.idOf(digestAt(number));
        vm.prank(_owner[number]);
        registry.handOn(digestAt(number), receiver);
        for (uint256 d = 0; d < NUM_DIGESTS; d++) {
            if (registry.idOf(digestAt(d)) == id) _owner[d] = receiver;
        }
        numSucceeded[msg.sig]++;
    }

    function passTime(uint256 time) external counted {
        vm.warp(block.timestamp + bound(time, 1, WINDOW));
        vm.roll(block.number + 1);
        numSucceeded[msg.sig]++;
    }

    /// @dev Shows a claim, and books what must follow.
    function _show(uint256 which) private returns (bool) {
        Claim memory claim = _claims[which];
        (uint64 madeAt,) = registry.commitments(registry.digestOf(claim));
        bool may = block.timestamp >= madeAt + DELAY;
        bytes32[2] memory digests = [claim.brain, claim.half];
        for (uint256 i = 0; i < 2; i++) {
            uint256 d = _number(digests[i]);
            if (_creator[d] == address(0)) continue;
            (Registration memory found,) = registry.find(digests[i], 0);
            may = may && madeAt < _since[d] && block.timestamp <= found.registeredAt + WINDOW;
        }
        try registry.register(claim, sign(_creators[which], claim)) {
            check(may, "it should have been refused");
        } catch {
            check(!may, "it should have passed");
            return false;
        }
        for (uint256 i = 0; i < 2; i++) {
            uint256 d = _number(digests[i]);
            (_creator[d], _owner[d], _since[d]) = (claim.creator, claim.creator, madeAt);
        }
        return true;
    }

    function _checkDigest(uint256 d) private view {
        (Registration memory found,) = registry.find(digestAt(d), 0);
        check(found.creator == _creator[d], "who committed first, and signed");
        check(found.owner == _owner[d], "whom it was handed to");
        checkEqual(found.committedAt, _since[d], "since then");
    }

    function _number(bytes32 digest) private pure returns (uint256 number) {
        while (digestAt(number) != digest) number++;
    }
}
