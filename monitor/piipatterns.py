"""What personal data looks like: each kind's pattern, what proves it, and what stands in its place.

Every pattern takes linear time: one that begins inside of its own kind can't match, and what repeats has an end. Most
text holds nothing, so a pattern is tried only where a cheap look finds what it can't do without.
"""

import re
from base64 import b64decode
from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address

# An escape such as \n or \u003c, as JSON has it that stands in other text or is cut off.
ESCAPED = r"(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})"
# Where something may begin: behind no letter or digit, unless that is of an escape.
BEGIN = rf"(?:{ESCAPED}|(?<![0-9A-Za-z]))"
# Groups of digits that hyphens join to others are ids and dates.
ALONE = rf"(?:{ESCAPED}|(?<![0-9A-Za-z\-]))"
END = r"(?![0-9A-Za-z])"

# What joins groups of digits: web pages have spaces that do not break.
_SPACE = " \u00a0\u202f"
EMAIL = re.compile(
    rf"(?:{ESCAPED}|(?<=\\)(?![nrtbf]|u[0-9A-Fa-f]{{4}})|(?<![\w.%+\-\\]))"
    r"[\w.%+\-]+(?:@|%40)(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24}",
)
SECRET = re.compile(
    # Headers within may have hyphens; behind a quote the key is over.
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[^-]{0,20000}(?:-(?!----)[^-\"'`{}<>]{0,20000}){0,100}"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
    rf"|{BEGIN}(?:"
    # Words that hyphens join have no digits.
    r"(?:sk|pk)-(?:(?:admin|ant|lf|or|proj|svcacct)-[\w\-]{10,}|(?=[A-Za-z_\-]{0,100}[0-9])[\w\-]{16,})"
    r"|(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{10,}"
    r"|gh[opsur]_[0-9A-Za-z]{20,}|github_pat_\w{20,}|glpat-[\w\-]{20,}"
    r"|(?:xox[abeoprs]|xapp)-[\w\-]{10,}"
    r"|whsec_[\w+/]{20,}|ya29\.[\w\-]{20,}"
    r"|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[\w\-]{35}"
    r"|hf_[0-9A-Za-z]{20,}|npm_[0-9A-Za-z]{30,}|pypi-[\w\-]{30,}"
    r"|hr_[0-9a-f]{12}_[\w\-]{20,}"
    r")"
    # A part that has to be followed by another begins nowhere inside of itself.
    rf"|(?:{ESCAPED}|(?<![\w.\-]))(?:eyJ[\w\-]{{8,}}\.eyJ[\w\-]{{8,}}\.[\w\-]*|SG\.[\w\-]{{16,}}\.[\w\-]{{16,}})"
)
BEARER = re.compile(rf"({BEGIN}bearer[ \t]{{1,3}})[\w.~+/\-]{{20,}}=*", re.IGNORECASE)
BASIC = re.compile(rf"({BEGIN}basic[ \t]{{1,3}})([0-9A-Za-z+/]{{8,}}={{0,2}})", re.IGNORECASE)
# The password in an address such as postgres://user:password@host.
LOGIN = re.compile(r"(://[^\s/:@\[\"'\\]{0,100}:)(?![\[{$<*])[^\s/@\"'\\?#]{1,200}(?=@)")
# Quotes may be escaped, and again where JSON stands in JSON.
_QUOTE = r"(?:\\{0,7}[\"'])?"
_WORD = r"(?:[^\s\"',;&\\]|\\(?!\\{0,6}[\"']))"
NAMED_SECRET = re.compile(
    r"((?=[PARCSparcs])(?:passw(?:or)?d|passphrase|api[_\-]?key|(?:access|auth|refresh|session)[_\-]?token|client[_\-]?secret"
    r"|secret[_\-]?(?:access[_\-]?)?key)"
    rf"{_QUOTE}\s{{0,3}}[:=]\s{{0,3}}{_QUOTE})(?![\[{{]){_WORD}{{6,4000}}",
    re.IGNORECASE,
)
# What many other things are called, and secret if it looks random: letters and digits, no path. That it is no call is
# seen once it is found, for else each beginning within it would be read to its end again.
NAMED_TOKEN = re.compile(
    rf"((?=[TSPtsp]){BEGIN}(?:token|secret|pwd){_QUOTE}\s{{0,3}}[:=]\s{{0,3}}{_QUOTE})(?![/~$.])"
    r"(?=[A-Za-z_.~+/=\-]{0,200}[0-9])(?=[0-9_.~+/=\-]{0,200}[A-Za-z])[0-9A-Za-z_.~+/=\-]{8,4000}+",
    re.IGNORECASE,
)
# Fields whose text is secret whatever it looks like, with words before them, as in `db_password` and `dbPassword`.
SECRET_FIELD = re.compile(
    r"(?:.*(?:[._\- ]|(?-i:(?<=[a-z0-9])(?=[A-Z]))))?"
    r"(?:passw(?:or)?d|passphrase|secret|api[_\- ]?key|(?:access|auth|refresh|session)[_\- ]?token"
    r"|secret[_\- ]?(?:access[_\- ]?)?key|private[_\- ]?key)"
    # Of what somebody was allowed to do an authorization tells as well.
    r"|(?:.*[.\-]|http_)?authorization",
    re.IGNORECASE | re.DOTALL,
)
# Fields whose text is secret if it looks random, as in NAMED_TOKEN.
TOKEN_FIELD = re.compile(r"(?:.*(?:[._\- ]|(?-i:(?<=[a-z0-9])(?=[A-Z]))))?(?:token|pwd)", re.IGNORECASE | re.DOTALL)
LONGEST_FIELD = 100
IBAN = re.compile(rf"(?=[A-Za-z]{{2}}[0-9]){BEGIN}([A-Za-z]{{2}})[0-9]{{2}}(?=[{_SPACE}]?[0-9A-Za-z])")
# Characters of an IBAN by country.
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FO FI GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
IBAN_LENGTHS = {country: length for length, several in _COUNTRIES.items() for country in several.split()}
_IBAN_OF = {length: re.compile(rf"(?:[{_SPACE}]?[0-9A-Za-z]){{{length}}}{END}") for length in _COUNTRIES}
CARD = re.compile(
    rf"(?=[2-6]){BEGIN}(?:[2-6][0-9]{{12,18}}|[2-6][0-9]{{3}}([{_SPACE}-])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{1,7}}"
    rf"|3[0-9]{{3}}([{_SPACE}-])[0-9]{{6}}\2[0-9]{{4,5}}){END}"
)
CARD_BRANDS = re.compile(r"4|5[1-5]|2[2-7]|3[0478]|35|6")
SSN = re.compile(rf"(?=[0-9]){ALONE}(?!000|666|9)[0-9]{{3}}([- ])(?!00)[0-9]{{2}}\1(?!0000)[0-9]{{4}}(?![0-9A-Za-z\-])")
# The United Kingdom's national insurance number, Brazil's CPF, Spain's DNI with its check letter.
NATIONAL_ID = re.compile(
    rf"(?=[A-Z0-9]){ALONE}(?:"
    r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]"
    rf"|[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}-[0-9]{{2}}|([0-9]{{8}})-?([A-Z])){END}"
)
DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
# A day in a line that a patch adds, and a change by a number; behind a dot a phone has ten digits.
_DATE = r"(?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}(?![0-9])"
_DECIMAL = r"[1-9]\.(?![0-9]{10}(?![0-9]))[0-9]{4}"
PHONE = re.compile(
    # With the country's code; in the North American form; with the zero of a call within the country.
    rf"(?=[0-9+(])(?:(?<![0-9+])\+(?!{_DATE}|{_DECIMAL})[1-9](?:[{_SPACE}.\-/]?\(?[0-9]\)?){{7,14}}(?![0-9])"
    rf"|{ALONE}00(?=[0-9]{{1,6}}[{_SPACE}.\-/(])[1-9](?:[{_SPACE}.\-/]?\(?[0-9]\)?){{7,14}}(?![0-9])"
    rf"|{ALONE}(?:1[{_SPACE}.\-])?(?:\([2-9][0-9]{{2}}\)[{_SPACE}]?|[2-9][0-9]{{2}}[{_SPACE}.\-])"
    rf"[0-9]{{3}}[{_SPACE}.\-][0-9]{{4}}(?![0-9A-Za-z\-])"
    rf"|{ALONE}0[1-9][0-9]{{0,4}}[{_SPACE}/\-][0-9]{{3,4}}(?:[{_SPACE}\-]?[0-9]{{2,4}}){{1,3}}(?![0-9A-Za-z\-]|:[0-9\[])"
    rf"|{ALONE}0[1-9](?:[{_SPACE}.][0-9]{{2}}){{4}}(?![0-9A-Za-z\-]))"
)
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = re.compile(rf"(?:{ESCAPED}|(?<![0-9A-Za-z.]))(?:{_BYTE}\.){{3}}{_BYTE}(?![0-9A-Za-z]|\.[0-9])")
# Addresses of machines begin with four digits; what is shorter is a path of names such as a::b.
IPV6_BEGIN = re.compile(r"[0-9A-Fa-f]{4}:|64:ff9b:|::1\Z|::ffff:|(?:[0-9A-Fa-f]{1,4}:){7}", re.IGNORECASE)
IPV6 = re.compile(rf"(?:{ESCAPED}|(?<![0-9A-Za-z:.]))(?<![\w\])]\[)[0-9A-Fa-f:]{{3,45}}(?![0-9A-Za-z:])")


# No number that is masked has fewer digits so close together.
SIX_DIGITS = re.compile(rf"[0-9](?:[{_SPACE}.\-/()]{{0,3}}[0-9]){{5}}")
# What every secret has that is known by its form, and what names the others.
_PARTS = (
    *("xapp-", "whsec_", "ya29."),
    *("sk-", "pk-", "_live_", "_test_", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox"),
    *("AKIA", "ASIA", "AIza", "hf_", "npm_", "pypi-", "hr_", "eyJ", "SG.", "PRIVATE KEY"),
)
_SECRET_NAMES = ("passw", "passphrase", "api", "token", "secret", "pwd")
_FIELD_ENDS = ("passwd", "password", "passphrase", "secret", "key", "token", "authorization")


def emails(text: str) -> str:
    """The text with every address of mail masked."""
    return EMAIL.sub("[email]", text) if "@" in text or "%40" in text else text


def secrets(text: str) -> str:
    """The text without keys, tokens and passwords that are called by name."""
    if "://" in text and "@" in text:
        text = LOGIN.sub(r"\1[secret]", text)
    if any(part in text for part in _PARTS):
        text = SECRET.sub("[secret]", text)
    lower = text.lower()
    if "bearer" in lower:
        text = BEARER.sub(r"\1[secret]", text)
    if "basic" in lower:
        text = BASIC.sub(lambda found: f"{found[1]}[secret]" if _is_login(found[2]) else found[0], text)
    if any(name in lower for name in _SECRET_NAMES):
        text = NAMED_TOKEN.sub(_token, NAMED_SECRET.sub(r"\1[secret]", text))
    return text


def is_token(name: str, said: str) -> bool:
    """Whether a field of this name holds a token, as it would be masked in text."""
    if len(name) > LONGEST_FIELD or not name.lower().endswith(("token", "pwd")):
        return False
    return bool(TOKEN_FIELD.fullmatch(name) and NAMED_TOKEN.fullmatch(f"token={said}"))


def is_secret(field: str) -> bool:
    """Whether a field of this name holds a secret, whatever that looks like."""
    if len(field) > LONGEST_FIELD or not field.lower().endswith(_FIELD_ENDS):
        return False
    return SECRET_FIELD.fullmatch(field) is not None


def numbers(text: str) -> str:
    """The text without accounts, payment cards, national ids and phone numbers."""
    if SIX_DIGITS.search(text) is None:
        return text
    text = _proven(IBAN, _iban_end, "[iban]", text)
    text = _proven(CARD, _card_end, "[card]", text)
    text = SSN.sub("[ssn]", text)
    text = _proven(NATIONAL_ID, _national_id_end, "[national_id]", text)
    return PHONE.sub("[phone]", text)


def addresses(text: str) -> str:
    """The text without the addresses of machines."""
    text = IPV4.sub("[ip]", text)
    return IPV6.sub(_without_ipv6, text)


def is_card(digits: str) -> bool:
    """Whether these are the digits of a payment card: a brand's beginning, and Luhn's sum."""
    if not 13 <= len(digits) <= 19 or not CARD_BRANDS.match(digits):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _proven(pattern: re.Pattern[str], end_of: Callable[[re.Match[str]], int], mask: str, text: str) -> str:
    """The text with every match masked that `end_of` gives an end; what is none may overlap with one that is."""
    out: list[str] = []
    done = at = 0
    while found := pattern.search(text, at):
        end = end_of(found)
        if end:
            out += (text[done : found.start()], mask)
            done = at = end
        else:
            at = found.start() + 1
    return "".join([*out, text[done:]]) if out else text


def _iban_end(found: re.Match[str]) -> int:
    length = IBAN_LENGTHS.get(found[1].upper())
    whole = _IBAN_OF[length].match(found.string, found.start()) if length else None
    if whole is None:
        return 0
    compact = re.sub(f"[{_SPACE}]", "", whole[0])
    moved = compact[4:] + compact[:4]
    return whole.end() if int("".join(str(int(one, 36)) for one in moved)) % 97 == 1 else 0


def _card_end(found: re.Match[str]) -> int:
    return found.end() if is_card(re.sub("[^0-9]", "", found[0])) else 0


def _national_id_end(found: re.Match[str]) -> int:
    digits, letter = found[1], found[2]
    return found.end() if digits is None or DNI_LETTERS[int(digits) % 23] == letter else 0


def _token(found: re.Match[str]) -> str:
    return found[0] if found.string.startswith(("(", "["), found.end()) else f"{found[1]}[secret]"


def _is_login(encoded: str) -> bool:
    """Whether this is a name and a password as HTTP has them in base64."""
    try:
        return ":" in b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    except ValueError:
        return False


def _without_ipv6(found: re.Match[str]) -> str:
    text = found[0]
    if _is_ipv6(text):
        return "[ip]"
    # A colon behind an address is a sentence's.
    return "[ip]:" if text.endswith(":") and _is_ipv6(text[:-1]) else text


def _is_ipv6(text: str) -> bool:
    if text.count(":") < 2 or not IPV6_BEGIN.match(text):
        return False
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
