"""What an error of an attempt says: of the replica, and of whether another may do better."""

from __future__ import annotations

from enginebay.errors import (
    BackendError,
    BackendOverloaded,
    EngineBayError,
    EngineStepFailed,
    RequestError,
    ShuttingDown,
    StreamContractViolated,
    UpstreamError,
)

FIRST_SERVER_ERROR, NOT_IMPLEMENTED = 500, 501


def is_fault_of_replica(error: EngineBayError) -> bool:
    """Faults of transport and engine alone: what trips a breaker.

    A request that was refused is its client's fault, an overload is none, and a replica that shuts down does so on
    purpose. An upstream status of 400 to 499 speaks of the request, however little of it we understand, and so does
    501: this engine has no such thing, and is none the worse for having been asked.
    """
    if isinstance(error, BackendOverloaded | ShuttingDown):
        return False
    if isinstance(error, UpstreamError):
        return error.status is None or (error.status >= FIRST_SERVER_ERROR and error.status != NOT_IMPLEMENTED)
    return isinstance(error, BackendError | StreamContractViolated)


def is_word_of_engine(error: EngineBayError) -> bool:
    """It lives, and says that it failed at this request. Two that say so of one request make the request suspect."""
    return isinstance(error, EngineStepFailed) or (isinstance(error, UpstreamError) and error.status is not None)


def may_work_elsewhere(error: EngineBayError) -> bool:
    if isinstance(error, RequestError):
        return False
    return is_fault_of_replica(error) or isinstance(error, BackendOverloaded | ShuttingDown)
