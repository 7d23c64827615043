// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IChannels} from "../interfaces/IChannels.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {IStake, Placed, StakeTerms} from "../interfaces/IStake.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {Verdicts} from "../libraries/Verdicts.sol";
import {ChannelConfig, ChannelId} from "../types/Channel.sol";
import {Receipt} from "../types/Receipt.sol";
import {Pools} from "./Pools.sol";

/// @title Stake of nodes, and the few offences that cost it.
/// @notice Only what anybody can check from signatures, or from what the court convicted, is an offence.
/// What is likely but not shown (an answer that a replay contradicts) never is. Whoever calls chooses
/// neither whom nor how much: the evidence says whom, the terms say how much.
///
/// It has no owner, and nothing in it can be changed or stopped.
contract Stake is Pools {
    bytes private constant VERDICT_DOMAIN = "lorikeet attestation 1\x00";

    /// @notice Whose channels, receipts and office are judged here.
    ISettlement public immutable settlement;
    IChannels private immutable _channels;
    address private immutable _feeToken;

    constructor(ERC20Burnable token_, ISettlement settlement_, StakeTerms memory terms_)
        Pools(token_, terms_)
    {
        settlement = settlement_;
        _channels = settlement_.channels();
        _feeToken = address(settlement_.token());
    }

    /// @inheritdoc IStake
    /// @dev Who may sign for a channel is in the digest that its id is; what else a client signed counts
    /// for nothing. A channel that forked once is one offence, however far both branches go on.
    function slashReceipts(
        ChannelConfig calldata config,
        uint64 sequence,
        Placed calldata first,
        Placed calldata second
    ) external {
        address operator = config.receiverAuthorizer;
        require(Receipts.isOurs(config, address(settlement), _feeToken), NoOffence());
        ChannelId id = _channels.getChannelId(config);
        require(
            first.body != second.body && operator != address(0)
                && _signerOf(id, sequence, first) == operator
                && _signerOf(id, sequence, second) == operator,
            NoOffence()
        );
        _slash(operator, keccak256(abi.encode("receipts", id)));
    }

    /// @inheritdoc IStake
    function slashVerdict(bytes calldata record, bytes calldata signature) external {
        (bool isFalse, bytes32 receipt) =
            Verdicts.isFalse(record, block.chainid, address(settlement));
        bytes32 digest = sha256(abi.encodePacked(VERDICT_DOMAIN, record));
        (address auditor,,) = ECDSA.tryRecoverCalldata(digest, signature);
        require(isFalse && auditor != address(0), NoOffence());
        _slash(auditor, keccak256(abi.encode("verdict", receipt, auditor)));
    }

    /// @inheritdoc IStake
    function slashConvicted(uint32 term) external {
        address aggregator = settlement.convicted(term);
        require(aggregator != address(0), NoOffence());
        _slash(aggregator, keccak256(abi.encode("conviction", term)));
    }

    function _signerOf(ChannelId id, uint64 sequence, Placed calldata placed)
        private
        view
        returns (address)
    {
        Receipt memory receipt =
            Receipt(id, sequence, placed.cumulative, placed.payouts, placed.body);
        return Receipts.signerOf(receipt, placed.signature, address(settlement));
    }
}
