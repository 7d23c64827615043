"""Proves who owes whom what: receipts, vouchers, logs and payouts.

Pure, except `chain/` (reaches a chain) and `ledger/` (reaches a disk). Knows no peer and no model.

To read it in the order in which a fee travels:

    signing digest codec errors     keys, EIP-712, the one byte form of things
    voucher                         who pays whom, and how much at most
    manifest attribution/shares     who made an adapter, from whose data; how a fee is divided
    receipt payouts                 what node and client sign; what a channel paid whom
    envelope                        receipt + voucher + channel: what any peer can check
    channel waiting fair outcomes   which receipt comes next, which wait, whose turn it is
    aggregator promise              accepting receipts by a deadline, sealing an epoch
    merkle sumtree epoch            the log, the trees, their leaves, the header
    batch draft state history       the published batch, and all that follows from it
    court inquiry                   what convicts an aggregator, and how to find it
    checkpoint ledger/ chain/       remembering; money
"""
