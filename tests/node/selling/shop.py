"""A node that sells over HTTP on a real chain, and payers who sign what x402 says, or not quite."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import trio

from node.daemon import NodeDaemon
from node.http.selling.routes import serve_sales
from node.http.server import listen, url_of
from proofs.chain.client import ChainClient, open_client
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, channel_id, sign_voucher
from tests.node.networks import Lab

DEADLINE_S = 60
CHAT = "/v1/chat/completions"
PROMPT = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}


@asynccontextmanager
async def selling(lab: Lab, name: str, **changes: Any) -> AsyncIterator[tuple[NodeDaemon, str]]:
    """A volunteer that sells; it and where."""
    async with lab.daemon(name, sell="127.0.0.1:0", **changes) as daemon:
        sock = listen("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_sales, daemon, sock)
            yield daemon, url_of(sock)
            nursery.cancel_scope.cancel()


@dataclass
class Payer:
    """Signs payments by hand; `charged` is what it believes that its channel has cost."""

    signer: Signer
    chain: ChainClient
    accepted: dict[str, Any]
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    charged: int = 0

    @property
    def config(self) -> ChannelConfig:
        """The channel that the requirements ask for."""
        extra = self.accepted["extra"]
        own = self.signer.address
        to, operator, token = (
            bytes.fromhex(text[2:])
            for text in (
                self.accepted["payTo"],
                extra["receiverAuthorizer"],
                self.accepted["asset"],
            )
        )
        return ChannelConfig(own, own, to, operator, token, extra["withdrawDelay"], self.salt)

    @property
    def channel(self) -> bytes:
        return channel_id(self.config, self.chain.network)

    def payload(self, **changes: Any) -> dict[str, Any]:
        """A voucher for what the channel cost and this answer; `config` fields, `amount`, `type`,
        `deposit` as told.
        """
        config = msgspec.structs.replace(self.config, **changes.pop("config", {}))
        amount = changes.pop("amount", self.charged + int(self.accepted["amount"]))
        channel = channel_id(config, self.chain.network)
        voucher = sign_voucher(changes.pop("signer", self.signer), channel, amount, self.network)
        told: dict[str, Any] = {
            "type": "voucher",
            "channelConfig": _shown(config),
            "voucher": {
                "channelId": "0x" + channel.hex(),
                "maxClaimableAmount": str(amount),
                "signature": "0x" + voucher.signature.hex(),
            },
        }
        if deposit := changes.pop("deposit", 0):
            told |= {"type": "deposit", "deposit": self.deposit(config, deposit)}
        return told | changes

    @property
    def network(self) -> Any:
        return self.chain.network

    def deposit(self, config: ChannelConfig, amount: int) -> dict[str, Any]:
        """A signed deposit."""
        signed = self.chain.channels.authorize_deposit(config, amount)
        return {
            "amount": str(amount),
            "authorization": {
                "erc3009Authorization": {
                    "validAfter": str(signed.valid_after),
                    "validBefore": str(signed.valid_before),
                    "salt": hex(signed.salt),
                    "signature": "0x" + signed.signature.hex(),
                }
            },
        }

    def header(self, payload: dict[str, Any], **accepted: Any) -> dict[str, str]:
        """The header that pays so."""
        told = {"x402Version": 2, "payload": payload, "accepted": self.accepted | accepted}
        return {"payment-signature": base64.b64encode(json.dumps(told).encode()).decode()}


def _shown(config: ChannelConfig) -> dict[str, Any]:
    names = ("payer", "payer_authorizer", "receiver", "receiver_authorizer", "token", "salt")
    camel = ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token", "salt")
    shown = {to: "0x" + getattr(config, name).hex() for name, to in zip(names, camel, strict=True)}
    return shown | {"withdrawDelay": config.withdraw_delay}


async def requirements(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """What a request has to pay, as a 402 says it."""
    asked = await client.post(CHAT, json=body)
    assert asked.status_code == 402, asked.text
    accepted: dict[str, Any] = told(asked, "payment-required")["accepts"][0]
    return accepted


def told(response: httpx.Response, header: str) -> dict[str, Any]:
    """What one of x402's headers says."""
    said: dict[str, Any] = json.loads(base64.b64decode(response.headers[header]))
    return said


async def payer(lab: Lab, client: httpx.AsyncClient, name: str, body: dict[str, Any]) -> Payer:
    """Somebody who has money, and has seen what a request has to pay."""
    assert lab.chain is not None
    secret = lab.identity(name).secret
    settlement = bytes.fromhex(lab.chain.settlement.removeprefix("0x"))
    accepted = await requirements(client, body)
    return Payer(Signer(secret), open_client(lab.chain.rpc, settlement, secret), accepted)
