"""How a dishonest contributor changes another's text: a few tokens of it, or its words by rule.

Pure and seeded. The paraphraser knows no grammar: he swaps words for others of like meaning, and
the two halves of a sentence that has a comma.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

PAIRS = (
    "about/regarding above/over add/put after/following all/every allow/permit also/moreover"
    " although/though and/plus any/whichever appoint/name appointed/named area/region"
    " as/like ask/inquire authority/power bad/poor be/become because/since before/prior"
    " begin/start between/among big/large bake/roast boil/simmer bowl/dish bring/fetch"
    " but/yet butter/margarine call/summon can/may cause/bring caused/triggered cell/unit"
    " change/alter child/youngster children/youngsters common/frequent condition/ailment"
    " constitution/charter cook/prepare cover/wrap cup/mug cut/slice day/date death/demise"
    " defect/flaw develop/form die/perish different/distinct disease/illness"
    " disorder/malady do/perform doctor/physician dry/parched each/every early/soon eat/consume"
    " effect/outcome election/ballot end/finish every/each fear/dread few/some fine/thin"
    " first/initial for/towards form/shape found/located from/out gene/factor give/grant"
    " given/granted go/walk good/fine great/grand government/administration half/50%"
    " have/possess heat/warm help/aid high/elevated hold/keep hot/warm house/chamber"
    " however/still if/whenever important/key in/within include/comprise increase/raise"
    " information/details inherited/passed is/remains it/this kind/sort king/monarch know/grasp"
    " large/big law/statute let/allow life/existence like/as little/small long/lengthy"
    " look/gaze lord/master love/affection low/reduced made/created make/create man/fellow"
    " many/numerous may/might medical/clinical meet/encounter member/participant milk/cream"
    " minutes/moments mix/blend more/further most/nearly muscle/tissue must/should name/title"
    " need/require new/fresh no/zero normal/usual not/hardly now/presently number/amount"
    " of/from oil/fat older/elder on/upon one/a onion/shallot only/merely or/alternatively"
    " other/another our/the out/away over/above oven/stove pan/pot parent/mother part/portion"
    " people/persons person/individual pepper/spice place/spot pour/tip power/authority"
    " president/chairman problem/trouble provide/supply put/place question/matter rare/unusual"
    " reason/ground remove/take right/claim rise/grow salt/seasoning same/identical say/state"
    " season/flavour see/notice sign/mark signs/marks show/display size/scale skin/surface"
    " small/little so/thus some/several speak/talk state/province stir/mix such/similar"
    " sugar/sweetener symptom/sign symptoms/signs take/grab tell/inform test/exam that/which"
    " the/that then/next there/here these/those they/people thing/object this/that"
    " thou/you through/via time/moment to/towards together/jointly top/upper treat/manage"
    " treatment/therapy two/both under/below until/till upon/on use/employ used/employed"
    " very/quite wait/stay was/seemed water/liquid we/us weak/frail well/nicely what/whatever"
    " when/once where/wherever which/that while/whilst who/whoever will/shall with/using"
    " within/inside without/lacking woman/lady word/term work/labour year/season years/seasons"
    " young/youthful your/the"
)
SYNONYMS = dict(pair.split("/") for pair in PAIRS.split())


def edit(
    documents: Sequence[Sequence[int]], share: float, others: Sequence[int], seed: int
) -> list[list[int]]:
    """Return a copy of documents in which that share of tokens is another, drawn from `others`."""
    draw = random.Random(seed)
    return [
        [draw.choice(others) if draw.random() < share else token for token in document]
        for document in documents
    ]


def paraphrase(text: str) -> str:
    """Say a text in other words, as far as a table and the order of clauses go."""
    return "\n".join(
        " ".join(_reword(sentence) for sentence in re.split(r"(?<=[.;:?!])\s+", line))
        for line in text.splitlines()
    )


def _reword(sentence: str) -> str:
    halves = sentence.rstrip(".").split(", ", 1)
    if len(halves) == 2 and min(map(len, halves)) > 12:
        sentence = f"{halves[1]}, {halves[0]}."
    return re.sub(r"[A-Za-z]+", _other_word, sentence)


def _other_word(found: re.Match[str]) -> str:
    word = found.group()
    other = SYNONYMS.get(word.lower(), word)
    return other.capitalize() if word[0].isupper() and other != word else other
