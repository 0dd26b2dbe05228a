import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_fakes import save_three_policies

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
    places = 9
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


def test_it_prints(tmp_path, page) -> None:
    target = tmp_path / "report.pdf"
    browse(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={target}", page, scheme=DARK)
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 9
