"""The flag that writes the golden traces anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-traces",
        action="store_true",
        help="write the golden traces in tests/traces anew, to be read as a diff before they are committed",
    )
