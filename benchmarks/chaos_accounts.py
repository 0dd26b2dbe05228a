"""After the chaos: what is left in the processes, and whether ledger, clients and engines agree on every request."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from chaos_clients import Seen
from chaos_town import Town, sum_of

Row = Mapping[str, Any]
_ENGINE_ID = re.compile(r"cmpl-(?P<request_id>.+)-\d+")
_FINISHED = ("stop", "length")
MOST_SHOWN = 20
WARM_UP = "warm-up-"
"""Begins the ids of requests that were before it all."""


def leftovers(town: Town) -> dict[str, float]:
    """What is not 0, of all that has to be, while the gateway still runs and nobody asks anything."""
    text = town.metrics()
    num_watches = len(town.engines) + 1  # of time-outs: one for each client of an engine and one for all, while needed
    counts = {
        "open_requests": sum_of(text, "enginebay_open_requests") - 1,  # this one
        "inside_pools": sum_of(text, "enginebay_pool_inside"),
        "waiting_for_pools": sum_of(text, "enginebay_pool_waiting"),
        "in_flight_in_replicas": sum_of(text, "llm_requests_in_flight"),
        "reserved_of_limits": sum_of(text, "enginebay_limits_reserved"),
        "tasks_more_than_before": max(0.0, sum_of(text, "enginebay_tasks") - town.num_tasks_before - num_watches),
        "lost_ledger_entries": sum_of(text, "enginebay_ledger_lost_entries_total"),
    }
    slots = {f"slots_of_engine_{number}": engine.num_slots() for number, engine in enumerate(town.engines)}
    return {name: count for name, count in {**counts, **slots}.items() if count}


def differences(town: Town, seen: Sequence[Seen]) -> list[str]:
    rows, computed = _rows(town), _computed(town)
    found = [f"{each.plan.request_id}: {what}" for each in seen for what in _wrong_with(each, rows, computed)]
    known = {each.plan.request_id for each in seen}
    found += [f"{request_id}: a row of a request that nobody sent" for request_id in rows if request_id not in known]
    if town.exit_code != 0:
        found.append(f"the gateway ended with exit code {town.exit_code}")
    found += [f"the log says: {line['event']}" for line in town.log_lines() if "hook failed" in line["event"]]
    return found[:MOST_SHOWN]


def _rows(town: Town) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in town.ledger():
        if not row["request_id"].startswith(WARM_UP):
            rows[row["request_id"]].append(row)
    return rows


def _computed(town: Town) -> dict[str, list[Row]]:
    """What the engines wrote down, by the client's id. What ran in an engine when it was killed is missing."""
    computed: dict[str, list[Row]] = defaultdict(list)
    for engine in town.engines:
        for line in engine.computed():
            if found := _ENGINE_ID.fullmatch(line["id"]):  # else it is a canary's
                computed[found["request_id"]].append(line)
    return computed


def _wrong_with(seen: Seen, rows: Mapping[str, list[Row]], computed: Mapping[str, list[Row]]) -> list[str]:
    request_id = seen.plan.request_id
    own = rows.get(request_id, [])
    if seen.ending == "hung":
        return ["its client waits for ever"]
    if not own:
        return [] if _may_be_unread(seen) else [f"no row, although its client {seen.ending} with status {seen.status}"]
    if len(own) > 1:
        return [f"{len(own)} rows"]
    return [*_wrong_for_client(seen, own[0]), *_wrong_for_engine(own[0], computed.get(request_id, []))]


def _may_be_unread(seen: Seen) -> bool:
    """It left before the gateway had read it, so there was no call: nothing was asked of an engine."""
    return seen.ending == "left" and not seen.status


def _wrong_for_client(seen: Seen, row: Row) -> list[str]:
    outcome, num_tokens = row["outcome"], row["num_output_tokens"]
    match seen.ending:
        case "answered" | "streamed":
            if (outcome, num_tokens) != ("finished", seen.num_tokens) or num_tokens != seen.plan.max_tokens:
                return [f"{outcome} with {num_tokens} tokens; its client got all of {seen.num_tokens}"]
        case "told":
            if row["error_code"] != seen.error_code:
                return [f"{outcome} with {row['error_code']}; its client was told {seen.error_code}"]
        case _:
            if num_tokens < seen.num_tokens:
                return [f"{num_tokens} tokens; its client saw {seen.num_tokens} before it went"]
    return []


def _wrong_for_engine(row: Row, computed: Sequence[Row]) -> list[str]:
    num_tokens = row["num_output_tokens"]
    if row["outcome"] == "finished":
        finished = [line["num_tokens"] for line in computed if line["reason"] in _FINISHED]
        return [] if num_tokens in finished else [f"finished with {num_tokens} tokens; the engines say {finished}"]
    num_made = sum(line["num_tokens"] for line in computed)
    is_complete = len(computed) >= row["num_attempts"]  # no engine was killed under it
    return [f"{num_tokens} tokens; the engines made {num_made}"] if is_complete and num_tokens > num_made else []


def figures(town: Town, seen: Sequence[Seen]) -> dict[str, Any]:
    rows = [row for own in _rows(town).values() for row in own]
    computed = _computed(town)
    events = Counter(line["event"] for line in town.log_lines())
    cancelled = [row for row in rows if row["outcome"] == "cancelled"]
    made_for_cancelled = sum(line["num_tokens"] for row in cancelled for line in computed.get(row["request_id"], ()))
    return {
        "endings_of_clients": dict(Counter(each.ending for each in seen)),
        "outcomes_in_ledger": dict(Counter(row["outcome"] for row in rows)),
        "errors_in_ledger": dict(Counter(row["error_code"] for row in rows if row["error_code"])),
        "num_rows": len(rows),
        "num_never_read": len(seen) - len(rows),
        "num_tried_again": sum(row["num_attempts"] > 1 for row in rows),
        "tokens_of_finished": sum(row["num_output_tokens"] for row in rows if row["outcome"] == "finished"),
        "tokens_of_cancelled": sum(row["num_output_tokens"] for row in cancelled),
        "tokens_made_for_cancelled": made_for_cancelled,
        "unbilled_tokens_of_cancelled": made_for_cancelled - sum(row["num_output_tokens"] for row in cancelled),
        "num_reloads": events["config reloaded"],
        "num_refused_reloads": events["config refused, the old one stays"],
    }
