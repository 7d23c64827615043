"""What this node finds when it replays the answers that it bought, and what follows of it."""
