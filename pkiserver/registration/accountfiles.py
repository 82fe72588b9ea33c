"""Accounts as CSV (RFC 4180) and as LDIF (RFC 2849): read from a file with every problem at its line, and written.

CSV: the first line names the columns: ``name``; and, where wanted, ``password``, ``groups`` (separated by semicolons),
``disabled`` (yes or no), in capitals or not; every other column is an attribute, and a column may stand twice for a
second value; one that is called like a column of ours is written as ``attribute:name``. What a spreadsheet would take
for a formula is written with an apostrophe before it, which is taken away again in reading.

LDIF: one entry is one account. ``uid`` is the name, ``userPassword`` the password (in the clear, or argon2id as
``{ARGON2}``), ``memberOf`` names groups by DN; ``pkiserverDisabled`` is TRUE or FALSE; others are attributes, and
``pkiserverAttribute: name=value`` is one whose name LDIF has another use for.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum

import attrs

from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError, Problem
from pkiserver.outbound import ldapnames
from pkiserver.registration.accounts import account_reasons, attribute_reasons
from pkiserver.store.registration.accounts import Account

MAX_ACCOUNTS = 1_000_000
_HASH = re.compile(r"\$argon2id\$v=19\$m=\d{1,7},t=\d{1,3},p=\d{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_YES, _NO = frozenset({"yes", "true", "1"}), frozenset({"no", "false", "0"})
_LDIF_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9.;_-]*)(::|:<|:) *(.*)", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_COLUMNS = ("name", "password", "groups", "disabled")
_ATTRIBUTE = "attribute:"
_SPECIAL = frozenset({"uid", "userpassword", "memberof", "pkiserverdisabled", "pkiserverattribute"})
_LDIF_OWN = frozenset({"version", "changetype", "control"})
# what directories add to every entry and that describes nobody
_IGNORED = frozenset({"objectclass", "dn", "structuralobjectclass", "entryuuid", "entrycsn", "creatorsname",
                      "createtimestamp", "modifiersname", "modifytimestamp"})  # fmt: skip


class Format(StrEnum):
    """The file formats."""

    CSV = "csv"
    LDIF = "ldif"


@attrs.frozen
class Imported:
    """What a file says about one account; None is nothing. ``password`` is in the clear or an argon2id hash."""

    name: str
    line: int
    password: Secret | None = None
    password_hash: str | None = attrs.field(default=None, repr=False)
    groups: frozenset[str] | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    disabled: bool | None = None


def read(text: str, file: str, form: Format) -> tuple[Imported, ...]:
    """The accounts of a file.

    Raises:
        ConfigurationError: with every problem at its line.
    """
    problems: list[Problem] = []
    found: dict[str, Imported] = {}
    for one in (_read_csv if form is Format.CSV else _read_ldif)(text, file, problems):
        if len(found) >= MAX_ACCOUNTS:
            problems.append(Problem(file, one.line, "", f"has more than {MAX_ACCOUNTS} accounts"))
            break
        reasons = account_reasons(one.name, one.groups or frozenset(), one.attributes, one.password)
        problems += [Problem(file, one.line, one.name, reason.text) for reason in reasons]
        if one.name in found:
            problems.append(Problem(file, one.line, one.name, f"is on line {found[one.name].line} already"))
        found[one.name] = one
    if problems:
        raise ConfigurationError(problems)
    return tuple(found.values())


def _read_csv(text: str, file: str, problems: list[Problem]) -> Iterator[Imported]:
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        header = [_column(column.strip()) for column in next(rows, [])]
        if wrong := _header_problems(header):
            problems += [Problem(file, 1, column, text) for column, text in wrong]
            return
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                text = f"has {len(row)} cells and the first line {len(header)}"
                problems.append(Problem(file, rows.line_num, "", text))
                continue
            cells = list(zip(header, row, strict=True))
            try:
                yield _from_cells(cells, rows.line_num)
            except ValueError as error:
                problems.append(Problem(file, rows.line_num, "", str(error)))
    except csv.Error as error:
        problems.append(Problem(file, rows.line_num, "", f"is no CSV: {error}"))


def _column(text: str) -> str:
    """A column's name; ours however they are written, so that no password becomes an attribute for a capital."""
    return text.lower() if text.lower() in _COLUMNS else text


def _header_problems(header: list[str]) -> list[tuple[str, str]]:
    found = [(column, "is there twice") for column in _COLUMNS if header.count(column) > 1]
    if "name" not in header:
        hint = "; columns are separated by commas" if any(";" in column for column in header) else ""
        found.append(("name", f"the first line names no column name{hint}"))
        return found
    # a column without a name may stand at the end of every line, and is nothing as long as it is empty
    named = tuple((_key(column), "") for column in dict.fromkeys(header) if column)
    return found + [("", reason.text) for reason in attribute_reasons(named)]


def _key(column: str) -> str:
    """The attribute that a column holds."""
    return column.removeprefix(_ATTRIBUTE)


def _from_cells(cells: list[tuple[str, str]], line: int) -> Imported:
    known = {key: _read_cell(value) for key, value in cells if key in _COLUMNS and key != "password"}
    password, hashed = _password(dict(cells).get("password", ""))  # spaces around it are part of it
    groups = known.get("groups", "")
    return Imported(
        name=known["name"],
        line=line,
        password=password,
        password_hash=hashed,
        groups=frozenset(part.strip() for part in groups.split(";")) - {""} if groups else None,
        attributes=tuple(
            (_key(key), _read_cell(value)) for key, value in cells if key not in _COLUMNS and value.strip()
        ),
        disabled=_flag(known.get("disabled", "")),
    )


def _read_cell(text: str) -> str:
    text = text.strip()
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _written_cell(text: str) -> str:
    """A text as it may stand in a spreadsheet, which computes what begins like a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _password(text: str) -> tuple[Secret | None, str | None]:
    if not text:
        return None, None
    plain = text[len("{ARGON2}") :] if text.upper().startswith("{ARGON2}") else text
    if _HASH.fullmatch(plain):
        return None, plain
    if text.startswith(("{", "$")):
        raise ValueError("holds a password hash that is not argon2id; give the password, or leave it out")
    return Secret(text), None


def _flag(text: str) -> bool | None:
    if not text:
        return None
    if text.lower() in _YES | _NO:
        return text.lower() in _YES
    raise ValueError(f"{text!r} is neither yes nor no")


def _read_ldif(text: str, file: str, problems: list[Problem]) -> Iterator[Imported]:
    for line, entry in _ldif_entries(text, file, problems):
        names = [value for key, value in entry if key.lower() == "uid"]
        if not names:
            continue  # an organisational unit or a group: the tree around the accounts
        try:
            yield _from_entry(names[0], entry, line)
        except ValueError as error:
            problems.append(Problem(file, line, names[0], str(error)))


def _from_entry(name: str, entry: list[tuple[str, str]], line: int) -> Imported:
    def values(wanted: str) -> list[str]:
        return [value for key, value in entry if key.lower() == wanted]

    password, hashed = _password((values("userpassword") or [""])[0])
    groups = frozenset(found for dn in values("memberof") if (found := ldapnames.first_value(dn)))
    return Imported(
        name=name,
        line=line,
        password=password,
        password_hash=hashed,
        groups=groups or None,
        attributes=tuple(_attributes(entry)),
        disabled=_flag((values("pkiserverdisabled") or [""])[0]),
    )


def _attributes(entry: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for key, value in entry:
        if key.lower() == "pkiserverattribute":
            name, equals, said = value.partition("=")
            if not equals:
                raise ValueError(f"pkiserverAttribute: {value!r} is not name=value")
            yield name, said
        elif key.lower() not in _SPECIAL | _IGNORED and value:
            yield key, value


def _ldif_entries(text: str, file: str, problems: list[Problem]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Entries with the line they begin on; only content records (RFC 2849), no changes."""
    entry: list[tuple[str, str]] = []
    begins = 0
    for line, logical in (*_unfolded(text), (0, "")):
        if not logical:
            if entry:
                yield begins, entry
            entry = []
            continue
        found = _LDIF_LINE.fullmatch(logical)
        if found is None:
            problems.append(Problem(file, line, "", "is no line of LDIF"))
            continue
        key, colons, value = found.groups()
        if key.lower() == "version" and not entry:
            continue
        if key.lower() == "changetype" or colons == ":<":
            what = "describes a change" if colons != ":<" else "refers to another file"
            problems.append(Problem(file, line, key, f"{what}: only entries themselves are read"))
            continue
        begins = begins if entry else line
        if (decoded := _decoded(value, colons)) is None:
            if ";" not in key:  # ;binary and the like hold no text on purpose
                problems.append(Problem(file, line, key, "is no UTF-8 text"))
            continue
        if ";" not in key:
            entry.append((key, decoded))


def _decoded(value: str, colons: str) -> str | None:
    if colons == ":":
        return value
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _unfolded(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with their numbers: a line that begins with a space continues the one before; # is a comment."""
    begun, current = 0, ""
    comment = False
    for number, raw in enumerate(_LINE_END.split(text.removeprefix("\ufeff")), 1):
        if raw.startswith(" ") and (current or comment):
            current += "" if comment else raw[1:]
            continue
        if current:
            yield begun, current
        comment = raw.startswith("#")
        begun, current = number, "" if comment else raw
        if not raw:
            yield number, ""
    if current:
        yield begun, current


def write(accounts: Iterable[Account], form: Format) -> str:
    """Accounts as a file that :func:`read` reads back. Passwords and their hashes are never written."""
    listed = list(accounts)
    return _csv(listed) if form is Format.CSV else _ldif(listed)


def _csv(accounts: list[Account]) -> str:
    most: dict[str, int] = {}
    for account in accounts:
        for key in dict(account.attributes):
            count = sum(1 for name, _ in account.attributes if name == key)
            most[key] = max(most.get(key, 0), count)
    columns = [key for key in sorted(most) for _ in range(most[key])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    own = (f"{_ATTRIBUTE}{key}" if key.lower() in _COLUMNS else key for key in columns)
    writer.writerow(["name", "groups", "disabled", *own])
    for account in accounts:
        left = {key: [value for name, value in account.attributes if name == key] for key in most}
        cells = [left[key].pop(0) if left[key] else "" for key in columns]
        groups = ";".join(sorted(account.groups))
        texts = (account.name, groups, "yes" if account.disabled else "no", *cells)
        writer.writerow(map(_written_cell, texts))
    return out.getvalue()


def _ldif(accounts: list[Account]) -> str:
    lines = ["version: 1"]
    for account in accounts:
        lines += ["", *_folded("dn", f"uid={ldapnames.escape(account.name)},ou=accounts")]
        lines += ["objectClass: account", "objectClass: extensibleObject", *_folded("uid", account.name)]
        for group in sorted(account.groups):
            lines += _folded("memberOf", f"cn={ldapnames.escape(group)},ou=groups")
        lines.append(f"pkiserverDisabled: {'TRUE' if account.disabled else 'FALSE'}")
        for key, value in account.attributes:
            has_own_use = key.lower() in _SPECIAL | _IGNORED | _LDIF_OWN or _LDIF_LINE.fullmatch(f"{key}:") is None
            lines += _folded("pkiserverAttribute", f"{key}={value}") if has_own_use else _folded(key, value)
    return "\n".join(lines) + "\n"


def _folded(key: str, value: str) -> list[str]:
    safe = value.isascii() and value.isprintable() and not value.startswith((" ", ":", "<")) and value[-1:] != " "
    line = f"{key}: {value}" if safe else f"{key}:: {base64.b64encode(value.encode()).decode()}"
    return [line[:76], *(f" {line[at : at + 75]}" for at in range(76, len(line), 75))]
