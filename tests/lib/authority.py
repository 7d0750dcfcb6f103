# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, by the program openssl."""
import os
import ssl
import subprocess


def openssl(*args, **more):
    subprocess.run(["openssl", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)


class Authority:
    """Makes certificates: name.pem and name.key in a folder."""

    def __init__(self, folder, name):
        self.folder, self.ca = folder, name
        self.path = folder / f"{name}.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                "-keyout", f"{folder}/{name}.key", "-out", str(self.path), "-subj", f"/CN={name}")

    def issue(self, name):
        f = self.folder
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{f}/{name}.key", "-out",
                f"{f}/{name}.csr", "-subj", f"/CN={name}")
        (f / "ext").write_text("subjectAltName=IP:127.0.0.1,IP:::1\n")
        openssl("x509", "-req", "-in", f"{f}/{name}.csr", "-CA", str(self.path), "-CAkey", f"{f}/{self.ca}.key",
                "-CAcreateserial", "-days", "30", "-extfile", f"{f}/ext", "-out", f"{f}/{name}.pem")
        os.chmod(f / f"{name}.key", 0o600)
        return f / f"{name}.pem", f / f"{name}.key"

    def trust(self):
        """A client's context that believes this authority alone."""
        return ssl.create_default_context(cafile=str(self.path))
