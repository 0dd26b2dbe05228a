"""The hooks of EngineBay. A plugin marks its functions with `enginebay.hookimpl`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from enginebay.backend import BackendSpec

PROJECT = "enginebay"
ENTRY_POINT_GROUP = "enginebay.backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class BackendHooks:
    @hookspec(firstresult=True)
    def enginebay_backend(self) -> BackendSpec | None:  # pyright: ignore[reportReturnType]
        """Return the specification of the backend that this plugin offers."""
