"""vLLM's exceptions made typed ones, where they leave the engine."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from enginebay.errors import BackendOverloaded, EngineBayError, EngineDied
from enginebay_vllm.answer_errors import answer_error

_NAME = "vllm"


@contextmanager
def typed_errors() -> Generator[None, None, None]:
    """Raises errors of our tree for those of the engine; what it doesn't know goes on as it is."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError  # pyright: ignore[reportMissingImports]
    from vllm.v1.engine.exceptions import EngineDeadError  # pyright: ignore[reportMissingImports]

    try:
        yield
    except EngineDeadError as error:
        raise EngineDied("vLLM's engine core has ended") from error
    except GracefulHTTPError as error:
        raise BackendOverloaded(str(error)) from error
    except (VLLMClientError, ValueError, TypeError) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> EngineBayError:
    """As vLLM's server would word it: one place reads its wording."""
    parameter = getattr(error, "parameter", None)
    body = {"error": {"message": str(error), "type": "BadRequestError", "param": parameter, "code": 400}}
    return answer_error(400, msgspec.json.encode(body), backend=_NAME, headers={})
