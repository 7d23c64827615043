"""What scripts/factory plays: from twelve people's notes to an adapter whose answer is paid."""
