"""Coverage-guided fuzzing of reading and writing DICOM, with atheris (libFuzzer).

``pip install --no-deps atheris`` (3.0.0 was used), then ``python tests/fuzz_atheris.py CORPUS --minutes 60``.
The folder CORPUS is filled with small real and synthetic images where it is empty, and grows by what reaches new
code. A crash, 40 s without an answer or more than 2 GiB end the run and leave the input as ``crash-…`` in the working
folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
# Dictionaries are long and have no branches.
TABLES = ["pydicom._dicom_dict", "pydicom._private_dict", "pydicom._uid_dict", "pydicom._storage_sopclass_uids"]
with atheris.instrument_imports(include=["pydicom", "ldct_denoise.io"], exclude=TABLES):
    import pydicom.data
    from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

    from tests.dicom_files import ct_image
    from tests.enhanced_file import make_enhanced
    from tests.fuzz_dicom import HANG_S, MEMORY_BYTES, WRITE_EVERY, seeds, try_file

    assert pydicom.data

LARGEST_INPUT = 64 << 10


def fill(corpus: Path) -> None:
    """Fill the corpus with small files of every kind that reading distinguishes."""
    corpus.mkdir(parents=True, exist_ok=True)
    if any(corpus.iterdir()):
        return
    for number, path in enumerate(seeds()):
        if path.stat().st_size < LARGEST_INPUT:
            (corpus / f"seed-{number}").write_bytes(path.read_bytes())
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        image = ct_image()
        image.file_meta.TransferSyntaxUID = syntax
        image.save_as(corpus / f"small-{syntax}", enforce_file_format=True)
    with tempfile.TemporaryDirectory() as folder:
        path = make_enhanced(Path(folder, "in", "x"))
        (corpus / "enhanced").write_bytes(path.read_bytes())


def main() -> None:
    corpus, minutes = Path(sys.argv[1]), float(sys.argv[sys.argv.index("--minutes") + 1])
    fill(corpus)
    count = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm") as folder:
        path, scratch = Path(folder, "case.dcm"), Path(folder)

        def target(data: bytes) -> None:
            nonlocal count
            count += 1
            path.write_bytes(data)
            try_file(path, scratch, write=count % WRITE_EVERY == 0)

        # Wall time, and the machine may be busy with more than this.
        limits = [f"-timeout={4 * HANG_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}", f"-max_len={LARGEST_INPUT}"]
        atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={round(60 * minutes)}", *limits], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
