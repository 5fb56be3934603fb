"""The viewer's server: exact bytes of every series, and an answer to this viewer's own page only."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.io.find import find_images
from ldct_denoise.io.orientation import Axes, FlippedSlices
from ldct_denoise.view import ViewServer, serve_view
from ldct_denoise.view.nifti import HEADER_BYTES, NiftiFile, NotInt16Error
from ldct_denoise.volume import Geometry, Volume
from tests.dicom_files import write_ct

ROWS, COLUMNS, SLICES = 20, 24, 5


def volume(offset: float = 0.0, slices: int = SLICES, uid: str = "one", **geometry: object) -> Volume:
    """HU that tell slice, row and column apart."""
    settings = {
        "positions_mm": np.arange(slices)[:, None] * np.array([0, 0, 3.0]) + [-100, -80, 50],
        "row_direction": (1, 0, 0),
        "column_direction": (0, 1, 0),
        "pixel_spacing_mm": (0.7, 0.8),
        "rows": ROWS,
        "columns": COLUMNS,
    } | geometry
    z, y, x = np.mgrid[:slices, : settings["rows"], : settings["columns"]]
    return Volume(
        100.0 * z + 10 * y + x + offset - 500, Geometry(**settings), uid, "SECRET^NAME", f"folder-of-secret-{uid}"
    )


@contextmanager
def serving(*sources: object, **settings: object) -> Iterator[ViewServer]:
    names = ("INPUT", "OUTPUT", "REFERENCE")[: len(sources)]
    with ViewServer(sources, names, **settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: ViewServer, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    headers = {"Host": f"127.0.0.1:{server.server_port}"} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    for key, value in headers.items():
        connection.putheader(key, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def load(data: bytes) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(data)


def test_the_served_file_is_a_nifti_of_the_exact_hu():
    source = volume()
    with serving(source) as server:
        answer, body = ask(server, f"/{server.token}/0-int16.nii")
    assert (answer.status, len(body)) == (200, HEADER_BYTES + source.hu.size * 2)
    image = load(body)
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(image.dataobj), source.hu.transpose(2, 1, 0))
    # NIfTI's RAS is LPS with two signs changed: the first voxel of the second slice.
    assert image.affine @ [0, 0, 1, 1] == pytest.approx([100, 80, 53, 1])


def test_series_in_another_axis_order_are_served_on_the_grid_of_the_first():
    source = volume()
    turned = Volume.of(FlippedSlices(source, Axes((0, 2, 1), (True, False, True))))
    with serving(source, turned) as server:
        first, second = server.manifest()["series"]
        np.testing.assert_allclose(first["affine"], second["affine"], atol=1e-9)
        assert (first["shape"], first["positions_mm"]) == (second["shape"], second["positions_mm"])
        files = [ask(server, f"/{server.token}/{number}-int16.nii")[1] for number in range(2)]
    assert files[0][HEADER_BYTES:] == files[1][HEADER_BYTES:]


def test_the_served_file_lies_where_simpleitk_has_the_series(tmp_path):
    tilted = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]  # sagittal slices
    for number in range(4):
        write_ct(
            tmp_path / f"{number}.dcm",
            number,
            ImageOrientationPatient=tilted,
            ImagePositionPatient=[-30 + 2 * number, -20, 90],
        )
    (source,) = find_images(tmp_path).series
    (tmp_path / "served.nii").write_bytes(b"".join(NiftiFile(source).read(0, NiftiFile(source).size)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs, ours = reader.Execute(), sitk.ReadImage(str(tmp_path / "served.nii"))
    for index in [(0, 0, 0), (7, 5, 3), (2, 4, 1)]:
        point = ours.TransformIndexToPhysicalPoint(index)
        assert theirs[theirs.TransformPhysicalPointToIndex(point)] == ours[index]
        assert theirs.TransformIndexToPhysicalPoint(theirs.TransformPhysicalPointToIndex(point)) == pytest.approx(
            point, abs=1e-3
        )


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 352), (352, 353), (400, 2000), (352 + 960, 352 + 1920), (10, 352 + 4800)]
)
def test_any_range_of_bytes_is_that_of_the_file(start, stop):
    with serving(volume()) as server:
        whole = ask(server, f"/{server.token}/0-int16.nii")[1]
        answer, body = ask(server, f"/{server.token}/0-int16.nii", Range=f"bytes={start}-{stop - 1}")
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
        assert body == whole[start:stop]
        assert ask(server, f"/{server.token}/0-int16.nii", Range="bytes=352-")[1] == whole[352:]
        assert ask(server, f"/{server.token}/0-int16.nii", Range="bytes=9000-")[0].status == 416
        answer, body = ask(server, f"/{server.token}/0-int16.nii", "HEAD")
        assert (int(answer.headers["Content-Length"]), body) == (len(whole), b"")


def test_fractions_of_hu_are_served_as_float32():
    source = volume(0.25)
    with serving(source) as server:
        assert ask(server, f"/{server.token}/0-int16.nii")[0].status == 409
        image = load(ask(server, f"/{server.token}/0-float32.nii")[1])
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), source.hu.transpose(2, 1, 0))


@pytest.mark.parametrize("odd", [0.5, 40000.0])
def test_a_slice_that_int16_does_not_hold_makes_the_series_float32(odd):
    whole = volume()
    hu = whole.hu.copy()
    hu[1, 3, 3] = odd
    source = whole.with_hu(hu)
    with serving(source) as server:
        assert server.manifest()["series"][0]["type"] == "int16"
        first = HEADER_BYTES + ROWS * COLUMNS * 2
        assert ask(server, f"/{server.token}/0-int16.nii", Range=f"bytes={first}-{first + 99}")[0].status == 409
        assert json.loads(ask(server, f"/{server.token}/series.json")[1])["series"][0]["type"] == "float32"
        assert np.asarray(load(ask(server, f"/{server.token}/0-float32.nii")[1]).dataobj)[3, 3, 1] == odd
    with pytest.raises(NotInt16Error):
        list(NiftiFile(source).read(HEADER_BYTES, HEADER_BYTES + ROWS * COLUMNS * 4))


def test_memory_stays_flat():
    """Of a series of 60 MB, at most a few slices are in memory while it is served."""

    class OnDisk:
        """Slices of 512 × 512 that are made when they are read."""

        geometry = Geometry(
            np.arange(120)[:, None] * np.array([0, 0, 1.0]), (1, 0, 0), (0, 1, 0), (1, 1), 512, 512
        )
        uid = patient = name = "x"

        def __len__(self):
            return 120

        @property
        def metadata(self):
            return volume().metadata

        def read_hu(self, index):
            return np.full((512, 512), index, dtype=np.float32)

    file = NiftiFile(OnDisk())
    tracemalloc.start()
    total = sum(len(part) for part in file.read(0, file.size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == file.size > 60e6
    assert peak < 8e6


@pytest.fixture(scope="module")
def server() -> Iterator[ViewServer]:
    with serving(volume(), volume(7, uid="two")) as running:
        yield running


def test_another_host_is_refused(server):
    """A foreign name that leads to 127.0.0.1 (DNS rebinding) gets nothing."""
    for host in (
        "evil.example",
        f"evil.example:{server.server_port}",
        "127.0.0.1:1",
        "",
        f"[::1]:{server.server_port}",
    ):
        answer, body = ask(server, f"/{server.token}/series.json", Host=host)
        assert (answer.status, b"shape" in body) == (403, False), host
    for host in ("127.0.0.1", "localhost"):
        assert ask(server, f"/{server.token}/series.json", Host=f"{host}:{server.server_port}")[0].status == 200


def test_another_page_is_refused(server):
    path, own = f"/{server.token}/0-int16.nii", f"http://127.0.0.1:{server.server_port}"
    assert ask(server, path, Origin="https://evil.example")[0].status == 403
    assert ask(server, path, Origin="null")[0].status == 403
    assert ask(server, path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0].status == 403
    assert ask(server, path, Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors")[0].status == 403
    assert ask(server, path, Origin=own, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0].status == 200
    assert (
        ask(server, f"/{server.token}/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0].status == 200
    )


def test_a_wrong_token_finds_nothing(server):
    assert len(server.token) >= 43  # 256 bits
    wrong = [
        "/",
        "/x/",
        f"/{server.token}",
        f"/{server.token[:-1]}/",
        f"/{server.token}x/",
        "/series.json",
        "/0-int16.nii",
    ]
    for path in wrong:
        assert ask(server, path)[0].status == 404, path


@pytest.mark.parametrize(
    "name",
    ["../pyproject.toml", "..%2f..%2fetc/passwd", "../../../../etc/passwd", "/etc/passwd", "server.py", "view.html", "2-int16.nii", "0.nii",
     "00-int16.nii", "0-int16.nii/..", "niivue.umd.js/../server.py", "%00", ".", "..", "view.js?x=1", "..\\server.py", "__init__.py"],
)  # fmt: skip
def test_nothing_but_the_page_and_its_series_is_served(server, name):
    assert ask(server, f"/{server.token}/{name}")[0].status == 404


def test_other_methods_are_refused(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server, f"/{server.token}/series.json", method)[0].status == 501, method


def test_every_answer_says_what_a_browser_may_do_with_it(server):
    for path in (f"/{server.token}/", f"/{server.token}/view.js", f"/{server.token}/0-int16.nii", "/wrong/"):
        headers = ask(server, path)[0].headers
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "connect-src 'self';" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    for address in others:
        if not address.startswith("127."):
            with pytest.raises((ConnectionError, TimeoutError)):
                socket.create_connection((address, server.server_port), timeout=2)


def test_no_name_is_served_unless_asked_for(server):
    for path in ("", "series.json", "0-int16.nii", "1-int16.nii"):
        body = ask(server, f"/{server.token}/{path}")[1]
        assert b"SECRET" not in body
        assert b"secret" not in body
    with serving(volume(), include_patient_ids=True) as telling:
        assert telling.manifest()["series"][0]["patient"] == "SECRET^NAME"


def test_an_unreadable_slice_is_told_without_its_path():
    class Broken(Volume):
        """The last but one slice cannot be read."""

        def read_hu(self, index):
            if index == SLICES - 2:
                raise InputError("/data/SECRET^NAME/4.dcm: truncated pixel data")
            return super().read_hu(index)

    whole = volume()
    size = ROWS * COLUMNS * 2
    with serving(Broken(whole.hu, whole.geometry)) as server:
        start = HEADER_BYTES + (SLICES - 2) * size
        answer, body = ask(server, f"/{server.token}/0-int16.nii", Range=f"bytes={start}-{start + size - 1}")
        assert (answer.status, body) == (500, b"truncated pixel data")
        before = ask(server, f"/{server.token}/0-int16.nii", Range=f"bytes={start - size}-{start - 1}")
        assert (before[0].status, len(before[1])) == (206, size)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="0 series"):
        ViewServer([], [])
    with pytest.raises(ConfigError, match="4 series"):
        ViewServer([volume()] * 4, list("abcd"))
    with pytest.raises(ConfigError, match="its own name"):
        ViewServer([volume()] * 2, ["a", "a"])
    with (
        serving(volume()) as running,
        pytest.raises(OutputError, match=f"port {running.server_port}: cannot be used"),
    ):
        ViewServer([volume()], ["a"], port=running.server_port)


def test_uneven_slices_are_noted():
    positions = np.array([[0, 0, 0], [0, 0, 3], [0, 0, 6.5], [0, 0, 9], [0, 0, 12.0]])
    with serving(volume(positions_mm=positions)) as running:
        (note,) = running.manifest()["series"][0]["notes"]
    assert note.startswith("slice positions are uneven by up to 0.5 mm")


def test_serve_view_announces_opens_and_ends(monkeypatch):
    import webbrowser

    opened, announced = [], []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def interrupt(self, poll_interval=0.5):
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewServer, "serve_forever", interrupt)
    serve_view([volume()], ["INPUT"], announce=announced.append)
    assert announced == opened
    serve_view([volume()], ["INPUT"], open_browser=False, announce=announced.append)
    assert len(opened) == 1
    assert announced[0] != announced[1]


def view_command():
    return import_module("ldct_denoise.cli.view").command


def write_series(folder: Path, slices: int = 4, **attributes: object) -> Path:
    for number in range(slices):
        write_ct(folder / f"{number}.dcm", number, **attributes)
    return folder


@contextmanager
def command_serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its address; ended by Ctrl-C, quietly."""
    command = [sys.executable, "-m", "ldct_denoise.cli", "view", str(folder), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, told
    assert "Traceback" not in told


def test_the_command_serves_until_ctrl_c(tmp_path):
    folder = write_series(tmp_path / "series")
    with command_serving(folder) as (_, url):
        host, _, rest = url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", f"/{rest}0-int16.nii")
        image = load(connection.getresponse().read())
        connection.close()
    (source,) = find_images(folder).series
    assert np.array_equal(np.asarray(image.dataobj)[:, :, 2].T, source.read_hu(2))


def test_one_of_several_series_is_picked_by_its_number(tmp_path, monkeypatch):
    from ldct_denoise import view

    write_series(tmp_path / "tree" / "a")
    write_series(tmp_path / "tree" / "b", 3, SeriesInstanceUID="1.2.3", ConvolutionKernel="B70f")
    served = []
    monkeypatch.setattr(
        view, "serve_view", lambda sources, names, **settings: served.append((sources, names, settings))
    )
    run = lambda *arguments: CliRunner().invoke(view_command(), [str(tmp_path / "tree"), *arguments])  # noqa: E731
    error = run().exception
    assert isinstance(error, InputError)
    assert (
        "2 series; give --input-series with one of: 1: 4 slices every 3 mm, B30f; 2: 3 slices every 3 mm, B70f"
        in str(error)
    )
    assert run("--input-series", "2", "--no-open", "--port", "8123").exception is None
    ((source,), names, settings) = served.pop()
    assert (source.metadata.kernel, list(names)) == ("B70f", ["INPUT"])
    assert settings | {"announce": None} == {
        "port": 8123,
        "open_browser": False,
        "include_patient_ids": False,
        "announce": None,
    }
    assert "only 2 series" in str(run("--input-series", "3").exception)
    assert "OUTPUT is not given" in run("--output-series", "1").output
    other = run(str(tmp_path / "tree" / "b"), "--input-series", "1")
    assert other.exception is None
    assert list(served.pop()[1]) == ["INPUT", "OUTPUT"]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("nothing")
    error = CliRunner().invoke(view_command(), [str(tmp_path)]).exception
    assert isinstance(error, InputError)
    assert "no CT series" in str(error)


def test_niivue_is_the_published_file_with_its_licence():
    folder = resources.files("ldct_denoise.view")
    notice = (folder / "niivue.LICENSE.txt").read_text(encoding="utf-8")
    checksum = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert checksum in notice
    assert "@niivue/niivue 0.69.0" in notice
    assert "BSD 2-Clause License" in notice


def test_the_sources_of_the_page_name_no_other_address():
    folder = resources.files("ldct_denoise.view")
    for name in (
        "view.html",
        "view.css",
        "view.js",
        "engine.js",
        "volumes.js",
        "measure.js",
        "overlay.js",
        "toolbar.js",
        "controls.js",
    ):
        text = (folder / name).read_text(encoding="utf-8")
        assert "http:" not in text, name
        assert "https:" not in text, name
