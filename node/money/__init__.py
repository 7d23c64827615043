"""Who owes whom: channels on both sides, receipts on their way to the chain."""
