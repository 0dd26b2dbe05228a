"""The server. `uvicorn --factory enginebay.gateway:create_app` serves the config that ENGINEBAY_CONFIG names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginebay.gateway.app import Gateway

CONFIG_VARIABLE = "ENGINEBAY_CONFIG"


def create_app() -> Gateway:
    """Without ENGINEBAY_CONFIG: the reference engine with the embedded model."""
    from enginebay.gateway.app import build_app
    from enginebay.gateway.from_config import app_from_config
    from enginebay.plugins import get_backend

    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        return build_app(get_backend("reference"))
    from enginebay.config.loader import load_config

    return app_from_config(load_config(path))
