"""What is masked, what is left alone, and in what time."""

import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import masking, piipatterns
from monitor.masking import Rule
from monitor.registration import NewExecution
from tests.monitor.spending import a_span

PII, ALL, IPS = Rule(True, False), Rule(True, True), Rule(False, True)
MASKED = [
    ("Write to ann@example.org.", "Write to [email]."),
    ("<jörg.x+tag@sub.example.co.uk>, a_b@x.io", "<[email]>, [email]"),
    ("call +49 170 1234567 now", "call [phone] now"),
    ("+1 (555) 123-4567 or (555) 123-4567 or 555-123-4567", "[phone] or [phone] or [phone]"),
    ("0170 1234567, 020 7946 0958, 01 42 68 53 00, 0049 30 1234567", "[phone], [phone], [phone], [phone]"),
    ("card 4111 1111 1111 1111 exp 12/29", "card [card] exp 12/29"),
    ("in 2024 4111 1111 1111 1111, 378282246310005, 5500-0000-0000-0004", "in 2024 [card], [card], [card]"),
    ("DE89 3704 0044 0532 0130 00 OR GB29NWBK60161331926819", "[iban] OR [iban]"),
    ("be68 5390 0754 7034 text", "[iban] text"),
    ("SSN 078-05-1120.", "SSN [ssn]."),
    ("AB 12 34 56 C, 529.982.247-25, 12345678Z", "[national_id], [national_id], [national_id]"),
    ("key sk-ant-api03-AAAAAAAAAAAAAAAAAAAA", "key [secret]"),
    ("ghp_0123456789abcdefghijklmnop AKIAIOSFODNN7EXAMPLE", "[secret] [secret]"),
    ("hr_0123456789ab_abcdefghijklmnopqrstuvwxyz", "[secret]"),
    ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "Authorization: Bearer [secret]"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln", "[secret]"),
    ("password=hunter22&x=1", "password=[secret]&x=1"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[secret]"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [secret]"),
    ("AWS_SESSION_TOKEN=IQoJb3JpZ2luX2VjEXAMPLE", "AWS_SESSION_TOKEN=[secret]"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: A-B,C\n\nMII\n"
        "-----END RSA PRIVATE KEY-----",
        "[secret]",
    ),
    ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----\n", "[secret]\n"),
    ("4111\u00a01111\u00a01111\u00a01111 +49\u00a0170\u202f1234567", "[card] [phone]"),
    ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "[iban]"),
    ("https://x.io/?email=ann%40example.org&n=1", "https://x.io/?email=[email]&n=1"),
    (r"CORP\ann@example.org", r"CORP\[email]"),
    ("Authorization: Basic dXNlcjpwYXNzd29yZA== BASIC dXNlcjpwYXNz", "Authorization: Basic [secret] BASIC [secret]"),
    ("BEARER abcdefghijklmnopqrstuvwxyz bearer\tabcdefghijklmnopqrst", "BEARER [secret] bearer\t[secret]"),
    (
        "postgres://user:s3cret@db.example.com/a redis://:pw@localhost",
        "postgres://user:[secret]@db.example.com/a redis://:[secret]@localhost",
    ),
    ("https://ann@example.org:pw123@host", "https://[email]:pw123@host"),
    ("jwt_secret=a1b2c3d4 token: abcdef123456&pwd=hunter22x", "jwt_secret=[secret] token: [secret]&pwd=[secret]"),
    ("password=" + "a1" * 400, "password=[secret]"),
    ("whsec_abcdefghijklmnopqrstuvwx ya29.a0AfH6SMBabcdefghijklmnop", "[secret] [secret]"),
    ("xapp-1-A0-abcdef sk-abcdefghijklmnop1", "[secret] [secret]"),
    ("+1.5551234567, +1.555.123.4567, +49 30 12345", "[phone], [phone], [phone]"),
    # Written as JSON, and as the beginning of such.
    ('{"a": "x\\nann@example.org"}', '{"a":"x\\n[email]"}'),
    (r'said: {"from":"Ann \u003cann@example.org\u003e"}', r'said: {"from":"Ann \u003c[email]\u003e"}'),
    (r'cut off {"a":"\u00fcnsal@example.org, \u00e94111111111111111', r'cut off {"a":"\u00fc[email], \u00e9[card]'),
    (r'body="{\"password\": \"hunter22\", \"a\": 1}"', r'body="{\"password\": \"[secret]\", \"a\": 1}"'),
    (r'b="{\\\"api_key\\\":\\\"hunter22\\\"}"', r'b="{\\\"api_key\\\":\\\"[secret]\\\"}"'),
    (r"password=\hunter22", "password=[secret]"),
    (r'cut off {"a":"x\nann@example.org \n+49 170 1234567', r'cut off {"a":"x\n[email] \n[phone]'),
    ('{"password": "p", "n": 4111111111111111}', '{"password":"[secret]","n":"[card]"}'),
    (
        '{"token": "abcd1234efgh", "botToken": "a1b2c3d4e5", "pwd": "hunter22", "page_token": "next"}',
        '{"token":"[secret]","botToken":"[secret]","pwd":"[secret]","page_token":"next"}',
    ),
    ('["{\\"to\\": \\"ann@example.org\\"}"]', '["{\\"to\\":\\"[email]\\"}"]'),
    (' {"n": 4111111111111111}', '{"n":"[card]"}'),
    # Of a key that comes twice the last stays, as with everybody who reads JSON.
    ('{"a":"ann@example.org","a":"x"}', '{"a":"x"}'),
    ('[{"b": [{"a": "ann@example.org", "\\u0061": 1}]}]', '[{"b":[{"a":1}]}]'),
]
SECRET_FIELDS = [
    *(
        "password",
        "OPENAI_API_KEY",
        "db_password",
        "x-api-key",
        "dbPassword",
        "aws_secret_access_key",
        "webhook_secret",
    ),
    *("http.request.header.authorization", "Authorization", "Proxy-Authorization", "my private key", "refreshToken"),
]
OPEN_FIELDS = [
    "token",
    "tokens",
    "passwords",
    "secretary",
    "monkey",
    "prior_authorization",
    "key",
    "compass",
    "apikeys",
]
LEFT = [
    "2026-11-20T21:27:49.055179Z",
    "550e8400-e29b-41d4-a716-446655440000",
    "1795210017978925824",
    "5b8efff798038103d269b633813fc60c",
    "gpt-4o-mini-2024-07-18 at 21.5 degrees for 1,000,000 tokens",
    "order #W2611340 of 2026-11-20 21:27:49",
    "4111 1111 1111 1112",
    "DE88370400440532013000 is mistyped",
    "000-12-3456",
    "12345678A",
    "5 @ 3, @handle, a@b",
    "sk-short, password: x",
    "192.168.1.20",
    "+2024-01-02 10:00 added, +1200000 tokens, score +1.2345678, on 07 2024 12:30",
    "sk-spinner-three-bounce, sk-learn-pipeline-estimator",
    "basic internationalization, Basic authentication",
    "token=a1b2c3d4-token=a1b2c3d4(x), secret=pwd=a1b2c3d4[0]",
    "token=next_token(tokens1), token: 1795210017978925824, pwd=/srv/app1/x, secret=$SECRET_1234",
    "http://localhost:3000?to=5 and postgres://user:$PASSWORD@db, postgres://user:***@db",
    '{"a" : 1}',
    '{"a": [{"b": 1.10, "c": 123456789012345678901234567890}], "d": "\\u00e9"}',
]


@pytest.mark.parametrize(("text", "masked"), MASKED, ids=[text[:30] for text, _ in MASKED])
def test_personal_data_and_secrets_are_masked(text: str, masked: str) -> None:
    assert masking.text(text, PII) == masked
    assert masking.text(masked, PII) == masked


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert masking.text(text, PII) == text


@pytest.mark.parametrize("field", SECRET_FIELDS)
def test_what_a_secret_field_holds_is_masked_whatever_it_is(field: str) -> None:
    held = {field: ["a", 12345678, ["b"], {"type": "string", "password": 1.5}, True, None, ""]}
    masked = {field: ["[secret]", "[secret]", ["[secret]"], {"type": "string", "password": "[secret]"}, True, None, ""]}
    assert masking.value(held, PII) == masking.value(masked, PII) == masked
    assert masking.text(json.dumps({field: "a"}), PII) == f'{{"{field}":"[secret]"}}'
    assert masking.value(held, IPS) == held


@pytest.mark.parametrize("field", OPEN_FIELDS)
def test_what_other_fields_hold_is_left(field: str) -> None:
    assert masking.value({field: "a"}, PII) == {field: "a"}


def test_addresses_of_machines_are_masked_where_asked() -> None:
    text = "from 192.168.1.20:80 and 2001:db8::1 at 12:30:45, version 1.2.3, 300.1.1.1"
    masked = "from [ip]:80 and [ip] at 12:30:45, version 1.2.3, 300.1.1.1"
    assert [masking.text(text, rule) for rule in (PII, ALL, IPS)] == [text, masked, masked]
    assert masking.text("ann@example.org", IPS) == "ann@example.org"
    refused = "dial 2001:db8::1: refused, http://[::1]:80, fe80::1%eth0, 1:2:3:4:5:6:7:8 and ::ffff:10.0.0.1"
    masked = "dial [ip]: refused, http://[[ip]]:80, [ip]%eth0, [ip] and ::ffff:[ip]"
    assert masking.text(refused, IPS) == masking.text(masked, IPS) == masked
    # What is masked later on makes nothing of what was left before.
    assert masking.text("07 2024 12:10.0.0.1", ALL) == masking.text("07 2024 12:[ip]", ALL) == "07 2024 12:[ip]"
    code = "x[::2], y()[::1], a::b, ::add and std::f64::c at 12:30:45:"
    assert masking.text(code, IPS) == code


def test_no_rule_is_no_rule() -> None:
    assert masking.rule_of(False, False) is None


def test_a_span_is_masked_and_stays_the_same_span() -> None:
    mail = "ann@example.org"
    words = ("name", "error", "user", "input", "output", "arguments", "result", "workflow")
    span = a_span(1, 1, attributes={"a": [mail, {"b": mail, mail: 1}]}, **dict.fromkeys(words, mail))
    masked = masking.span(span, PII)
    assert mail.encode() not in msgspec.json.encode(masked)
    assert {getattr(masked, word) for word in words} == {"[email]"}
    assert masked.attributes == {"a": ["[email]", {"b": "[email]", "[email]": 1}]}
    assert (masked.digest, masked.trace_id, masked.agent) == (span.digest, span.trace_id, span.agent)


def test_keys_that_look_alike_when_masked_lose_nothing() -> None:
    alike = {"[email]'2": 0, "a@b.org": 1, "c@d.org": 2, "e@f.org": 3}
    once = {"[email]'2": 0, "[email]": 1, "[email]'3": 2, "[email]'4": 3}
    assert masking.value(alike, PII) == masking.value(once, PII) == once


class Asked(dict[str, int]):
    """Counts how often it is asked whether it has a key."""

    count = 0

    def __contains__(self, key: object) -> bool:
        self.count += 1
        return super().__contains__(key)


def test_a_number_for_a_key_that_looks_alike_is_found_at_once() -> None:
    taken, alike = Asked({"[email]": 0}), {}
    for n in range(1, 2_000):
        taken[masking._free("[email]", taken, alike)] = n
    assert taken.count == 1_999


def test_many_keys_that_look_alike_take_linear_room() -> None:
    many = {f"a{n}@b.io": n for n in range(100_000)}
    masked = masking.value(many, PII)
    # Quadratic room would be 5 GB.
    assert list(masked.values()) == list(range(100_000))
    assert sum(map(len, masked)) < 2 * sum(map(len, many))


def test_a_body_is_masked_but_for_names_and_ids() -> None:
    said = {
        "agent": "555-123-4567",
        "run_id": "4111111111111111",
        "task": "mail ann@example.org",
        "inputs": {"who": ["ann@example.org"]},
        "metadata": {"token": "ok", "api_key": "abc"},
    }
    body = masking.body(msgspec.convert(said, NewExecution), PII)
    assert (body.agent, body.run_id) == ("555-123-4567", "4111111111111111")
    assert (body.task, body.inputs) == ("mail [email]", {"who": ["[email]"]})
    assert body.metadata == {"token": "ok", "api_key": "[secret]"}


def test_a_placeholder_never_outgrows_its_column() -> None:
    task = "a@b.io " * 71
    assert len(masking.body(NewExecution(agent="a", task=task), PII).task) == len(task)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab@.-+ 0123456789u:%\u00a0\\n"{}[]é', max_size=80))
def test_what_is_masked_stays_masked_and_json_stays_json(text: str) -> None:
    once = masking.text(text, ALL)
    assert masking.text(once, ALL) == once
    try:
        json.loads(text)
    except ValueError:
        return
    json.loads(once)


MEGABYTE = 1_000_000
HOSTILE = [
    *("a", "@", "1", "4", "+", "(", ":", "\\n", "é@", "[", '{"a":'),
    *("a@", "a.", "a@b.", "1 ", "4444 ", "4111-", "+1", "01 ", "DE11 ", "DE11", "-eyJ", "eyJaaaaaaaa.", "SG.", "sk-"),
    *(
        "-----BEGIN PRIVATE KEY",
        "bearer ",
        "password=",
        "api_key: ",
        "1.",
        "a:",
        "::",
        "123-45-",
        "12345678A ",
        "555-123-",
    ),
    *("a%40", "%40", "\\", "\\u0061", "\\u0061@", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----a-"),
    *('password\\"', "password=\\", "password\\\\", "4111\u00a0", "DE11\u00a0", "01\u00a0"),
    *(
        "basic ",
        "basic aaaa",
        "basic aaaaaaaa",
        "://",
        "://a:",
        "://a:b",
        "token=",
        "token=a",
        "token=1",
        "secret=a1.",
        "sk-a",
    ),
    *("a@" + "b" * 62 + ".", "a@" + "b." * 9, "x" * 65 + "@"),
    # A call's name may hold what looks like the beginning of a token, again and again.
    *(
        "-token=1" + "-token=a1" * 430 + "( ",
        "-token=a1" * 400 + "[",
        "token=" + "a1." * 1200 + "( ",
        "-token=" * 440 + "a1( ",
    ),
]


ORDINARY = "The 3 lamps of order 4711-22 came on 2026-11-20 at 10:30, call 12 34 56; see a@b. "
# Patterns are tried only where there is something that they can't do without.
LOOKS = "@ sk- bearer password 123456 : "
# What takes less says nothing of how it grows.
LEAST_S = 0.001


def spent_s(part: str, size: int, *, tries: int = 1) -> float:
    """Of the processor, to mask so many letters that repeat the part, by all patterns; the least of several tries."""
    text, spent = LOOKS + part * (size // len(part)), []
    for _ in range(tries):
        began_s = time.thread_time()
        masking.text(text, ALL)
        spent.append(time.thread_time() - began_s)
    return min(spent)


@pytest.fixture(scope="module")
def ordinary_s() -> float:
    return spent_s(ORDINARY, MEGABYTE, tries=3)


@pytest.mark.parametrize("part", HOSTILE)
def test_a_megabyte_of_malice_takes_linear_time(part: str, ordinary_s: float) -> None:
    # Four times as much takes four times as long, and sixteen times where it grows with the square.
    before_s = spent_s(part, MEGABYTE // 64, tries=3)
    for size in (MEGABYTE // 16, MEGABYTE // 4):
        now_s = spent_s(part, size, tries=3)
        assert now_s < 8 * max(before_s, LEAST_S), size
        before_s = now_s
    # And not many times as long as what people write.
    assert spent_s(part, MEGABYTE) < 20 * ordinary_s


@pytest.mark.parametrize("part", ["-token=a1", "a1.secret=", "pwd=a1-"])
@pytest.mark.parametrize("end", ["( ", "["])
def test_what_seems_a_token_and_is_a_call_is_read_once(part: str, end: str) -> None:
    def spent_s(letters: int) -> float:
        call = "token=a1" + part * (letters // len(part)) + end
        text, spent = call * (MEGABYTE // 4 // len(call)), []
        for _ in range(3):
            began_s = time.thread_time()
            assert piipatterns.secrets(text) == text
            spent.append(time.thread_time() - began_s)
        return min(spent)

    # Eight times as long it takes as long to read a letter, and eight times as long where each part is read to the end.
    assert spent_s(3_900) < 3 * max(spent_s(490), LEAST_S)
