"""From which severity on the linter refuses; apart from the linter, which takes a fifth of a second to load."""

from __future__ import annotations

import enum


class LintLevel(enum.StrEnum):
    """From which severity on a finding refuses the certificate. ``off`` still reports findings as warnings."""

    OFF = "off"
    FATAL = "fatal"
    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"
