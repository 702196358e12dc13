"""Undo the tokenisation of the One Billion Word benchmark.

Its sentences are words and marks set apart by single spaces, as a tokenizer for machine translation
leaves them: `don 't`, `Obama 's`, `( £ 61 million )`, `" We let folks know " , he said .`, `9 / 11`,
`7 : 45 p.m.`, `http : / / example.com`. Quotes are straight on both sides, so which side of a quote
a space belonged to is inferred: from its place in the line, and else by taking turns.
The public detokenizer of MDLM and DUO joins `$` and `£` to what follows and leaves `€ 8bn` and `Doctor # 2` apart;
here these are joined too, in front of a number alone: `20 € per day` and `C # code` stay as they are.
"""

from __future__ import annotations

import re

_OPENING = frozenset("([{$£")
_BEFORE_NUMBERS = frozenset("€#")
_CLOSING = re.compile(r"[,.;:?!%)\]}]|\.{2,}|'[A-Za-z]+")
_URL = re.compile(r"\b(https?|ftp) ?: ?/ ?/ ?")
_WITHIN = re.compile(r"(?<=\d) ?(:) ?(?=\d)| (/) ")


def _opens(words: list[str], index: int, is_open: bool) -> bool:
    """Whether the straight quote at `index` begins a quotation; `is_open`: the one before it did."""
    mark = words[index]
    if index == 0 or index == len(words) - 1:
        return index == 0
    before, after = words[index - 1], words[index + 1]
    if is_open or (mark == "'" and before.endswith("s") and mark not in words[index + 1 :]):
        return False
    # A sentence cut out of a longer quotation: its only quote, after a comma or a stop, ends it.
    return not (before in {",", ".", "?", "!"} and after[0].islower() and mark not in words[index + 1 :])


def lm1b(sentence: str) -> str:
    """One line of the One Billion Word benchmark as it would be written."""
    words = sentence.split()
    is_open = {'"': False, "'": False}
    pieces: list[str] = []
    glue = True
    for index, word in enumerate(words):
        if word in is_open:
            is_open[word] = opens = _opens(words, index, is_open[word])
            attach_left, attach_right = not opens, opens
        else:
            attach_left, attach_right = _CLOSING.fullmatch(word) is not None, word in _OPENING
            if word in _BEFORE_NUMBERS:
                attach_right = words[index + 1 : index + 2] != [] and words[index + 1][0].isdigit()
        if not (glue or attach_left):
            pieces.append(" ")
        pieces.append(word)
        glue = attach_right
    text = _URL.sub(r"\1://", "".join(pieces))
    return _WITHIN.sub(lambda match: match.group().strip(), text)
