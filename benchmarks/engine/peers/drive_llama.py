"""llama.cpp through llama-cpp-python's low-level API: one sequence per prompt in one batch, the
plain greedy choice by numpy.
"""

from __future__ import annotations

import ctypes
from typing import Any

from lines import Run, serve


def start(options: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the GGUF file.

    Room for 32 sequences in a context of `options`; prompts are cut into batches of 512 tokens.
    """
    import llama_cpp
    import numpy as np

    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    if hasattr(
        model_params, "use_extra_bufts"
    ):  # weights repacked for AMX; 0.3.36 dies of it with q8_0
        model_params.use_extra_bufts = options.get("repack", True)
    model = llama_cpp.llama_model_load_from_file(
        f"{options['world']}/{options['file']}".encode(), model_params
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = options.get("context", 32 * 256)
    params.n_batch = 512
    params.n_ubatch = 512
    params.n_seq_max = 32
    params.n_threads = params.n_threads_batch = options["threads"]
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    memory = llama_cpp.llama_get_memory(context)
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(rows: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """One call with (token, position, sequence, wanted) rows; the greedy token of each wanted
        sequence.
        """
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.logits[i] = wanted
            batch.seq_id[i][0] = sequence
        status = llama_cpp.llama_decode(context, batch)
        assert status == 0, f"llama_decode answered {status}"
        chosen = {}
        for i, (_, _, sequence, wanted) in enumerate(rows):
            if wanted:
                logits = llama_cpp.llama_get_logits_ith(context, i)
                chosen[sequence] = int(
                    np.argmax(
                        np.ctypeslib.as_array(
                            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (vocab,)
                        )
                    )
                )
        return chosen

    def run(prompts: list[list[int]], adapters: list[Any], tokens: int) -> list[list[int]]:
        llama_cpp.llama_memory_clear(memory, True)
        rows = [
            (token, i, s, i == len(prompt) - 1)
            for s, prompt in enumerate(prompts)
            for i, token in enumerate(prompt)
        ]
        last: dict[int, int] = {}
        for first in range(0, len(rows), 512):
            last |= decode(rows[first : first + 512])
        answers = [[last[s]] for s in range(len(prompts))]
        for step in range(tokens - 1):
            last = decode(
                [(answers[s][-1], len(prompts[s]) + step, s, True) for s in range(len(prompts))]
            )
            for s, token in last.items():
                answers[s].append(token)
        return answers

    return run, {
        "version": llama_cpp.__version__,
        "features": llama_cpp.llama_print_system_info().decode(),
    }


if __name__ == "__main__":
    serve(start)
