"""Masking of what identifies a person by its form: e-mail addresses, IP addresses, telephone numbers.

E-mail and IP addresses after FineWeb (Penedo et al. 2024: an expression for e-mail, and `ipaddress` to
leave private, reserved and documentation addresses alone). Telephone numbers are those written
internationally (+ and 8 to 15 digits, ITU-T E.164) and the North American form (Dolma, Soldaini et al.
2024, arXiv:2402.00159), with separators. Names, streets and identity numbers are not looked for.
A version number of four parts looks like an IP address; it is masked unless the word "version", "release",
"rev" or "v" stands before it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

EMAIL, ADDRESS, PHONE = "<|email|>", "<|ip|>", "<|phone|>"

# No find begins behind a character of its own kind, so that a text of a million letters is read once.
# The first character is asked before what precedes it: so a search skips to the next digit by itself.
_LOCAL = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~.-"
_EMAIL = re.compile(
    rf"(?<![{_LOCAL}])[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-][{_LOCAL}]{{0,63}}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:]*[0-9A-Fa-f])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"
)
_VERSION = re.compile(r"(?<![^\W\d_])(?:version|release|rev|v)[\s.:=]*$", re.IGNORECASE)
_PHONE = re.compile(
    r"[+(\d](?<![\w+.-].)(?:"
    r"(?<=\+)\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|(?:(?<=\()|(?<=1)[ .-]\()\d{3}\)[ ]?\d{3}[-. ]\d{4}"
    r"|(?:(?<=\d)\d\d|(?<=1)[-.]\d{3})([-.])\d{3}\1\d{4}"
    r")(?![\w-]|\.\d)"
)


class Masked(NamedTuple):
    text: str
    emails: int
    addresses: int
    phones: int


def mask(text: str) -> Masked:
    """Replace each find by a fixed word and count them.

    >>> mask("Ada <ada@example.org>, 8.8.4.4 or +44 20 7946 0958")
    Masked(text='Ada <<|email|>>, <|ip|> or <|phone|>', emails=1, addresses=1, phones=1)
    """
    emails = addresses = phones = 0
    if "@" in text:
        text, emails = _EMAIL.subn(EMAIL, text)
    if text.count(".") >= 3:
        text, found = _replace_addresses(_IPV4, text)
        addresses += found
    if "::" in text or text.count(":") >= 7:
        text, found = _replace_addresses(_IPV6, text)
        addresses += found
    text, phones = _replace_phones(text)
    return Masked(text, emails, addresses, phones)


def _replace_addresses(pattern: re.Pattern[str], text: str) -> tuple[str, int]:
    found = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal found
        before = text[max(0, match.start() - 12) : match.start()]
        if not _is_global(match[0]) or _VERSION.search(before):
            return match[0]
        found += 1
        return ADDRESS

    return pattern.sub(replacement, text), found


def _is_global(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _replace_phones(text: str) -> tuple[str, int]:
    found = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal found
        if not 8 <= sum(map(str.isdigit, match[0])) <= 15:
            return match[0]
        found += 1
        return PHONE

    return _PHONE.sub(replacement, text), found
