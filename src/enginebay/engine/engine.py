"""The engine: `step()` is the architecture.

schedule (who computes how many tokens, in which blocks) -> draft, where requests speculate -> forward -> sample ->
append, and see who has ended.
A request has no phases: its `num_computed_tokens` catches up with its `num_tokens`, and a token is sampled in the
step in which it does. Chunked prefill and recomputing after a preemption are that one rule.

Not thread-safe: one loop adds, cancels and steps (`backends/reference/engine_loop.py`).
"""

from __future__ import annotations

from enginebay.clock import Clock
from enginebay.engine.deadlines import Deadlines
from enginebay.engine.limits import EngineLimits
from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.meter import Meter
from enginebay.engine.numerics import Runner, TokenSampler
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineCounters, EngineOutput, EngineRequest
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.speculator import Speculator
from enginebay.engine.speculation.verification import num_accepted_drafts
from enginebay.engine.step_ceiling import StepCeiling, is_out_of_memory
from enginebay.engine.stop_conditions import Ending, find_ending
from enginebay.errors import DeadlineExceeded, InvalidRequest


class Engine:
    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: Runner,
        sampler: TokenSampler,
        limits: EngineLimits,
        eos_token_ids: tuple[int, ...],
        clock: Clock,
        speculator: Speculator | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.limits = limits
        self._runner = runner
        self._sampler = sampler
        self._speculator = speculator
        self._eos_token_ids = frozenset(eos_token_ids)
        self._clock = clock
        self._meter = Meter(clock, num_blocks=scheduler.pool.num_blocks)
        self._deadlines = Deadlines(
            # before the first step this is the most that any step may compute
            most_step_tokens=scheduler.policy.max_num_batched_tokens,
            limits=limits,
            prefix_cache=scheduler.prefix_cache,
        )
        self._ceiling = StepCeiling()
        self._sequences: dict[str, Sequence] = {}
        self._ended_at_once: list[EngineOutput] = []

    def step(self) -> list[EngineOutput]:
        """Compute one step and return what it made; also the ends of requests that had nothing left to compute, and of
        those whose deadline has passed or cannot be met any more."""
        started_at = self._clock.now()
        outputs, self._ended_at_once = self._ended_at_once, []
        outputs += [self._end_late(sequence, why) for sequence, why in self._deadlines.take_late(started_at)]
        plan = self.scheduler.schedule(started_at)
        self._meter.count_plan(plan)
        if plan.scheduled:
            outputs += self._compute(plan, started_at)
        self._meter.note_busy(self.has_work)
        return outputs

    def add(self, request: EngineRequest) -> None:
        """Raises InvalidRequest, ContextTooLong or DeadlineExceeded; then nothing of it stays here."""
        if request.request_id in self._sequences:
            raise InvalidRequest(f"request id {request.request_id!r} is in use", field="request_id")
        self.limits.check(request)
        sequence = Sequence(request, arrived_at=request.arrived_at or self._clock.now())
        if request.resume_token_ids and self._has_ended(sequence):
            return
        if (why := self._deadlines.problem(sequence, self._clock.now())) is not None:
            self._meter.count_late(sequence)
            raise DeadlineExceeded(why, field="deadline_at")
        self._deadlines.watch(sequence)
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)
        self._meter.note_busy(True)

    def cancel(self, request_id: str) -> None:
        """Its blocks are free when this returns; it gives no further output. Unknown ids are ignored."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return
        self.scheduler.remove(sequence)
        self.scheduler.release_ended()
        self._meter.count_finished("abort")
        self._meter.note_busy(self.has_work)

    def reset_prefix_cache(self) -> None:
        """Requests under way keep the blocks they hold; nobody finds them any more."""
        if self.scheduler.prefix_cache is not None:
            self.scheduler.prefix_cache.reset()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._ended_at_once)

    def next_step_at(self) -> float | None:
        """When to call `step()` if no request comes or goes before; None is never."""
        now = self._clock.now()
        step_at = now if self._ended_at_once else self.scheduler.next_step_at(now)
        deadline_at = self._deadlines.next_at() if step_at is not None and step_at > now else None
        return step_at if step_at is None or deadline_at is None else min(step_at, deadline_at)

    @property
    def counters(self) -> EngineCounters:
        """The live object, brought up to date: encode or copy it before the next step."""
        self._meter.note_busy(self.has_work)
        counters = self._meter.counters
        counters.num_running = sum(s.request.request_id in self._sequences for s in self.scheduler.running)
        counters.num_waiting = len(self.scheduler.waiting)
        counters.num_free_blocks = self.scheduler.pool.num_free
        if (cache := self.scheduler.prefix_cache) is not None:
            counters.num_prefix_queried_tokens = cache.counters.num_queried_tokens
            counters.num_prefix_hit_tokens = cache.counters.num_hit_tokens
            counters.num_prefix_evicted_blocks = cache.counters.num_evicted_blocks
        if self._speculator is not None:
            counters.num_failed_drafts = self._speculator.num_failures
        counters.num_slots = self.scheduler.policy.num_slots
        counters.max_num_batched_tokens = self.scheduler.policy.max_num_batched_tokens
        counters.device_memory_bytes = self._runner.device_memory_bytes()
        if not counters.num_running:
            counters.batch_size = 0
        return counters

    def _compute(self, plan: StepPlan, started_at: float) -> list[EngineOutput]:
        self._ceiling.hold(plan)
        apart_before_s = self._apart_s
        is_first_try = True
        tried = self._try(plan)
        while isinstance(tried, Exception) and is_out_of_memory(tried) and self._ceiling.lower(plan):
            self._meter.counters.num_out_of_memory += 1
            is_first_try = False
            tried = self._try(plan)
        if isinstance(tried, Exception):
            outputs = self._fail(plan, f"a step of the engine failed: {type(tried).__name__}: {tried}")
        else:
            outputs = self._update(plan, tried)
            self._ceiling.note_fine(plan)
        if is_first_try and not isinstance(tried, Exception):
            now, apart_s = self._clock.now(), self._apart_s - apart_before_s
            self._deadlines.note_step(plan, outputs, step_s=now - started_at - apart_s, now=now)
        self.scheduler.release_ended()
        self._meter.count_step(plan, started_at=started_at)
        return outputs

    @property
    def _apart_s(self) -> float:
        """What all steps took so far beside the model, and each by what its own requests want: drafting, drawing, and
        log-probabilities, which of a whole prompt take as long as the prompt."""
        return self._meter.counters.draft_s + self._meter.counters.sample_s

    def _try(self, plan: StepPlan) -> list[list[SampledToken]] | Exception:
        """Whatever goes wrong costs the requests of this step and no others. Trying again is allowed: what was written
        into the blocks is written again."""
        counters = self._meter.counters
        try:
            if self._speculator is not None and not self._ceiling.is_in_force:
                self._draft(self._speculator, plan)
            forward_at = self._clock.now()
            logits = self._runner.forward(plan)
            sampling_at = self._clock.now()
            counters.model_s += sampling_at - forward_at
            tokens = self._sampler.sample(logits, plan)
            self._collect_prompt_logprobs(plan, logits)
            counters.sample_s += self._clock.now() - sampling_at
        except Exception as error:  # noqa: BLE001 - told to those whom it costs their step
            # its frames hold the tensors of the step, and the next try needs their memory
            return error.with_traceback(None)
        return tokens

    def _draft(self, speculator: Speculator, plan: StepPlan) -> None:
        drafting_at = self._clock.now()
        speculator.draft(plan, self.scheduler)
        self._meter.counters.draft_s += self._clock.now() - drafting_at

    def _update(self, plan: StepPlan, tokens: list[list[SampledToken]]) -> list[EngineOutput]:
        outputs: list[EngineOutput] = []
        rest = iter(tokens)
        for item in plan.scheduled:
            sampled = next(rest) if item.samples else []
            if sampled and sampled[0].error is not None:
                outputs.append(self._fail_sequence(item.sequence, sampled[0].error))
            elif not item.is_idle:
                ending = self._append(item, sampled)
                if sampled or ending is not None:
                    outputs.append(self._output(item.sequence, sampled, ending))
        return outputs

    def _append(self, item: ScheduledSequence, sampled: list[SampledToken]) -> Ending | None:
        """Appends what was sampled, up to its end; the rest is taken off the list."""
        sequence, ending = item.sequence, None
        for index, token in enumerate(sampled):
            sequence.token_ids.append(token.token_id)
            if (ending := self._ending(sequence)) is not None:
                del sampled[index + 1 :]
                break
        num_drafted = len(item.draft_token_ids)
        self.scheduler.advance(item, num_rejected_tokens=num_drafted + 1 - len(sampled) if num_drafted else 0)
        if num_drafted and self._speculator is not None:
            num_accepted = num_accepted_drafts(item.draft_token_ids, sampled)
            self._speculator.note(item, num_accepted)
            self._meter.count_drafts(num_drafted, num_accepted)
        return self._ending(sequence) if not sampled and _is_scored(item) else ending

    def _ending(self, sequence: Sequence) -> Ending | None:
        return find_ending(sequence, eos_token_ids=self._eos_token_ids, max_model_len=self.limits.max_model_len)

    def _output(self, sequence: Sequence, sampled: list[SampledToken], ending: Ending | None) -> EngineOutput:
        output = EngineOutput(
            request_id=sequence.request.request_id,
            token_ids=[token.token_id for token in sampled],
            logprobs=[token.logprobs for token in sampled if token.logprobs is not None] or None,
            num_cached_tokens=sequence.num_cached_tokens,
            num_preemptions=sequence.num_preemptions,
        )
        self._report_prompt(sequence, output)
        if ending is not None:
            output.finish_reason, output.stop_token_id = ending.finish_reason, ending.stop_token_id
            self._finish(sequence)
        self._meter.count_output(output)
        return output

    def _report_prompt(self, sequence: Sequence, output: EngineOutput) -> None:
        if not sequence.is_prompt_reported:
            sequence.is_prompt_reported = True
            output.prompt_logprobs = sequence.prompt_logprobs
            output.queue_s = sequence.queue_s
            self._meter.count_prompt(sequence)
        sequence.prompt_logprobs = None

    def _collect_prompt_logprobs(self, plan: StepPlan, logits: StepLogits) -> None:
        if not logits.prompt:
            return
        for index, scores in self._sampler.prompt_logprobs(logits, plan).items():
            item = plan.scheduled[index]
            if item.start == 0 or item.sequence.prompt_logprobs is None:
                item.sequence.prompt_logprobs = [None]  # nothing stands before the first token
            item.sequence.prompt_logprobs.extend(scores)

    def _has_ended(self, sequence: Sequence) -> bool:
        """A resumed request may have been cut off after its last token: then only its end is left to tell."""
        ending = self._ending(sequence)
        if ending is None:
            return False
        output = EngineOutput(
            request_id=sequence.request.request_id,
            token_ids=[],
            finish_reason=ending.finish_reason,
            stop_token_id=ending.stop_token_id,
        )
        self._meter.count_output(output)
        self._ended_at_once.append(output)
        return True

    def _finish(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.request_id]
        self.scheduler.finish(sequence)

    def _end_late(self, sequence: Sequence, why: str) -> EngineOutput:
        request_id = sequence.request.request_id
        del self._sequences[request_id]
        self.scheduler.remove(sequence)
        self.scheduler.release_ended()
        self._meter.count_late(sequence)
        output = EngineOutput(
            request_id=request_id, token_ids=[], finish_reason="error", error=why, error_kind="deadline"
        )
        self._meter.count_output(output)
        return output

    def _fail(self, plan: StepPlan, error: str) -> list[EngineOutput]:
        return [self._fail_sequence(item.sequence, error) for item in plan.scheduled if not item.is_idle]

    def _fail_sequence(self, sequence: Sequence, error: str) -> EngineOutput:
        """Its blocks are free at once, whatever the policy: what stands in them is not to be trusted."""
        del self._sequences[sequence.request.request_id]
        self.scheduler.discard(sequence)
        output = EngineOutput(request_id=sequence.request.request_id, token_ids=[], finish_reason="error", error=error)
        self._meter.count_output(output)
        return output


def _is_scored(item: ScheduledSequence) -> bool:
    """The whole prompt of a request without output is computed now."""
    sequence = item.sequence
    return not item.is_idle and sequence.request.max_tokens == 0 and sequence.num_uncomputed_tokens == 0
