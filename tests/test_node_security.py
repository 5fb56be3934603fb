"""Who is let in, and what callers can do to the node: nothing that stops it."""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from ldct_denoise.node.serve import Node
from tests.node_peers import (
    CALLER,
    LOOPBACK,
    echoscu,
    make_series,
    storescu,
    tool,
    wait_for,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]
Start = Callable[..., Node]


def limits(**changes: object) -> dict[str, object]:
    return {"limits": {"free_gib": 0.01, "negotiation_s": 1, "idle_s": 10} | changes}


def connect(node: Node, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection((LOOPBACK, node.rules.port), timeout=5)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket, within_s: float = 20) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def association(node: Node, caller: str = CALLER) -> object:
    entity = AE(caller)
    entity.add_requested_context(Verification)
    entity.add_requested_context(pydicom.uid.CTImageStorage)
    return entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT")


def serves(node: Node) -> bool:
    return echoscu(node.rules.port) == 0


def test_only_listed_callers_under_our_name(start: Start, tmp_path: Path) -> None:
    node = start()
    files = make_series(tmp_path / "in", "1.2.3", 1, slices=1)
    assert echoscu(node.rules.port, caller="STRANGER") != 0
    assert echoscu(node.rules.port, called="OTHER") != 0
    assert storescu(node.rules.port, files, caller="STRANGER").returncode != 0
    assert node.counters.get("associations", "caller refused") == 2
    assert node.counters.get("images_received") == 0
    assert serves(node)


def test_only_listed_addresses(start: Start) -> None:
    node = start(accept=[{"ae_title": CALLER, "hosts": ["192.0.2.7"]}])
    assert echoscu(node.rules.port) != 0
    assert node.counters.get("associations", "host refused") == 1
    assert is_closed(connect(node))


def test_a_title_counts_only_from_its_own_address(start: Start) -> None:
    node = start(accept=[{"ae_title": CALLER, "hosts": ["192.0.2.7"]}, {"ae_title": "CT2"}])
    assert echoscu(node.rules.port, caller=CALLER) != 0
    assert echoscu(node.rules.port, caller="CT2") == 0


def test_so_many_associations_and_no_more(start: Start) -> None:
    node = start(**limits(associations=2, idle_s=30))
    held = [association(node) for _ in range(2)]
    assert all(one.is_established for one in held)
    assert association(node).is_rejected
    held[0].release()
    wait_for(lambda: serves(node))
    held[1].release()


def test_silent_connections_do_not_count_as_associations(start: Start) -> None:
    node = start(**limits(associations=4))
    silent = [connect(node) for _ in range(10)]
    halves = [connect(node, b"\x01\x00\x00\x00") for _ in range(4)]
    assert serves(node)
    assert all(is_closed(connection) for connection in silent + halves)


def test_a_flood_of_connections_is_cut_and_passes(start: Start) -> None:
    node = start(**limits(associations=1))
    flood = [connect(node) for _ in range(30)]
    wait_for(lambda: node.counters.get("associations", "too many connections") >= 20)
    assert all(is_closed(connection) for connection in flood)
    wait_for(lambda: serves(node))


def test_random_bytes_do_not_stop_it(start: Start, tmp_path: Path) -> None:
    node = start(**limits(associations=20))
    rng = random.Random(3)
    request = associate_request()
    for number in range(60):
        size = rng.choice([1, 5, 6, 7, 74, 500, 5000])
        data = bytes(rng.randrange(256) for _ in range(size))
        if number % 2:  # a request with some bytes changed
            changed = bytearray(request)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            data = bytes(changed)
        if number % 3 == 0:  # or of a known kind, with the right length
            data = struct.pack(">BBL", rng.randint(1, 7), 0, size) + data[:size].ljust(size, b"\0")
        connection = connect(node, data)
        if number % 4:
            connection.close()
    wait_for(lambda: serves(node))
    assert storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=1)).returncode == 0


def test_garbage_inside_an_association_ends_only_that_one(start: Start) -> None:
    node = start()
    rng = random.Random(5)
    for _ in range(12):
        connection = connect(node, associate_request())
        connection.settimeout(5)
        assert connection.recv(6)[0] == 2  # accepted
        size = rng.choice([6, 12, 40, 300])
        body = struct.pack(">LBB", size - 4, 1, rng.choice([0, 1, 2, 3])) + os.urandom(max(0, size - 6))
        connection.sendall(struct.pack(">BBL", 4, 0, len(body)) + body)
        connection.close()
    assert serves(node)


def test_a_pdu_of_four_gigabytes_is_not_waited_for(start: Start) -> None:
    node = start(**limits(idle_s=60))
    for kind in (1, 4):
        connection = connect(node, struct.pack(">BBL", kind, 0, 0xFFFFFFFF) + b"\0" * 1000)
        assert is_closed(connection)
    inside = connect(node, associate_request())
    assert inside.recv(6)[0] == 2
    inside.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0))
    assert is_closed(inside)
    assert serves(node)


def test_bytes_that_drip_run_out_of_time(start: Start) -> None:
    node = start(**limits(idle_s=1))
    dripping = connect(node, struct.pack(">BBL", 1, 0, 200))
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            try:
                dripping.sendall(b"\0")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    assert is_closed(dripping)
    stop.set()
    thread.join()


def test_an_object_beyond_the_limit_is_cut_off(start: Start, tmp_path: Path) -> None:
    node = start(**limits(image_mib=1))
    small, large = (make_series(tmp_path / f"in{n}", "1.2.3", n, 1, size) for n, size in ((1, 64), (2, 1024)))
    assert storescu(node.rules.port, large).returncode != 0
    assert storescu(node.rules.port, small).returncode == 0
    assert node.counters.get("images_received") == 1


def test_a_full_spool_is_reported_to_the_sender(start: Start, tmp_path: Path) -> None:
    node = start(**limits(spool_gib=20_000 / 2**30))
    sent = storescu(node.rules.port, make_series(tmp_path / "in", "1.2.3", 1, slices=6, size=64))
    assert sent.returncode != 0
    assert node.counters.get("images_refused", "no room") >= 1
    assert node.counters.get("images_received") == 2


def test_headers_that_cannot_be_read_are_refused(start: Start) -> None:
    node = start()
    sender = association(node)
    good = pydicom.Dataset()
    good.SOPClassUID, good.SOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3.4"
    good.file_meta = pydicom.dataset.FileMetaDataset()
    good.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    assert sender.send_c_store(good).Status == 0xC000  # no series
    good.SeriesInstanceUID = "1.2.3"
    assert sender.send_c_store(good).Status == 0x0000
    sender.release()
    assert node.counters.get("images_refused", "header") == 1


def test_tls_is_demanded_and_a_silent_caller_does_not_hold_up_others(start: Start, tmp_path: Path) -> None:
    authority, node_files, caller_files = certificates(tmp_path)
    tls = {"certificate": node_files[0], "key": node_files[1], "authority": authority}
    node = start(tls=tls, **limits(negotiation_s=3))
    silent = [connect(node) for _ in range(3)]
    assert echoscu(node.rules.port) != 0  # plain
    assert not tls_echo(node, authority, None)  # nobody's certificate
    assert tls_echo(node, authority, caller_files)
    assert all(is_closed(connection) for connection in silent)


def tls_echo(node: Node, authority: str, own: tuple[str, str] | None) -> bool:
    context = ssl.create_default_context(cafile=authority)
    if own:
        context.load_cert_chain(*own)
    entity = AE(CALLER)
    entity.add_requested_context(Verification)
    entity.acse_timeout = 10
    found = entity.associate(LOOPBACK, node.rules.port, ae_title="LDCT", tls_args=(context, "localhost"))
    if not found.is_established:
        return False
    answered = bool(found.send_c_echo().get("Status") == 0)
    found.release()
    return answered


def certificates(folder: Path) -> tuple[str, tuple[str, str], tuple[str, str]]:
    """An authority, and certificates of the node and of a caller that it signed."""
    openssl = tool("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    for name in ("node", "caller"):
        run("req", *new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName=DNS:localhost")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")  # fmt: skip
    pairs = [(str(folder / f"{name}.pem"), str(folder / f"{name}.key")) for name in ("node", "caller")]
    return str(folder / "ca.pem"), pairs[0], pairs[1]


def associate_request() -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2) for C-ECHO and CT storage, made by hand."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    contexts = b""
    for number, abstract in ((1, "1.2.840.10008.1.1"), (3, "1.2.840.10008.5.1.4.1.1.2")):
        syntaxes = item(0x30, abstract.encode()) + item(0x40, b"1.2.840.10008.1.2")
        contexts += item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + syntaxes)
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    titles = b"LDCT".ljust(16) + CALLER.encode().ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + b"\0" * 32
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    return struct.pack(">BBL", 1, 0, len(body)) + body
