"""How long it takes to check a receipt, an envelope and a batch, and how many bytes they have.

With the signatures of both sides, and with the node's alone. One process, one core, its own time:
what else runs on the machine is not counted, but still takes some of the caches and the clock.

python -m benchmarks.proofs.receipts            prints a table and writes it to benchmarks/results/
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import write_result
from proofs.aggregator import Aggregator, Pace
from proofs.batch import recompute
from proofs.channel import ChannelTip
from proofs.digest import keccak
from proofs.envelope import VerifiedEnvelope, open_envelope
from proofs.ledger import AggregatorLedger, Ledger
from proofs.receipt import decode_body, decode_receipt, receipt_digest, verify_receipt
from proofs.signing import recover
from proofs.state import EpochState
from tests.proofs.scene import (
    ADAPTER,
    MANIFEST,
    MANIFESTS,
    NETWORK,
    PLENTY,
    TERMS,
    chain,
    follow,
    signer,
)

NUM_RECEIPTS = 1_000
NOW = 1_795_000_000


def best_us(call: Callable[[], object], repeat: int = 5, num_calls: int = 400) -> float:
    """Microseconds of processor time a call, in the best of several rounds."""
    rounds = []
    for _ in range(repeat):
        start = time.process_time()
        for _ in range(num_calls):
            call()
        rounds.append((time.process_time() - start) / num_calls)
    return round(min(rounds) * 1e6, 2)


def measure() -> dict[str, float]:
    """Everything, by name; the last word is the unit."""
    both = chain(NUM_RECEIPTS)
    one = chain(NUM_RECEIPTS, cosigned=False)
    signed = both[0].receipt.signed
    digest = receipt_digest(both[0].receipt.receipt, NETWORK)
    tip = ChannelTip(both[0].config)
    return {
        "body bytes": len(signed.body),
        "signed receipt bytes": len(both[0].receipt.encoded),
        "envelope bytes": len(both[0].encoded),
        "keccak of 100 bytes us": best_us(lambda: keccak(bytes(100)), num_calls=4_000),
        "decode a body us": best_us(lambda: decode_body(signed.body)),
        "digest us": best_us(lambda: receipt_digest(both[0].receipt.receipt, NETWORK)),
        "recover one signature us": best_us(lambda: recover(digest, signed.node_signature)),
        **_checks("two signatures", both),
        **_checks("one signature", one),
        "follow: shares, fee, payouts us": best_us(lambda: follow(tip, both[0].receipt)),
        **_epoch("two signatures", both),
        **_epoch("one signature", one),
    }


def _checks(name: str, taken: tuple[VerifiedEnvelope, ...]) -> dict[str, float]:
    data = taken[0].receipt.encoded
    envelope = taken[0].encoded
    verify_us = best_us(lambda: verify_receipt(decode_receipt(data), NETWORK))
    return {
        f"verify a receipt, {name} us": verify_us,
        f"verify receipts, {name} /s": round(1e6 / verify_us),
        f"open an envelope, {name} us": best_us(lambda: open_envelope(envelope, NETWORK)),
    }


def _epoch(name: str, taken: tuple[VerifiedEnvelope, ...]) -> dict[str, float]:
    """An aggregator in memory takes and seals a full batch; somebody recomputes it."""
    store = AggregatorLedger(Ledger(":memory:"))
    aggregator = Aggregator(NETWORK, signer("aggregator"), store, Pace(grace_s=0))
    aggregator.learn(MANIFEST, ADAPTER)
    start = time.process_time()
    for envelope in taken:
        aggregator.receive(envelope, PLENTY, TERMS, NOW)
    receive_us = (time.process_time() - start) / len(taken) * 1e6
    start = time.process_time()
    sealed = aggregator.seal({taken[0].voucher.channel_id: PLENTY}, NOW)
    seal_ms = (time.process_time() - start) * 1e3
    assert sealed is not None
    recompute_us = best_us(
        lambda: recompute(sealed.batch, EpochState(NETWORK), MANIFESTS), repeat=3, num_calls=1
    )
    return {
        f"accept and promise, {name} us": round(receive_us, 2),
        f"seal {len(taken):,}, {name} ms": round(seal_ms, 1),
        f"batch of {len(taken):,}, {name} bytes": len(sealed.batch),
        f"recompute {len(taken):,}, {name} ms": round(recompute_us / 1e3, 1),
    }


def main() -> None:
    """Measure, print, write."""
    figures = measure()
    for name, value in figures.items():
        print(f"{name:44} {value:>12,}")
    write_result("proofs-receipts", figures)


if __name__ == "__main__":
    main()
