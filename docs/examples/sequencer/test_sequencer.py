import pytest

from bftkit.core.plugin import load_protocol
from bftkit.sim import contract


@pytest.mark.parametrize("case", contract.cases(load_protocol("sequencer")), ids=str)
def test_contract(case: contract.Case) -> None:
    contract.run(case)
