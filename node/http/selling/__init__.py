"""OpenAI's routes for strangers, who pay by x402."""
