"""Has a facilitator (x402, version 2) send what strangers pay outright, and pay the gas of it. What
it says is not believed: money has come when the token moved it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import msgspec

from ..api.sales import SaleTerms, SignedTransfer, TransferRefused
from ..errors import NodeError
from ..http.selling.shape import outright, outright_payload

DEADLINE_S = 60.0
MAX_ANSWER_BYTES = 64 << 10
MAX_SHOWN_CHARS = 200


class Settling(msgspec.Struct, frozen=True, rename="camel"):
    """What of a facilitator's answer is read."""

    success: bool
    error_reason: str | None = None
    error_message: str | None = None


class Facilitator:
    """One facilitator. `url` has no slash at its end; `terms` are those of this node's sales."""

    def __init__(self, url: str, terms: Callable[[], Awaitable[SaleTerms]]) -> None:
        self._url = url
        self._terms = terms

    async def settle(self, signed: SignedTransfer) -> None:
        """Have it send a transfer. Raises TransferRefused where it will not, NodeError where it may
        have.
        """
        accepted = outright(await self._terms(), signed.transfer.amount)
        asked = {
            "x402Version": 2,
            "paymentPayload": outright_payload(accepted, signed),
            "paymentRequirements": accepted,
        }
        told = await self._post(asked)
        if told.success or told.error_reason == "settlement_pending":
            return
        why = f"{told.error_reason or 'it says not why'} {told.error_message or ''}"
        raise TransferRefused(
            "transaction_simulation_failed",
            f"the facilitator does not send it: {why[:MAX_SHOWN_CHARS].rstrip()}",
        )

    async def _post(self, asked: object) -> Settling:
        headers = {"content-type": "application/json"}
        data = bytearray()
        try:
            async with (
                httpx.AsyncClient(timeout=DEADLINE_S) as client,
                client.stream(
                    "POST",
                    f"{self._url}/settle",
                    content=msgspec.json.encode(asked),
                    headers=headers,
                ) as response,
            ):
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > MAX_ANSWER_BYTES:
                        raise NodeError(f"the facilitator at {self._url} answers without end")
            return msgspec.json.decode(bytes(data), type=Settling)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise NodeError(
                f"the facilitator at {self._url} does not answer as x402 says: {error!r}; ask again"
            ) from error
