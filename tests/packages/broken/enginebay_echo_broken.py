"""Its engine is not there: a plugin that imports it at the top fails."""

import an_engine_that_is_not_installed  # noqa: F401 # pyright: ignore[reportMissingImports]
