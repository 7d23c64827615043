"""Anthropic's /v1/messages: content blocks in, content blocks out."""
