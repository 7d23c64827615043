"""What a seller signs in x402's words is what eth_account reads in the extension's types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from proofs.offers import Offer, Served
from proofs.signing import Signer
from tests.proofs.scene import signer

URL = "https://node.example/v1/chat/completions"
PAYER = "0x857b06519e91e3a54538791bdbb0e22373e36b66"
OFFER = (
    "version:uint256 resourceUrl:string scheme:string network:string asset:string"
    " payTo:string amount:string validUntil:uint256"
)
SERVED = (
    "version:uint256 network:string resourceUrl:string payer:string issuedAt:uint256"
    " transaction:string"
)


@pytest.mark.parametrize(
    ("name", "kind", "fields", "said"),
    [
        (
            "x402 offer",
            "Offer",
            OFFER,
            Offer(URL, "batch-settlement", "eip155:8453", PAYER, PAYER, "2570"),
        ),
        ("x402 receipt", "Receipt", SERVED, Served("eip155:8453", URL, PAYER, 1_800_000_000)),
    ],
)
def test_the_extension_s_types_recover_who_signed(
    name: str, kind: str, fields: str, said: Offer | Served
) -> None:
    node: Signer = signer("node")
    typed = [field.split(":") for field in fields.split()]
    types: dict[str, Any] = {kind: [{"name": field, "type": of} for field, of in typed]}
    message = msgspec.to_builtins(said)
    assert message.keys() == {field["name"] for field in types[kind]}
    domain = {"name": name, "version": "1", "chainId": 1}
    encoded = encode_typed_data(domain, types, message)
    recovered = Account.recover_message(encoded, signature=node.sign_digest(said.digest))
    assert bytes.fromhex(recovered[2:]) == node.address
