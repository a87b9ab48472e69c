"""Writes docs/reference/openapi.json: the description of the members' HTTP interface, as they serve it.

    python -m simulations.describe_admin

A test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, cast

from bftkit.admin.facade import Facade
from bftkit.admin.metrics import metrics_text
from bftkit.admin.routes import create_app, describe

PUBLISHED: Final = Path(__file__).parents[1] / "docs" / "reference" / "openapi.json"


def main() -> None:
    """Write it."""
    app = create_app(cast("Facade", None), metrics_text)  # nobody asks
    PUBLISHED.write_text(json.dumps(describe(app), indent=1, sort_keys=True) + "\n")
    print(PUBLISHED)


if __name__ == "__main__":
    main()
