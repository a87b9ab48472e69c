"""What an application sees: derive from `StateMachine`, and bftkit keeps as many copies of it equal as you like.

Open `state_machine.py` first; a replicated counter is ten lines. `Table` holds large states, `Context` has the time
and the seed that all members agree on. `keyvalue.py` is the service of the demo and an example of a larger one,
`null.py` the one of the benchmarks.

Other shapes of service have their place here, above the same channel: calls to several members whose answers are
combined (multi-RPC), data objects with get and set, and replicated objects woven from ordinary classes.
"""

from bftkit.channel.application import Application, Context, StateView
from bftkit.service.loading import ServiceError, checked_service
from bftkit.service.state_machine import StateMachine
from bftkit.service.table import Table

__all__ = ["Application", "Context", "ServiceError", "StateMachine", "StateView", "Table", "checked_service"]
