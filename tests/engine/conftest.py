"""Kernels without a GPU run in Triton's interpreter, which has to be asked for before Triton is
first imported.
"""

from __future__ import annotations

import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

    from triton.runtime import interpreter

    _patch = interpreter._patch_lang_tensor

    def _patch_for_new_numpy(tensor: Any, scope: Any) -> None:
        """numpy 2.5 refuses `int()` of an array with one element, which the interpreter's loops are
        built on.
        """
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = _patch_for_new_numpy
