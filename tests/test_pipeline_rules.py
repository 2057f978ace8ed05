"""Each rule rejects what its paper rejects, at its published threshold, and nothing below it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UsageError
from trainer.pipeline.pii import ADDRESS, EMAIL, PHONE, mask
from trainer.pipeline.repetition import DUPLICATE, TOP, repetition
from trainer.pipeline.rules import BIT, RULES, SETS, applicable, judge, select_rules

ALL = frozenset(RULES)
SENTENCES = [
    "The committee met on the first evening of spring and discussed the budget with care.",
    "Nobody had expected that the river would rise to the old bridge before midnight.",
    "Her brother, who lives abroad, wrote to say that he could be home within the week.",
    "A small museum near the harbour shows tools with which sailors used to mend nets.",
    "Prices have fallen since the new line opened and more people travel to work by train.",
    "Of all the gardens in town, this one receives the most visitors during the summer.",
    "They agreed to repair the roof, provided that the wood could be bought nearby.",
]
LETTERS = str.maketrans("0123456789", "abcdefghij")
GOOD = "\n".join(SENTENCES)


def broken(text: str, *names: str) -> set[str]:
    bits, _ = judge(text, frozenset(names) or ALL)
    return {name for name in RULES if bits & BIT[name]}


def words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"{n:05}".translate(LETTERS) for n in rng.integers(0, 10**5, count).tolist()]


def test_plain_prose_passes_every_rule() -> None:
    assert broken(GOOD) == set()
    assert judge(GOOD, ALL)[1] == GOOD


@pytest.mark.parametrize(
    "rule, text",
    {
        "gopher-words": "The end of it all, with that.",
        "gopher-word-length": " ".join(["be to of"] * 40),
        "gopher-hashes": GOOD + " #" * 12,
        "gopher-ellipses": GOOD + " so..." * 15,
        "gopher-bullets": "\n".join(f"- {s}" for s in SENTENCES),
        "gopher-ellipsis-lines": "\n".join(s + ("..." if i % 2 else "") for i, s in enumerate(SENTENCES)),
        "gopher-alphabetic": GOOD + " 12" * 40,
        "gopher-stop-words": "\n".join(s.replace("the ", "") for s in ["Nobody came home again today."] * 20),
        "c4-lines": GOOD + "\nPlease enable JavaScript to read on.",
        "c4-punctuation": GOOD + "\nread more about this topic",
        "c4-lorem-ipsum": GOOD + " Lorem ipsum dolor.",
        "c4-braces": GOOD + " {",
        "c4-sentences": "\n".join(SENTENCES[:4]),
        "fineweb-punctuation": "\n".join(s.rstrip(".") for s in SENTENCES),
        "fineweb-short-lines": GOOD + "\nA short one stands here." * 20,
        "fineweb-dup-chars": GOOD + "\n" + SENTENCES[0],
        "fineweb-newlines": "The\nend\nof\ndays.\n" * 20,
        "gopher-repetition-lines": "\n".join(SENTENCES[:3] * 2),
        "gopher-repetition-line-chars": "\n".join([*SENTENCES[:3], SENTENCES[0]]),
        "gopher-repetition-paragraphs": "\n\n".join(SENTENCES[:3] * 2),
        "gopher-repetition-paragraph-chars": "\n\n".join([*SENTENCES[:3], SENTENCES[0]]),
    }.items(),
)
def test_what_breaks_a_rule(rule: str, text: str) -> None:
    assert rule in broken(text)
    assert broken(text, *(ALL - {rule})) == broken(text) - {rule}  # switched off, it is silent


def test_gopher_counts_words_at_its_bounds() -> None:
    rng = np.random.default_rng(0)
    assert "gopher-words" in broken(" ".join(words(rng, 49)))
    assert "gopher-words" not in broken(" ".join(words(rng, 50)))
    assert "gopher-words" not in broken(" ".join(words(rng, 100_000)), "gopher-words")
    assert "gopher-words" in broken(" ".join(words(rng, 100_001)), "gopher-words")


def test_lines_are_dropped_and_citations_stripped() -> None:
    text = (
        f"{SENTENCES[0]}[12]\nHome\nWe use cookies on this page.\n{'x' * 1001} is a long word\n{SENTENCES[1]}"
    )
    bits, edited = judge(text, frozenset({"c4-lines"}))
    assert edited == f"{SENTENCES[0]}\n{SENTENCES[1]}"
    assert bits == BIT["c4-lines"]


def naive_repetition(ws: list[str], length: int) -> set[str]:
    """The definition, a word at a time."""
    out = set()
    for n, limit in TOP.items():
        grams = [" ".join(ws[i : i + n]) for i in range(len(ws) - n + 1)]
        if grams:
            gram, count = Counter(grams).most_common(1)[0]
            if len(gram) * count > limit * length:
                out.add(f"gopher-repetition-top-{n}-gram")
    for n, limit in DUPLICATE.items():
        seen: set[str] = set()
        total = i = 0
        while i <= len(ws) - n:
            gram = " ".join(ws[i : i + n])
            if gram in seen:
                total, i = total + len(gram), i + n
            else:
                seen.add(gram)
                i += 1
        if total > limit * length:
            out.add(f"gopher-repetition-{n}-grams")
    return out


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "ee", "f"]), min_size=1, max_size=80),
    st.integers(1, 400),
)
@settings(max_examples=200, deadline=None)
def test_n_grams_are_counted_as_the_definition_says(ws: list[str], filler: int) -> None:
    """Few different words repeat a lot; a long unbroken word moves every share."""
    ws = [*ws, "x" * filler]
    text = " ".join(ws)
    rules = frozenset(name for name in RULES if "gram" in name)
    assert repetition(text, ws, [text], rules) == naive_repetition(ws, len(text))


def test_rules_are_named_in_sets_and_taken_away() -> None:
    assert set(select_rules(["web"])) == set(RULES) - {"c4-punctuation"}
    assert select_rules(["fineweb", "-fineweb"]) == ()
    assert select_rules(["none"]) == ()
    assert sum(len(SETS[name]) for name in ("gopher-repetition", "gopher", "c4", "fineweb")) == len(RULES)
    with pytest.raises(UsageError, match="bogus"):
        select_rules(["bogus"])


def test_rules_are_applied_where_they_make_sense() -> None:
    assert applicable(RULES, "code") == frozenset()
    assert "gopher-stop-words" in applicable(RULES, "en")
    assert "gopher-stop-words" not in applicable(RULES, "de")
    assert "gopher-words" not in applicable(RULES, "zh")
    assert "c4-lorem-ipsum" in applicable(RULES, "zh")


# --- Masks ----------------------------------------------------------------------------------------

PLANTED = {
    EMAIL: ["ada@example.org", "first.last+tag@mail.example.co.uk", "x_1@sub.domain.museum"],
    ADDRESS: ["8.8.4.4", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888"],
    PHONE: ["+44 20 7946 0958", "+1-202-555-0143", "(202) 555-0143", "202-555-0143", "+49 (0) 30 901820"],
}
INNOCENT = [
    *("@property", "user@localhost", "a @ b", "10.0.0.1", "192.168.1.20", "127.0.0.1", "999.1.1.1"),
    *("version 8.1.2.3", "3.14159", "2024-11-23", "1234567890", "12:30:45", "std::vector", "0x1f"),
    *("978-3-16-148410-0", "1.2.3.4.5"),
]


def test_planted_finds_are_masked_and_counted_and_the_rest_is_left() -> None:
    pieces = [(kind, value) for kind, values in PLANTED.items() for value in values]
    text = " then ".join([*(v for _, v in pieces), *INNOCENT]) + "."
    expected = " then ".join([*(kind for kind, _ in pieces), *INNOCENT]) + "."
    masked = mask(text)
    assert masked.text == expected
    assert masked[1:] == tuple(len(values) for values in PLANTED.values())
    assert mask("Kyiv: 8.8.4.4, rev 8.8.4.4").text == f"Kyiv: {ADDRESS}, rev 8.8.4.4"  # v of version, a word


@given(st.text(alphabet="ab1.@+-() :", max_size=80))
@settings(max_examples=200, deadline=None)
def test_masking_twice_is_masking_once(text: str) -> None:
    once = mask(text).text
    assert mask(once).text == once


def test_hostile_texts_are_masked_in_linear_time() -> None:
    """A regular expression that tries every split would not come back from these."""
    for text in (
        "a" * 300_000 + "@",
        "1" * 300_000,
        "+1 " * 100_000,
        "a.b" * 100_000 + "@",
        "1:" * 100_000 + "::",
    ):
        assert len(mask(text).text) > 0
