import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest
from report_fakes import save_three_policies
from rich.console import Console

from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.metrics import run_metrics
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Arrival, read_records, write_records
from enginebay.loadtest.result import Failure, InvalidReason, save_result
from enginebay.report import figures
from enginebay.report.data import Report, load_report
from enginebay.report.html import plotly_js, render_html
from enginebay.report.markdown import render_markdown
from enginebay.report.summary import summary
from enginebay.report.terminal import print_runs
from enginebay.report.write import write_reports

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """The page without scripts and styles: text, ids, attributes, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        # The library is checked as text; as a tag's content it would only take time.
        self.feed(html.replace(plotly_js(), ""))
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data) -> None:
        if not {"script", "style"} & set(self.open_tags):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("three-policies")
    save_three_policies(folder)
    return load_report(folder)


def test_the_page_is_well_formed_and_every_label_points_somewhere(report) -> None:
    html = render_html(report)
    page = Page(html)
    assert page.open_tags == []
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'aria-labelledby="([^"]+)"', html)) <= set(page.ids)


def test_the_page_needs_no_network(report) -> None:
    html = render_html(report)
    assert Page(html).links == []
    assert re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", html, re.IGNORECASE) == []
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_the_library_is_inlined_whole(report) -> None:
    assert len(plotly_js()) > 3_000_000
    assert plotly_js() in render_html(report)


def test_the_page_shows_every_run_with_its_figures_and_ratios(report) -> None:
    words = Page(render_html(report)).words
    for name in ("naive", "static", "continuous"):
        assert name in words
    assert "22.2" in words
    assert "7.52×" in words
    assert "41" in words  # padding of static
    assert "ab" * 32 in words
    assert "Example CPU @ 2.00GHz, 2 cores" in words


def test_every_plot_of_the_page_has_a_place_and_data_of_all_runs(report) -> None:
    html = render_html(report)
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert found
    plots = json.loads(found[1])
    assert set(plots) <= set(Page(html).ids)
    assert {"throughput-0", "first-token-0", "timeline-0-0", "timeline-0-2", "tokens-0", "running-0"} <= set(plots)
    assert plots["throughput-0"]["data"][0]["y"] == ["naive", "static", "continuous"]
    assert len(plots["first-token-0"]["data"]) == 3
    timelines = [plots[f"timeline-0-{number}"]["layout"]["xaxis"]["range"] for number in range(3)]
    assert timelines[0] == timelines[1] == timelines[2]


def test_plots_stay_small_for_many_requests(tmp_path) -> None:
    save_three_policies(tmp_path, num_requests=1500)
    html = render_html(load_report(tmp_path))
    plots = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert plots
    assert len(plots[1]) < 350_000


def test_a_simulated_run_is_marked_everywhere(tmp_path) -> None:
    save_three_policies(tmp_path, simulated=True)
    report = load_report(tmp_path)
    terminal = Console(file=io.StringIO(), width=120)
    print_runs(report, terminal)
    for text in (Page(render_html(report)).words, render_markdown(report), terminal.file.getvalue()):
        assert re.search(r"SIMULATED.*(simulator)", text), "a banner"
        assert re.search(r"continuous\W+SIMULATED", text), "a mark beside the run"


def test_a_real_run_is_nowhere_called_simulated(report) -> None:
    assert "SIMULATED" not in Page(render_html(report)).words
    assert "SIMULATED" not in render_markdown(report)


def test_errors_are_listed_with_kind_message_and_number_and_make_the_run_invalid(tmp_path) -> None:
    save_three_policies(tmp_path, num_errors=3)
    report = load_report(tmp_path)
    words, markdown = Page(render_html(report)).words, render_markdown(report)
    assert "EngineDied the engine <went> away | for good 3" in words
    assert "INVALID" in words
    assert "| continuous, 16 users | EngineDied | the engine &lt;went> away \\| for good | 3 |" in markdown
    assert "Requests failed: 3 with continuous." in summary(report)


def test_text_from_outside_cannot_become_markup(tmp_path) -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    result = save_three_policies(tmp_path, engine_version=evil, configured_settings={"dtype": evil})
    named = [msgspec.structs.replace(run, label=evil + run.label) for run in result.runs]
    save_result(msgspec.structs.replace(result, runs=named, model=evil), tmp_path / "result.json")
    html = render_html(load_report(tmp_path))
    assert "<img" not in html.replace(plotly_js(), "")
    assert Page(html).links == []
    assert Page(html).open_tags == []


def test_a_partial_result_says_so_first_of_all_caveats(tmp_path) -> None:
    result = save_three_policies(tmp_path)
    save_result(msgspec.structs.replace(result, status="partial"), tmp_path / "result.json")
    report = load_report(tmp_path)
    assert "stopped before its end" in Page(render_html(report)).words
    assert any("stopped before its end" in sentence for sentence in summary(report))


def all_forms(report: Report) -> list[str]:
    """Terminal, Markdown and the words of the page."""
    terminal = Console(file=io.StringIO(), width=200)
    print_runs(report, terminal)
    return [terminal.file.getvalue(), render_markdown(report), Page(render_html(report)).words]


def failed(folder, *, runs=None, load=None) -> Report:
    result = save_three_policies(folder)
    failure = Failure(label="vllm", load=load, error_class="StartFailed", message="no memory [left]\nlikely cause: it")
    changed = msgspec.structs.replace(
        result, status="partial", failures=[failure], runs=result.runs if runs is None else runs
    )
    save_result(changed, folder / "result.json")
    return load_report(folder)


def test_a_backend_that_failed_to_start_stands_in_every_report(tmp_path) -> None:
    for text in all_forms(failed(tmp_path)):
        assert "vllm did not start (StartFailed): no memory [left]" in text
        assert "No request failed." not in text
        assert "stopped before its end" not in text, "nobody stopped it"
    markdown, html = all_forms(failed(tmp_path))[1:]
    assert "| vllm | its start | StartFailed | no memory [left] likely cause: it |" in markdown
    assert "ended by a failure" in html


@pytest.mark.parametrize(("start_index", "is_given_up"), [(0, False), (1, True)])
def test_a_backend_that_got_further_starts_after_a_failure_is_not_said_to_have_been_given_up(
    tmp_path, start_index, is_given_up
) -> None:
    result = save_three_policies(tmp_path, start_index=1)
    failure = Failure(
        label="continuous", load=None, error_class="StartFailed", message="no memory", start_index=start_index
    )
    save_result(msgspec.structs.replace(result, status="partial", failures=[failure]), tmp_path / "result.json")
    told = " ".join(summary(load_report(tmp_path)))
    assert ("Nothing more was measured with continuous" in told) == is_given_up


def test_a_failure_whose_start_was_measured_again_is_told_and_gives_nobody_up(tmp_path) -> None:
    [failure] = failed(tmp_path).result.failures
    good = msgspec.structs.replace(load_report(tmp_path).result, status="complete",
                                   failures=[msgspec.structs.replace(failure, is_made_good=True)])  # fmt: skip
    save_result(good, tmp_path / "result.json")
    report = load_report(tmp_path)
    assert "no memory [left] (this start was measured again, to its end)" in summary(report)[0]
    assert "Nothing more was measured" not in " ".join(summary(report))
    assert "(this start was measured again, to its end)" in render_markdown(report)


def test_a_failure_under_a_load_names_it(tmp_path) -> None:
    assert summary(failed(tmp_path, load=Load(users=16)))[0].startswith("vllm failed with 16 users (StartFailed): ")


def test_a_result_without_any_run_can_be_reported_in_every_form(tmp_path) -> None:
    for text in all_forms(failed(tmp_path, runs=[])):
        assert "vllm did not start" in text
        assert "Nothing was measured." in text
    save_result(msgspec.structs.replace(failed(tmp_path, runs=[]).result, failures=[]), tmp_path / "result.json")
    assert all("Nothing was measured" in text for text in all_forms(load_report(tmp_path)))


@pytest.mark.parametrize("changes", [{"valid": False}, {"simulated": True}])
def test_a_run_that_cannot_be_compared_has_no_rank_and_no_ratio(tmp_path, changes) -> None:
    save_three_policies(tmp_path, **changes)
    mark = "invalid" if "valid" in changes else "simulated"
    report = load_report(tmp_path)
    assert summary(report)[0] == (
        "static gave the most output tokens per second: 128, 5.77 times naive (22.2). "
        f"continuous ({mark}) gave 167 output tokens per second."
    )
    assert summary(report)[1].startswith("The median wait for the first token was ")
    for text in all_forms(report):
        assert "5.77×" in text
        assert "7.52×" not in text


def test_nothing_is_set_against_a_first_run_that_is_invalid(tmp_path) -> None:
    result = save_three_policies(tmp_path)
    runs = [msgspec.structs.replace(result.runs[0], valid=False), *result.runs[1:]]
    save_result(msgspec.structs.replace(result, runs=runs), tmp_path / "result.json")
    report = load_report(tmp_path)
    assert not any("×" in text for text in all_forms(report))
    assert "×" not in str(figures.throughput(report.loads[0]))
    assert "times the first run" not in all_forms(report)[2]


def test_counts_that_differ_are_told_in_every_report(tmp_path) -> None:
    result = save_three_policies(tmp_path)
    metrics = msgspec.structs.replace(result.runs[1].metrics, num_token_mismatches=5)
    runs = [result.runs[0], msgspec.structs.replace(result.runs[1], metrics=metrics), result.runs[2]]
    save_result(msgspec.structs.replace(result, runs=runs), tmp_path / "result.json")
    for text in all_forms(load_report(tmp_path)):
        assert "differs from that of their text encoded again: 5 with static." in text
    assert "| Answers where these two differ | 0 | 5 | 0 |" in render_markdown(load_report(tmp_path))


def test_what_was_asked_for_and_what_ran_stand_side_by_side(tmp_path) -> None:
    reason = InvalidReason(code="settings_differ", detail="num_threads is 1, not 2")
    save_three_policies(
        tmp_path, effective_settings={"num_threads": 1, "kernels": "plain"}, valid=False, invalid_reasons=[reason]
    )
    report = load_report(tmp_path)
    markdown, words = all_forms(report)[1:]
    row = "reference 0.1.0 | dtype: bfloat16, max_num_seqs: 16, policy: continuous | num_threads: 1, kernels: plain |"
    assert row in markdown
    assert "| continuous, 16 users | `settings_differ` | num_threads is 1, not 2 |" in markdown
    assert "Ran with" in words
    assert "num_threads: 1, kernels: plain" in words


def test_the_summary_says_who_was_faster_by_how_much_and_what_that_does_not_prove(report) -> None:
    first, *others = summary(report)
    assert first == (
        "continuous gave the most output tokens per second: 167, 1.30 times static (128) and 7.52 times naive (22.2)."
    )
    assert "No request failed." in others
    assert "do not tell how much of a difference is chance" in others[-1]


def test_lengths_are_drawn_and_told_beside_the_latencies(report) -> None:
    drawn = figures.output_lengths(report.loads[0])["data"]
    assert [trace["name"] for trace in drawn] == ["naive", "static", "continuous"]
    assert all(16 <= trace["x"][0] < trace["x"][-1] <= 64 and trace["y"][-1] == 1 for trace in drawn)
    assert all(later > earlier for trace in drawn for earlier, later in pairwise(trace["y"]))
    assert figures.prompt_lengths(report.loads[0])["data"][0]["x"] == [100, 100]
    assert {"prompt-lengths-0", "output-lengths-0"} <= set(Page(render_html(report)).ids)
    assert "| Tokens of a prompt | static | 100 | 100 | 100 | 100 | 100 |" in render_markdown(report)


def test_users_in_lock_step_are_told_in_every_report(tmp_path) -> None:
    save_three_policies(tmp_path, client=ClientHealth(lock_step_ratio=0.97))
    for text in all_forms(load_report(tmp_path)):
        assert re.search(r"Users asked in lock-step:\s+97\s%\s+of\s+the\s+requests\s+with\s+continuous", text)
    words = [text.replace("\N{NARROW NO-BREAK SPACE}", " ") for text in all_forms(load_report(tmp_path))[1:]]
    assert "| Requests sent together with those of most other users | – | – | 97 % |" in words[0]
    assert "sent together with those of most other users – – 97 %" in words[1]
    save_three_policies(tmp_path, client=ClientHealth(lock_step_ratio=0.4))
    assert not any("lock-step:" in text for text in all_forms(load_report(tmp_path)))


def test_without_records_and_samples_the_tables_still_come(tmp_path) -> None:
    save_three_policies(tmp_path)
    (tmp_path / "records.jsonl").unlink()
    (tmp_path / "timeseries.jsonl").unlink()
    words = Page(render_html(load_report(tmp_path))).words
    assert "7.52×" in words


def test_the_terminal_shows_the_runs_side_by_side_with_ratios_to_the_first(report) -> None:
    terminal = Console(file=io.StringIO(), width=120)
    print_runs(report, terminal)
    text = terminal.file.getvalue()
    assert re.search(r"Output tokens per second +22\.2 +128 +5\.77× +167 +7\.52×", text)
    assert re.search(r"Padding +0 % +41 % +0 %", text.replace("\N{NARROW NO-BREAK SPACE}", " "))


def test_markdown_has_the_tables_and_the_origin(report) -> None:
    markdown = render_markdown(report)
    assert "| Output tokens per second | 22.2 | 128 (5.77×) | 167 (7.52×) |" in markdown
    assert "| Time to first token | static |" in markdown
    assert "ab" * 32 in markdown


def test_both_reports_are_written_beside_the_results(tmp_path, report) -> None:
    paths = write_reports(report, tmp_path)
    assert [path.name for path in paths] == ["report.md", "report.html"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_answers_that_came_all_at_once_or_never_can_be_reported(tmp_path) -> None:
    result = save_three_policies(tmp_path)
    lines = read_records(tmp_path / "records.jsonl")
    for number, line in enumerate(lines):
        line.record.arrivals = [] if number % 2 else [Arrival(line.record.sent_at, 1)] * 3
    write_records(tmp_path / "records.jsonl", lines)
    runs = [
        msgspec.structs.replace(
            run, metrics=run_metrics([line.record for line in lines if line.run == run.key], result.slo)
        )
        for run in result.runs
    ]
    save_result(msgspec.structs.replace(result, runs=runs), tmp_path / "result.json")
    assert Page(render_html(load_report(tmp_path))).open_tags == []
    assert "static" in render_markdown(load_report(tmp_path))


def test_a_result_without_any_answer_can_be_reported(tmp_path) -> None:
    result = save_three_policies(tmp_path)
    runs = [msgspec.structs.replace(run, metrics=run_metrics([], result.slo)) for run in result.runs]
    save_result(msgspec.structs.replace(result, runs=runs), tmp_path / "result.json")
    write_records(tmp_path / "records.jsonl", [])
    assert "naive" in Page(render_html(load_report(tmp_path))).words
