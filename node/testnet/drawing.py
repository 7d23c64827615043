"""A picture in memory: rectangles and words, and its bytes as PNG. Knows no report, and needs no
library.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

LETTER_WIDTH = 5
LETTER_HEIGHT = 7
ROWS_OF_A_BAND = 1 + LETTER_HEIGHT
DOT = 2  # pixels that a dot of a letter is wide and high
ADVANCE = DOT * (LETTER_WIDTH + 1)
LINE_HEIGHT = DOT * LETTER_HEIGHT
UNKNOWN = "?"
EIGHT_BITS_A_COLOUR = bytes((8, 2, 0, 0, 0))
Colour = tuple[int, int, int]

# A row of letters, then seven rows of their dots. Small letters are shown as capitals.
LETTERS = """
ABCDEFGHIJKLM
.###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...#
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.##
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#
#...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...#
NOPQRSTUVWXYZ
#...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#
#.#.# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
#..## #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
#...# #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...
#...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....
#...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####
0123456789?
.###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###. .###.
#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...# ....#
#.#.# ..#.. ..##. ..##. #..#. ....# ####. ..#.. .###. .#### ..##.
##..# ..#.. .#... ....# ##### ....# #...# .#... #...# ....# ..#..
#...# ..#.. #.... #...# ...#. #...# #...# .#... #...# ....# .....
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .###. ..#..
.,:-_/@+%()
..... ..... ..... ..... ..... ....# .###. ..... ##..# ...#. .#...
..... ..... .##.. ..... ..... ....# #...# ..#.. ##.#. ..#.. ..#..
..... ..... .##.. ..... ..... ...#. #.### ..#.. ...#. .#... ...#.
..... ..... ..... ##### ..... ..#.. #.#.# ##### ..#.. .#... ...#.
..... .##.. .##.. ..... ..... .#... #.### ..#.. .#... .#... ...#.
.##.. ..#.. .##.. ..... ..... #.... #.... ..#.. .#.## ..#.. ..#..
.##.. .#... ..... ..... ##### #.... .###. ..... #..## ...#. .#...
"""


def read_letters(drawn: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each letter with its rows of dots."""
    lines = drawn.strip().split("\n")
    for start in range(0, len(lines), ROWS_OF_A_BAND):
        names = lines[start]
        rows = [line.split(" ") for line in lines[start + 1 : start + ROWS_OF_A_BAND]]
        for place, name in enumerate(names):
            yield name, tuple(row[place] for row in rows)


DOTS_OF = dict(read_letters(LETTERS))


class Picture:
    """A white picture of so many pixels. What is drawn beyond its edges is left out."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._rows = [bytearray(b"\xff" * (3 * width)) for _ in range(height)]

    def colour_at(self, x: int, y: int) -> Colour:
        """Return a pixel, from the upper left corner on."""
        red, green, blue = self._rows[y][3 * x : 3 * x + 3]
        return red, green, blue

    def fill(self, x: int, y: int, width: int, height: int, *, colour: Colour) -> None:
        """Draw a rectangle by its upper left corner."""
        left = max(x, 0)
        right = min(x + width, self.width)
        if left >= right:
            return
        for row in self._rows[max(y, 0) : max(y + height, 0)]:
            row[3 * left : 3 * right] = bytes(colour) * (right - left)

    def write(self, x: int, y: int, text: str, colour: Colour) -> None:
        """Draw words by their upper left corner, ADVANCE pixels a letter and LINE_HEIGHT high."""
        for place, letter in enumerate(text):
            dots = DOTS_OF.get(letter.upper(), DOTS_OF[UNKNOWN]) if letter != " " else ()
            for down, row in enumerate(dots):
                for right, dot in enumerate(row):
                    if dot == "#":
                        at = x + ADVANCE * place + DOT * right
                        self.fill(at, y + DOT * down, DOT, DOT, colour=colour)

    def as_png(self) -> bytes:
        """Return the file's bytes, the pixels as they are (no filter), compressed."""
        header = struct.pack(">II", self.width, self.height) + EIGHT_BITS_A_COLOUR
        pixels = zlib.compress(b"".join(b"\0" + row for row in self._rows))
        parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
