"""Tools as clients send them: checked by name, handed on as they are, since engines and templates read them whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from enginebay.errors import InvalidRequest

JsonFields = dict[str, object]
ToolChoice = str | JsonFields | None
_CHOICES = ("none", "auto", "required")


def checked_tools(tools: Sequence[JsonFields] | None, choice: ToolChoice) -> tuple[JsonFields, ...]:
    """Raises InvalidRequest that names the field, nested ones too."""
    if tools is not None and not tools:
        raise InvalidRequest("tools is an empty list: leave it out", field="tools")
    names = [_checked_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())]
    if not names and choice not in (None, "none", "auto"):
        raise InvalidRequest("tool_choice needs tools", field="tool_choice")
    _check_choice(choice, names)
    return tuple(tools or ())


def checked_tool_calls(calls: Sequence[JsonFields] | None, path: str) -> tuple[JsonFields, ...]:
    """Of a message in the conversation. path: of that message."""
    for index, call in enumerate(calls or ()):
        call_path = f"{path}.tool_calls[{index}]"
        demand_known(call, ("id", "type", "function", "index"), call_path)
        _function_name(call, call_path, ("name", "arguments"))
    return tuple(calls or ())


def demand_known(fields: Mapping[str, object], known: Iterable[str], path: str) -> None:
    for name in fields:
        if name not in known:
            raise InvalidRequest(
                f"unknown field '{path}.{name}': it is not known here and nothing is ignored", field=f"{path}.{name}"
            )


def _checked_tool(tool: JsonFields, path: str) -> str:
    """Its name."""
    demand_known(tool, ("type", "function"), path)
    if tool.get("type") != "function":
        raise InvalidRequest(f"{path}.type is {tool.get('type')!r}; expected 'function'", field=f"{path}.type")
    return _function_name(tool, path, ("name", "description", "parameters", "strict"))


def _check_choice(choice: ToolChoice, names: Sequence[str]) -> None:
    if choice is None or choice in _CHOICES:
        return
    if isinstance(choice, str):
        raise InvalidRequest(
            f"tool_choice is {choice!r}; expected {', '.join(_CHOICES)} or a tool", field="tool_choice"
        )
    demand_known(choice, ("type", "function"), "tool_choice")
    if choice.get("type") != "function":
        raise InvalidRequest("tool_choice.type must be 'function'", field="tool_choice.type")
    name = _function_name(choice, "tool_choice", ("name",))
    if name not in names:
        raise InvalidRequest(
            f"tool_choice names {name!r}, which is none of the tools", field="tool_choice.function.name"
        )


def _function_name(holder: JsonFields, path: str, known: Sequence[str]) -> str:
    function = holder.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest(f"{path}.function is missing, or no object", field=f"{path}.function")
    fields = cast("JsonFields", function)
    demand_known(fields, known, f"{path}.function")
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}.function.name is missing, or no text", field=f"{path}.function.name")
    return name
