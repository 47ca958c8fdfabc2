"""Certificates for clusters whose processes talk over a network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from distributed import Security


class Certificates(BaseModel):
    """Files with which driver, scheduler and workers know each other, in PEM format.

    One certificate serves every role: dask checks that it is signed by the authority, and
    encrypts; it does not check host names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    authority: Path = Field(description="Certificate of the authority that signed the others.")
    certificate: Path = Field(description="Certificate of this cluster's processes.")
    key: Path = Field(description="Private key of the certificate.")

    def security(self) -> Security:
        """Return them as dask wants them; whoever does not have them is refused."""
        from distributed import Security

        roles = ("scheduler", "worker", "client")
        return Security(
            require_encryption=True,
            tls_ca_file=str(self.authority.expanduser()),
            **{f"tls_{role}_cert": str(self.certificate.expanduser()) for role in roles},
            **{f"tls_{role}_key": str(self.key.expanduser()) for role in roles},
        )

    def settings(self) -> dict[str, Any]:
        """Return the dask settings with which a process uses them without being told more."""
        settings: dict[str, Any] = {
            "distributed.comm.default-scheme": "tls",
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": str(self.authority.expanduser()),
        }
        for role in ("scheduler", "worker", "client"):
            settings[f"distributed.comm.tls.{role}.cert"] = str(self.certificate.expanduser())
            settings[f"distributed.comm.tls.{role}.key"] = str(self.key.expanduser())
        return settings

    @classmethod
    def in_folder(cls, folder: Path) -> Certificates:
        """Return the three files of a folder, under the names that :func:`issued` gives."""
        return cls(
            authority=folder / "authority.pem",
            certificate=folder / "cluster.pem",
            key=folder / "cluster.key",
        )


@contextmanager
def issued(shared: Path) -> Iterator[Certificates]:
    """Make certificates for one run, in a folder that its user alone can read; remove them after.

    Parameters
    ----------
    shared : Path
        Folder that the driver and the workers both see.
    """
    folder = Path(tempfile.mkdtemp(prefix="certificates-", dir=private_folder(shared)))
    try:
        yield write(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path) -> Certificates:
    """Write new certificates into a folder, the last of them under its name when all are whole."""
    from distributed import Security

    made = Security.temporary()
    files = Certificates.in_folder(folder)
    texts = {
        files.authority: made.tls_ca_file,
        files.key: made.tls_scheduler_key,
        files.certificate: made.tls_scheduler_cert,
    }
    for path, text in texts.items():
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
        partial.rename(path)
    return files


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may enter."""
    folder = path.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder
