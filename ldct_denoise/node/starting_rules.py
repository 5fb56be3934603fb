"""A commented file of rules to start from."""

from __future__ import annotations

from pathlib import Path

from ldct_denoise.output import atomic_write, check_writable

STARTING_RULES = """\
# Rules of the DICOM node: ldct-denoise serve RULES. Every setting: docs/reference/dicom-node.md.
# Check this file, and that the destinations answer: ldct-denoise serve --check RULES

ae_title: LDCT
host: 127.0.0.1          # 0.0.0.0 to listen on all addresses of this machine
port: 11112
spool: ./spool           # contains patient images; put it on a disk with room for several days

accept:                  # who may send: calling AE title, and the addresses that may use it
  - {ae_title: CT1, hosts: [127.0.0.1]}

destinations:
  pacs: {host: 127.0.0.1, port: 4242, ae_title: ORTHANC}

rules:                   # the first rule that matches a series decides
  - match: {SeriesDescription: ["*bone*", "*lung*"]}
    ignore: true
  - send_to: [pacs]      # all other CT series: the shipped model, texture of normal dose
"""


def write_starting_rules(path: Path) -> None:
    """Write the file.

    Raises
    ------
    OutputError
        If it exists or cannot be written.
    """
    check_writable(path, overwrite=False)
    atomic_write(path, lambda part: part.write_text(STARTING_RULES))
