"""Personal data in a text: found, and masked or the document dropped.

E-mail and public IPv4 addresses are found as datatrove's PIIFormatter finds them, which is all
that FineWeb looks for (G. Penedo et al., "The FineWeb Datasets", 2024,
https://arxiv.org/abs/2406.17557); as there, what is masked becomes an example of its kind that
belongs to nobody. The other kinds are off unless they are asked for:

    ipv6    public addresses of version 6, of 2000::/3, which is all that is given out,
            https://www.iana.org/assignments/ipv6-address-space
    phone   what libphonenumber holds valid, https://github.com/google/libphonenumber
    ssn     US social security numbers, https://www.ssa.gov/employment/randomization.html
    card    payment cards: an issuer's range, its length, and the check digit of ISO/IEC 7812-1
    iban    bank accounts: a country's structure, and the remainder 1 by 97, ISO 13616 and 7064
    address postal ones of the US as https://pe.usps.com/text/pub28 has them: from the house's
            number and a street, or a P.O. box, to state and ZIP code; none without the two

A form alone says little, so words ahead of a number are heard. Ten digits in a row are a phone
number, and nine in a row or with blanks an ssn, where they are called so; behind "phone:" or "call
me on" a number of another country is one, too, and behind "card" one of no known issuer. What is
called an order, an ISBN, ... is nothing of the kind.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters.pii import PIIFormatter

# an earlier kind's place is no later's
KINDS = ("email", "ip", "ipv6", "iban", "card", "ssn", "address", "phone")
FINEWEB = PIIFormatter()
EXAMPLES = {                    # what masks a kind: addresses and numbers that nobody will be given
    "email": FINEWEB.emails_replacer.replacements,
    "ip": FINEWEB.ip_replacer.replacements,
    "ipv6": ("2001:db8::1", "2001:db8::2"),     # the range for documentation, RFC 3849
    "phone": ("202-555-0143", "202-555-0178"),  # 555-0100 to 555-0199: for fiction, by NANPA
    "ssn": ("987-65-4320", "987-65-4329"),      # the range for advertisements, by the SSA
    "card": ("4111 1111 1111 1111",),           # the number that payment services test with
    "iban": ("GB29 NWBK 6016 1331 9268 19",),   # the example in ISO 13616's registry
    "address": ("123 Main Street, Anytown, NY 00000",),     # no such ZIP code
}
Replacement = str | Sequence[str] | None

AHEAD = 40                      # characters before a number in which a word may say what it is
EMAIL_BEGIN = ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
               ".!#$%&'*+/=?^_`{|}~-")      # what may be before an @ in datatrove's pattern,
EMAIL_END = re.compile(r"[A-Za-z0-9.:\[\]-]*")     # and behind it
OTHER = re.compile(r"\b(?:order|invoice|receipt|booking|reservation|confirmation|tracking|shipment"
                   r"|isbn(?:-?1[03])?|issn|ean|upc|doi|sku|asin|part|item|model|serial|article"
                   r"|product|catalog(?:ue)?|case|ticket|ref(?:erence)?|patent|version|build)\b"
                   r"(?:[\s:#.]|no\b|nos\b|nr\b|number\b|code\b|id\b|is\b|was\b|/)*$", re.I)
PHONE_CUE = re.compile(r"\b(?:(?:tele)?phones?|tel|calls?|called|calling|cell|mobile|fax|text|sms"
                       r"|whatsapp|dial|reach(?:ed)?|ring|hotline|contact)\b|[☎☏✆📞📱]", re.I)
PHONE_SAID = re.compile(        # right behind the word: any country's, or an old one
    r"(?:\b(?:(?:tele)?phone|tel|mobile|cell|fax)(?: (?:number|no))?(?: is)?\b"
    r"|\b(?:call|text|ring|reach|dial|contact|phone)(?: (?:me|us|him|her|them))?(?: (?:at|on))?)"
    r"[\s:.#]{1,4}(?P<number>[+(]{0,2}[0-9][0-9 ()./-]{5,20}[0-9](?: ?x[0-9]{1,5})?)(?![\w-])",
    re.I)
DATE = re.compile(r"(?:1[89]|20)[0-9]{2}(?:[ ./-]|[0-9]{4}\b)"
                  r"|[0-3]?[0-9]([./-])[0-3]?[0-9]\1[0-9]{2,4}\b")
PHONE_LINE = re.compile(r"(?:[0-9][^0-9A-Za-z]{0,6}){6}[0-9]")      # the fewest digits, and quick
SSN = re.compile(r"(?<![\w.,/-])[0-9]{3}([-\u2010-\u2013. ]?)[0-9]{2}\1[0-9]{4}"
                 r"(?![\w/-]|[.,][0-9])")
SSN_CUE = re.compile(r"\bssns?\b|\bss#|\bsocial security\b", re.I)
CARD = re.compile(r"(?<![\w-])(?<![0-9][.,])(?<!\s[0-9]{4} )"
                  r"(?:[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"
                  r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{12,19})"
                  r"(?![\w-]|[.,][0-9]| [0-9]{4}\b)")
CARDS = (                       # first digits from, to, and how many digits there are in all
    (4, 4, (13, 16, 19)), (51, 55, (16,)), (2221, 2720, (16,)), (34, 34, (15,)), (37, 37, (15,)),
    (6011, 6011, range(16, 20)), (644, 649, range(16, 20)), (65, 65, range(16, 20)),
    (300, 305, range(14, 20)), (36, 36, range(14, 20)), (38, 39, range(16, 20)),
    (3528, 3589, range(16, 20)), (62, 62, range(16, 20)))
CARD_CUE = re.compile(r"\b(?:cards?|cc|visa|mastercard|amex|maestro|jcb|unionpay)\b", re.I)
IPV6 = re.compile(r"(?<![\w:.-])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,8}(?!\w|:[0-9A-Fa-f:])")
STATE = ("A[AEKLPRZ]|C[AOT]|D[CE]|FL|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]"
         "|RI|S[CD]|T[NX]|UT|V[AIT]|W[AIVY]|Alabama|Alaska|Arizona|Arkansas|California|Colorado"
         "|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky"
         "|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana"
         "|Nebraska|Nevada|New (?:Hampshire|Jersey|Mexico|York)|(?:North|South) (?:Carolina|Dakota)"
         "|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|Tennessee|Texas|Utah|Vermont|Virginia"
         "|Washington|West Virginia|Wisconsin|Wyoming")
ZIP = re.compile(rf"\b(?:{STATE})[.,]?\s{{1,3}}[0-9]{{5}}(?:-[0-9]{{4}})?(?![\w-]|[.,][0-9])")
STREET = 120                    # characters before the state in which the street may begin
HOUSE = re.compile(r"(?<![\w.,/$#-])(?<!Suite )(?<!Ste\. )(?<!Apt )(?<!Apt\. )(?<!Unit )(?<!Floor )"
                   r"(?:[0-9]|P\.? ?O\.? ?Box|PSC|CMR|Unit)", re.I)
WORD = r"[\s,;]+[\w.'\u2019#&/-]+"
TO_CITY = re.compile(           # from the house on, nothing is between it and the state but words
    r"(?:[0-9]{1,6}[A-Z]?(?:-[0-9]{1,5})?(?:\s+Broadway|(?:\s+[\w.'\u2019-]+){1,5}?\s+(?:Alley"
    r"|Ave(?:nue)?|Blvd|Boulevard|Building|Cent(?:er|re)|Cir(?:cle)?|C(?:our)?t|Cove"
    r"|Crescent|Dr(?:ive)?|Expressway|F(?:ree)?wy|Freeway|Hall|H(?:igh)?wy|Highway|L(?:ane|n)|Loop"
    r"|Parkway|Pkwy|Park|Pike|Pl(?:ace|aza)?|R(?:oa)?d|Route|Row|Sq(?:uare)?|St(?:reet)?"
    r"|Terr?(?:ace)?|Tower|Trail|Turnpike|Way))\b\.?"
    rf"|(?:P\.? ?O\.?|(?:PSC|CMR|Unit)\s[0-9]+,?)\s*Box\s+[0-9]+)(?:{WORD}){{0,9}}[\s,]+\Z", re.I)
IBAN = re.compile(r"(?<!\w)(?=([A-Za-z]{2}[0-9]{2}(?: ?[0-9A-Za-z]){11,30})(?!\w))")
IN_A_NAME = (re.compile(r"(?:[A-Za-z0-9_]|[A-Za-z]-|[0-9][.,])$"),
             re.compile(r"[A-Za-z0-9_]|-[A-Za-z]|\.[0-9]"))
VERSION_CUE = re.compile(r"(?:\bv|\bver|\bversions?|\brelease|\bbuild|\brev|\brevision|\bfirmware"
                         r"|\bupdate|\bupgraded? to|\bdriver|\bsection|\bclause|§)[\s.:]*$", re.I)
IP_CUE = re.compile(r"\bips?\b|\bipv4\b|address|\bhosts?\b|server|\bdns\b|ping|proxy|gateway|router"
                    r"|subnet|//$", re.I)


class Span(NamedTuple):
    """text[start:end] is personal data of this kind."""
    kind: str
    start: int
    end: int


class PersonalData(BaseFilter):
    """Masks personal data, or drops the documents that hold any (reason personal_KIND).

    email, ip, ipv6, phone, ssn, card, iban, address: what a kind is masked with, several taking
    turns in each task; None: the kind is not looked for. EXAMPLES has something for each. As it
    stands, and with "mask", this is FineWeb's PIIFormatter.
    phone_regions: ISO 3166 codes of the countries whose numbers are found as they are written
    there; with + and the country's code those of all are.
    spare_versions: leave what is rather a version than an address; FineWeb masks both.
    """
    type = "🔻 - FILTER"
    name = "📞 personal data"

    def __init__(self, action: Literal["mask", "drop"] = "mask",
                 email: Replacement = EXAMPLES["email"], ip: Replacement = EXAMPLES["ip"],
                 phone: Replacement = None, ssn: Replacement = None, card: Replacement = None,
                 iban: Replacement = None, ipv6: Replacement = None, address: Replacement = None,
                 phone_regions: Sequence[str] = ("US",), spare_versions: bool = False,
                 exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        if action not in ("mask", "drop"):
            raise ValueError(f"personal data can be 'mask'ed or 'drop'ped, not {action!r}")
        given = {"email": email, "ip": ip, "ipv6": ipv6, "iban": iban, "card": card, "ssn": ssn,
                 "address": address, "phone": phone}
        self.replacements = {kind: (value,) if isinstance(value, str) else tuple(value)
                             for kind, value in given.items() if value is not None}
        if empty := [kind for kind, values in self.replacements.items() if not values]:
            raise ValueError(f"{empty[0]} has nothing to be masked with; give a text, or None to "
                             "leave it alone")
        self.action = action
        self.options = {"phone_regions": () if phone is None else _regions(phone_regions),
                        "spare_versions": spare_versions}
        self.turns: Counter[str] = Counter()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.turns = Counter()      # a worker's earlier tasks leave no trace in this one
        yield from super().run(data, rank, world_size)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        spans = self.spans(doc.text)
        if spans and self.action == "drop":
            return False, f"personal_{spans[0].kind}"
        doc.text = "".join(self._pieces(doc.text, spans))
        for kind, count in Counter(span.kind for span in spans).items():
            self.stat_update(f"masked_{kind}", value=count)
        return True

    def spans(self, text: str) -> list[Span]:
        """The personal data that this step looks for, in order."""
        return find(text, self.replacements, **self.options)

    def _pieces(self, text: str, spans: Iterable[Span]) -> Iterator[str]:
        done = 0
        for kind, start, end in spans:
            values = self.replacements[kind]
            yield text[done:start]
            yield values[self.turns[kind] % len(values)]
            self.turns[kind] += 1
            done = end
        yield text[done:]


def find(text: str, kinds: Iterable[str] = KINDS, phone_regions: Sequence[str] = ("US",),
         spare_versions: bool = True) -> list[Span]:
    """The personal data in a text, in order; no two overlap. Versions are spared unless FineWeb's
    way is asked for (spare_versions=False)."""
    finders: dict[str, Callable[[str], Iterable[tuple[int, int]]]] = {
        "email": _emails, "ip": lambda text: _ips(text, spare_versions), "ipv6": _ipv6s,
        "iban": _ibans, "card": _cards, "ssn": _ssns, "address": _addresses,
        "phone": lambda text: _phones(text, phone_regions)}
    kinds = set(kinds)
    if unknown := sorted(kinds - set(KINDS)):
        raise ValueError(f"{unknown[0]!r} is no kind of personal data; there are "
                         f"{', '.join(KINDS)}")
    spans = []
    for kind in KINDS:
        found = [Span(kind, *at) for at in finders[kind](text)] if kind in kinds else []
        text = _without(text, found)
        spans += found
    return sorted(spans, key=lambda span: span.start)


def _without(text: str, spans: Iterable[Span]) -> str:
    """As long as before; what fills the gaps is no word and no blank, so nothing reaches over."""
    parts, done = [], 0
    for _, start, end in spans:
        parts += [text[done:start], "\0" * (end - start)]
        done = end
    return "".join(parts) + text[done:]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    """What datatrove's pattern finds, tried only where it can match: by itself it takes the square
    of the length of any run of words and hyphens, minutes on a page that is one."""
    pattern = FINEWEB.emails_replacer.regex
    done, at = 0, text.find("@")
    while at >= 0:
        before, end = text[done:at], EMAIL_END.match(text, at + 1).end()
        local = before[len(before.rstrip(EMAIL_BEGIN)):].rpartition("..")[2].lstrip(".")
        match = None
        if local and not local.endswith(".") and pattern.match("a" + text[at:end]):
            match = pattern.search(text, at - len(local), end)
        if match:
            yield match.span()
        done = match.end() if match else at + 1
        at = text.find("@", done)


def _ips(text: str, spare_versions: bool) -> Iterator[tuple[int, int]]:
    replacer = FINEWEB.ip_replacer
    for match in replacer.regex.finditer(text):
        if replacer.validator(match[0]) and not (spare_versions and _is_version(text, match)):
            yield match.span()


def _is_version(text: str, match: re.Match[str]) -> bool:
    """Part of a longer number or name, or called a version, or of four numbers as small as those
    of versions where no word says that it is an address."""
    before = text[max(0, match.start() - AHEAD):match.start()]
    after = text[match.end():match.end() + 2]
    if IN_A_NAME[0].search(before) or IN_A_NAME[1].match(after):
        return True
    small = all(int(part) < 32 for part in match[0].split("."))
    return bool(VERSION_CUE.search(before)) or small and not IP_CUE.search(before)


def _ipv6s(text: str) -> Iterator[tuple[int, int]]:
    for match in IPV6.finditer(text):
        found = match[0]
        if found.endswith(":") and not found.endswith("::"):    # the sentence's
            found = found[:-1]
        try:
            public = ip_address(found).is_global
        except ValueError:
            continue
        groups = sum(map(bool, found.split(":")))
        if public and (groups > 2 or _said(IP_CUE, text, match.start())):
            yield match.start(), match.start() + len(found)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    done = 0
    for match in ZIP.finditer(text):
        begin = max(done, match.start() - STREET)
        before = text[begin:match.start()]
        for start in [found.start() for found in HOUSE.finditer(before)][::-1]:
            if TO_CITY.match(before, start):
                yield begin + start, match.end()
                done = match.end()
                break


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    from stdnum import iban

    done = 0
    for match in IBAN.finditer(text):
        start, longest = match.span(1)          # other words may follow
        for end in range(longest, start + 14, -1) if start >= done else ():
            whole = not text[end:end + 1].isalnum() and text[end - 1] != " "
            if whole and iban.is_valid(text[start:end], check_country=False):
                yield start, end
                done = end
                break


def _cards(text: str) -> Iterator[tuple[int, int]]:
    from stdnum import luhn

    for match in CARD.finditer(text):
        digits = re.sub("[^0-9]", "", match[0])
        issued = any(low <= int(digits[:len(str(low))]) <= high and len(digits) in lengths
                     for low, high, lengths in CARDS)
        known = issued or _said(CARD_CUE, text, match.start())
        if known and luhn.is_valid(digits) and not _said(OTHER, text, match.start()):
            yield match.span()


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    from stdnum.us import ssn

    for match in SSN.finditer(text):
        digits = re.sub("[^0-9]", "", match[0])
        clear = match[1] not in ("", " ", ".") or _said(SSN_CUE, text, match.start())
        if clear and ssn.is_valid(digits) and not _said(OTHER, text, match.start()):
            yield match.span()


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    found = {match.span("number") for match in PHONE_SAID.finditer(text)
             if 7 <= sum(map(str.isdigit, match["number"])) <= 20
             and not DATE.match(match["number"])}
    at = 0
    for line in text.split("\n"):               # no number goes over its end
        for region in regions if PHONE_LINE.search(line) else ():
            for match in PhoneNumberMatcher(line, region, leniency=Leniency.STRICT_GROUPING):
                raw = match.raw_string
                inner = raw[raw.startswith("(") and raw.count("(") > raw.count(")"):]   # (it alone
                if inner.startswith("+") or _is_phone(line, match):
                    found.add((at + match.end - len(inner), at + match.end))
        at += len(line) + 1
    end = 0
    for start, stop in sorted(found, key=lambda span: (span[0], -span[1])):
        if start >= end:                        # of what is found twice the longer one
            yield start, stop
            end = stop


def _is_phone(line: str, match: Any) -> bool:
    if _said(OTHER, line, match.start):
        return False
    return not match.raw_string.isdigit() or _said(PHONE_CUE, line, match.start)


def _said(cue: re.Pattern[str], text: str, start: int) -> bool:
    return cue.search(text[max(0, start - AHEAD):start]) is not None


def _regions(regions: Sequence[str]) -> tuple[str, ...]:
    from phonenumbers import SUPPORTED_REGIONS

    if unknown := sorted(set(regions) - SUPPORTED_REGIONS):
        raise ValueError(f"{unknown[0]!r} is no region that has phone numbers; give ISO 3166 codes "
                         "such as US or GB")
    return tuple(regions)
