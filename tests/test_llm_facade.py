import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import enginebay
from enginebay import LLM, SamplingParams
from enginebay.clock import MonotonicClock
from enginebay.errors import (
    BackendNotFound,
    ConfigError,
    EngineDied,
    InvalidRequest,
    NotStarted,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.guard import GuardedBackend
from enginebay.types import (
    BackendInfo,
    Capabilities,
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    Message,
    PromptEcho,
    Text,
    TextPart,
    TokenIds,
    Usage,
)
from installed_plugins import ECHO_DIR, install_echo

pytestmark = pytest.mark.timeout(60)  # what goes wrong between threads is most often that one waits for ever


class Scripted:
    """Answers with what the test says; keeps every request and what became of its stream."""

    def __init__(self, answer=None, *, start_error=None):
        features = frozenset(Feature) - {Feature.TOP_K}
        self.info = BackendInfo(
            kind="scripted", name="scripted", model="m", capabilities=Capabilities(features=features)
        )
        self.requests = []
        self.num_ended = 0
        self.is_closed = False
        self.is_waiting = threading.Event()
        self._answer = answer or (lambda request: "ok")
        self._start_error = start_error

    async def start(self):
        if self._start_error is not None:
            raise self._start_error

    def generate(self, request):
        self.requests.append(request)
        return self._chunks(request)

    async def _chunks(self, request):
        try:
            answer = self._answer(request)
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                yield GenerationChunk(text="first", num_tokens=1, received_at=0.0)
                self.is_waiting.set()
                await asyncio.Event().wait()
            for text in answer.split(" ")[:-1]:
                yield GenerationChunk(text=f"{text} ", token_ids=(1,), num_tokens=1, received_at=0.0)
            yield GenerationChunk(
                text=answer.split(" ")[-1],
                token_ids=(2,),
                num_tokens=1,
                received_at=0.0,
                usage=Usage(3, len(answer.split(" "))),
                finish_reason=FinishReason.STOP,
                prompt=PromptEcho((7, 8, 9)),
            )
        finally:
            self.num_ended += 1

    async def health(self):
        raise NotImplementedError

    stats = health

    async def aclose(self):
        await asyncio.sleep(0)
        self.is_closed = True


@pytest.fixture
def llm_of(monkeypatch):
    """LLM on a scripted backend; closed afterwards, with no thread left."""
    opened = []

    def make(backend):
        monkeypatch.setattr("enginebay.llm.get_backend", lambda kind, **settings: GuardedBackend(backend))
        opened.append(LLM())
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("enginebay")] == []


# ---------------------------------------------------------------- generate


def test_results_come_in_the_order_of_their_prompts(llm_of):
    llm = llm_of(Scripted(lambda request: f"re: {request.prompt.text}"))
    prompts = [f"prompt {number}" for number in range(600)]
    results = llm.generate(prompts, SamplingParams(max_tokens=5))
    assert [result.prompt for result in results] == prompts
    assert [result.text for result in results] == [f"re: {prompt}" for prompt in prompts]


def test_a_result_has_everything_that_the_stream_had(llm_of):
    [result] = llm_of(Scripted(lambda request: "a b c")).generate("p")
    [output] = result.outputs
    assert (output.index, output.text, output.token_ids) == (0, "a b c", (1, 1, 2))
    assert (output.finish_reason, output.stop_reason, output.logprobs) == (FinishReason.STOP, None, None)
    assert output.finish_reason == "stop"
    assert output.usage == Usage(3, 3)
    assert result.prompt_token_ids == (7, 8, 9)
    assert result.text == output.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("text", [Text("text")]),
        (["a", "b"], [Text("a"), Text("b")]),
        ([1, 2, 3], [TokenIds((1, 2, 3))]),
        ([[1, 2], [3]], [TokenIds((1, 2)), TokenIds((3,))]),
        (["a", (1, 2), Text("c", add_special_tokens=False)], [Text("a"), TokenIds((1, 2)), Text("c", False)]),
        (TokenIds((4,)), [TokenIds((4,))]),
        (Chat((Message("user", "x"),)), [Chat((Message("user", "x"),))]),
        ([], []),
    ],
)
def test_a_prompt_may_be_text_token_ids_or_a_prompt_of_the_protocol(llm_of, given, expected):
    backend = Scripted()
    results = llm_of(backend).generate(given)
    assert [request.prompt for request in backend.requests] == expected
    assert len(results) == len(expected)


@pytest.mark.parametrize("given", [None, 5, b"bytes", {"prompt": "x"}, [None], [3.5], [{"prompt": "x"}], ["a", []]])
def test_anything_else_is_refused(llm_of, given):
    with pytest.raises(InvalidRequest, match="a prompt is a text"):
        llm_of(Scripted()).generate(given)


def test_sampling_is_handed_on_and_requests_ask_for_one_final_chunk(llm_of):
    backend = Scripted()
    llm = llm_of(backend)
    sampling = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=200)
    llm.generate("p", sampling, logprobs=2)
    llm.generate("p")
    asked, default = backend.requests
    assert (asked.sampling, asked.logprobs, asked.delivery) == (sampling, 2, "final")
    assert default.sampling == SamplingParams(max_tokens=256)
    assert asked.request_id != default.request_id


@pytest.mark.parametrize("stop", ["END", ["END"], ("END",)])
def test_a_stop_string_may_be_written_as_it_is(llm_of, stop):
    backend = Scripted()
    llm_of(backend).generate("p", SamplingParams(max_tokens=5, stop=stop))
    assert [request.sampling.stop for request in backend.requests] == [("END",)]


def test_each_of_n_outputs_has_a_seed_of_its_own(llm_of):
    backend = Scripted(lambda request: f"seed {request.sampling.seed}")
    llm = llm_of(backend)
    results = llm.generate(["a", "b"], SamplingParams(max_tokens=3, seed=40), n=3)
    for result in results:
        assert [output.text for output in result.outputs] == ["seed 40", "seed 41", "seed 42"]
        assert [output.index for output in result.outputs] == [0, 1, 2]
    llm.generate("a", SamplingParams(max_tokens=3), n=2)
    assert [request.sampling.seed for request in backend.requests[-2:]] == [None, None]
    with pytest.raises(InvalidRequest, match="n must be at least 1"):
        llm.generate("a", n=0)


def test_the_error_of_one_prompt_is_raised_as_it_is_names_the_prompt_and_ends_the_others(llm_of):
    def answer(request):
        return EngineDied("gone") if request.prompt.text == "bad" else None

    backend = Scripted(answer)
    llm = llm_of(backend)
    with pytest.raises(EngineDied, match="gone") as caught:
        llm.generate(["slow", "bad", "slow"])
    assert caught.value.__notes__ == ["prompt 1 of 3: Text(text='bad', add_special_tokens=True)"]
    assert backend.num_ended == 3


def test_a_refused_request_is_its_own_error_and_the_llm_goes_on(llm_of):
    llm = llm_of(Scripted())
    with pytest.raises(UnsupportedFeature, match="top_k"):
        llm.generate("p", SamplingParams(max_tokens=1, top_k=3))
    assert llm.generate("p")[0].text == "ok"


# ---------------------------------------------------------------- chat


def test_one_conversation_or_several_as_plain_dictionaries(llm_of):
    backend = Scripted()
    llm = llm_of(backend)
    one = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
    [result] = llm.chat(one, template_kwargs={"enable_thinking": False})
    assert result.prompt == one
    assert backend.requests[0].prompt == Chat(
        (Message("system", "s"), Message("user", (TextPart("u"),))), template_kwargs={"enable_thinking": False}
    )
    assert len(llm.chat([one, [Message("user", "x")]])) == 2


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "user", "text": "x"}], "no 'text'"),
        ([{"content": "x"}], "no role"),
        ([{"role": "user", "content": [{"type": "video"}]}], "not a part"),
        ([], "no messages"),
    ],
)
def test_a_wrong_message_says_what_is_wrong(llm_of, messages, problem):
    with pytest.raises(InvalidRequest, match=problem):
        llm_of(Scripted()).chat(messages)


@pytest.mark.parametrize("given", [None, 5, "hello", [5], ["hello"]])
def test_what_is_no_conversation_is_refused(llm_of, given):
    with pytest.raises(InvalidRequest, match="a list of messages"):
        llm_of(Scripted()).chat(given)


def test_an_unknown_field_of_a_chat_is_refused(llm_of):
    with pytest.raises(InvalidRequest, match="templates"):
        llm_of(Scripted()).chat([{"role": "user", "content": "x"}], templates="x")


# ---------------------------------------------------------------- stream


def test_a_stream_gives_chunks_as_they_arrive_and_ends(llm_of):
    backend = Scripted(lambda request: "a b c")
    llm = llm_of(backend)
    assert [chunk.text for chunk in llm.stream("p")] == ["a ", "b ", "c"]
    assert [chunk.text for chunk in llm.stream([{"role": "user", "content": "x"}])] == ["a ", "b ", "c"]
    assert [request.delivery for request in backend.requests] == ["stream", "stream"]
    assert isinstance(backend.requests[1].prompt, Chat)


def test_the_first_chunk_is_there_before_the_last_is_made(llm_of):
    stream = llm_of(Scripted(lambda request: None)).stream("p")
    assert next(stream).text == "first"


def test_leaving_a_stream_early_ends_the_request(llm_of):
    backend = Scripted(lambda request: None)
    llm = llm_of(backend)
    for _ in llm.stream("p"):
        break
    gc.collect()
    llm.generate([])  # one round on the loop
    assert backend.num_ended == 1


def test_a_stream_is_refused_at_the_call_and_fails_where_it_is_read(llm_of):
    llm = llm_of(Scripted(lambda request: EngineDied("gone")))
    with pytest.raises(UnsupportedFeature):
        llm.stream("p", SamplingParams(max_tokens=1, top_k=3))
    stream = llm.stream("p")
    with pytest.raises(EngineDied):
        next(stream)


# ---------------------------------------------------------------- life


def test_it_works_where_a_loop_runs_already_as_in_a_notebook(llm_of):
    async def cell():
        return llm_of(Scripted()).generate(["a", "b"])

    assert [result.text for result in asyncio.run(cell())] == ["ok", "ok"]


def test_several_threads_may_use_one_llm(llm_of):
    llm = llm_of(Scripted(lambda request: request.prompt.text))
    texts = {}

    def use(number):
        texts[number] = [result.text for result in llm.generate([f"{number}-{i}" for i in range(20)])]

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: [f"{number}-{i}" for i in range(20)] for number in range(8)}


def test_after_close_every_call_says_that_it_is_closed(llm_of):
    backend = Scripted()
    with llm_of(backend) as llm:
        pass
    assert backend.is_closed
    llm.close()
    with pytest.raises(NotStarted, match="closed"):
        llm.generate("p")
    with pytest.raises(NotStarted, match="closed"):
        llm.stream("p")


def test_closing_ends_the_calls_of_other_threads_with_an_error(llm_of):
    backend = Scripted(lambda request: None)
    llm = llm_of(backend)
    errors = []

    def use():
        try:
            llm.generate("p")
        except NotStarted as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    assert backend.is_waiting.wait(10)
    llm.close()
    thread.join()
    assert len(errors) == 1
    assert backend.num_ended == 1


def test_closing_ends_an_open_stream_with_an_error(llm_of):
    llm = llm_of(Scripted(lambda request: None))
    stream = llm.stream("p")
    next(stream)
    llm.close()
    with pytest.raises(NotStarted):
        next(stream)


def test_ctrl_c_cancels_the_requests_and_the_llm_goes_on(llm_of):
    answers = [None, "ok"]
    backend = Scripted(lambda request: answers.pop(0))
    llm = llm_of(backend)

    def interrupt():
        assert backend.is_waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate("p")
    thread.join()
    assert backend.num_ended == 1
    assert llm.generate("p")[0].text == "ok"


def test_an_llm_that_is_let_go_of_closes(llm_of, monkeypatch):
    backend = Scripted()
    monkeypatch.setattr("enginebay.llm.get_backend", lambda kind, **settings: GuardedBackend(backend))
    llm = LLM()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "enginebay-scripted"]
    del llm
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert backend.is_closed


def test_a_stream_keeps_the_llm_that_it_came_from(llm_of, monkeypatch):
    monkeypatch.setattr("enginebay.llm.get_backend", lambda kind, **s: GuardedBackend(Scripted(lambda r: "a b c")))
    stream = LLM().stream("p")
    gc.collect()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "enginebay-scripted"]
    assert [chunk.text for chunk in stream] == ["a ", "b ", "c"]
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_start_that_fails_is_raised_and_leaves_nothing_behind(llm_of):
    backend = Scripted(start_error=StartFailed("no memory"))
    with pytest.raises(StartFailed, match="no memory"):
        llm_of(backend)
    assert backend.is_closed


# ---------------------------------------------------------------- real plugins


def test_settings_and_options_reach_the_plugin_by_name(monkeypatch):
    install_echo(monkeypatch)
    with LLM("any", backend="echo", words_per_second=1000.0) as llm:
        assert llm.info.kind == "echo"
        results = llm.generate(["to be or not to be", "that is"], SamplingParams(max_tokens=3))
    assert [result.text for result in results] == ["to be or", "that is"]
    assert [result.outputs[0].finish_reason for result in results] == ["length", "stop"]
    with pytest.raises(ConfigError, match="words_per_second"):
        LLM(backend="echo", words_per_secund=1.0)
    with pytest.raises(BackendNotFound, match="enginebay-vllm"):
        LLM(backend="vllm")


def test_two_gpus_are_more_than_the_reference_engine_has_and_it_says_so():
    with pytest.raises(ConfigError) as caught:
        enginebay.LLM(model="smollm2-135m", tensor_parallel_size=2, max_num_seqs=256, max_model_len=4096)
    assert caught.value.path == "engine.tensor_parallel_size"
    assert "one device" in str(caught.value)


def script(code, *arguments):
    environment = {"PYTHONPATH": f"{ECHO_DIR}:{Path(__file__).parent}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    "ending", ["", "raise SystemExit(0)", "import threading; threading.Thread(target=print).start()"]
)
def test_a_script_that_never_closes_ends_in_peace_and_closes_the_backend(ending):
    done = script(
        f"""
        import enginebay.plugins, installed_plugins as p
        echo = p.entry_point("echo", module="enginebay_echo", distribution="enginebay-echo")
        enginebay.plugins.entry_points = lambda group: [echo]
        import enginebay_echo
        async def aclose(self): print("closed")
        enginebay_echo.EchoBackend.aclose = aclose
        import enginebay
        llm = enginebay.LLM(backend="echo")
        print(llm.generate("hello there")[0].text)
        stream = llm.stream("one two")
        next(stream)
        {ending}
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["hello", "there", "closed"]


def test_the_clock_of_a_backend_can_be_injected(monkeypatch):
    install_echo(monkeypatch)
    clock = MonotonicClock()
    with LLM(backend="echo", clock=clock) as llm:
        [chunk, *_] = llm.stream("x")
    assert chunk.received_at <= clock.now()
