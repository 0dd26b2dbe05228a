"""Every error of EngineBay. Each message says what happened, where, and what to do.

EngineBayError
├── ConfigError                  a config file or setting is wrong (file, YAML path, line)
│   └── ConfigErrors             several of them in one file
├── PluginError                  a backend plugin cannot be used
│   ├── BackendNotFound          no plugin of that kind is installed
│   ├── DuplicateBackend         two distributions claim one kind
│   └── BrokenPlugin             it failed to import, or gave something else than a BackendSpec
├── ModelError                   weights or tokenizer cannot be had
│   ├── ModelNotFound
│   ├── DownloadFailed
│   ├── ChecksumMismatch
│   └── UnsupportedModel         an architecture or option that no code here knows
├── RequestError                 the request is at fault (HTTP 4xx); names the field
│   ├── InvalidRequest
│   ├── BodyTooLarge
│   ├── UnsupportedContentType
│   ├── UnknownModel
│   ├── ContextTooLong
│   ├── UnsupportedFeature       the backend cannot do what a field asks
│   ├── DeadlineExceeded
│   ├── AuthenticationFailed     no key, or none that is known
│   ├── PermissionDenied         a known client may not do this
│   ├── RateLimited              too much in too short a time; `retry_after_s` says when there is room again
│   └── BudgetExceeded           the money that this client may spend is spent
├── BackendError                 the backend is at fault (HTTP 5xx)
│   ├── NotStarted               used before start or after close
│   ├── StartFailed              carries the engine's last log lines and a likely cause
│   ├── BackendUnavailable       cannot be reached, or the transport broke
│   │   └── ShuttingDown         the server ends before the request did
│   ├── BackendOverloaded        refuses for load; `retry_after_s` where told
│   ├── BackendTimeout
│   ├── EngineDied               the engine went away with requests in flight
│   ├── EngineStepFailed         one step failed; the engine goes on
│   └── UpstreamError            the engine answered with an error of its own
├── StoreUnavailable             the gateway's database or Redis cannot be reached or used
├── StreamContractViolated       an adapter broke the stream rules: a bug in the adapter
└── LoadTestError                a plan, workload or result file is unusable
    ├── NotComparable            two results that nothing can be concluded from
    ├── ResultExists             a measurement would replace an earlier one
    └── FolderInUse              another one is writing into the folder right now
"""

from __future__ import annotations

from collections.abc import Sequence

NEW_BACKEND_NEEDED = "make a new backend with get_backend()"
"""The remedy for a program; the clients of a server read that the server must be restarted instead."""


class EngineBayError(Exception):
    """Root of the tree. `str(error)` is fit to show to a user."""


# ---------------------------------------------------------------- config and plugins


class ConfigError(EngineBayError):
    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        path: str | None = None,
        line: int | None = None,
        expected: str | None = None,
        suggestion: str | None = None,
    ) -> None:
        self.problem, self.file, self.path, self.line = problem, file, path, line
        self.expected, self.suggestion = expected, suggestion
        where = ":".join(str(part) for part in (file, line) if part is not None)
        message = f"{where}: " if where else ""
        message += f"{path}: {problem}" if path else problem
        if expected:
            message += f"; expected {expected}"
        if suggestion:
            message += f". Did you mean {suggestion!r}?"
        super().__init__(message)


class ConfigErrors(ConfigError):
    """All problems of one file, in its order. `file`, `path` and `line` are those of the first."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(
            first.problem,
            file=first.file,
            path=first.path,
            line=first.line,
            expected=first.expected,
            suggestion=first.suggestion,
        )

    def __str__(self) -> str:
        return "\n".join([*map(str, self.problems), f"{len(self.problems)} problems"])


class PluginError(EngineBayError):
    pass


class BackendNotFound(PluginError):
    def __init__(self, kind: str, *, installed: Sequence[str], package: str | None, suggestion: str | None) -> None:
        self.kind, self.installed, self.package = kind, tuple(installed), package
        message = f"no backend of kind {kind!r} is installed (installed: {', '.join(installed) or 'none'})"
        if package:
            message += f'; install it with: pip install "{package}"'
        elif suggestion:
            message += f". Did you mean {suggestion!r}?"
        super().__init__(message)


class DuplicateBackend(PluginError):
    def __init__(self, kind: str, *, distributions: Sequence[str]) -> None:
        self.kind, self.distributions = kind, tuple(distributions)
        super().__init__(
            f"backend kind {kind!r} is claimed by {len(distributions)} distributions: "
            f"{', '.join(distributions)}; uninstall all but one"
        )


class BrokenPlugin(PluginError):
    def __init__(self, kind: str, *, distribution: str, problem: str) -> None:
        self.kind, self.distribution = kind, distribution
        super().__init__(f"backend {kind!r} of distribution {distribution!r} is broken: {problem}")


# ---------------------------------------------------------------- models


class ModelError(EngineBayError):
    pass


class ModelNotFound(ModelError):
    pass


class DownloadFailed(ModelError):
    pass


class ChecksumMismatch(ModelError):
    def __init__(self, *, path: str, expected: str, actual: str) -> None:
        super().__init__(f"{path}: SHA-256 is {actual}, expected {expected}; delete the file and pull again")


class UnsupportedModel(ModelError):
    pass


# ---------------------------------------------------------------- requests


class RequestError(EngineBayError):
    """The request is at fault. `field` is the wire name of the offending field, None for the whole."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


class InvalidRequest(RequestError):
    pass


class BodyTooLarge(RequestError):
    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"the request body is larger than {limit_bytes} bytes: send less")


class UnsupportedContentType(RequestError):
    pass


class UnknownModel(RequestError):
    def __init__(self, model: str, *, available: Sequence[str]) -> None:
        super().__init__(
            f"the model {model!r} does not exist; available: {', '.join(available) or 'none'}", field="model"
        )


class ContextTooLong(RequestError):
    """num_tokens is the prompt's length, or prompt and max_tokens together where `max_tokens` is given."""

    def __init__(self, *, num_tokens: int, limit: int, max_tokens: int | None = None, field: str = "prompt") -> None:
        self.num_tokens, self.limit = num_tokens, limit
        asked = f"{num_tokens} prompt tokens"
        if max_tokens is not None:
            asked += f" and {max_tokens} output tokens"
        super().__init__(
            f"the context of this model is {limit} tokens, but {asked} were asked for: "
            "shorten the prompt or max_tokens",
            field=field,
        )


class UnsupportedFeature(RequestError):
    def __init__(self, *, field: str, backend: str, detail: str = "") -> None:
        self.backend = backend
        super().__init__(
            f"backend {backend!r} does not support {field!r}{': ' + detail if detail else ''}; leave it out",
            field=field,
        )


class DeadlineExceeded(RequestError):
    pass


class AuthenticationFailed(RequestError):
    """Never says what of a key was wrong."""


class PermissionDenied(RequestError):
    pass


class RateLimited(RequestError):
    def __init__(self, message: str, *, retry_after_s: float, field: str | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, field=field)


class BudgetExceeded(RequestError):
    """retry_after_s: when a new period begins; None where that changes nothing."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


# ---------------------------------------------------------------- backends


class BackendError(EngineBayError):
    """The backend is at fault. `backend` is its name."""

    def __init__(self, message: str, *, backend: str | None = None) -> None:
        self.backend = backend
        super().__init__(message)


class NotStarted(BackendError):
    pass


class StartFailed(BackendError):
    def __init__(
        self, message: str, *, backend: str | None = None, likely_cause: str | None = None, log_tail: Sequence[str] = ()
    ) -> None:
        self.likely_cause, self.log_tail = likely_cause, tuple(log_tail)
        if likely_cause:
            message += f"\nlikely cause: {likely_cause}"
        if log_tail:
            message += "\nlast lines of the engine:\n" + "\n".join(f"  {line}" for line in log_tail)
        super().__init__(message, backend=backend)


class BackendUnavailable(BackendError):
    pass


class ShuttingDown(BackendUnavailable):
    """The server ends, and this request did not in the time that was left for it."""


class BackendOverloaded(BackendError):
    def __init__(self, message: str, *, backend: str | None = None, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, backend=backend)


class BackendTimeout(BackendError):
    pass


class EngineDied(BackendError):
    pass


class EngineStepFailed(BackendError):
    pass


class UpstreamError(BackendError):
    """The engine answered with an error of its own that is not the request's fault."""

    def __init__(self, message: str, *, backend: str | None = None, status: int | None = None) -> None:
        self.status = status
        super().__init__(message, backend=backend)


class StoreUnavailable(EngineBayError):
    pass


class StreamContractViolated(EngineBayError):
    pass


class LoadTestError(EngineBayError):
    pass


class NotComparable(LoadTestError):
    pass


class ResultExists(LoadTestError):
    pass


class FolderInUse(LoadTestError):
    pass
