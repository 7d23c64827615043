"""What a verifier says of an answer, signed, and what many such verdicts together say of a node."""
