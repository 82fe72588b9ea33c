"""TOML files and frozen attrs values, both ways.

:func:`load` finds every problem of a text, each with its line and what is allowed there; :func:`dump` writes a
value back.

What a field's type means in TOML:

====================================  ==============================================================================
``str`` ``int`` ``float`` ``bool``    the TOML value of that type; nothing is converted but an integer to a float
``datetime`` ``date``                 an offset date-time (a local one is refused; the value is UTC); a local date
``timedelta``                         a string such as ``"90d"`` (:mod:`pkiserver.foundation.durations`)
``Path``                              a string
enum, ``Literal``                     one of the values
``tuple[T, ...]`` ``frozenset[T]``    an array; of tables, where ``T`` is an attrs class
``Mapping[str, T]``                   a table with free keys
attrs class                           a table; its field names (aliases) are the keys
``T | None``                          the key may be left out
``A | B``                             the member whose shape fits: by TOML type, ``Literal`` fields, then keys
class with ``parse(text)``            a string; ``str(value)`` writes it back
``ipaddress`` classes                 a string
====================================  ==============================================================================

A field's ``metadata`` may have ``"comment"`` (written above its key by :func:`dump`) and ``"key"`` (another key than
its name, where Python reserves the name). Validators raise :class:`ValueError`, or :class:`Invalid` to name another
key or the allowed values, or an :class:`ExceptionGroup` of these.
"""

from __future__ import annotations

from pkiserver.foundation.durations import format_duration, parse_duration
from pkiserver.foundation.tomldump import dump
from pkiserver.foundation.tomlindex import TomlIndex, format_path
from pkiserver.foundation.tomlload import ConfigurationError, Invalid, Problem, load, load_file, parse, without_mark

__all__ = [
    "ConfigurationError",
    "Invalid",
    "Problem",
    "TomlIndex",
    "dump",
    "format_duration",
    "format_path",
    "load",
    "load_file",
    "parse",
    "parse_duration",
    "without_mark",
]
