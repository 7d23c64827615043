"""How long it takes to check a receipt, an envelope and a batch, and how many bytes they have.

One process, one core.

python -m benchmarks.proofs.receipts            prints a table and writes it to benchmarks/results/
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import write_result
from proofs.aggregator import Aggregator
from proofs.batch import EpochState, recompute
from proofs.digest import keccak
from proofs.envelope import open_envelope
from proofs.ledger import AggregatorLedger, Ledger
from proofs.receipt import decode_body, decode_receipt, receipt_digest, verify_receipt
from proofs.signing import recover
from proofs.sumtree import PayoutTree
from tests.proofs.scene import NETWORK, View, chain, signer

NUM_RECEIPTS = 1_000


def best_us(call: Callable[[], object], repeat: int = 5, num_calls: int = 400) -> float:
    """Microseconds a call, in the best of several rounds: what others do on this machine only ever
    adds.
    """
    rounds = []
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(num_calls):
            call()
        rounds.append((time.perf_counter() - start) / num_calls)
    return round(min(rounds) * 1e6, 2)


def measure() -> dict[str, float]:
    """Everything, by name; the last word is the unit."""
    taken = chain(NUM_RECEIPTS)
    one = taken[0]
    signed = taken[0].receipt.signed
    data = one.receipt.encoded
    digest = receipt_digest(one.receipt.receipt, NETWORK)
    aggregator = Aggregator(NETWORK, signer("aggregator"), AggregatorLedger(Ledger(":memory:")))
    start = time.perf_counter()
    for envelope in taken:
        aggregator.receive(envelope, View())
    receive_us = (time.perf_counter() - start) / NUM_RECEIPTS * 1e6
    sealed = aggregator.seal({one.voucher.channel_id: 1 << 62})
    assert sealed is not None
    owed = {keccak(b"%d" % number)[:20]: number + 1 for number in range(1_000)}
    return {
        "body bytes": len(signed.body),
        "signed receipt bytes": len(data),
        "envelope bytes": len(one.encoded),
        "batch of 1,000 bytes": len(sealed.batch),
        "keccak of 100 bytes us": best_us(lambda: keccak(bytes(100)), num_calls=4_000),
        "decode a body us": best_us(lambda: decode_body(signed.body)),
        "digest us": best_us(lambda: receipt_digest(one.receipt.receipt, NETWORK)),
        "recover one signature us": best_us(lambda: recover(digest, signed.node_signature)),
        "verify a receipt us": (
            verify_us := best_us(lambda: verify_receipt(decode_receipt(data), NETWORK))
        ),
        "verify receipts /s": round(1e6 / verify_us),
        "open an envelope us": best_us(lambda: open_envelope(one.encoded, NETWORK)),
        "accept and promise (in memory) us": round(receive_us, 2),
        "recompute a batch of 1,000 ms": round(
            best_us(lambda: recompute(sealed.batch, EpochState(NETWORK)), 3, 1) / 1e3, 1
        ),
        "payout tree of 1,000 accounts ms": round(best_us(lambda: PayoutTree(owed), 3, 2) / 1e3, 2),
    }


def main() -> None:
    """Measure, print, write."""
    figures = measure()
    for name, value in figures.items():
        print(f"{name:36} {value:>12,}")
    write_result("proofs-receipts", figures)


if __name__ == "__main__":
    main()
