"""Receipts, vouchers, logs and payouts. Pure, except `chain/` (reaches a chain) and `ledger.py` (reaches a disk)."""
