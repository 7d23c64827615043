"""OpenAI's /v1/responses: items in, items out, remembered for the next request."""
