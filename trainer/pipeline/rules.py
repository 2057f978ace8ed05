"""Quality rules for web text, with the thresholds their papers publish; each has a name and can be switched.

    gopher-repetition-*  Rae et al. 2021 (arXiv:2112.11446), table A1
    gopher-*             Rae et al. 2021, appendix A.1.1 (quality filtering)
    c4-*                 Raffel et al. 2020 (JMLR 21:140), section 2.2; lines of policies and of words of
                         over 1000 characters from the code of the TensorFlow data set
    fineweb-*            Penedo et al. 2024 (arXiv:2406.17557), section on custom filters

Words are what white space divides (the papers differ: spaCy, NLTK, TPU code), so a threshold on words
is met by a few per cent fewer of them than with a tokenizer that divides off punctuation.

`web` is what FineWeb applies: all of them but `c4-punctuation`, which it found to cost too much text.
The rules know English prose. In languages without spaces those about words are not applied, the rule
of English stop words is applied to English alone, and none to program code.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

from scaling.errors import UsageError
from trainer.pipeline.repetition import REPETITION, find_duplicates, repetition

QUALITY = {
    "gopher-words": "50 to 100,000 words",
    "gopher-word-length": "mean word length of 3 to 10 characters",
    "gopher-hashes": "at most 0.1 hash signs a word",
    "gopher-ellipses": "at most 0.1 ellipses a word",
    "gopher-bullets": "at most 90% of lines begin with a bullet",
    "gopher-ellipsis-lines": "at most 30% of lines end with an ellipsis",
    "gopher-alphabetic": "at least 80% of words have a letter",
    "gopher-stop-words": "at least 2 of the, be, to, of, and, that, have, with",
}
C4 = {
    "c4-lines": "drops lines of under 3 words, of a word over 1000 characters, on JavaScript or policies; "
    "strips citations",
    "c4-punctuation": "drops lines that do not end in . ? ! or a quotation mark",
    "c4-lorem-ipsum": "no lorem ipsum",
    "c4-braces": "no curly bracket",
    "c4-sentences": "at least 5 sentences",
}
FINEWEB = {
    "fineweb-punctuation": "over 12% of lines end in . ? ! or a quotation mark",
    "fineweb-short-lines": "under 67% of lines have at most 30 characters",
    "fineweb-dup-chars": "under 1% of characters in repeated lines",
    "fineweb-newlines": "at most 0.3 line ends a word",
}
RULES = REPETITION | QUALITY | C4 | FINEWEB
BIT = {name: 1 << i for i, name in enumerate(RULES)}
EDITS = BIT["c4-lines"] | BIT["c4-punctuation"]  # they drop lines, not documents
SETS = {
    "gopher-repetition": tuple(REPETITION),
    "gopher": tuple(QUALITY),
    "c4": tuple(C4),
    "fineweb": tuple(FINEWEB),
    "all": tuple(RULES),
    "web": tuple(name for name in RULES if name != "c4-punctuation"),
    "none": (),
}
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my", "dz", "bo"})
NOT_ABOUT_WORDS = frozenset(
    {name for name in REPETITION if "gram" not in name}
    | {"gopher-bullets", "gopher-ellipsis-lines", "c4-lorem-ipsum", "c4-braces"}
    | {"fineweb-short-lines", "fineweb-dup-chars"}
)
END = (".", "?", "!", '"', "'", "”", "’", "。", "！", "？", "؟", "।", "…")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
LONG_WORD = 1000  # characters
SENTENCE = re.compile(r"[.!?。！？؟।]+[\"'”’)\]]*(?=\s|$)|[。！？]")


def select_rules(names: Iterable[str]) -> tuple[str, ...]:
    """The rules that names, sets and -names stand for, in their fixed order.

    >>> select_rules(["fineweb", "-fineweb-newlines"])
    ('fineweb-punctuation', 'fineweb-short-lines', 'fineweb-dup-chars')
    """
    chosen: set[str] = set()
    for name in names:
        bare = name.removeprefix("-")
        members = SETS.get(bare) or ((bare,) if bare in RULES else ())
        if not members and bare != "none":
            raise UsageError(
                f"--rules {name}: unknown; sets are {', '.join(SETS)}, and single rules {', '.join(RULES)}."
            )
        chosen = chosen - set(members) if name != bare else chosen | set(members)
    return tuple(name for name in RULES if name in chosen)


def applicable(rules: Iterable[str], language: str) -> frozenset[str]:
    """The rules that make sense in a language."""
    wanted = frozenset(rules)
    if language == "code":
        return frozenset()
    if language in WITHOUT_SPACES:
        wanted &= NOT_ABOUT_WORDS
    return wanted if language in ("en", "und") else wanted - {"gopher-stop-words"}


def judge(text: str, rules: frozenset[str]) -> tuple[int, str]:
    """(bits of the rules that `text` breaks, the text without the lines that C4 drops).

    Repetition and quality are those of the text as it came, sentences and FineWeb's rules those of
    what C4 leaves, as in FineWeb. A rule that edits lines is broken where it changed something.
    """
    if not rules:
        return 0, text
    words = text.split()
    lines = text.splitlines()
    broken = repetition(text, words, lines, rules)
    if not rules.isdisjoint(QUALITY):
        broken |= _quality(text, words, lines) & rules
    edited, touched = _edit_lines(text, words, lines, rules)
    broken |= touched
    if not rules.isdisjoint(C4):
        broken |= _page(text, edited) & rules
    if not rules.isdisjoint(FINEWEB):
        broken |= _fineweb(edited) & rules
    return sum(BIT[name] for name in broken), edited


def _quality(text: str, words: list[str], lines: list[str]) -> set[str]:
    broken = set()
    count = characters = letters = 0
    stop_words = set()
    for word, times in Counter(words).items():  # most words repeat: each is looked at once
        if word.isalpha() or word.strip(string.punctuation):
            count += times
            characters += times * len(word)
            if word.isalpha() or any(map(str.isalpha, word)):
                letters += times
                if len(word) < 12:  # a comma or a bracket may hang on it
                    stop_words.add(word.lower().strip(string.punctuation))
    if not 50 <= count <= 100_000:
        broken.add("gopher-words")
    if not count:
        return broken | {"gopher-word-length", "gopher-alphabetic", "gopher-stop-words"}
    if not 3 <= characters / count <= 10:
        broken.add("gopher-word-length")
    if text.count("#") / count > 0.1:
        broken.add("gopher-hashes")
    ellipses = text.count("...") + text.count("…")
    if ellipses / count > 0.1:
        broken.add("gopher-ellipses")
    if ellipses and sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        broken.add("gopher-ellipsis-lines")
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        broken.add("gopher-bullets")
    if letters / len(words) < 0.8:
        broken.add("gopher-alphabetic")
    if len(STOP_WORDS & stop_words) < 2:
        broken.add("gopher-stop-words")
    return broken


def _edit_lines(text: str, words: list[str], lines: list[str], rules: frozenset[str]) -> tuple[str, set[str]]:
    edit, punctuation = "c4-lines" in rules, "c4-punctuation" in rules
    if not (edit or punctuation):
        return text, set()
    low = text.lower()
    # Most texts mention none of these: then no line need be searched for them.
    phrases = [phrase for phrase in ("javascript", *POLICY) if phrase in low]
    long_words = max(map(len, words), default=0) > LONG_WORD
    cited = edit and "[" in text
    touched: set[str] = set()
    kept = []
    for line in lines:
        bare = line.strip()
        if edit:
            if long_words and max(map(len, bare.split()), default=0) > LONG_WORD:
                touched.add("c4-lines")
                continue
            if cited and "[" in bare:
                without = CITATION.sub("", bare)
                if without != bare:
                    touched.add("c4-lines")
                    bare = line = without
        if punctuation and (not bare.endswith(END) or bare.endswith("...")):
            touched.add("c4-punctuation")
            continue
        if edit:
            if bare and len(bare.split(None, 2)) < 3:
                touched.add("c4-lines")
                continue
            if phrases:
                lowered = bare.lower()
                if any(phrase in lowered for phrase in phrases):
                    touched.add("c4-lines")
                    continue
        kept.append(line)
    if not touched:
        return text, touched
    return "\n".join(kept).strip("\n"), touched


def _page(text: str, edited: str) -> set[str]:
    broken = set()
    if "lorem ipsum" in text.lower():
        broken.add("c4-lorem-ipsum")
    if "{" in text:
        broken.add("c4-braces")
    sentences = 0
    for line in edited.splitlines():
        if line.strip():
            sentences += max(1, len(SENTENCE.findall(line)))
            if sentences >= 5:
                return broken
    return broken | {"c4-sentences"}


def _fineweb(text: str) -> set[str]:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return set(FINEWEB)
    broken = set()
    if sum(line.endswith(END) for line in lines) / len(lines) <= 0.12:
        broken.add("fineweb-punctuation")
    if sum(len(line) <= 30 for line in lines) / len(lines) >= 0.67:
        broken.add("fineweb-short-lines")
    newlines = text.count("\n")
    if find_duplicates(lines)[1] / max(1, len(text) - newlines) >= 0.01:
        broken.add("fineweb-dup-chars")
    if newlines / max(1, len(text.split())) > 0.3:
        broken.add("fineweb-newlines")
    return broken
