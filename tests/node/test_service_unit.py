"""The systemd unit: what systemd reads of it, and that it takes it where systemd is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cli import service
from node.cli.service import complaints_of
from node.service_unit import Unit, quoted, unit_text
from tests.node.faces import command

SENSIBLE = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]),
    min_size=1,
)


@given(SENSIBLE)
def test_a_word_in_quotes_is_read_back(word: str) -> None:
    text = quoted(word)
    assert "\n" not in text
    assert read_back(text) == word


def read_back(text: str) -> str:
    """A word as systemd.service(5) reads it: escapes, then specifiers and variables."""
    assert text[0] == text[-1] == '"'
    word = ""
    rest = text[1:-1]
    while rest:
        assert rest[0] != '"'
        taken = 2 if rest[0] in "\\%$" else 1
        assert taken == 1 or rest[1] == rest[0] or rest[0] == "\\"
        word += rest[taken - 1]
        rest = rest[taken:]
    return word


@pytest.mark.parametrize("word", ["", "two\nlines", "nul\0"])
def test_what_no_unit_can_name_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        quoted(word)
    with pytest.raises(ValueError, match="no user"):
        unit_text(Unit(Path("/python"), Path("/home"), "a\nb"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("user", [None, "root"])
def test_systemd_takes_the_unit(tmp_path: Path, user: str | None) -> None:
    home = tmp_path / 'a "home" with %h and $x'
    text = unit_text(Unit(Path(sys.executable), home, user))
    assert complaints_of(text) == ""
    broken = text.replace("Type=exec", "Type=nonsense").replace("ExecStart=", "Nothing=")
    assert complaints_of(broken)


async def test_the_command_prints_the_unit_or_puts_it_where_systemd_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    nowhere = await command(home, "install-service", "--print")
    assert "lorikeet init" in str(nowhere.exception)
    home.mkdir()
    shown = await command(home, "install-service", "--print", "--system", "--user", "nobody")
    assert "User=nobody" in shown.stdout
    assert f'ReadWritePaths="{home}"' in shown.stdout
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(service, "complaints_of", lambda text: "")
    done = await command(home, "install-service")
    assert done.exit_code == 0, done.output
    written = (tmp_path / "config" / "systemd" / "user" / "lorikeet.service").read_text()
    assert f'"{home}"' in written
    assert "systemctl --user" in done.stdout
