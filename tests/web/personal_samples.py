"""Sentences with personal data of each kind in them, made up by a seeded generator, and sentences
with what only looks like it."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from random import Random

Value = Callable[[Random], tuple[str, bool]]    # a value, and whether its form alone says what it is

AREAS = ("201 202 206 212 213 214 305 312 313 404 408 412 415 503 512 602 612 617 646 702 713 718 773 801 808 "
         "907").split()
FIRST = "anna bob chen dmitri eve farid grace hugo irina joao kim lena omar pia quentin rosa sven tara".split()
LAST = "smith okafor garcia nguyen mueller rossi kowalski tanaka silva jones oneill dubois".split()
SITES = "mail.com example.co.uk uni-koeln.de acme-corp.com x.io post.gov.au web.de research.ibm.com kde.org".split()

STREETS = ("Main,Oak,Maple,Washington,Martin Luther King,Park,Lake,Second,5th,42nd,Cedar Creek,Old Mill,St. Charles,"
           "Peachtree,N. Clark,O'Connor,De La Cruz").split(",")
STREET_KINDS = ("Street St. St Avenue Ave. Ave Road Rd. Rd Boulevard Blvd. Lane Ln. Drive Dr. Court Ct. Place Pl. Way "
                "Parkway Pkwy Terrace Circle Highway Hwy Square Trail Loop").split()
CITIES = ("Springfield,New York,San Francisco,St. Louis,Los Angeles,Boise,Salt Lake City,Winston-Salem,Coeur d'Alene,"
          "Ann Arbor,Fort Worth,Mobile,Baton Rouge,Portland").split(",")
STATES = ("AL,AK,AZ,AR,CA,CO,CT,DE,FL,GA,HI,ID,IL,IN,IA,KS,KY,LA,ME,MD,MA,MI,MN,MS,MO,MT,NE,NV,NH,NJ,NM,NY,NC,ND,OH,"
          "OK,OR,PA,RI,SC,SD,TN,TX,UT,VT,VA,WA,WV,WI,WY,Texas,California,New York,North Carolina,Ohio").split(",")

WHERE = {
    "email": ["Write to {} before Friday if you want a seat.", "The editor ({}) answers within a week.",
              "Contact: {}", "You can reach me at {}, or leave a note at the desk.", "Mail <{}> for the slides.",
              "Questions? {}!", "She signed as {}\nand never wrote again.", "Send your CV to {}; no calls please."],
    "ip": ["The attack came from {} during the night.", "Ping {} to see whether it is up.",
           "The server at {} has been down since noon.", "Connection from {}:22 closed.",
           "http://{}/index.html was cached.",
           "Blocked addresses: {}, and nothing else.", "Its DNS record says {}", "User {} edited this page (talk)."],
    "ipv6": ["The attack came from {} during the night.", "Ping {} to see whether it is up.",
             "http://[{}]:8080/ is down", "{}: no route to host",
             "Its AAAA record says {}", "User {} edited this page (talk).", "({}) was banned;"],
    "address": ["Send it to {} before Friday.", "He lives at {}, next to the school.", "Visit us: {}",
                "Our office ({}) is closed.", "Address: {}\nPhone: none", "Jane Roe\n{}\nUSA"],
    "phone": ["Call {} between nine and five.", "Phone: {}", "My cell is {}, text me when you land.",
              "For tickets ring the box office, tel. {}.", "You may reach the clinic at {} on weekdays.",
              "Fax {} or drop the form in the box.", "Front desk: phone {}; closed on Sundays.",
              "The agent's mobile number is {}."],
    "phone said by its form": ["{} is the number of the shop on the corner.", "Ask for Maria ({}) at the counter.",
                               "Joe's Diner, 12 Main St, Springfield, {}", "Sales and service\n{}\nOpen daily"],
    "ssn": ["SSN: {}", "Her social security number is {}, he said.", "Applicant's SSN {} was on the form.",
            "My ssn is {} and I was born in Ohio.", "The social security no. {} belongs to her late husband."],
    "ssn said by its form": ["Name: Jane Roe, {}, single, no dependants.", "It was printed on the back: {}.",
                             "ID {} on the W-2 is wrong."],
    "card": ["He paid with {} and left.", "Card number {} exp 04/27", "Charge it to my Visa {}, please.",
             "The log had {} in plain text.", "credit card: {}"],
    "iban": ["Please transfer the rent to {} by the third.", "IBAN: {}", "Donations: {} (Red Cross)",
             "Our account is {}, BIC on request.", "The invoice names {} AND NO OTHER account."],
}


def made(kind: str, count: int, value_of: Value | None = None) -> Iterator[tuple[str, int, int]]:
    """`count` sentences with one of a kind in each: text, and where it begins and ends."""
    random = Random(kind)
    for _ in range(count):
        value, clear = (value_of or VALUES[kind])(random)
        spoken = WHERE.get(f"{kind} said by its form", []) if clear else []
        before, after = random.choice(WHERE[kind] + spoken).split("{}")
        yield before + value + after, len(before), len(before) + len(value)


def look_alikes(count: int) -> Iterator[tuple[str, str]]:
    """`count` sentences of each name with no personal data, which look like some."""
    random = Random("look-alikes")
    for name, sentences in LIKE.items():
        for _ in range(count):
            yield name, random.choice(sentences)(random)


def digits(random: Random, count: int, first: str = "0123456789") -> str:
    return random.choice(first) + "".join(random.choice("0123456789") for _ in range(count - 1))


def luhn(body: str) -> str:
    """The digits with their check digit."""
    total = sum(sum(divmod(int(digit) * (2 - at % 2), 10)) for at, digit in enumerate(reversed(body)))
    return body + str(-total % 10)


def _email(random: Random) -> tuple[str, bool]:
    first, last = random.choice(FIRST), random.choice(LAST)
    local = random.choice([first, f"{first}.{last}", f"{first[0]}{last}", f"{first}_{last}{random.randrange(99)}",
                           f"{first}+news", f"{last}-{first}", f"{first}{random.randrange(1950, 2010)}", first.upper()])
    return f"{local}@{random.choice(SITES)}", True


def _ip(random: Random) -> tuple[str, bool]:
    while True:                     # by the registry of special addresses, RFC 6890 and its like
        a, b, c, d = (random.randrange(256) for _ in range(4))
        special = a in (0, 10, 127) or a >= 224 or (a, b) in ((169, 254), (192, 168)) or a == 172 and 16 <= b < 32 \
            or a == 100 and 64 <= b < 128 or (a, b, c) in ((192, 0, 0), (192, 0, 2), (198, 51, 100), (203, 0, 113)) \
            or a == 198 and b in (18, 19) or (a, b, c) == (192, 88, 99)
        if not special:
            return f"{a}.{b}.{c}.{d}", True


def _ipv6(random: Random) -> tuple[str, bool]:
    """Of 2400::/12 to 2a00::/12, which the registries give to networks."""
    head = [random.choice([0x2400, 0x2600, 0x2804, 0x2a00, 0x2a02]) + random.randrange(256), random.randrange(65536)]
    tail = [0] * 5 + [random.randrange(1, 999)]
    if random.random() < 0.5:
        tail = [random.randrange(65536) for _ in tail]
    address = IPv6Address(b"".join(group.to_bytes(2, "big") for group in head + tail))
    return random.choice([address.compressed, address.compressed, address.exploded, address.compressed.upper()]), True


def _address(random: Random) -> tuple[str, bool]:
    side, house = random.choice(["", "", "", " N", " S.", " West", " NE"]), random.randrange(1, 9999)
    street = f"{house}{side} {random.choice(STREETS)} {random.choice(STREET_KINDS)}"
    street += random.choice(["", "", "", ", Apt 4B", ", Suite 200", " #12", ", Unit 7", " Apt. 3", ", Floor 5"])
    street = f"P.O. Box {house}" if random.random() < 0.05 else street
    place = f"{random.choice(CITIES)}{random.choice([', ', ', ', ' '])}{random.choice(STATES)}"
    more = random.choice(["", "", f"-{digits(random, 4)}"])
    return f"{street}{random.choice([', ', ', ', chr(10), ' '])}{place} {digits(random, 5)}{more}", True


def _phone(random: Random) -> tuple[str, bool]:
    area, exchange, line = random.choice(AREAS), digits(random, 2, "23456789") + "3", digits(random, 4)
    if random.random() < 0.08:
        return area + exchange + line, False            # ten digits in a row
    return random.choice(["({}) {}-{}", "({}){}-{}", "{}-{}-{}", "{}.{}.{}", "{} {} {}", "1-{}-{}-{}", "+1 {} {} {}",
                          "+1{}{}{}", "+1 ({}) {}-{}", "{}-{}-{} x12", "{}\u2011{}\u2011{}", "{}/{}-{}"]).format(
                              area, exchange, line), True


def phone_abroad(random: Random) -> tuple[str, bool]:
    """With + and the country's code, by each country's plan."""
    def some(count: int, first: str = "0123456789") -> str:
        return digits(random, count, first)
    return random.choice([
        f"+44 20 7{some(3)} {some(4)}", f"+44 7400 {some(6)}", f"+49 30 {some(3, '23456789')}{some(4)}",
        f"+49 (0)89 {some(3, '23456789')} {some(4)}", f"+33 1 4{some(1)} {some(2)} {some(2)} {some(2)}",
        f"+33{some(1, '67')}{some(8)}", f"+81 3-{some(4, '3456')}-{some(4)}", f"+91 98{some(3)} {some(5)}",
        f"+61 2 9{some(3)} {some(4)}", f"+55 11 9{some(4, '6789')}-{some(4)}", f"+39 06 {some(4, '4567')} {some(4)}",
        f"+34 91 {some(3, '2345')} {some(2)} {some(2)}", f"+31 20 {some(3, '2345')} {some(4)}"]), True


def _ssn(random: Random) -> tuple[str, bool]:
    area = random.choice([area for area in range(1, 900) if area != 666])
    parts = f"{area:03}", f"{random.randrange(1, 100):02}", f"{random.randrange(1, 10000):04}"
    mark = random.choice(["-", "-", "-", "\u2011", " ", ""])
    return mark.join(parts), mark in ("-", "\u2011")


def _card(random: Random) -> tuple[str, bool]:
    prefix, length = random.choice([("4", 16), ("5", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16),
                                    ("36", 14)])
    prefix += random.choice("12345") if prefix == "5" else ""
    number = luhn(prefix + "".join(random.choice("0123456789") for _ in range(length - 1 - len(prefix))))
    mark = random.choice(["", " ", "-"])
    cuts = {16: (4, 8, 12), 15: (4, 10), 14: (4, 10)}[length]
    return mark.join(number[begin:end] for begin, end in zip((0, *cuts), (*cuts, length))), True


def _iban(random: Random) -> tuple[str, bool]:
    country, bban = random.choice([
        ("DE", digits(random, 18)), ("GB", random.choice(["NWBK", "BUKB", "LOYD"]) + digits(random, 14)),
        ("FR", digits(random, 20) + random.choice("ABC") + digits(random, 2)), ("ES", digits(random, 20)),
        ("NL", random.choice(["ABNA", "RABO"]) + digits(random, 10)), ("CH", digits(random, 17)),
        ("IT", "X" + digits(random, 22)), ("NO", digits(random, 11)), ("SA", digits(random, 20))])
    number = int("".join(str(int(letter, 36)) for letter in bban + country) + "00")
    iban = f"{country}{98 - number % 97:02}{bban}"
    if random.random() < 0.5:
        iban = " ".join(iban[at:at + 4] for at in range(0, len(iban), 4))
    return iban, True


VALUES: dict[str, Value] = {
    "email": _email, "ip": _ip, "ipv6": _ipv6, "phone": _phone, "ssn": _ssn, "card": _card, "iban": _iban,
    "address": _address}


def _isbn(random: Random) -> str:
    if random.random() < 0.5:
        body = "978" + digits(random, 9)
        check = str(-sum(int(digit) * (1, 3)[at % 2] for at, digit in enumerate(body)) % 10)
        cuts = (3, 4, 7, 12)
    else:
        body = digits(random, 9)
        rest = -sum(int(digit) * (10 - at) for at, digit in enumerate(body)) % 11
        check, cuts = "0123456789X"[rest], (1, 4, 9)
    whole = body + check
    mark = random.choice(["-", " ", ""])
    return mark.join(whole[begin:end] for begin, end in zip((0, *cuts), (*cuts, len(whole))))


def _version(random: Random) -> str:
    small = [random.choice([random.randrange(10), random.randrange(32)]) for _ in range(4)]
    return random.choice(["{}.{}.{}", "{}.{}.{}.{}", "{}.{}", "{}.{}.{}-rc1", "{}.{}.{}.{}-beta"]).format(*small)


def _date(random: Random) -> str:
    year, month, day = random.randrange(1900, 2030), random.randrange(1, 13), random.randrange(1, 29)
    return random.choice([f"{year}-{month:02}-{day:02}", f"{month}/{day}/{year}", f"{day:02}.{month:02}.{year}",
                          f"{year}{month:02}{day:02}", f"{year}-{month:02}-{day:02} {day:02}:{month:02}:{day:02}",
                          f"{year}-{month:02}-{day:02}T10:{day}:00.123Z", f"{day}-{month}-{year}",
                          f"{year}-{year + 7}"])


def _order(random: Random) -> str:
    return random.choice([
        f"1{digits(random, 2)}-{digits(random, 7)}-{digits(random, 7)}", f"#{digits(random, 9)}",
        f"PO-{random.randrange(2000, 2030)}-{digits(random, 5)}", digits(random, 10), digits(random, 12),
        digits(random, 8), f"{digits(random, 3)}-{digits(random, 2)}-{digits(random, 5)}",
        f"ORD-{digits(random, 3)}-{digits(random, 2)}-{digits(random, 4)}", f"1Z{digits(random, 16)}",
        f"9400 1{digits(random, 3)} {digits(random, 4)} {digits(random, 4)} {digits(random, 4)} {digits(random, 2)}",
        digits(random, 16), f"{digits(random, 4)}-{digits(random, 4)}-{digits(random, 4)}"])


def _price(random: Random) -> str:
    amount = random.randrange(10**random.randrange(3, 10)) / 100
    return random.choice([f"${amount:,.2f}", f"{amount:.2f} EUR", f"€ {amount:,.2f}", f"USD {amount:,.0f}",
                          f"£{amount:,.2f}-£{amount + 500:,.2f}", f"{amount:,.2f}".replace(",", " ")])


def _colons(random: Random) -> str:
    """Hardware addresses, prints of keys, times, names in programs, addresses that are not public."""
    pairs = [f"{random.randrange(256):02x}" for _ in range(16)]
    small = random.randrange(1, 999)
    return random.choice([
        ":".join(pairs[:6]), ":".join(pairs[:8]), ":".join(pairs), f"{small % 24:02}:{small % 60:02}:59",
        f"20{small % 60:02}::{small}", "std::vector", "ffff::Feed", "Beef::dad", f"fe80::{small:x}", f"::{small:x}",
        f"fd00:{pairs[0]}::{small:x}", f"2001:db8::{small:x}", f"2024:{small % 12 + 1:02}:{small % 28 + 1:02} 10:00:00",
        f"{small}:{small}::"])


def _house(random: Random) -> str:
    """Numbers, streets and places that are no address with a ZIP code."""
    city, street, number = random.choice(CITIES), random.choice(STREETS), random.randrange(1, 9999)
    return random.choice([
        f"{number} people in {city}", f"{street} Street in {city}", f"{city}, TX in {1900 + number % 100}",
        f"{number} miles of road to {city}, and {digits(random, 5, '123456789')} tons of salt",
        f"the {number} men of {street} Street; {digits(random, 5, '123456789')} came", f"ZIP {digits(random, 5)}",
        f"{number} votes in Ohio, {digits(random, 5, '123456789')} in Iowa", f"{street} Ave and {street} St"])


def _with(value: Callable[[Random], str], *sentences: str) -> list[Callable[[Random], str]]:
    return [lambda random, sentence=sentence: sentence.format(value(random)) for sentence in sentences]


LIKE = {
    "version": _with(_version, "Version {} fixes the crash on start.", "Upgraded from {} last night.",
                     "jQuery v{} is required.", "The driver ({}) does not load.", "Firmware {} is out now.",
                     "Tested with nginx/{} on Debian.", "See section {} of the manual.",
                     "The package foo-{}.tar.gz is signed."),
    "date": _with(_date, "The meeting of {} was cancelled.", "Published {} by the ministry.", "He was born on {}.",
                  "Last call: {}.", "Call on {} if nothing has come.", "Log entry {} shows no error.",
                  "The server was restarted on {}."),
    "ISBN": _with(_isbn, "ISBN {} is out of print.", "ISBN-13: {}", "The paperback (ISBN {}) costs less.",
                  "Her third novel, {}, sold well.", "Cite it as {} in the list."),
    "order": _with(_order, "Your order {} has shipped.", "Order number: {}", "Invoice no. {} is overdue.",
                   "Tracking number {} was not found.", "Call us and mention order {}.", "The parcel {} is on its way.",
                   "Part {} fits all models.", "Case {} was closed without a hearing."),
    "colons": _with(_colons, "It says {}.", "{} was in the log.", "The device ({}) is off.", "See {} for more.",
                    "Since {} nothing has come."),
    "house": _with(_house, "It was about {}.", "They wrote of {} at length.", "In the news: {}", "{}, he said."),
    "price": _with(_price, "It costs {} without tax.", "The fund paid {} to its members.", "Sold for {} at auction.",
                   "Call now: only {} a month!", "The total is {}."),
}
