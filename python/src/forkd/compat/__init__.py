"""The names of the package that was called `forkd` before, as its users know them.

`Sandbox` works over the controller: it needs neither the command `forkd` nor an address of the guest.
"""

from .._output import CommandResult
from .controller import BranchMode, Controller, ControllerError
from .sandbox import Sandbox

__all__ = ["BranchMode", "CommandResult", "Controller", "ControllerError", "Sandbox"]
