"""Throw-away certificates: what is made, who may read it, what is refused, and that clients can use it."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.rights import GRID_SERVICE, READ_ONLY, ROLES
from ridethrough.emulator.tls import TlsServerSettings, role_of
from ridethrough.hil.device_scan import scan
from ridethrough.hil.modbus_transport import TlsFiles
from ridethrough.hil.pki import Authority, Credentials, Pki, how_to_connect, load_pki, make_pki

from tests.emulator.loops import run
from tests.emulator.tls_bench import behind_tls


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("tls") / "pki")


def pairs(pki: Pki) -> list[Credentials]:
    return [pki.server, *pki.clients.values()]


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def settings(pki: Pki) -> TlsServerSettings:
    return TlsServerSettings(pki.server.cert, pki.server.key, pki.ca)


def test_every_role_has_its_certificate(pki: Pki) -> None:
    assert tuple(pki.clients) == ROLES
    authority = read(pki.ca)
    for role, client in pki.clients.items():
        cert = read(client.cert)
        cert.verify_directly_issued_by(authority)
        assert role_of(cert.public_bytes(Encoding.DER)) == role
    assert role_of(read(pki.server.cert).public_bytes(Encoding.DER)) is None


def test_keys_are_on_p_256_and_only_the_owner_may_read_anything(pki: Pki) -> None:
    folder = pki.ca.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 1 + 2 * len(pairs(pki))
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for pair in pairs(pki):
        key = load_pem_private_key(pair.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == read(pair.cert).public_key()


def test_the_key_of_the_ca_is_not_kept(pki: Pki) -> None:
    public = read(pki.ca).public_key()
    for path in pki.ca.parent.glob("*.key"):
        assert load_pem_private_key(path.read_bytes(), None).public_key() != public


@pytest.mark.parametrize("days", [1, 7, 366])
def test_certificates_are_valid_as_long_as_asked(tmp_path: Path, days: int) -> None:
    made = make_pki(tmp_path / "pki", days=days)
    now = datetime.now(UTC)
    for path in (made.ca, *(pair.cert for pair in pairs(made))):
        cert = read(path)
        assert timedelta(minutes=30) < now - cert.not_valid_before_utc < timedelta(hours=2)
        assert abs(cert.not_valid_after_utc - now - timedelta(days=days)) < timedelta(minutes=5)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ScenarioError, match="is not empty, and nothing is overwritten"):
        make_pki(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    make_pki(tmp_path / "pki")
    before = {path: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    with pytest.raises(ScenarioError, match="is not empty"):
        make_pki(tmp_path / "pki")
    assert {path: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before


def test_what_cannot_be_used_is_the_users_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder, options, words in (
        (file, {}, "cannot hold certificates"),
        (file / "below", {}, "cannot hold certificates"),
        (tmp_path / "a", {"days": 0}, "0 days found"),
        (tmp_path / "a", {"days": 367}, "367 days found"),
        (tmp_path / "a", {"days": 1.5}, "1.5 days found"),
        (tmp_path / "a", {"hosts": ()}, "no hosts found"),
        (tmp_path / "a", {"hosts": ("bänk",)}, "'bänk' found; allowed are IP addresses"),
    ):
        with pytest.raises(ScenarioError, match=words):
            make_pki(folder, **options)
    assert not (tmp_path / "a").exists()


def test_what_was_made_is_found_again(pki: Pki, tmp_path: Path) -> None:
    assert load_pki(pki.ca.parent) == pki
    with pytest.raises(ScenarioError, match=r"ca\.crt' is missing"):
        load_pki(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(pki.ca.parent, copy)
    (copy / "client-read-only.key").unlink()
    with pytest.raises(ScenarioError, match=r"client-read-only\.key' is missing"):
        load_pki(copy)
    (copy / "client-read-only.key").write_text("")
    (copy / "server.crt").write_text("no certificate")
    with pytest.raises(ScenarioError, match=r"server\.crt' cannot be used"):
        load_pki(copy)
    past = datetime.now(UTC) - timedelta(days=3)
    old = Authority("old", past - timedelta(days=7), past).issue("old", hosts=("localhost",))
    (copy / "server.crt").write_bytes(old.cert_pem())
    with pytest.raises(ScenarioError, match=f"were valid until {past:%Y-%m-%d}"):
        load_pki(copy)


def test_the_openssl_program_finds_nothing_wrong(pki: Pki) -> None:
    """A witness of the chain, in its strict mode, and of the role's encoding."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is not installed")

    def told(*words: str) -> str:
        assert openssl is not None
        done = subprocess.run([openssl, *words], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for pair in pairs(pki):
        purpose = "sslserver" if pair is pki.server else "sslclient"
        told("verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(pki.ca), str(pair.cert))
    for role, client in pki.clients.items():
        lines = told("asn1parse", "-in", str(client.cert)).splitlines()
        (place,) = (k for k, line in enumerate(lines) if "1.3.6.1.4.1.50316.802.1" in line)
        offset = lines[place + 1].partition(":")[0].strip()
        inner = told("asn1parse", "-in", str(client.cert), "-strparse", offset)
        assert "UTF8STRING" in inner
        assert inner.rstrip().endswith(f":{role}")


def lines_for(text: str, program: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line.strip().startswith(program)]


def test_the_lines_for_clients_work(pki: Pki) -> None:
    """Ours, pysunspec2's and OpenSSL's, as printed."""

    async def main() -> None:
        async with behind_tls(own=settings(pki)) as behind:
            text = how_to_connect(pki, "localhost", behind.server.port)
            commands = lines_for(text, "ridethrough scan")
            assert len(commands) == len(ROLES)
            for role, command in zip(ROLES, commands, strict=True):
                assert f"  {role}:\n    {shlex.join(command)}" in text
                assert command[3::2] == ["--cert", "--key", "--ca"]
                files = TlsFiles(*command[4::2])
                report = await scan(command[2], tls=files)
                assert [model.entry.id for model in report.models] == list(behind.units[1].layout.models)
            snippet = text.partition("With pysunspec2:\n")[2].partition("With OpenSSL")[0]
            code = "\n".join(line.removeprefix("    ") for line in snippet.splitlines())
            names: dict[str, object] = {}
            await asyncio.to_thread(exec, code, names)
            witness = names["device"]
            assert len(witness.model_list) == len(behind.units[1].layout.models)  # type: ignore[attr-defined]
            witness.close()  # type: ignore[attr-defined]
            if shutil.which("openssl"):
                (command,) = lines_for(text, "openssl")
                seen = await asyncio.to_thread(
                    subprocess.run, command, input=b"Q\n", capture_output=True, timeout=20, check=False
                )
                assert b"Verify return code: 0 (ok)" in seen.stdout
            assert behind.told == []

    run(main())


@pytest.mark.parametrize(
    ("host", "target"), [("127.0.0.1", "tls:127.0.0.1:802/1"), ("::1", "tls:[::1]:802/1")]
)
def test_addresses_are_written_as_targets_are(pki: Pki, host: str, target: str) -> None:
    text = how_to_connect(pki, host, 802)
    assert all(command[2] == target for command in lines_for(text, "ridethrough scan"))


def test_a_host_that_the_certificate_does_not_name_is_refused(pki: Pki) -> None:
    with pytest.raises(
        ScenarioError, match=r"not for '192\.0\.2\.7'; it is for localhost, 127\.0\.0\.1, ::1"
    ):
        how_to_connect(pki, "192.0.2.7", 802)


def test_paths_with_blanks_are_quoted(tmp_path: Path) -> None:
    made = make_pki(tmp_path / "a folder; rm -rf", hosts=("bench.example",))
    (first, *_) = lines_for(how_to_connect(made, "bench.example", 802, 7), "ridethrough scan")
    assert first[2] == "tls:bench.example:802/7"
    assert first[4] == str(made.clients[READ_ONLY].cert)


def test_a_client_of_another_throw_away_pki_is_a_stranger(pki: Pki, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other")
    stranger = other.clients[GRID_SERVICE]

    async def main() -> None:
        async with behind_tls(own=settings(pki)) as behind:
            target = f"tls:localhost:{behind.server.port}/1"
            with pytest.raises(Exception, match=r"certificate|closed"):
                await scan(target, 3.0, tls=TlsFiles(stranger.cert, stranger.key, pki.ca))
            assert behind.told
            assert all("certificate" in told for told in behind.told)

    run(main())
