"""Its function has the hook's name, but not its mark."""


def enginebay_backend() -> None:
    return None
