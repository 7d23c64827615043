"""Who gets which part of a fee: integer shares now, influence of the training texts later."""
