"""What the node's tests need around it: series to send, peers to talk to, the node as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml

from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.volume import Geometry, Volume

NAME, IDENTIFIER = "SECRETNAME", "SECRET-ID-4711"
CALLER = "CT1"
LOOPBACK = "127.0.0.1"


def make_series(folder: Path, study: str, number: int, slices: int = 4, size: int = 48) -> list[Path]:
    """A CT series of noise, of a patient whose name must never show."""
    rng = np.random.default_rng(number)
    hu = np.rint(rng.normal(40, 30, (slices, size, size))).astype(np.float32)
    positions = np.array([[-24.0, -24.0, 3.0 * index] for index in range(slices)])
    geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), (1.0, 1.0), size, size)
    source = Volume(hu, geometry)
    write_series(
        source,
        folder,
        SeriesAttributes(
            patient_id=IDENTIFIER,
            study_uid=study,
            series_uid=f"{study}.{number}",
            series_number=number,
            description=f"low dose {number}",
            kernel="B30f",
            synthetic=False,
        ),
    )
    files = sorted(folder.glob("*.dcm"))
    for file in files:
        image = pydicom.dcmread(file)
        image.PatientName = f"{NAME}^GIVEN"
        image.Manufacturer = "A scanner"
        image.save_as(file)
    return files


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind((LOOPBACK, 0))
            found.append(listener.getsockname()[1])
    return found


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def storescu(
    port: int, files: list[Path], caller: str = CALLER, called: str = "LDCT"
) -> subprocess.CompletedProcess[str]:
    """dcmtk's sender."""
    command = [tool("storescu"), "-aet", caller, "-aec", called, LOOPBACK, str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def echoscu(port: int, caller: str = CALLER, called: str = "LDCT", *more: str) -> int:
    """dcmtk's C-ECHO; 0 where it was answered."""
    command = [tool("echoscu"), "-to", "20", "-aet", caller, "-aec", called, *more, LOOPBACK, str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).returncode


def settings(spool: Path, port: int, **changes: object) -> dict[str, object]:
    """Rules of a quick node that gives the input back."""
    content: dict[str, object] = {
        "ae_title": "LDCT",
        "port": port,
        "spool": str(spool),
        "status_port": None,
        "accept": [{"ae_title": CALLER}],
        "complete": {"quiet_s": 1.0, "released_s": 0.4},
        "retry": {"first_s": 0.3, "longest_s": 0.6},
        "limits": {"free_gib": 0.01, "negotiation_s": 2},
        "device": "cpu",
        "rules": [{"ignore": True}],
    }
    return content | changes


def identity_rule(*destinations: str, **more: object) -> dict[str, object]:
    return {"model": "bilateral", "strength": 0, "send_to": list(destinations)} | more


class NodeProcess:
    """``ldct-denoise serve`` as an administrator starts it."""

    def __init__(self, folder: Path, rules: dict[str, object]) -> None:
        self.rules = rules
        self.file = folder / "rules.yaml"
        self.file.write_text(yaml.safe_dump(rules))
        self.log = folder / "node.log"
        self.port = int(str(rules["port"]))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ldct_denoise.cli.main", "serve", "--verbose", str(self.file)],
                stderr=log, stdout=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        wait_for(lambda: listens(self.port) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(node: NodeProcess) -> Iterator[NodeProcess]:
    node.start()
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.kill()


@dataclass
class Orthanc:
    """A real archive, of this test alone."""

    dicom_port: int
    http_port: int
    folder: Path
    more: dict[str, object] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = {
            "Name": "test", "StorageDirectory": str(self.folder), "IndexDirectory": str(self.folder),
            "Plugins": [str(p) for p in Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so")],
            "HttpPort": self.http_port, "DicomPort": self.dicom_port, "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True, "OverwriteInstances": False, "DicomWeb": {"Root": "/dicom-web/"},
        }  # fmt: skip
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config | self.more))
        self.process = subprocess.Popen(
            [tool("Orthanc"), str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: listens(self.http_port) and listens(self.dicom_port))

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def get(self, path: str) -> object:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def instances(self) -> list[str]:
        return self.get("/instances")

    def changes(self) -> list[dict[str, object]]:
        return self.get("/changes?limit=10000")["Changes"]

    def images(self) -> list[pydicom.Dataset]:
        """Every image that it holds."""
        found = []
        for name in self.instances():
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}/instances/{name}/file") as answer:
                found.append(pydicom.dcmread(pydicom.filebase.DicomBytesIO(answer.read())))
        return found


def http_status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Receiver:
    """A C-STORE receiver that remembers, and answers what it is told to."""

    def __init__(self, port: int, status: int = 0x0000, syntaxes: list[str] | None = None) -> None:
        self.port, self.status, self.syntaxes = port, status, syntaxes
        self.received: list[pydicom.Dataset] = []
        self.more: dict[str, object] = {}
        self._server: object = None

    def start(self) -> Receiver:
        from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, StoragePresentationContexts, evt

        entity = AE("ARCHIVE")
        if self.syntaxes:
            for context in StoragePresentationContexts:
                entity.add_supported_context(context.abstract_syntax, self.syntaxes)
        else:
            entity.supported_contexts = StoragePresentationContexts
            for syntax in (pydicom.uid.RLELossless, *DEFAULT_TRANSFER_SYNTAXES):
                entity.add_supported_context(pydicom.uid.CTImageStorage, syntax)
        self._server = entity.start_server(
            (LOOPBACK, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        return self

    def _store(self, event: object) -> int:
        if self.status == 0:
            self.received.append(event.dataset)
        return self.status

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @property
    def destination(self) -> dict[str, object]:
        return {"host": LOOPBACK, "port": self.port, "ae_title": "ARCHIVE", "timeout_s": 5} | self.more

    @property
    def uids(self) -> list[str]:
        return [str(image.SOPInstanceUID) for image in self.received]
