// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Where the content of one element of a MessagePack array lies, and where the next begins.
struct Element {
    uint256 start; // of its content
    uint256 length;
    uint256 next;
}

/// @title Finds what an attestation says of itself, in its canonical MessagePack.
/// @notice Twin of proofs/evidence.py. Knows integers, bytes, short strings and the heads of arrays: what a
/// record has up to where we read. Bytes that are anything else are no record.
library Verdicts {
    /// @notice These bytes are no attestation.
    error NotARecord();

    bytes private constant SEED = "lorikeet seed";
    uint256 private constant BODY_HEAD = 3; // an array of 16 to 65,535 elements
    uint256 private constant ANSWER_AT = 12; // places in a receipt's body
    uint256 private constant SEED_AT = 19;

    /// @notice Whether the record is about a receipt of this chain and settlement contract, and of what
    /// it says something cannot be: that score and limit give its outcome, or that what it shows is
    /// what its receipt commits to. `receipt` is its receipt's digest.
    function isFalse(bytes calldata record, uint256 chainId, address settlement)
        internal
        pure
        returns (bool, bytes32 receipt)
    {
        // [version, body, node's signature, outcome, measured, opening, when, auditor]
        require(record.length > 0 && record[0] == 0x98, NotARecord());
        bytes calldata body = _bytesAt(record, _skip(record, 1, 1));
        if (!_isOf(body, chainId, settlement)) return (false, 0);
        uint256 outcome = _skip(record, 1, 3);
        uint256 measured = _skip(record, outcome, 1);
        // [tokens, missed, score, limit, cap, mean, variance, one in]
        require(record[measured] == 0x98, NotARecord());
        uint256 score = _skip(record, measured + 1, 2);
        bool differs = _uintAt(record, score) > _uintAt(record, _skip(record, score, 1));
        bytes1 told = record[_element(record, outcome).start];
        require(told == "a" || told == "d", NotARecord());
        uint256 opening = _skip(record, measured + 1, 8);
        return ((told == "d") != differs || _isOther(record, opening, body), sha256(body));
    }

    /// @dev Whether an opening is there and shows something else than the receipt commits to.
    function _isOther(bytes calldata record, uint256 opening, bytes calldata body)
        private
        pure
        returns (bool)
    {
        if (record[opening] == 0xc0) return false;
        // [ask, client's half of the seed, node's half, salt, answer]
        require(record[opening] == 0x95, NotARecord());
        return _seedOf(record, opening + 1) != _wordAt(body, SEED_AT)
            || _answerOf(record, _skip(record, opening + 1, 3)) != _wordAt(body, ANSWER_AT);
    }

    /// @dev The seed that comes of a question and both halves, which are next.
    function _seedOf(bytes calldata record, uint256 ask) private pure returns (bytes32) {
        uint256 client = _skip(record, ask, 1);
        uint256 node = _skip(record, client, 1);
        bytes32 asked = sha256(_bytesAt(record, ask));
        return
            sha256(abi.encodePacked(SEED, _bytesAt(record, client), _bytesAt(record, node), asked));
    }

    /// @dev The commitment to an answer under the salt that is next.
    function _answerOf(bytes calldata record, uint256 salt) private pure returns (bytes32) {
        uint256 answer = _skip(record, salt, 1);
        bytes calldata ids = record[answer:_endOfArray(record, answer)];
        return sha256(abi.encodePacked(_bytesAt(record, salt), ids));
    }

    function _wordAt(bytes calldata body, uint256 place) private pure returns (bytes32) {
        return bytes32(_bytesAt(body, _skip(body, BODY_HEAD, place)));
    }

    /// @dev Whether a receipt's body names this chain and this settlement contract.
    function _isOf(bytes calldata body, uint256 chainId, address settlement)
        private
        pure
        returns (bool)
    {
        uint256 chain = _skip(body, BODY_HEAD, 1);
        bytes calldata named = _bytesAt(body, _skip(body, chain, 1));
        return _uintAt(body, chain) == chainId && named.length == 20
            && address(bytes20(named)) == settlement;
    }

    /// @dev Where the element after `count` more begins.
    function _skip(bytes calldata data, uint256 start, uint256 count)
        private
        pure
        returns (uint256)
    {
        for (uint256 i = 0; i < count; i++) {
            start = _element(data, start).next;
        }
        require(start < data.length, NotARecord());
        return start;
    }

    function _bytesAt(bytes calldata data, uint256 start) private pure returns (bytes calldata) {
        require(data[start] == 0xc4 || data[start] == 0xc5 || data[start] == 0xc6, NotARecord());
        Element memory found = _element(data, start);
        require(found.next <= data.length, NotARecord());
        return data[found.start:found.next];
    }

    function _uintAt(bytes calldata data, uint256 start) private pure returns (uint256) {
        uint8 head = uint8(data[start]);
        require(head < 0x80 || (head >= 0xcc && head <= 0xcf), NotARecord());
        Element memory found = _element(data, start);
        return found.length == 0 ? head : _number(data, found.start, found.length);
    }

    /// @dev An array of integers: what an answer is.
    function _endOfArray(bytes calldata data, uint256 start) private pure returns (uint256 end) {
        uint8 head = uint8(data[start]);
        uint256 count = head & 0x0f;
        end = start + 1;
        if (head == 0xdc) {
            count = _number(data, start + 1, 2);
            end = start + 3;
        } else {
            require(head >= 0x90 && head <= 0x9f, NotARecord());
        }
        end = count == 0 ? end : _element(data, _skip(data, end, count - 1)).next;
        require(end <= data.length, NotARecord());
    }

    function _element(bytes calldata data, uint256 start) private pure returns (Element memory) {
        require(start < data.length, NotARecord());
        uint8 head = uint8(data[start]);
        if (head < 0x80) return Element(start, 0, start + 1); // an integer that is its own head
        if (head >= 0xcc && head <= 0xcf) {
            // an integer of 1, 2, 4 or 8 bytes
            uint256 width = uint256(1) << (head - 0xcc);
            return Element(start + 1, width, start + 1 + width);
        }
        if (head >= 0xa0 && head <= 0xbf) {
            return Element(start + 1, head & 0x1f, start + 1 + (head & 0x1f));
        }
        require(head >= 0xc4 && head <= 0xc6, NotARecord()); // bytes, their length in 1, 2 or 4
        uint256 lengthWidth = uint256(1) << (head - 0xc4);
        uint256 content = start + 1 + lengthWidth;
        uint256 length = _number(data, start + 1, lengthWidth);
        return Element(content, length, content + length);
    }

    function _number(bytes calldata data, uint256 start, uint256 width)
        private
        pure
        returns (uint256)
    {
        require(start + width <= data.length, NotARecord());
        return uint256(bytes32(data[start:start + width])) >> (8 * (32 - width));
    }
}
