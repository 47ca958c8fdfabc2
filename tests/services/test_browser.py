"""The status page in headless Chromium: drawn, complete, and drawn again as the lake grows."""

import shutil
import struct
import subprocess
import time

import pytest


@pytest.fixture(scope="module")
def chromium():
    if shutil.which("chromium") is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=True
        )

    def browse(page, *options):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *options]
        return subprocess.run(
            [*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
        ).stdout

    return browse


def test_the_page_is_drawn_and_follows_the_lake(workbench, chromium, tmp_path):
    page, picture = tmp_path / "status.html", tmp_path / "status.png"
    workbench.do("status", "expected", "--web", page)
    text = chromium(page, "--dump-dom")
    assert "5,658" in text
    assert "symmetry_functions-" in text
    chromium(page, f"--screenshot={picture}", "--window-size=1100,1500")
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (1100, 1500)
    assert picture.stat().st_size > 20_000, "an empty page"


def test_the_page_is_written_again(workbench, chromium, tmp_path):
    page = tmp_path / "status.html"
    process = workbench.start("status", "expected", "--web", page, "--every", "1")
    try:
        for _ in range(300):
            if page.exists():
                break
            time.sleep(0.1)
        first = page.read_text()
        assert 'content="1"' in first
        time.sleep(4)
        assert page.read_text() != first
    finally:
        process.terminate()
        process.communicate()
