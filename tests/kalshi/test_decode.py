"""Responses are decoded strictly, and the fast and the strict decoder always agree."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.errors import InvalidResponseError
from exporter.kalshi import decode as decoding
from exporter.kalshi.decode import decode
from exporter.model import OrderGroup


def page(*groups: str, tail: str = "") -> bytes:
    return f'{{"order_groups":[{",".join(groups)}]{tail}}}'.encode()


def group(rest: str = "", group_id: str = '"a"') -> str:
    return f'{{"id":{group_id},"is_auto_cancel_enabled":true{rest}}}'


def decode_fast(body: bytes) -> decoding.Page | None:
    return decoding._decode_fast(body, decoding.ResponseLimits())


def decode_strict(body: bytes) -> decoding.Page:
    return decoding._decode_strict(body, decoding.ResponseLimits())


def only(body: bytes) -> OrderGroup:
    """Decode a page with exactly one group, and return the group."""
    (decoded,) = decode(body).groups
    return decoded


@pytest.mark.parametrize(
    "body", [b"{}", b'{"order_groups":null}', b'{"order_groups":[]}', b' {"order_groups" : []}\n']
)
def test_no_groups(body: bytes) -> None:
    assert decode(body) == decoding.Page([], None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"null", "the response: expected an object, got null"),
        (b"[]", "the response: expected an object, got an array"),
        (b'"x"', 'the response: expected an object, got "x"'),
        (b"{}{}", "not JSON"),
        (b"{} \x00", "not JSON"),
        (b'\xef\xbb\xbf{"order_groups":[]}', "not JSON"),
        (b'{"order_groups":[]', "not JSON"),
        (b'{"order_groups":[],}', "not JSON"),
        (b'{"\xff":1,"order_groups":[]}', "not UTF-8"),
        (b'{"order_groups":[],"x":"\xff"}', "not UTF-8"),
        (b'{"order_groups":[],"cursor":"\xff"}', "not UTF-8"),
        (b'{"order_groups":[{"id":"a","is_auto_cancel_enabled":true,"\xff":1}]}', "not UTF-8"),
        (b'{"order_groups":[{"id":"\xff","is_auto_cancel_enabled":true}]}', "not UTF-8"),
        ('{"order_groups":[]}'.encode("utf-16"), "not JSON"),
        (b'{"cursor":""}', "no order_groups, but cursor"),
        (b'{"order_groups":null,"cursor":""}', "no order_groups, but cursor"),
        (b'{"error":{"code":"x"}}', "no order_groups, but error"),
        (b'{"order_groups":{}}', "order_groups: expected an array, got an object"),
        (b'{"order_groups":[],"order_groups":[]}', "stands twice"),
        (b'{"order_groups":[],"cursor":7}', "cursor: expected a string, got 7"),
        (b'{"order_groups":[],"cursor":"\\ud800"}', "cursor"),
        (b'{"order_groups":[],"cursor":"' + b"x" * 4097 + b'"}', "cursor: expected at most 4096"),
        (page("7"), r"order_groups\[0\]: expected an object, got 7"),
        (page(group(), '{"id":"b"}'), r"order_groups\[1\].is_auto_cancel_enabled: missing"),
        (page('{"is_auto_cancel_enabled":true}'), r"order_groups\[0\].id: missing"),
        (page(group(group_id="7")), r"id: expected a string of 1 to 256 characters, got 7"),
        (page(group(group_id="null")), "id: expected a string"),
        (page(group(group_id='""')), "id: expected a string"),
        (page(group(group_id='"' + "x" * 257 + '"')), "id: expected a string"),
        (page(group(group_id='"a\\u0000"')), "without control characters"),
        (page(group(group_id='"a\\n"')), "without control characters"),
        (page(group(group_id='"a\x7f"')), "without control characters"),
        (page(group(group_id='"a\x85"')), "without control characters"),
        (page(group(group_id='"a\\ud800"')), "without control characters"),
        (page('{"id":"a","is_auto_cancel_enabled":"true"}'), "expected true or false, got"),
        (page('{"id":"a","is_auto_cancel_enabled":1}'), "expected true or false, got 1"),
        (page('{"id":"a","is_auto_cancel_enabled":null}'), "expected true or false, got null"),
        (rb'{"\ud83d\ude00":1,"' + "😀".encode() + rb'":1,"order_groups":[]}', "stands twice"),
        (page('{"id":"a","id":"a","is_auto_cancel_enabled":true}'), "stands twice"),
        (page(r'{"id":"a","\u0069d":"a","is_auto_cancel_enabled":true}'), "stands twice"),
        (page(group(',"x":{"y":[{"z":1,"\\u007a":1}]}')), "stands twice"),
        (page(group(',"x":NaN')), "not JSON"),
        (page(group(',"x":-Infinity')), "not JSON"),
        (page(group(',"x":01')), "not JSON"),
        (page(group(',"x":' + "[" * 101 + "]" * 101)), "nested too deep"),
        (page(group(',"x":' + "[" * 200_000 + "]" * 200_000)), "nested too deep"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 1_000_000, "nested too deep"),
        (page(group(',"contracts_limit_fp":10')), "contracts_limit_fp: expected a string, got 10"),
        (page(group(',"contracts_limit_fp":""')), "contracts_limit_fp: expected a plain decimal"),
        (page(group(',"contracts_limit_fp":"1e3"')), "expected a plain decimal"),
        (page(group(',"contracts_limit_fp":"NaN"')), "expected a plain decimal"),
        (page(group(',"contracts_limit_fp":" 1"')), "expected a plain decimal"),
        (page(group(',"contracts_limit_fp":"1."')), "expected a plain decimal"),
        (page(group(',"contracts_limit_fp":"\u0661"')), "expected a plain decimal"),
        (page(group(f',"contracts_limit_fp":"{"1" * 39}"')), "expected a plain decimal"),
        (page(group(',"contracts_limit":"10"')), "contracts_limit: expected an integer"),
        (page(group(',"contracts_limit":10.0')), "contracts_limit: expected an integer"),
        (page(group(',"contracts_limit":1e1')), "contracts_limit: expected an integer"),
        (page(group(f',"contracts_limit":{"1" * 39}')), "contracts_limit: expected an integer"),
        (page(group(f',"contracts_limit":{"1" * 5000}')), "contracts_limit: expected an integer"),
        (page(group(',"exchange_index":true')), "exchange_index: expected an integer of"),
        (page(group(',"exchange_index":1.5')), "exchange_index: expected an integer of"),
        (
            page(group(f',"exchange_index":{2**63}')),
            "exchange_index: expected an integer of at most 64 bits",
        ),
    ],
)
def test_an_invalid_response_is_refused_with_the_place_of_the_fault(
    body: bytes, words: str
) -> None:
    with pytest.raises(InvalidResponseError, match=words) as caught:
        decode(body)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_all_known_fields_are_decoded() -> None:
    text = group(',"contracts_limit_fp":"10.00","exchange_index":3')
    expected = OrderGroup("a", True, "10.00", 3, None)
    assert only(page(text)) == expected
    assert only(page(text.replace(":", " : "))) == expected


def test_null_means_not_sent() -> None:
    text = group(',"contracts_limit_fp":null,"exchange_index":null,"contracts_limit":null')
    assert only(page(text)) == OrderGroup("a", True)
    assert only(page(text + " ")) == OrderGroup("a", True)


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize(
    ("fields", "limit", "extra"),
    [
        (',"contracts_limit":10', "10.00", None),
        (',"contracts_limit":10,"contracts_limit_fp":"10.0"', "10.00", None),
        (',"contracts_limit":11,"contracts_limit_fp":"10.0"', "10.00", '{"contracts_limit":11}'),
        (',"contracts_limit":10,"contracts_limit_fp":null', "10.00", None),
        (',"contracts_limit":-0', "0.00", None),
    ],
)
def test_the_older_integer_limit_is_read(
    space: str, fields: str, limit: str, extra: str | None
) -> None:
    decoded = only(page(group(fields) + space))
    assert (decoded.contracts_limit, decoded.extra) == (limit, extra)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("10", "10.00"),
        ("10.5", "10.50"),
        ("10.500", "10.50"),
        ("10.125", "10.125"),
        ("0010.00", "10.00"),
        ("-0", "0.00"),
        ("-0.000", "0.00"),
        ("-1.5", "-1.50"),
        ("1" * 38 + ".25", "1" * 38 + ".25"),
        ("0" * 50 + "1" * 38, "1" * 38 + ".00"),
    ],
)
def test_each_number_has_one_form(sent: str, kept: str) -> None:
    assert only(page(group(f',"contracts_limit_fp":"{sent}"'))).contracts_limit == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("1e400", "1e400"),
        ("9" * 5000, "9" * 5000),
        ("-0.0", "-0.0"),
        ("1.10", "1.10"),
        (r'"\u0000"', r'"\u0000"'),
        (r'"\ud800"', r'"\ud800"'),
        (r'"\\ud800"', r'"\\ud800"'),
        (r'{"\udfff":"\uD83D"}', r'{"\udfff":"\ud83d"}'),
        (r'"\ud83d\ude00 é"', r'"\ud83d\ude00 \u00e9"'),
        ('{ "b" : [ null , true, false ], "a" : {} }', '{"a":{},"b":[null,true,false]}'),
        ("[" * 99 + "]" * 99, "[" * 99 + "]" * 99),
    ],
)
def test_unknown_fields_are_kept_as_sent(sent: str, kept: str) -> None:
    assert only(page(group(f',"new":{sent}'))).extra == f'{{"new":{kept}}}'


@pytest.mark.parametrize("rest", ["", ',"new":1'], ids=["fast", "strict"])
def test_the_number_of_groups_on_all_pages_is_limited(
    monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setattr(decoding, "_MOST_GROUPS", 5)
    body = page(*[group(rest)] * 3)
    bounds = decoding.ResponseLimits()
    decode(body, bounds)
    with pytest.raises(InvalidResponseError, match="more than 5 groups"):
        decode(body, bounds)


def test_the_size_of_unknown_fields_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MOST_UNKNOWN", 30)
    body = page(group(',"new":"0123456789"'))
    bounds = decoding.ResponseLimits()
    decode(body, bounds)
    with pytest.raises(InvalidResponseError, match="more than 30 characters"):
        decode(body, bounds)


def test_the_strict_decoder_checks_the_deadline() -> None:
    class LateError(Exception):
        pass

    def check() -> None:
        raise LateError

    with pytest.raises(LateError):
        decode(page(group(',"new":1')), decoding.ResponseLimits(check))


def test_the_size_of_one_group_is_limited() -> None:
    with pytest.raises(InvalidResponseError, match=r"order_groups\[0\]: larger than 4194304 bytes"):
        decode(page(group(f',"new":"{"x" * 4_200_000}"')))
    with pytest.raises(InvalidResponseError, match=r"order_groups\[0\]: more than 200000 values"):
        decode(page(group(f',"new":[{"1," * 200_000}1]')))


def test_unknown_fields_beside_the_groups_do_no_harm() -> None:
    assert decode(page(group(), tail=',"as_of":"now","cursor":"n"')).cursor == "n"
    assert decode(page(group(), tail=',"cursor":""')).cursor is None
    assert decode(page(group(), tail=',"cursor":null')).cursor is None


def test_what_the_exchange_sends_takes_the_fast_path() -> None:
    body = page(*(group(',"contracts_limit_fp":"10.00","exchange_index":0') for _ in range(3)))
    assert decode_fast(body + b"\n") == decode_strict(body)
    assert decode_fast(body) is not None


def outcome(decoder: Callable[[bytes], Any], body: bytes) -> Any:
    """Return what a decoder returns, or the class of its error."""
    try:
        return decoder(body)
    except InvalidResponseError:
        return InvalidResponseError


def assert_decoders_agree(body: bytes) -> None:
    fast = decode_fast(body)
    if fast is not None:
        assert fast == outcome(decode_strict, body)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_invalid(body: bytes) -> None:
    outcome(decode, body)
    assert_decoders_agree(body)


# These strategies build JSON from tokens, so that values with two spellings occur in both.
names = st.sampled_from(
    ["id", "is_auto_cancel_enabled", "contracts_limit_fp", "contracts_limit", "exchange_index"]
)
strings = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6, alphabet=st.characters(codec="utf-8")).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
    st.sampled_from(['"a"', '"1.0"', '"10.00"', '"-0"', r'"\/"', r'"\u0061"', r'"\b\f"', '""']),
    st.from_regex(r'"-?[0-9]{1,4}(\.[0-9]{1,4})?"', fullmatch=True),
)
numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["-0", "1e3", "1e9", "1.0", "0.0", "1E2", "-1e-2", "9223372036854775808"]),
    st.floats().map(str),
)
values = st.one_of(strings, numbers, st.sampled_from(["true", "false", "null", "[]", "{}"]))
spaces = st.sampled_from(["", "", "", " ", "\n"])


@st.composite
def objects(draw: st.DrawFn) -> str:
    """Return a group that sometimes has a duplicate key, an unusual spelling or a space."""
    members = [
        f'"id":{draw(st.one_of(st.just(chr(34) + "a" + chr(34)), strings))}',
        f'"is_auto_cancel_enabled":{draw(st.sampled_from(["true", "false"]))}',
    ]
    members += draw(
        st.lists(
            st.one_of(
                st.builds('"contracts_limit_fp":{}'.format, strings),
                st.builds('"contracts_limit":{}'.format, numbers),
                st.builds('"exchange_index":{}'.format, numbers),
                st.builds('"{}":{}'.format, names, values),
                st.builds("{}:{}".format, strings, values),
            ),
            max_size=3,
        )
    )
    return "{" + f",{draw(spaces)}".join(draw(st.permutations(members))) + "}"


@settings(max_examples=1000)
@given(
    st.lists(objects(), max_size=3),
    st.one_of(st.just(""), st.just(',"cursor":""'), st.builds(',"cursor":{}'.format, values)),
    spaces,
)
@example([group(',"exchange_index":1e9,"exchange_index":1')], "", "")
@example([group(',"contracts_limit":-0')], "", "")
def test_both_decoders_agree_on_any_document(groups: list[str], tail: str, space: str) -> None:
    body = page(*groups, tail=tail) + space.encode()
    assert_decoders_agree(body)
    assert outcome(decode, body) == outcome(decode_strict, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5).map("x".__add__), json_values, min_size=1))
def test_unknown_fields_round_trip(fields: dict[str, object]) -> None:
    text = json.dumps({"id": "a", "is_auto_cancel_enabled": True, **fields})
    kept = only(page(text)).extra
    assert kept is not None
    assert kept.isascii()
    assert json.loads(kept) == fields
    reordered = json.dumps({**dict(reversed(fields.items())), **json.loads(group())}, indent=1)
    assert only(page(reordered)).extra == kept
    assert all(first < second for first, second in pairwise(json.loads(kept)))
