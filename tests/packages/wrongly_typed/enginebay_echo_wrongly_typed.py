"""Its hook returns a dictionary where a BackendSpec is due."""

from enginebay import hookimpl


@hookimpl
def enginebay_backend() -> dict[str, str]:
    return {"kind": "echo_wrongly_typed"}
