"""Ollama's /api: what its clients need to chat, generate, embed and list."""
