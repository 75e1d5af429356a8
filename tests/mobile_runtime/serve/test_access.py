"""Keys, names of hosts, and addresses."""

import socket

import pytest

from mobile_runtime.errors import InputError
from mobile_runtime.serve.access import access_for, is_loopback, listen, read_keys
from mobile_runtime.serve.api_error import ApiError

KEYS = ["a" * 20, "b" * 20]


def test_a_key_is_a_client():
    access = access_for("0.0.0.0", KEYS)
    clients = [access.client(f"Bearer {key}", "evil.example", "10.0.0.1") for key in KEYS]
    assert clients == ["key 0", "key 1"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", f"Basic {'a' * 20}", "a" * 20])
def test_without_a_good_key_nobody_asks(header):
    with pytest.raises(ApiError) as caught:
        access_for("127.0.0.1", KEYS).client(header, "127.0.0.1", "127.0.0.1")
    assert caught.value.status == 401 and caught.value.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_a_server_without_keys_goes_by_the_names_of_its_machine(host):
    assert access_for("127.0.0.1", []).client(None, host, "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", None, "127.0.0.1.e.org"])
def test_a_name_that_leads_to_this_machine_from_elsewhere_is_refused(host):
    with pytest.raises(ApiError, match="not called") as caught:
        access_for("127.0.0.1", []).client(None, host, "127.0.0.1")
    assert caught.value.status == 403


def test_loopback_is_told_from_other_addresses():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("127.3.2.1")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.0.2.1")
    with pytest.raises(InputError, match="leads nowhere"):
        is_loopback("no such host.invalid")


def test_keys_of_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEYS[0]}\n\n {KEYS[1]} \n")
    assert read_keys(path) == KEYS
    for text in ("", "# none\n", "short\n", f"{KEYS[0]} x\n", "ä" * 20):
        path.write_text(text)
        with pytest.raises(InputError, match=r"has . keys"):
            read_keys(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 cannot be used"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="port 99999"):
        listen("127.0.0.1", 99999)
