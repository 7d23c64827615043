"""Proves who owes whom what: receipts, vouchers, logs and payouts.

Pure, except `chain/` (reaches a chain) and `ledger/` (reaches a disk). Knows no peer and no model.

To read it in the order in which a fee travels:

    signing digest codec errors     keys, EIP-712, the one byte form of things
    voucher                         who pays whom, and how much at most
    receipt attribution/shares      what node and client sign; how a fee is divided
    manifest                        who made an adapter, and from whose data
    envelope                        receipt + voucher + channel: what any peer can check
    channel waiting outcomes        which receipt comes next, which wait, what becomes of each
    aggregator                      accepting receipts, sealing an epoch
    merkle sumtree epoch batch      the log, the payout tree, the header, the published batch
    history promise                 recomputing all of it; proofs for people, evidence against them
    ledger/ chain/                  remembering; money
"""
