"""What is nested too deep is an error, and not the end of the process, with a chain as without."""

import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import msgspec
import {module}
from proofs.chain.keystore import is_keystore
assert sys.getrecursionlimit() <= 1000, sys.getrecursionlimit()
assert "py_ecc.bls" not in sys.modules, "curves are loaded that nobody needs"
for nested in (b"[" * 200_000, b'{{"a":' * 200_000):
    for read in (json.loads, msgspec.json.decode):
        try:
            read(nested)
        except RecursionError:
            continue
        raise SystemExit("it was read")
"""


@pytest.mark.parametrize(
    "module",
    ["node.app", "proofs.chain.client", "proofs.chain.rpc", "proofs.chain.wallet"],
)
def test_deep_json_is_an_error_whatever_was_imported(module):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(module=module)], timeout=60)
    assert done.returncode == 0


def test_a_keystore_is_opened_without_raising_how_deep_python_may_recurse():
    program = (
        "import sys\n"
        "from proofs.chain.keystore import decrypt_key, encrypt_key\n"
        "assert decrypt_key(encrypt_key(bytes(31) + b'x', 'p'), 'p') == bytes(31) + b'x'\n"
        "assert sys.getrecursionlimit() <= 1000\n"
        "from eth_keyfile.keyfile import MAX_V4_PRIVATE_KEY\n"
        "from py_ecc.bls12_381 import curve_order\n"
        "assert MAX_V4_PRIVATE_KEY == curve_order - 1\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
