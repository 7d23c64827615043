// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IHeaders} from "../interfaces/IHeaders.sol";
import {Digests} from "../libraries/Digests.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {Anchor, Header, HeaderHash, PostedHeader, postedWord} from "../types/Header.sol";
import {AccountLeaf, Leaves} from "../types/Leaves.sol";
import {Office} from "./Office.sol";

/// @title The header chain: appended by the aggregator, taken back where it lies, paid from once
/// nobody can challenge it any more.
/// @notice A header is final when its window is over and no demand blocks it or one before it. Only
/// final headers pay, only others can be taken back: nothing that was paid is ever taken back.
///
/// Nothing is deleted when headers are taken back. What counts is `epoch ≤ lastEpoch`, and an epoch
/// is written anew before `lastEpoch` reaches it again, so taking back costs the same for one header
/// as for thousands.
abstract contract Headers is Office, IHeaders {
    using SafeERC20 for IERC20;

    uint64 private constant MAX_RECEIPTS = 1_000; // a header may add
    uint40 private constant NONE = type(uint40).max;

    /// @dev One slot, since a post reads and writes all of it: the end of the header chain. 40 bits hold
    /// epochs, receipts and seconds for thirty thousand years, 96 bits all the money of any token.
    struct Tip {
        uint40 epoch;
        uint40 numReceipts;
        uint40 postedAt;
        uint40 firstDemanded;
        uint96 payoutTotal;
    }

    Tip internal _tip = Tip(0, 0, 0, NONE, 0);

    /// @inheritdoc IHeaders
    uint128 public totalPaid;
    /// @inheritdoc IHeaders
    uint128 public totalExited;
    /// @inheritdoc IHeaders
    mapping(uint64 epoch => bytes32) public posted;
    /// @inheritdoc IHeaders
    mapping(address account => uint128) public claimed;

    /// @dev How many demands block a header, by the word under which it is posted.
    mapping(bytes32 word => uint256) private _numBlocks;
    /// @dev A bit for each epoch that a demand blocks, 256 to a word: the next one is found by
    /// looking at a handful of words, however many headers there are.
    mapping(uint256 number => uint256) private _blockedBits;

    /// @inheritdoc IHeaders
    function post(
        Header calldata header,
        bytes[] calldata witnessSignatures,
        Anchor calldata anchor
    ) external {
        _checkPoster();
        require(block.timestamp <= anchor.notAfter, Expired(anchor.notAfter));
        require(blockhash(anchor.number) == anchor.hash, WrongBranch(anchor.number));
        Tip memory last = _tip;
        require(header.epoch == last.epoch + 1, WrongEpoch(last.epoch + 1, header.epoch));
        require(_follows(header.previous, last), WrongPrevious(header.previous));
        require(
            header.numReceipts > last.numReceipts
                && header.numReceipts - last.numReceipts <= MAX_RECEIPTS
                && header.payoutTotal > last.payoutTotal && header.payoutTotal <= type(uint96).max,
            TotalsOutOfRange(header.numReceipts, header.payoutTotal)
        );
        HeaderHash headerHash = header.hash();
        _checkWitnesses(headerHash, witnessSignatures);

        uint64 postedAt = uint64(block.timestamp);
        _tip = Tip({
            epoch: uint40(header.epoch),
            numReceipts: uint40(header.numReceipts),
            postedAt: uint40(postedAt),
            firstDemanded: last.firstDemanded,
            payoutTotal: uint96(header.payoutTotal)
        });
        posted[header.epoch] = postedWord(headerHash, postedAt);
        emit Posted(header.epoch, header, postedAt);

        _checkReceived(header.payoutTotal);
    }

    /// @inheritdoc IHeaders
    function claim(
        PostedHeader calldata here,
        AccountLeaf calldata leaf,
        SumTree.Proof calldata proof
    ) external {
        _checkPosted(here);
        require(_isFinal(here.header.epoch, here.postedAt), StillOpen(here.header.epoch));
        (uint128 sum, bytes32 root) = SumTree.rootOf(leaf.amount, Leaves.hash(leaf), proof);
        require(
            sum == here.header.payoutTotal
                && SumTree.commitment(proof.size, sum, root) == here.header.payoutRoot,
            SumTree.BadProof()
        );
        uint128 before = claimed[leaf.account];
        require(leaf.amount > before, NothingToClaim(leaf.account, before, leaf.amount));
        uint128 amount = leaf.amount - before;
        uint256 paid = uint256(totalPaid) + amount;
        require(paid <= _tip.payoutTotal, ClaimExceedsTotal(paid, _tip.payoutTotal));

        claimed[leaf.account] = leaf.amount;
        totalPaid = uint128(paid);
        emit Claimed(leaf.account, amount, leaf.amount, here.header.epoch);
        token.safeTransfer(leaf.account, amount);
    }

    /// @inheritdoc IHeaders
    function isFinal(PostedHeader calldata here) external view returns (bool) {
        _checkPosted(here);
        return _isFinal(here.header.epoch, here.postedAt);
    }

    /// @inheritdoc IHeaders
    function lastEpoch() external view returns (uint64) {
        return _tip.epoch;
    }

    /// @inheritdoc IHeaders
    function numReceipts() external view returns (uint64) {
        return _tip.numReceipts;
    }

    /// @inheritdoc IHeaders
    function lastPostedAt() external view returns (uint64) {
        return _tip.postedAt;
    }

    /// @inheritdoc IHeaders
    function payoutTotal() external view returns (uint128) {
        return _tip.payoutTotal;
    }

    /// @inheritdoc IHeaders
    function firstDemanded() external view returns (uint64) {
        return _tip.firstDemanded == NONE ? type(uint64).max : _tip.firstDemanded;
    }

    // ── inside: what holds of a header ───────────────────────────────────────────────────────────

    function _lastPost() internal view override returns (uint64) {
        return _tip.postedAt;
    }

    function _isLastFinal() internal view override returns (bool) {
        return _tip.epoch == 0 || _isFinal(_tip.epoch, _tip.postedAt);
    }

    function _checkPosted(PostedHeader calldata here) internal view {
        require(isPosted(here.header.epoch, here.word()), UnknownHeader(here.header.epoch));
    }

    /// @inheritdoc IHeaders
    function isPosted(uint64 epoch, bytes32 word) public view returns (bool) {
        return epoch != 0 && epoch <= _tip.epoch && posted[epoch] == word;
    }

    function _isFinal(uint64 epoch, uint64 postedAt) internal view returns (bool) {
        return block.timestamp >= uint256(postedAt) + window && epoch < _tip.firstDemanded;
    }

    /// @dev Pulls in what was claimed for this contract, and checks that all of it covers what is
    /// promised. Bonds, fees of demands and gifts do not count: the channels know what was claimed.
    function _checkReceived(uint256 payoutTotal_) internal {
        channels.settle(address(this), address(token));
        (uint128 received,) = channels.receivers(address(this), address(token));
        uint256 awarded = payoutTotal_ + totalExited;
        require(awarded <= received, PayoutExceedsReceived(awarded, received));
    }

    function _follows(HeaderHash previous, Tip memory last) private view returns (bool) {
        if (last.epoch == 0) return HeaderHash.unwrap(previous) == 0;
        return posted[last.epoch] == postedWord(previous, last.postedAt);
    }

    function _checkWitnesses(HeaderHash headerHash, bytes[] calldata signatures) private view {
        uint8 needed = quorum;
        if (needed == 0) return;
        require(signatures.length >= needed, WitnessesMissing(needed));
        bytes32 digest = Digests.ofHeader(headerHash, address(this));
        address last = address(0);
        for (uint256 i = 0; i < needed; i++) {
            (address signer,,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            require(signer > last && isWitness[signer], WitnessesMissing(needed));
            last = signer;
        }
    }

    // ── taking back ──────────────────────────────────────────────────────────────────────

    /// @dev A header that can be challenged, and the one before it, to which the chain returns.
    function _checkOpen(PostedHeader calldata here, PostedHeader calldata before) private view {
        _checkPosted(here);
        require(!_isFinal(here.header.epoch, here.postedAt), StillOpen(here.header.epoch));
        if (here.header.epoch == 1) return;
        require(
            before.header.epoch == here.header.epoch - 1
                && before.word() == posted[before.header.epoch],
            UnknownHeader(before.header.epoch)
        );
    }

    /// @inheritdoc IHeaders
    function convict(PostedHeader calldata here, PostedHeader calldata before, address prover)
        external
        onlyCourt
    {
        _checkOpen(here, before);
        uint64 epoch = here.header.epoch;
        emit TakenBack(epoch, _tip.epoch);
        _unblockFrom(epoch);
        _tip = epoch == 1
            ? Tip(0, 0, 0, _tip.firstDemanded, 0)
            : Tip({
                epoch: uint40(epoch - 1),
                numReceipts: uint40(before.header.numReceipts),
                postedAt: uint40(before.postedAt),
                firstDemanded: _tip.firstDemanded,
                payoutTotal: uint96(before.header.payoutTotal)
            });
        _punish(prover, epoch);
    }

    // ── headers that a demand blocks ─────────────────────────────────────────────────────

    /// @inheritdoc IHeaders
    function blockHeader(uint64 epoch, bytes32 word) external onlyCourt {
        if (_numBlocks[word]++ == 0) _blockedBits[epoch >> 8] |= 1 << (epoch & 0xff);
        if (epoch < _tip.firstDemanded) _tip.firstDemanded = uint40(epoch);
    }

    /// @inheritdoc IHeaders
    function unblockHeader(uint64 epoch, bytes32 word) external onlyCourt {
        if (--_numBlocks[word] != 0) return;
        _blockedBits[epoch >> 8] &= ~(1 << (epoch & 0xff));
        if (epoch == _tip.firstDemanded) _tip.firstDemanded = _findBlocked(epoch);
    }

    /// @dev The demands themselves stay, and are void: they name headers that are not posted any
    /// more.
    function _unblockFrom(uint64 epoch) private {
        if (_tip.firstDemanded == NONE) return;
        uint256 end = uint256(_tip.epoch) >> 8;
        uint256 start = epoch >> 8;
        _blockedBits[start] &= (1 << (epoch & 0xff)) - 1;
        for (uint256 number = start + 1; number <= end; number++) {
            if (_blockedBits[number] != 0) _blockedBits[number] = 0;
        }
        if (_tip.firstDemanded >= epoch) _tip.firstDemanded = NONE;
    }

    function _findBlocked(uint64 from) private view returns (uint40) {
        uint256 end = uint256(_tip.epoch) >> 8;
        for (uint256 number = from >> 8; number <= end; number++) {
            uint256 bits = _blockedBits[number];
            if (bits == 0) continue;
            uint256 epoch = number << 8;
            while (bits & 1 == 0) {
                bits >>= 1;
                epoch++;
            }
            return uint40(epoch);
        }
        return NONE;
    }
}
