"""The cluster's certificate authority: elliptic-curve keys, made by the machine's openssl in a few
milliseconds each.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane.commands import run

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = "3650"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Paths of a certificate and its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives in `directory`."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """What clients and servers trust."""
        return self.directory / "ca.crt"

    @property
    def service_account_key(self) -> Path:
        """Signs service account tokens, and verifies them."""
        return self.directory / "service-account.key"

    @classmethod
    def create(cls, directory: Path) -> Authority:
        """A new authority and the key for service account tokens."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = cls(directory)
        own = Certificate(made.certificate, directory / "ca.key")
        _openssl("req", "-x509", "-subj", "/CN=tandem-test-ca", out=own)
        # Of a key in PKCS #8 the API server would not take the public half.
        token_key = str(made.service_account_key)
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", token_key])
        return made

    def issue(self, name: str, user: str, group: str = "", alternatives: str = "") -> Certificate:
        """A certificate for a Kubernetes `user` in `group`; `alternatives` as openssl writes them."""
        made = Certificate(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        ca, ca_key = str(self.certificate), str(self.directory / "ca.key")
        names = f"subjectAltName={alternatives or f'DNS:{name}'}"
        request = ["req", "-x509", "-CA", ca, "-CAkey", ca_key, "-subj", subject, "-addext", names]
        _openssl(*request, "-addext", "basicConstraints=critical,CA:FALSE", out=made)
        return made

    def kubeconfig(self, path: Path, server: str, certificate: Certificate) -> Path:
        """Writes a kubeconfig with all it needs inside, so that any mount namespace will do."""

        def data(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        user = {
            "client-certificate-data": data(certificate.certificate),
            "client-key-data": data(certificate.key),
        }
        cluster = {"server": server, "certificate-authority-data": data(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tandem", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "tandem", "context": {"cluster": "tandem", "user": "user"}}],
            "current-context": "tandem",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path


def _openssl(*arguments: str, out: Certificate) -> None:
    """Makes a new key and a certificate for it."""
    files = ["-keyout", str(out.key), "-out", str(out.certificate)]
    run(["openssl", *arguments, *_NEW_KEY, "-days", _DAYS, *files])
