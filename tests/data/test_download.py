import dataclasses
import gzip
import hashlib
import io
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nextpixel.data import catalogue, download, list_datasets, load
from nextpixel.errors import UserError


def idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.tobytes()


def made_up_files():
    """Small files in MNIST's format: 5,010 training images, of which the last 5,000 are valid."""
    rng = np.random.default_rng(0)
    contents = {}
    for prefix, n in (("train", 5_010), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 4, 4), np.uint8)
        contents[f"{prefix}-images-idx3-ubyte.gz"] = idx(images)
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = idx(images[:, 0, 0] % 10)
    return contents


@pytest.fixture
def server():
    """A server on this machine; `answers` maps a path to (status, body, stated length)."""
    answers = {}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, body, length = answers.get(self.path, (404, b"", 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    httpd.answers, httpd.asked = answers, asked
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    """Makes "fashion-mnist" a small set that only the server has; returns its cache folder."""
    contents = made_up_files()
    for name, content in contents.items():
        body = gzip.compress(content)
        server.answers[f"/{name}"] = (200, body, len(body))
    store = download.Store(
        "made_up",
        f"http://127.0.0.1:{server.server_port}/",
        {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    entry = dataclasses.replace(catalogue.NAMED["fashion-mnist"], store=store)
    monkeypatch.setitem(catalogue.NAMED, "fashion-mnist", entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("NEXTPIXEL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "nextpixel" / "made_up"


def test_missing_files_are_downloaded_once(server, place):
    data = load("fashion-mnist")
    assert data.shape == (1, 4, 4)
    assert [len(data.train), len(data.valid), len(data.test)] == [10, 5_000, 20]
    assert {path.name for path in place.iterdir()} == set(made_up_files())
    assert len(server.asked) == 4
    assert np.array_equal(load("fashion-mnist").test.x, data.test.x)
    assert len(server.asked) == 4
    assert {k.name: k.present for k in list_datasets()}["fashion-mnist"] == place


def test_only_missing_files_are_downloaded(server, place):
    load("fashion-mnist")
    (place / "t10k-labels-idx1-ubyte.gz").unlink()
    server.asked.clear()
    load("fashion-mnist")
    assert server.asked == ["/t10k-labels-idx1-ubyte.gz"]


GOOD = gzip.compress(made_up_files()["t10k-images-idx3-ubyte.gz"])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, b"", 0), "404"),
        ((200, gzip.compress(b"another file"), None), "not the official sha256"),
        ((200, b"<html>Please log in</html>", None), "not the official sha256"),
        ((200, GOOD[:-50], len(GOOD)), "only .* bytes of t10k-images"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(server, place, answer, reason):
    status, body, length = answer
    name = "t10k-images-idx3-ubyte.gz"
    server.answers[f"/{name}"] = (status, body, len(body) if length is None else length)
    with pytest.raises(UserError, match=reason) as caught:
        load("fashion-mnist")
    message = str(caught.value)
    for part in (f"put {', '.join(made_up_files())} into {place}", "--data-dir", "$NEXTPIXEL_DATA"):
        assert re.search(re.escape(part), message)
    assert "\n" not in message
    assert {path.name for path in place.iterdir()} < set(made_up_files())
    assert not (place / name).exists()


def test_no_server_is_one_clear_sentence(server, place, monkeypatch):
    store = dataclasses.replace(catalogue.NAMED["fashion-mnist"].store, url="http://127.0.0.1:9/")
    entry = dataclasses.replace(catalogue.NAMED["fashion-mnist"], store=store)
    monkeypatch.setitem(catalogue.NAMED, "fashion-mnist", entry)
    with pytest.raises(UserError, match=r"the download from http://127\.0\.0\.1:9/ failed"):
        load("fashion-mnist")


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(place):
    place.parent.parent.mkdir()
    place.parent.write_text("a file where a folder should be")
    with pytest.raises(UserError, match="The files of fashion-mnist were not found, and the downl"):
        load("fashion-mnist")


def test_download_can_be_switched_off(server, place):
    with pytest.raises(UserError, match="downloading was switched off: put train-images"):
        load("fashion-mnist", download=False)
    assert server.asked == []
    assert not place.exists()


def test_progress_is_shown_on_a_terminal_only(place, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    load("fashion-mnist")
    assert "train-images-idx3-ubyte.gz" in screen.getvalue()


def test_no_progress_where_there_is_no_terminal(place, capsys):
    load("fashion-mnist")
    assert capsys.readouterr() == ("", "")
