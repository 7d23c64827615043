"""scripts/setup before anything is installed: what it says when something is missing.

Real processes in an empty checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = [
    "bash",
    "sh",
    "cat",
    "tail",
    "grep",
    "awk",
    "wc",
    "sleep",
    "find",
    "dirname",
    "basename",
    "mkdir",
    "chmod",
    "sha256sum",
    "flock",
]

OLD_PYTHON = "#!/bin/sh\nexit 1\n"
PYTHON_WITHOUT_VENV = """#!/bin/sh
case "$*" in
    *ensurepip*) exit 1 ;;
    --version) echo Python 3.12.1 ;;
esac
"""
# Makes an environment whose pip always fails.
PYTHON_WITH_BROKEN_PIP = """#!/bin/sh
case "$*" in
    *version_info*pip*) exit 1 ;;
    "-m venv"*) mkdir -p .venv/bin; echo "version = 3.12.1" > .venv/pyvenv.cfg
        printf '#!/bin/sh\\necho "no route to the packages"; exit 1\\n' > .venv/bin/python
        chmod +x .venv/bin/python ;;
    --version) echo Python 3.12.1 ;;
esac
"""


class Checkout:
    """A copy of what scripts/setup reads, and a PATH on which only what a test puts there is
    found.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"  # a path with a space in it, on purpose
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup", self.root / "scripts" / "setup")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def put(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / "scripts" / "setup"), *arguments]
        environment = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            command,
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_without_a_python_the_packages_to_install_are_named(checkout: Checkout) -> None:
    done = checkout.setup()
    assert done.returncode == 1
    assert done.stderr.strip().endswith("apt-get install python3 python3-venv")


def test_an_older_python_is_passed_over(checkout: Checkout) -> None:
    checkout.put("python3", OLD_PYTHON)
    checkout.put("python3.12", PYTHON_WITHOUT_VENV)
    assert "making .venv with Python 3.12.1" in checkout.setup().stdout


def test_without_venv_the_package_to_install_is_named_in_one_line(checkout: Checkout) -> None:
    checkout.put("python3", PYTHON_WITHOUT_VENV)
    done = checkout.setup()
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "scripts/setup: python3 cannot make virtual environments. On Debian or Ubuntu: apt-get"
        " install python3-venv"
    ]


def test_a_failing_pip_shows_its_last_words_and_where_the_rest_is(checkout: Checkout) -> None:
    checkout.put("python3", PYTHON_WITH_BROKEN_PIP)
    done = checkout.setup()
    assert done.returncode == 1
    assert "no route to the packages" in done.stderr
    assert str(checkout.root / ".cache" / "setup.log") in done.stderr


def test_a_failed_setup_is_not_taken_for_ready(checkout: Checkout) -> None:
    checkout.put("python3", PYTHON_WITH_BROKEN_PIP)
    assert checkout.setup().returncode == 1
    assert checkout.setup().returncode == 1


@pytest.mark.parametrize(
    "script", ["scripts/setup", "scripts/test", "scripts/check", "scripts/lock", ".ci/run"]
)
def test_every_command_explains_itself(script: str) -> None:
    done = subprocess.run(
        [str(ROOT / script), "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith(f"usage: {script}")


def test_an_unknown_argument_is_refused(checkout: Checkout) -> None:
    done = checkout.setup("--wheels")
    assert done.returncode == 1
    assert "unknown argument --wheels" in done.stderr
