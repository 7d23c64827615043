// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";
import {ExitRequest} from "../src/interfaces/IExits.sol";
import {ChannelConfig, ChannelId} from "../src/types/Channel.sol";
import {Header, HeaderHash, PostedHeader} from "../src/types/Header.sol";
import {
    AccountLeaf,
    AccountProof,
    ChannelLeaf,
    ChannelProof,
    EntryLeaf,
    EntryProof,
    PayoutLeaf,
    PayoutProof
} from "../src/types/Leaves.sol";
import {Promise, Receipt} from "../src/types/Receipt.sol";
import {Trees} from "./Trees.sol";
import {World} from "./World.sol";

/// @title An aggregator's books over real channels, in which it may write whatever it likes.
/// @dev Every channel pays every account: `amounts[channel][account]`. So entry `c` of account `a`
/// is line `a` of channel `c`, until a lie says otherwise.
abstract contract Books is World {
    uint256 internal constant NUM_CHANNELS = 3;
    uint256 internal constant NUM_ACCOUNTS = 4;

    struct Book {
        ChannelConfig[] configs;
        bytes[] signatures;
        ChannelLeaf[] channels;
        PayoutLeaf[][] payouts; // of each channel
        AccountLeaf[] accounts;
        EntryLeaf[][] entries; // of each account
    }

    /// @dev What stays right when headers follow one another.
    PostedHeader[] internal headers;

    function accountAt(uint256 index) internal pure returns (address) {
        return address(uint160(1001 + index));
    }

    // ── writing ──────────────────────────────────────────────────────────────────────────────────

    /// @dev Books in which every channel has had `sequence` receipts.
    function write(uint128[][] memory amounts, uint64 sequence)
        internal
        view
        returns (Book memory book)
    {
        uint256 count = amounts.length;
        book.configs = new ChannelConfig[](count);
        book.signatures = new bytes[](count);
        book.channels = new ChannelLeaf[](count);
        book.payouts = new PayoutLeaf[][](count);
        book.accounts = new AccountLeaf[](amounts[0].length);
        book.entries = new EntryLeaf[][](amounts[0].length);
        for (uint256 c = 0; c < count; c++) {
            book.configs[c] = channel(payer, c);
            book.channels[c].channelId = channels.getChannelId(book.configs[c]);
            book.payouts[c] = new PayoutLeaf[](amounts[c].length);
            for (uint256 a = 0; a < amounts[c].length; a++) {
                book.payouts[c][a] = PayoutLeaf(accountAt(a), amounts[c][a]);
            }
            sign(book, c, sequence);
        }
        for (uint256 a = 0; a < book.accounts.length; a++) {
            book.accounts[a].account = accountAt(a);
            book.entries[a] = new EntryLeaf[](count);
            for (uint256 c = 0; c < count; c++) {
                book.entries[a][c] =
                    EntryLeaf(book.channels[c].channelId, amounts[c][a], uint64(c), uint64(a));
            }
            total(book, a);
        }
    }

    /// @dev Has a channel's receipt say what its payouts say.
    function sign(Book memory book, uint256 index, uint64 sequence) internal view {
        SumTree.Opening memory opening = openPayouts(book, index);
        ChannelLeaf memory leaf = book.channels[index];
        leaf.sequence = sequence;
        leaf.cumulative = opening.sum;
        leaf.payouts = Trees.commitment(opening);
        leaf.body = keccak256(abi.encode("body", index, sequence, opening.root));
        resign(book, index);
    }

    /// @dev Signs a channel's leaf as it is.
    function resign(Book memory book, uint256 index) internal view {
        book.signatures[index] = signed(OPERATOR_KEY, digestOf(receiptOf(book.channels[index])));
        book.channels[index].evidence = keccak256(book.signatures[index]);
    }

    /// @dev Has an account's leaf say what its entries say.
    function total(Book memory book, uint256 index) internal pure {
        SumTree.Opening memory opening = openEntries(book, index);
        book.accounts[index].amount = opening.sum;
        book.accounts[index].entries = Trees.commitment(opening);
    }

    function headerOf(Book memory book) internal view returns (Header memory header) {
        SumTree.Opening memory opening = openChannels(book);
        uint64 last = settlement.lastEpoch();
        header = Header({
            epoch: last + 1,
            previous: HeaderHash.wrap(last == 0 ? bytes32(0) : hashOf(headers[last - 1])),
            receiptsRoot: bytes32("receipts"),
            numReceipts: settlement.numReceipts() + 1,
            channelsRoot: Trees.commitment(opening),
            payoutRoot: Trees.commitment(openAccounts(book)),
            payoutTotal: opening.sum,
            batchDigest: bytes32("batch")
        });
    }

    function post(Book memory book) internal returns (PostedHeader memory posted) {
        return post(headerOf(book));
    }

    function post(Header memory header) internal returns (PostedHeader memory posted) {
        vm.prank(settlement.aggregator());
        settlement.post(header, new bytes[](0), anywhere());
        posted = PostedHeader(header, uint64(block.timestamp));
        while (headers.length >= header.epoch) headers.pop();
        headers.push(posted);
    }

    /// @dev Amounts that follow from a seed: 1 to `most` for each channel and account.
    function amountsOf(uint256 seed, uint128 most)
        internal
        pure
        returns (uint128[][] memory amounts)
    {
        amounts = new uint128[][](NUM_CHANNELS);
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            amounts[c] = new uint128[](NUM_ACCOUNTS);
            for (uint256 a = 0; a < NUM_ACCOUNTS; a++) {
                amounts[c][a] = uint128(bound(uint256(keccak256(abi.encode(seed, c, a))), 1, most));
            }
        }
    }

    /// @dev Has this much claimed of each channel for the settlement contract.
    function fundAll(uint128 amount) internal {
        for (uint256 c = 0; c < NUM_CHANNELS; c++) {
            deposit(PAYER_KEY, channel(payer, c), amount);
            claim(channel(payer, c), amount);
        }
    }

    /// @dev Lets the aggregator be silent until the office is lost.
    function silence() internal {
        vm.warp(settlement.silentFrom() + 1);
    }

    function headerBefore(PostedHeader memory posted) internal view returns (PostedHeader memory) {
        return posted.header.epoch == 1 ? nothing() : headers[posted.header.epoch - 2];
    }

    function nothing() internal pure returns (PostedHeader memory none) {}

    function hashOf(PostedHeader memory posted) internal pure returns (bytes32) {
        return keccak256(abi.encode(posted.header));
    }

    // ── showing ──────────────────────────────────────────────────────────────────────────────────

    function showChannel(Book memory book, uint256 index)
        internal
        pure
        returns (ChannelProof memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _channelNodes(book);
        return ChannelProof(book.channels[index], Trees.prove(sums, hashes, index));
    }

    function showAccount(Book memory book, uint256 index)
        internal
        pure
        returns (AccountProof memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _accountNodes(book);
        return AccountProof(book.accounts[index], Trees.prove(sums, hashes, index));
    }

    function showEntry(Book memory book, uint256 account, uint256 index)
        internal
        pure
        returns (EntryProof memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _entryNodes(book.entries[account]);
        return EntryProof(book.entries[account][index], Trees.prove(sums, hashes, index));
    }

    function showPayout(Book memory book, uint256 index, uint256 place)
        internal
        pure
        returns (PayoutProof memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _payoutNodes(book.payouts[index]);
        return PayoutProof(book.payouts[index][place], Trees.prove(sums, hashes, place));
    }

    function openChannels(Book memory book) internal pure returns (SumTree.Opening memory) {
        (uint128[] memory sums, bytes32[] memory hashes) = _channelNodes(book);
        return Trees.open(sums, hashes);
    }

    function openAccounts(Book memory book) internal pure returns (SumTree.Opening memory) {
        (uint128[] memory sums, bytes32[] memory hashes) = _accountNodes(book);
        return Trees.open(sums, hashes);
    }

    function openEntries(Book memory book, uint256 account)
        internal
        pure
        returns (SumTree.Opening memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _entryNodes(book.entries[account]);
        return Trees.open(sums, hashes);
    }

    function openPayouts(Book memory book, uint256 index)
        internal
        pure
        returns (SumTree.Opening memory)
    {
        (uint128[] memory sums, bytes32[] memory hashes) = _payoutNodes(book.payouts[index]);
        return Trees.open(sums, hashes);
    }

    function receiptOf(ChannelLeaf memory leaf) internal pure returns (Receipt memory) {
        return Receipt(leaf.channelId, leaf.sequence, leaf.cumulative, leaf.payouts, leaf.body);
    }

    /// @dev How a channel of `book` settles, going on from `before`; epoch 0 stands for no header.
    function exitOf(
        Book memory book,
        uint256 index,
        Book memory before,
        PostedHeader memory here,
        bool isCosigned
    ) internal view returns (ExitRequest memory request) {
        request.config = book.configs[index];
        request.receipt = receiptOf(book.channels[index]);
        request.nodeSignature = book.signatures[index];
        if (isCosigned) request.clientSignature = signed(PAYER_KEY, digestOf(request.receipt));
        request.here = here;
        request.owed = book.payouts[index];
        if (here.header.epoch == 0) return request;
        request.base = showChannel(before, index);
        request.paid = before.payouts[index];
    }

    // ── digests, by forge's own EIP-712 ──────────────────────────────────────────────────────────

    function digestOf(Receipt memory receipt) internal view returns (bytes32) {
        return _typed(
            vm.eip712HashStruct(
                "Receipt(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 payouts,"
                "bytes32 body)",
                abi.encode(receipt)
            )
        );
    }

    function promised(ChannelLeaf memory leaf, uint64 deadline)
        internal
        view
        returns (Promise memory pledge, bytes memory signature)
    {
        pledge = Promise(leaf.channelId, leaf.sequence, leaf.cumulative, leaf.body, deadline);
        bytes32 structHash = vm.eip712HashStruct(
            "Promise(bytes32 channelId,uint64 sequence,uint128 cumulative,bytes32 body,"
            "uint64 deadline)",
            abi.encode(pledge)
        );
        signature = signed(AGGREGATOR_KEY, _typed(structHash));
    }

    function digestOfHeader(bytes32 headerHash) internal view returns (bytes32) {
        return _typed(vm.eip712HashStruct("Header(bytes32 header)", abi.encode(headerHash)));
    }

    struct Domain {
        string name;
        string version;
        uint256 chainId;
        address verifyingContract;
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = vm.eip712HashStruct(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
            abi.encode(Domain("Lorikeet", "2", block.chainid, address(settlement)))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    // ── leaves, hashed here for a second time ────────────────────────────────────────────────────

    function _channelNodes(Book memory book)
        private
        pure
        returns (uint128[] memory sums, bytes32[] memory hashes)
    {
        sums = new uint128[](book.channels.length);
        hashes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; i++) {
            ChannelLeaf memory leaf = book.channels[i];
            sums[i] = leaf.cumulative;
            hashes[i] = keccak256(
                bytes.concat(
                    abi.encodePacked(bytes1(0x00), leaf.channelId, leaf.sequence, leaf.cumulative),
                    abi.encodePacked(leaf.payouts, leaf.body, leaf.evidence)
                )
            );
        }
    }

    function _accountNodes(Book memory book)
        private
        pure
        returns (uint128[] memory sums, bytes32[] memory hashes)
    {
        sums = new uint128[](book.accounts.length);
        hashes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; i++) {
            AccountLeaf memory leaf = book.accounts[i];
            sums[i] = leaf.amount;
            hashes[i] =
                keccak256(abi.encodePacked(bytes1(0x00), leaf.account, leaf.amount, leaf.entries));
        }
    }

    function _entryNodes(EntryLeaf[] memory entries)
        private
        pure
        returns (uint128[] memory sums, bytes32[] memory hashes)
    {
        sums = new uint128[](entries.length);
        hashes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; i++) {
            EntryLeaf memory leaf = entries[i];
            sums[i] = leaf.amount;
            hashes[i] = keccak256(
                abi.encodePacked(
                    bytes1(0x00), leaf.channelId, leaf.amount, leaf.channelIndex, leaf.place
                )
            );
        }
    }

    function _payoutNodes(PayoutLeaf[] memory payouts)
        private
        pure
        returns (uint128[] memory sums, bytes32[] memory hashes)
    {
        sums = new uint128[](payouts.length);
        hashes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; i++) {
            sums[i] = payouts[i].amount;
            hashes[i] =
                keccak256(abi.encodePacked(bytes1(0x00), payouts[i].account, payouts[i].amount));
        }
    }
}
