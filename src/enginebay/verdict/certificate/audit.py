"""One run against its plan: was each request sent, once, as planned, when planned?"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from enginebay.loadtest.plan import PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.result import Run
from enginebay.loadtest.sent.body import planned_prompt
from enginebay.loadtest.sent.sent import Sent
from enginebay.loadtest.validity.client import LAG_RATIO, LEAST_LAG_BOUND_S
from enginebay.statistics.percentiles import percentile
from enginebay.verdict.certificate.certificate import VARIES, Fault, RunAudit, canonical_json
from enginebay.verdict.certificate.fields import Carried, carried, planned_sampling

EARLY_S = 0.001
"""A request is never sent before its instant on purpose; clocks are read a moment apart."""
MAX_RESENT_RATIO = 0.01
NUM_NAMED = 3
"""Requests that a fault names."""


def audit_run(planned_load: PlannedLoad, run: Run, records: Sequence[Record], sent: Sequence[Sent]) -> RunAudit:
    """sent: of this run, in any order."""
    material = _Material(planned_load, run, records, sent)
    in_order = material.in_order
    counts = [count for one in in_order if (count := material.num_prompt_tokens(one.index)) is not None]
    knows_all = bool(counts) and len(counts) == len(in_order)
    errors_s = [abs(error_s) for _, error_s in material.offset_errors_s]
    return RunAudit(
        run=run.key,
        backend=run.backend,
        transport=run.transport,
        simulated=run.simulated,
        valid=run.valid,
        planned_sha256=_digest([planned_load]),
        num_requests=len(in_order),
        num_sent_again=sum(len(sends) - 1 for sends in material.sends.values()),
        paths=tuple(sorted({one.path for one in in_order})),
        load_sha256=_digest(one.load_sha256 for one in in_order),
        prompts_sha256=_digest((one.prompt_form, one.prompt_sha256) for one in in_order),
        sampling_sha256=_digest(planned_sampling(material.planned[one.index].sampling) for one in in_order),
        other_fields=material.other_fields,
        fields_sent=material.fields_sent,
        fields_not_carried=material.fields_not_carried,
        num_prompt_tokens=sum(counts) if knows_all else None,
        prompt_tokens_sha256=_digest(counts) if knows_all else None,
        offset_error_p99_s=percentile(errors_s, 99) if errors_s else None,
        offset_bound_s=material.offset_bound_s,
        faults=tuple(_faults(material)),
    )


@dataclass(frozen=True)
class _Material:
    planned_load: PlannedLoad
    run: Run
    records: Sequence[Record]
    sent: Sequence[Sent]

    @cached_property
    def planned(self) -> dict[int, PlannedRequest]:
        return {planned.index: planned for planned in self.planned_load.requests}

    @cached_property
    def recorded(self) -> dict[int, Record]:
        return {record.index: record for record in self.records}

    @cached_property
    def sends(self) -> dict[int, list[Sent]]:
        """By index; several where a connection had been closed by the server and the request was sent again."""
        sends: dict[int, list[Sent]] = defaultdict(list)
        for one in sorted(self.sent, key=lambda one: one.at):
            sends[one.index].append(one)
        return dict(sends)

    @cached_property
    def in_order(self) -> list[Sent]:
        """What was answered of each planned request, in the order of the plan."""
        return [self.sends[index][-1] for index in sorted(self.planned) if index in self.sends]

    @cached_property
    def carried(self) -> list[tuple[int, dict[str, Carried]]]:
        return [
            (one.index, dict(carried(planned_sampling(self.planned[one.index].sampling), one.sampling)))
            for one in self.in_order
        ]

    @property
    def fields_sent(self) -> tuple[str, ...]:
        return tuple(sorted({name for _, fields in self.carried for name, how in fields.items() if how == "sent"}))

    @property
    def fields_not_carried(self) -> tuple[str, ...]:
        off = {name for _, fields in self.carried for name, how in fields.items() if how == "off"}
        return tuple(sorted(off - set(self.fields_sent)))

    @property
    def other_fields(self) -> dict[str, object]:
        names = sorted({name for one in self.in_order for name in one.others})
        return {name: _common([one.others.get(name) for one in self.in_order]) for name in names}

    @cached_property
    def offset_errors_s(self) -> list[tuple[int, float]]:
        """From the planned instant to the first sending, of requests that have one."""
        return [
            (index, sends[0].at - offset_s)
            for index, sends in sorted(self.sends.items())
            if index in self.planned and (offset_s := self.planned[index].offset_s) is not None
        ]

    @property
    def offset_bound_s(self) -> float:
        """The bound of `client_late`."""
        ttft_s = self.run.metrics.ttft_s
        return max(LEAST_LAG_BOUND_S, LAG_RATIO * ttft_s.p50 if ttft_s is not None else 0.0)

    def num_prompt_tokens(self, index: int) -> int | None:
        return self.recorded[index].num_prompt_tokens if index in self.recorded else None


def _faults(material: _Material) -> Iterator[Fault]:
    if not material.sent:
        yield Fault(code="not_audited", detail="nobody listened to what was sent")
        return
    yield from _other_requests(material)
    yield from _other_prompts(material)
    yield from _other_sampling(material)
    yield from _other_instants(material)
    yield from _other_counts(material)
    yield from _too_many_at_a_time(material)


def _other_requests(material: _Material) -> Iterator[Fault]:
    planned, sends_of = material.planned, material.sends
    yield from _fault("request_missing", "planned and not sent", [i for i in planned if i not in sends_of])
    yield from _fault("request_not_planned", "sent and not planned", [i for i in sends_of if i not in planned])
    changed = [i for i, sends in sends_of.items() if len({one.body_sha256 for one in sends}) > 1]
    yield from _fault("request_changed", "sent again with another body", changed)
    again = [i for i, sends in sends_of.items() if len(sends) > 1]
    if len(again) > max(1, MAX_RESENT_RATIO * len(planned)):
        yield from _fault("request_twice", "sent more than once", again)
    unsent = [i for i in sends_of if i not in material.recorded]
    yield from _fault("request_not_recorded", "sent and without a record", unsent)


def _other_prompts(material: _Material) -> Iterator[Fault]:
    """One sent in another form, such as token ids for a text, is held to its number of tokens instead."""
    others = [
        one.index
        for one in material.in_order
        if (planned := planned_prompt(material.planned[one.index].prompt))[0] == one.prompt_form
        and planned[1] != one.prompt_sha256
    ]
    yield from _fault("prompt_differs", "sent with another prompt than planned", others)


def _other_sampling(material: _Material) -> Iterator[Fault]:
    for how, problem in (("other", "sent with another value than planned"), ("missing", "asked for and not sent")):
        by_field: dict[str, list[int]] = defaultdict(list)
        for index, fields in material.carried:
            for name, found in fields.items():
                if found == how:
                    by_field[name].append(index)
        for name, indices in by_field.items():
            yield from _fault("sampling_differs", f"{name} {problem}", indices)


def _other_instants(material: _Material) -> Iterator[Fault]:
    early = [index for index, error_s in material.offset_errors_s if error_s < -EARLY_S]
    yield from _fault("sent_early", "sent before their instant", early)
    errors_s = [error_s for _, error_s in material.offset_errors_s]
    if errors_s and (p99 := percentile(errors_s, 99)) > material.offset_bound_s:
        detail = f"1 of 100 was sent {p99 * 1000:.1f} ms or more after its instant; the bound is "
        yield Fault(code="offsets_differ", detail=f"{detail}{material.offset_bound_s * 1000:.1f} ms")
    replanned = [
        index
        for index, planned in material.planned.items()
        if planned.offset_s is not None
        and (record := material.recorded.get(index))
        and abs(record.scheduled_at - planned.offset_s) > EARLY_S
    ]
    yield from _fault("offsets_differ", "recorded with another instant than planned", replanned)
    unlike = [
        index
        for index, sends in material.sends.items()
        if (record := material.recorded.get(index)) and abs(record.sent_at - sends[0].at) > EARLY_S
    ]
    yield from _fault("record_differs", "recorded as sent at another instant than the socket saw", unlike)


def _other_counts(material: _Material) -> Iterator[Fault]:
    if material.planned_load.prompt_counts == "estimated":
        return
    others = [
        one.index
        for one in material.in_order
        if (count := material.num_prompt_tokens(one.index)) is not None
        and count != material.planned[one.index].num_prompt_tokens
    ]
    yield from _fault("prompt_tokens_differ", "read by the engine as another number of tokens than planned", others)


def _too_many_at_a_time(material: _Material) -> Iterator[Fault]:
    users = material.planned_load.load.users
    if users is None:
        return
    steps = sorted(
        (at, change)
        for record in material.records
        # An answer that ends at the instant at which the next request is sent has ended.
        for at, change in ((record.sent_at, 1), (record.ended_at, -1))
    )
    num_under_way = most = 0
    for _, change in steps:
        num_under_way += change
        most = max(most, num_under_way)
    if most > users:
        yield Fault(code="too_many_at_a_time", detail=f"{most} requests were under way at a time, of {users} users")


def _fault(code: str, problem: str, indices: Sequence[int]) -> Iterator[Fault]:
    if indices:
        named = ", ".join(str(index) for index in sorted(indices)[:NUM_NAMED])
        more = ", ..." if len(indices) > NUM_NAMED else ""
        yield Fault(code=code, detail=f"{len(indices)} requests {problem}: {named}{more}")


def _common(values: Sequence[object]) -> object:
    return values[0] if all(value == values[0] for value in values) else VARIES


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(canonical_json(value))
        digest.update(b"\n")
    return digest.hexdigest()
