"""Test that the exchange's certificate is verified, and that no setting disables this."""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import self_signed
from tests.support.keys import write_key

if TYPE_CHECKING:
    from soak.witness import Witness
    from tests.conftest import RunCli, WriteConfig


@pytest.fixture
def certificate(witness: "Witness", tmp_path: Path) -> Path:
    """Make the exchange use TLS with a self-signed certificate, and return the certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate, key_file = tmp_path / "certificate.pem", write_key(tmp_path / "exchange.pem", key)
    certificate.write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_file)
    witness._server.socket = context.wrap_socket(witness._server.socket, server_side=True)
    return certificate


@pytest.fixture
def config(witness: "Witness", write_config: "WriteConfig") -> Path:
    """Return a configuration that polls the exchange over TLS."""
    return write_config(
        base_url=witness.base_url.replace("http://", "https://"), poll={"max_attempts": 1}
    )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": "", "CURL_CA_BUNDLE": ""},
        {"PYTHONHTTPSVERIFY": "0"},
    ],
    ids=["nothing set", "empty authorities", "Python's switch"],
)
def test_an_untrusted_certificate_is_refused(
    environment: dict[str, str],
    certificate: Path,
    config: Path,
    witness: "Witness",
    run_cli: "RunCli",
) -> None:
    assert certificate.exists()
    done = run_cli("--config", config, "run-once", env=environment)
    assert done.returncode == 69, done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert "SSL_CERT_FILE" in done.stderr
    # The unknown server received no request, and so neither key id nor signature.
    assert not witness.requests


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_configured_authority_is_trusted(
    name: str, certificate: Path, config: Path, run_cli: "RunCli"
) -> None:
    assert run_cli("--config", config, "run-once", env={name: str(certificate)}).returncode == 0


def test_no_configuration_key_disables_verification(
    write_config: "WriteConfig", run_cli: "RunCli"
) -> None:
    keys = ["verify", "tls_verify", "verify_tls", "ssl_verify", "insecure", "skip_verify"]
    unknown = dict.fromkeys(keys, False)
    config = write_config(
        base_url="https://127.0.0.1:1/trade-api/v2", poll=unknown, account=unknown
    )
    done = run_cli("--config", config, "check", "--offline")
    assert done.returncode == 78
    for key in keys:
        assert done.stderr.count(f".{key}: unknown key") == 2, done.stderr
