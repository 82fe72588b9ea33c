"""Configuration texts: what is read, what is refused and at which line, and that writing is the way back."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.tomlfile import (
    ConfigurationError,
    Invalid,
    TomlIndex,
    dump,
    format_duration,
    load,
    load_file,
    parse_duration,
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class KeyName:
    text: str

    @classmethod
    def parse(cls, text: str) -> KeyName:
        if not text.startswith("ec-"):
            raise ValueError(f"{text!r} is no key type")
        return cls(text)

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class Listener:
    port: int = attrs.field(validator=attrs.validators.in_(range(65536)))
    address: str = "127.0.0.1"
    colour: Colour = Colour.RED


@attrs.frozen
class FileStore:
    folder: Path
    kind: Literal["file"] = "file"


@attrs.frozen
class TokenStore:
    label: str
    kind: Literal["token"] = "token"


@attrs.frozen
class Settings:
    name: str
    listener: tuple[Listener, ...] = ()
    tags: frozenset[str] = frozenset()
    keep: timedelta = timedelta(days=90)
    until: datetime | None = None
    born: date | None = None
    ratio: float = 0.5
    verbose: bool = False
    low: int = 0
    high: int = attrs.field(default=10)
    store: FileStore | TokenStore | None = None
    key: KeyName | None = None
    limit: int | str = 5
    network: ipaddress.IPv4Network | None = None
    labels: Mapping[str, int] = attrs.Factory(dict)
    per_name: Mapping[str, Listener] = attrs.Factory(dict)
    class_: str | None = attrs.field(default=None, metadata={"key": "class", "comment": "what it is"})

    @high.validator
    def _above_low(self, _attribute: object, value: int) -> None:
        if value < self.low:
            raise Invalid(f"{value} is below low", allowed=f"at least {self.low}")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(Settings, text, "node.toml")
    assert [reason.text for reason in caught.value.reasons] == [str(problem) for problem in caught.value.problems]
    return [str(problem) for problem in caught.value.problems]


def test_every_kind_of_value_is_read() -> None:
    text = """
    name = "one"
    tags = ["b", "a"]
    keep = "1h30m"
    until = 2030-01-01T02:00:00+02:00
    born = 2020-02-29
    ratio = 2
    verbose = true
    key = "ec-p256"
    limit = "none"
    network = "10.0.0.0/8"
    class = "x"
    store = { label = "t" }
    [[listener]]
    port = 80
    [[listener]]
    port = 443
    colour = "blue"
    [labels]
    "a b" = 1
    [per_name.web]
    port = 1
    """
    assert load(Settings, text, "f") == Settings(
        name="one",
        listener=(Listener(80), Listener(443, colour=Colour.BLUE)),
        tags=frozenset({"a", "b"}),
        keep=timedelta(minutes=90),
        until=datetime(2030, 1, 1, tzinfo=UTC),
        born=date(2020, 2, 29),
        ratio=2.0,
        verbose=True,
        store=TokenStore("t"),
        key=KeyName("ec-p256"),
        limit="none",
        network=ipaddress.IPv4Network("10.0.0.0/8"),
        labels={"a b": 1},
        per_name={"web": Listener(1)},
        class_="x",
    )


def test_every_problem_is_told_with_its_line_and_what_is_allowed() -> None:
    found = problems(
        """name = 5
ratio = "x"
verbos = true
keep = "90 days"
until = 2030-01-01T00:00:00
key = "rsa"
tags = [
    "a",
    3,
]
store = { kind = "file", label = "x" }
[[listener]]
port = 80
[[listener]]
colour = "green"
[[listener]]
port = 70000
[labels]
x = "1"
"""
    )
    allowed = (
        "born, class, high, keep, key, labels, limit, listener, low, name, network, per_name, ratio, store, tags, "
        "until, verbose"
    )
    assert found[:3] == [
        "node.toml:1: name: 5 instead of a string (allowed: a string)",
        'node.toml:2: ratio: "x" instead of a number (allowed: a number)',
        f"node.toml:3: verbos: unknown key; did you mean verbose? (allowed: {allowed})",
    ]
    assert found[3].startswith("node.toml:4: keep: '90 days' is not a duration (allowed: a duration such as")
    assert found[4].startswith("node.toml:5: until: a date and time without an offset instead of")
    assert found[5].startswith("node.toml:6: key: 'rsa' is no key type")
    assert found[6] == "node.toml:9: tags[1]: 3 instead of a string (allowed: a string)"
    assert found[7:9] == [
        "node.toml:11: store.label: unknown key (allowed: folder, kind)",
        "node.toml:11: store.folder: is missing (allowed: a path as a string)",
    ]
    assert found[9] == "node.toml:14: listener[1].port: is missing (allowed: an integer)"
    assert found[10] == 'node.toml:15: listener[1].colour: "green" is not allowed (allowed: "red", "blue")'
    assert found[11] == "node.toml:17: listener[2].port: 70000 is out of range (allowed: 0 to 65535)"
    assert found[12] == 'node.toml:19: labels.x: "1" instead of an integer (allowed: an integer)'
    assert len(found) == 13


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "a"\nname = "b"\n', "node.toml:2: not TOML: Cannot overwrite a value"),
        ('name = "a"\nkeep =\n', "node.toml:2: not TOML: Invalid value"),
        ('name = "a', "node.toml:1: not TOML: Unterminated string"),
        ("low = 3\nhigh = 2\n", "node.toml:2: high: 2 is below low (allowed: at least 3)"),
        ('name = "a"\nlow = 11\n', "node.toml:1: 10 is below low (allowed: at least 11)"),
        ('name = "a"\nverbose = 1\n', "node.toml:2: verbose: 1 instead of true or false (allowed: true or false)"),
        ('name = "a"\nlow = true\n', "node.toml:2: low: true instead of an integer (allowed: an integer)"),
        ('name = "a"\nlow = 1.0\n', "node.toml:2: low: 1.0 instead of an integer (allowed: an integer)"),
        ('name = "a"\nlistener = 3\n', "node.toml:2: listener: 3 instead of an array (allowed: an array of: a table)"),
        ('name = "a"\nlimit = []\n', "node.toml:2: limit: an array does not fit (allowed: an integer or a string)"),
        ('name = "a"\nnetwork = "10.0.0.1/8"\n', "2: network: 10.0.0.1/8 has host bits set (allowed: an IPv4 network)"),
        ("a = " + "[" * 5000, "node.toml:1: is nested too deeply"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(text))


def test_a_group_of_errors_from_a_constructor_is_told_in_full() -> None:
    @attrs.frozen
    class Pair:
        a: int
        b: int

        def __attrs_post_init__(self) -> None:
            raise ExceptionGroup("both", [Invalid("bad a", key="a"), Invalid("bad b", key="b", allowed="none")])

    with pytest.raises(ConfigurationError) as caught:
        load(Pair, "b = 1\na = 2\n", "f")
    assert [str(p) for p in caught.value.problems] == ["f:1: b: bad b (allowed: none)", "f:2: a: bad a"]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_file(Settings, tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nname = '\xe4'\n")
    with pytest.raises(ConfigurationError, match=r"latin\.toml:2: is not UTF-8"):
        load_file(Settings, tmp_path / "latin.toml")


def test_a_file_as_a_windows_editor_saves_it_is_read(tmp_path: Path) -> None:
    """The byte order mark was told as an invalid statement in line 1, where nothing of it can be seen."""
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfname = 'a'\r\nlow = 3\r\n")
    assert load_file(Settings, tmp_path / "bom.toml").low == 3
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfname = 'a'\r\nlow = 'x'\r\n")
    with pytest.raises(ConfigurationError, match=r"bom\.toml:2: low"):
        load_file(Settings, tmp_path / "bom.toml")


def test_lines_survive_every_syntax_of_toml() -> None:
    text = '''# comment [x]
a."b.c".d = """
] not the end \\" """
e = [ # comment ]
  [1,
   2], { f = "}", g.h = 'x#' },
]
i = \'\'\'
\'\'\'\'\'
j = 1979-05-27 07:32:00Z # k
[l]
m.n = -1.5e3
[o.p]
q = 1
[[o.r]]
[o.r.s]
t = 1
[[o.r]]
s.t = 2
[o]
u = 1
'''
    index = TomlIndex(text)
    expected: dict[tuple[str | int, ...], int] = {
        ("a", "b.c", "d"): 2, ("e",): 4, ("e", 0): 5, ("e", 0, 1): 6, ("e", 1, "f"): 6, ("e", 1, "g", "h"): 6,
        ("i",): 8, ("j",): 10, ("l",): 11, ("l", "m", "n"): 12, ("o", "p", "q"): 14, ("o", "r", 0, "s", "t"): 17,
        ("o", "r", 1, "s", "t"): 19, ("o",): 20, ("o", "u"): 21, ("o", "none", "such"): 20,
    }  # fmt: skip
    assert {path: index.line(path) for path in expected} == expected


NAMES = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
LISTENERS = st.builds(Listener, port=st.integers(0, 65535), address=NAMES, colour=st.sampled_from(Colour))
SETTINGS = st.builds(
    Settings,
    name=NAMES,
    listener=st.lists(LISTENERS, max_size=3).map(tuple),
    tags=st.frozensets(NAMES, max_size=3),
    keep=st.timedeltas(min_value=timedelta(), max_value=timedelta(days=9999)),
    until=st.none() | st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)),
    born=st.none() | st.dates(min_value=date(1000, 1, 1)),
    ratio=st.floats(allow_nan=False),
    verbose=st.booleans(),
    low=st.just(0),
    high=st.integers(0, 2**63 - 1),
    store=st.none() | st.builds(TokenStore, NAMES) | st.builds(FileStore, st.sampled_from([Path("/x"), Path("y")])),
    key=st.none() | st.just(KeyName("ec-x")),
    limit=st.integers(0, 9) | NAMES,
    network=st.none() | st.just(ipaddress.IPv4Network("10.0.0.0/8")),
    labels=st.dictionaries(NAMES, st.integers(0, 9), max_size=3),
    per_name=st.dictionaries(NAMES, LISTENERS, max_size=2),
    class_=st.none() | NAMES,
)


@given(SETTINGS)
def test_what_is_written_reads_back_the_same(value: Settings) -> None:
    assert load(Settings, dump(value), "f") == value


def test_written_text_has_comments_and_leaves_defaults_out() -> None:
    value = Settings("n", listener=(Listener(80),), class_="c")
    text = dump(value, comment={"": "The node.", "listener[0].port": "where\nit listens"})
    assert text == (
        '# The node.\n\nname = "n"\n# what it is\nclass = "c"\n\n[[listener]]\n# where\n# it listens\nport = 80\n'
    )


def test_what_toml_cannot_hold_is_not_written() -> None:
    @attrs.frozen
    class Odd:
        a: int | None = 1

    with pytest.raises(ValueError, match="a: NoneType has no TOML form"):
        dump(Odd(None))


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta.max))
def test_durations_read_back_the_same(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("90d", timedelta(90)), ("1h30m", timedelta(hours=1.5)), ("10y", timedelta(3650)), ("2w", timedelta(14)),
     ("0s", timedelta()), ("1500ms", timedelta(seconds=1.5))],
)  # fmt: skip
def test_durations_are_read(text: str, value: timedelta) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    "text", ["", "1", "d", "-1d", "1.5h", "1M", "1m1h", "1h1h", " 1h", "1h ", "9" * 18 + "y", "\uff11d"]
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        parse_duration(text)
