"""Prose for the tests of intake, written for them."""

from __future__ import annotations

PARAGRAPHS = [
    (
        "The river leaves the hills near the old mill, where three families once ground"
        " rye for the whole valley. In spring the water rises by a metre within a day, "
        "and whoever keeps sheep on the lower meadows drives them up to the chapel befo"
        "re the first warm rain has ended."
    ),
    (
        "A clay pot keeps seed dry for longer than a sack does, provided that its lid i"
        "s sealed with wax. My grandmother marked each pot with a thread of another col"
        "our, so that beans, lentils and barley could be told apart in the dark of the "
        "cellar without a lamp."
    ),
    (
        "When the council met in the year of the great frost, it decided that nobody mi"
        "ght fell a walnut tree without the consent of two neighbours. The rule was nev"
        "er written down anywhere else, yet it was kept for about ninety years, and mos"
        "t of the trees are standing still."
    ),
    (
        "To repair a dry stone wall, take it down to the first course that has not move"
        "d, sort the stones by their size on the grass, and build upwards with the long"
        "est ones lying across. Small stones belong in the middle; a wall that is fille"
        "d with earth will burst in winter."
    ),
    (
        "The ferry carries twelve people and a cart. It has no engine: the ferryman set"
        "s it at an angle against the current, and the river pushes it over along a cab"
        "le that hangs between two posts of oak. A crossing takes four minutes when the"
        " water is low, and two after a storm."
    ),
    (
        "Bees that have lost their queen sound different, a low moaning in place of the"
        " usual hum. Look for eggs before you buy a new one, since a young queen may al"
        "ready be there and has simply not begun to lay. Two queens in one hive will fi"
        "ght until one of them is dead."
    ),
    (
        "The schoolhouse has one room with a stove in its corner, and pupils of all age"
        "s sat in it together until the road was built. The older ones taught the young"
        "er to read while the teacher wrote sums on the board, which is why so many her"
        "e can explain a thing patiently."
    ),
    (
        "Salt was brought over the pass on mules, forty kilograms to each animal, and p"
        "aid for with cheese. The last caravan came in the autumn before the railway op"
        "ened. A driver's notebook from that journey lists every inn, what the fodder c"
        "ost, and which of the bridges were unsafe."
    ),
]
