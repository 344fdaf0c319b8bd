"""From the name of an operation to a typed call.

The socket knows no operation: a server is given an object, and the methods that it marks with `@operation`
may be called over the socket, by their own names. Their arguments are checked against their annotations.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from holdfast.errors import ProtocolError

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def operation(method: F) -> F:
    """Mark an async method as one that the socket may call."""
    method.__dict__["is_operation"] = True
    return method


class Dispatcher:
    """The operations of an object, by name."""

    def __init__(self, owner: object) -> None:
        self._operations = {
            name: (method, _arguments(name, method))
            for name, method in inspect.getmembers(owner, inspect.ismethod)
            if getattr(method, "is_operation", False)
        }

    @property
    def names(self) -> frozenset[str]:
        """The operations there are."""
        return frozenset(self._operations)

    async def call(self, name: str, args: Mapping[str, Any]) -> Any:
        """Do an operation.

        Raises:
            ProtocolError: there is no such operation, or its arguments are not of its types.
            HoldfastError: what the operation raised.
        """
        if name not in self._operations:
            raise ProtocolError(f"there is no operation {name[:40]!r}")
        method, arguments = self._operations[name]
        try:
            checked = msgspec.convert(args, arguments)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"{name}: {error}") from None
        return await method(**{field: getattr(checked, field) for field in checked.__struct_fields__})


def _arguments(name: str, method: Callable[..., Any]) -> type[msgspec.Struct]:
    hints = get_type_hints(method, include_extras=True)
    fields = [(parameter, hints[parameter]) for parameter in inspect.signature(method).parameters]
    return msgspec.defstruct(f"{name}_arguments", fields, forbid_unknown_fields=True, kw_only=True)
