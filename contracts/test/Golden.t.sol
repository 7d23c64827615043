// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../dev/Channels.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {Claim} from "../src/interfaces/IRegistry.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStake, Placed, StakeTerms} from "../src/interfaces/IStake.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {Registry} from "../src/registry/Registry.sol";
import {Stake} from "../src/stake/Stake.sol";
import {LorikeetToken} from "../src/token/LorikeetToken.sol";
import {ChannelConfig, ChannelId} from "../src/types/Channel.sol";
import {Header, HeaderHash} from "../src/types/Header.sol";
import {Leaves, PayoutLeaf} from "../src/types/Leaves.sol";
import {Promise, Receipt} from "../src/types/Receipt.sol";
import {Checks} from "./Checks.sol";

/// @dev What the stake contract asks a settlement contract, at the vectors' address.
contract VectorSettlement {
    IChannels public immutable channels;
    address public immutable token;

    constructor(IChannels channels_, address token_) {
        channels = channels_;
        token = token_;
    }
}

/// @title The vectors that Python computes, computed here.
/// @dev They have bytes as hex without 0x, and large numbers as text.
contract GoldenTest is Checks {
    string private constant FOLDER = "../tests/golden/";

    function test_sum_trees() external view {
        string memory file = vm.readFile(string.concat(FOLDER, "sumtree.json"));
        uint256 checked = 0;
        for (uint256 t = 0; t < 11; t++) {
            checked += _tree(file, string.concat(".grown[", vm.toString(t), "]"));
        }
        checked += _tree(file, ".changed") + _tree(file, ".largest_sum");
        check(checked > 60, "there were proofs to check");
    }

    function test_leaves_of_payouts() external view {
        string memory file = vm.readFile(string.concat(FOLDER, "payouts.json"));
        uint256 checked = 0;
        for (uint256 i = 0; vm.keyExistsJson(file, _at("", i)); i++) {
            string memory proofs = string.concat(_at("", i), ".proofs");
            for (uint256 k = 0; vm.keyExistsJson(file, _at(proofs, k)); k++) {
                string memory proof = _at(proofs, k);
                uint256 place = vm.parseJsonUint(file, string.concat(proof, ".index"));
                string memory row = _at(string.concat(_at("", i), ".rows"), place);
                address account = address(bytes20(_bytes(file, row, ".account")));
                uint128 amount = uint128(vm.parseJsonUint(file, string.concat(row, ".amount")));
                check(
                    this.payoutLeaf(PayoutLeaf(account, amount)) == _word(file, proof, ".leaf"),
                    "the same leaf"
                );
                checked++;
            }
        }
        check(checked > 3, "there were leaves to check");
    }

    function test_headers() external view {
        string memory file = vm.readFile(string.concat(FOLDER, "header.json"));
        uint256 count = 0;
        for (; vm.keyExistsJson(file, _at("", count)); count++) {
            string memory entry = _at("", count);
            Header memory header = Header({
                epoch: uint64(_number(file, entry, ".epoch")),
                previous: HeaderHash.wrap(_word(file, entry, ".previous")),
                receiptsRoot: _word(file, entry, ".receipts_root"),
                numReceipts: uint64(_number(file, entry, ".num_receipts")),
                channelsRoot: _word(file, entry, ".channels_root"),
                payoutRoot: _word(file, entry, ".payout_root"),
                payoutTotal: uint128(_number(file, entry, ".payout_total")),
                batchDigest: _word(file, entry, ".batch_digest")
            });
            check(this.headerHash(header) == _word(file, entry, ".hash"), "the same hash");
        }
        check(count > 1, "there were headers to check");
    }

    function test_digests() external {
        string memory file = vm.readFile(string.concat(FOLDER, "digests.json"));
        vm.chainId(vm.parseJsonUint(file, ".chain_id"));
        address settlement = address(bytes20(_bytes(file, "", ".settlement")));
        Receipt memory receipt = Receipt({
            channelId: ChannelId.wrap(_word(file, "", ".channel_id")),
            sequence: uint64(vm.parseJsonUint(file, ".sequence")),
            cumulative: uint128(vm.parseJsonUint(file, ".cumulative")),
            payouts: _word(file, "", ".payouts"),
            body: _word(file, "", ".receipt_body_sha256")
        });
        check(
            Digests.ofReceipt(receipt, settlement) == _word(file, "", ".receipt_digest"),
            "of a receipt"
        );
        Promise memory pledge = Promise({
            channelId: receipt.channelId,
            sequence: receipt.sequence,
            cumulative: receipt.cumulative,
            body: receipt.body,
            deadline: uint64(vm.parseJsonUint(file, ".promise_deadline"))
        });
        check(
            this.promiseDigest(pledge, settlement) == _word(file, "", ".promise_digest"),
            "of a promise"
        );
    }

    function test_claims() external {
        string memory file = vm.readFile(string.concat(FOLDER, "claim.json"));
        vm.chainId(vm.parseJsonUint(file, "[0].chain_id"));
        address registry = address(bytes20(_bytes(file, "[0]", ".registry")));
        vm.etch(registry, address(new Registry(0, 0, address(0))).code);
        uint256 count = 0;
        for (; vm.keyExistsJson(file, _at("", count)); count++) {
            string memory entry = _at("", count);
            string memory list = string.concat(entry, ".parents");
            uint256 parents = 0;
            while (vm.keyExistsJson(file, _at(list, parents))) parents++;
            Claim memory claim = Claim({
                creator: address(bytes20(_bytes(file, entry, ".creator"))),
                brain: _word(file, entry, ".brain"),
                half: _word(file, entry, ".half"),
                manifest: _word(file, entry, ".manifest"),
                royaltyBps: uint16(vm.parseJsonUint(file, string.concat(entry, ".royalty_bps"))),
                parents: new bytes32[](parents),
                salt: _word(file, entry, ".salt")
            });
            for (uint256 i = 0; i < parents; i++) {
                claim.parents[i] = _word(file, _at(list, i), "");
            }
            check(
                Registry(registry).digestOf(claim) == _word(file, entry, ".digest"),
                "the same digest"
            );
        }
        check(count > 1, "there were claims to check");
    }

    function test_evidence() external {
        string memory file = vm.readFile(string.concat(FOLDER, "evidence.json"));
        Stake stake = _stakeOf(file);
        uint256 count = 0;
        for (; vm.keyExistsJson(file, _at(".accept", count)); count++) {
            string memory entry = _at(".accept", count);
            address culprit = address(bytes20(_bytes(file, entry, ".culprit")));
            LorikeetToken(address(stake.token())).approve(address(stake), 100);
            stake.stake(culprit, 100);
            uint256 before = stake.stakeOf(culprit);
            string memory fields = string.concat(entry, ".fields");
            if (vm.keyExistsJson(file, string.concat(fields, ".config"))) {
                _showReceipts(stake, file, fields);
            } else {
                // Three attestations of one auditor about one receipt are one offence.
                if (count > 1) vm.expectPartialRevert(IStake.SlashedBefore.selector);
                this.showVerdict(stake, _bytes(file, fields, ".attestation"));
            }
            checkEqual(stake.stakeOf(culprit), count > 1 ? before : before / 2, "his stake");
        }
        check(count == 4, "there was evidence to check");
    }

    function test_honest_attestations_cost_nothing() external {
        Stake stake = _stakeOf(vm.readFile(string.concat(FOLDER, "evidence.json")));
        string memory file = vm.readFile(string.concat(FOLDER, "attestation.json"));
        for (uint256 i = 0; i < 2; i++) {
            bytes memory told = _bytes(file, _at(".accept", i), ".hex");
            vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
            this.showVerdict(stake, told);
        }
    }

    /// @dev A false attestation is one of one chain and settlement contract, and of its signer.
    function test_a_false_attestation_is_none_elsewhere_or_of_another() external {
        string memory file = vm.readFile(string.concat(FOLDER, "evidence.json"));
        Stake stake = _stakeOf(file);
        bytes memory told = _bytes(file, ".accept[1].fields", ".attestation");
        vm.chainId(1);
        vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
        this.showVerdict(stake, told);
        vm.chainId(31_337);
        VectorSettlement other = new VectorSettlement(stake.settlement().channels(), address(1));
        Stake elsewhere = new Stake(stake.token(), ISettlement(address(other)), stake.terms());
        vm.expectRevert(abi.encodeWithSelector(IStake.NoOffence.selector));
        this.showVerdict(elsewhere, told);
        address auditor = address(bytes20(_bytes(file, ".accept[1]", ".culprit")));
        for (uint256 i = 0; i < told.length; i += 7) {
            told[i] ^= 0x01;
            try this.showVerdict(stake, told) {
                check(false, "nothing stands behind whoever else signed");
            } catch {}
            told[i] ^= 0x01;
        }
        checkEqual(stake.stakeOf(auditor), 0, "nor behind this one");
    }

    /// @dev Cuts an attestation, an array of nine, into what is signed, an array of eight, and the
    /// signature, its last element: a head of two bytes and 65.
    function showVerdict(Stake stake, bytes calldata told) external {
        bytes memory record = abi.encodePacked(bytes1(0x98), told[1:told.length - 67]);
        stake.slashVerdict(record, told[told.length - 65:]);
    }

    /// @dev A stake contract for the vectors' network.
    function _stakeOf(string memory file) private returns (Stake) {
        vm.chainId(vm.parseJsonUint(file, ".chain_id"));
        address channels = address(bytes20(_bytes(file, "", ".channels")));
        vm.etch(channels, address(new Channels()).code);
        address settlement = address(bytes20(_bytes(file, "", ".settlement")));
        address token = address(bytes20(_bytes(file, "", ".token")));
        vm.etch(settlement, address(new VectorSettlement(IChannels(channels), token)).code);
        StakeTerms memory terms = StakeTerms(1, 1, 5_000, 1_000, 0);
        return new Stake(new LorikeetToken(address(this)), ISettlement(settlement), terms);
    }

    function _showReceipts(Stake stake, string memory file, string memory fields) private {
        stake.slashReceipts(
            _config(file, string.concat(fields, ".config")),
            uint64(vm.parseJsonUint(file, string.concat(fields, ".sequence"))),
            _placed(file, string.concat(fields, ".first")),
            _placed(file, string.concat(fields, ".second"))
        );
    }

    function _config(string memory file, string memory entry)
        private
        pure
        returns (ChannelConfig memory config)
    {
        config.payer = address(bytes20(_bytes(file, entry, ".payer")));
        config.payerAuthorizer = address(bytes20(_bytes(file, entry, ".payer_authorizer")));
        config.receiver = address(bytes20(_bytes(file, entry, ".receiver")));
        config.receiverAuthorizer = address(bytes20(_bytes(file, entry, ".receiver_authorizer")));
        config.token = address(bytes20(_bytes(file, entry, ".token")));
        config.withdrawDelay =
            uint40(vm.parseJsonUint(file, string.concat(entry, ".withdraw_delay")));
        config.salt = _word(file, entry, ".salt");
    }

    function _placed(string memory file, string memory entry)
        private
        pure
        returns (Placed memory placed)
    {
        placed.cumulative = uint128(vm.parseJsonUint(file, string.concat(entry, ".cumulative")));
        placed.payouts = _word(file, entry, ".payouts");
        placed.body = _word(file, entry, ".body");
        placed.signature = _bytes(file, entry, ".signature");
    }

    /// @dev From outside, since the libraries read calldata.
    function commitmentOf(uint128 sum, bytes32 leaf, SumTree.Proof calldata proof)
        external
        pure
        returns (bytes32)
    {
        return SumTree.commitmentOf(sum, leaf, proof);
    }

    function payoutLeaf(PayoutLeaf calldata leaf) external pure returns (bytes32) {
        return Leaves.hash(leaf);
    }

    function headerHash(Header calldata header) external pure returns (bytes32) {
        return HeaderHash.unwrap(header.hash());
    }

    function promiseDigest(Promise calldata pledge, address settlement)
        external
        view
        returns (bytes32)
    {
        return Digests.ofPromise(pledge, settlement);
    }

    function _tree(string memory file, string memory tree) private view returns (uint256 count) {
        bytes32 committed = _word(file, tree, ".commitment");
        uint64 size = uint64(vm.parseJsonUint(file, string.concat(tree, ".size")));
        for (; count < size; count++) {
            string memory proof = _at(string.concat(tree, ".proofs"), count);
            uint256 steps = 0;
            while (vm.keyExistsJson(file, _at(string.concat(proof, ".siblings"), steps))) steps++;
            SumTree.Sibling[] memory siblings = new SumTree.Sibling[](steps);
            for (uint256 i = 0; i < steps; i++) {
                string memory step = _at(string.concat(proof, ".siblings"), i);
                siblings[i] = SumTree.Sibling(
                    uint128(_number(file, step, ".sum")), _word(file, step, ".hash")
                );
            }
            check(
                this.commitmentOf(
                    uint128(_number(file, proof, ".leaf.sum")),
                    _word(file, proof, ".leaf.hash"),
                    SumTree.Proof(uint64(count), size, siblings)
                ) == committed,
                "the same commitment"
            );
        }
        if (size == 0) check(SumTree.commitment(0, 0, 0) == committed, "of nothing");
    }

    function _at(string memory list, uint256 index) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(index), "]");
    }

    function _number(string memory file, string memory entry, string memory key)
        private
        pure
        returns (uint256)
    {
        return vm.parseUint(vm.parseJsonString(file, string.concat(entry, key)));
    }

    function _word(string memory file, string memory entry, string memory key)
        private
        pure
        returns (bytes32)
    {
        return bytes32(_bytes(file, entry, key));
    }

    function _bytes(string memory file, string memory entry, string memory key)
        private
        pure
        returns (bytes memory)
    {
        string memory text = vm.parseJsonString(file, string.concat(entry, key));
        return vm.parseBytes(string.concat("0x", text));
    }
}
