"""`result.cutaway`: every labelled result can show itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    from .showing import View


@xr.register_dataarray_accessor("cutaway")
@xr.register_dataset_accessor("cutaway")
class Accessor:
    """`result.cutaway.show()` and `result.cutaway.plot()`; see `cutaway.show`."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def show(self, title: str = "") -> View:
        """The view of this result."""
        from .showing import show

        return show(self._result, title)

    def plot(self, ax: Any = None, figure: int = 0) -> Any:
        """Draw it with matplotlib and return the axes."""
        return self.show().plot(ax, figure)
