import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from report_fakes import save_three_policies
from verdict_fakes import save_two_backends

from enginebay.report.data import load_report
from enginebay.report.write import write_reports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
LIGHT, DARK = "1", "0"


def browse(profile: Path, *arguments: str, scheme: str = LIGHT) -> str:
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --enable-logging=stderr"
    )
    settings = (
        f"--user-data-dir={profile}",
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1200,3000",
        "--virtual-time-budget=5000",
    )
    command = [CHROMIUM, *flags.split(), *settings, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert not re.search(r"CONSOLE.*(Error|Refused|violates)", done.stderr), done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path) -> str:
    folder = tmp_path / "out"
    folder.mkdir()
    save_three_policies(folder)
    write_reports(load_report(folder), folder)
    return (folder / "report.html").as_uri()


def test_every_plot_is_drawn_in_light_and_dark_without_a_complaint_of_the_browser(tmp_path, page) -> None:
    places = 11
    strokes = set()
    for scheme in (LIGHT, DARK):
        drawn = browse(tmp_path / scheme, "--dump-dom", page, scheme=scheme)
        body = drawn[: drawn.index('<script type="application/json"')]
        plots = re.findall(r'class="plot[^"]*js-plotly-plot"', body)
        assert len(plots) == places + 1
        assert body.count('class="main-svg"') >= places
        assert len(re.findall(r'class="point"', body)) >= 3  # the bars
        assert len(re.findall(r'class="js-line"', body)) >= 12
        strokes.add(tuple(sorted(set(re.findall(r"stroke: (rgb\([^)]*\))", body)))))
    assert len(strokes) == 2, "light and dark draw with one palette"


@pytest.fixture
def comparison(tmp_path) -> str:
    folder = tmp_path / "two"
    folder.mkdir()
    save_two_backends(folder)
    write_reports(load_report(folder), folder)
    return (folder / "report.html").as_uri()


def test_a_link_opens_a_request_with_the_times_of_all_its_tokens(tmp_path, comparison) -> None:
    drawn = browse(tmp_path / "profile", "--dump-dom", f"{comparison}#request-3-5")
    assert "Request 5 of naive, start 2, 4 users" in drawn
    rows = re.findall(r'<tr tabindex="0" data-index="(\d+)"', drawn)
    assert [int(row) for row in rows] == list(range(24))
    assert re.search(r'<tr tabindex="0" data-index="5" class="chosen"', drawn)
    [times] = re.findall(r'<p class="times">([^<]*)</p>', drawn)
    assert len(times.split()) == 16 + (7 * 5 + 1) % 33
    assert "24 of 24 requests, page 1 of 1" in drawn


def test_requests_can_be_searched_and_sorted(tmp_path, comparison) -> None:
    """A script of the test's own at the end of the page does what a reader would."""
    path = Path(comparison.removeprefix("file://"))
    page = path.read_text()
    script = (
        "<script>const box = document.getElementById('requests-search'); box.value = 'output>40 length';"
        "box.dispatchEvent(new Event('input'));"
        "document.querySelector('th[data-sort=e2e] button').click();</script></body>"
    )
    (path.parent / "searched.html").write_text(page.replace("</body>", script))
    drawn = browse(tmp_path / "profile", "--dump-dom", (path.parent / "searched.html").as_uri())
    lengths = [16 + (7 * index) % 33 for index in range(24)]
    rows = [int(row) for row in re.findall(r'<tr tabindex="0" data-index="(\d+)"', drawn)]
    assert sorted(rows) == [index for index, length in enumerate(lengths) if length > 40]
    assert 'data-sort="e2e" aria-sort="descending"' in drawn


def test_ten_thousand_requests_open_in_a_few_seconds(tmp_path) -> None:
    save_two_backends(tmp_path, num_requests=2500, num_starts=1)
    write_reports(load_report(tmp_path), tmp_path)
    page = tmp_path / "report.html"
    assert page.stat().st_size < 9_000_000
    began_at = time.monotonic()
    drawn = browse(tmp_path / "profile", "--dump-dom", page.as_uri())
    assert time.monotonic() - began_at < 30, "the start of the browser included"
    assert "2500 of 2500 requests, page 1 of 50" in drawn


def test_it_prints(tmp_path, page) -> None:
    target = tmp_path / "report.pdf"
    browse(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={target}", page, scheme=DARK)
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 9
