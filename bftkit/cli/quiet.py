"""Running `init` as a part of another command: what it would tell a person is not told."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from bftkit.cli.app import output
from bftkit.cli.init import init
from bftkit.cli.output import Output, use_output


def found_group(directory: Path, **options: Any) -> None:
    """`bftkit init` with these options, silently. Raises as that does."""
    mine = output()
    use_output(Output(json=True, stdout=io.StringIO(), stderr=io.StringIO()))
    try:
        init(directory, **options)
    finally:
        use_output(mine)
