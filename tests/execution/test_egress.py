"""What a node may reach: the rules made from its configuration, tried by the kernel; and that helpers do not even try."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from openkcm.contract.errors import ContractError
from openkcm.contract.fleet import RootPolicy
from openkcm.execution.egress import FORMATS, METADATA, Destination, Rules, destinations
from openkcm.execution.unseal_process import _ENVIRONMENT

POLICY = RootPolicy(
    providers=("aws", "azure", "gcp", "kmip"),
    endpoints={
        "aws:eu-central-1": "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com", "azure-login": "https://10.0.0.4:8443",
        "kmip:acme": "[fd00::5]:5696", "azure:placed.vault.azure.net": "https://10.0.0.6",
    },
    vaults={"acme.vault.azure.net": "westeurope", "placed.vault.azure.net": "westeurope"},
    credentials={"aws": {"source": "instance"}, "gcp": {"source": "service-account"}},
)  # fmt: skip


def rules(*addresses: str, port: int = 443, dns: tuple[str, ...] = ()) -> Rules:
    return Rules(places=((Destination("kms.example", port, "roots.endpoints.aws"), addresses),), dns=dns, user="nobody")


def test_every_place_that_the_configuration_names_is_found_once() -> None:
    found = {(place.host, place.port) for place in destinations(POLICY, {"nats.url": "tls://10.0.0.9:7422"})}
    assert found == {
        ("vpce-1.kms.eu-central-1.vpce.amazonaws.com", 443), ("10.0.0.4", 8443), ("fd00::5", 5696), ("10.0.0.6", 443),
        ("acme.vault.azure.net", 443), (METADATA, 80), ("10.0.0.9", 7422),
    }  # fmt: skip


@pytest.mark.parametrize("address", ["", "kms.example", "https://", "https://host:port", "ftp://host"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ContractError, match=r"roots\.endpoints\.aws"):
        destinations(RootPolicy(providers=("aws",), endpoints={"aws": address}))


def test_a_network_policy_lets_out_what_is_named_and_nothing_else() -> None:
    policy = json.loads(FORMATS["kubernetes"](rules("10.0.0.4", "fd00::5", dns=("10.0.0.53",))))
    assert policy["spec"]["policyTypes"] == ["Egress"]
    seen = {
        (rule["to"][0]["ipBlock"]["cidr"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]
    }
    assert seen == {("10.0.0.4/32", 443), ("fd00::5/128", 443), ("10.0.0.53/32", 53)}


def test_a_drop_in_of_systemd_denies_first() -> None:
    text = FORMATS["systemd"](rules("10.0.0.4", "fd00::5"))
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert lines == [
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
        "IPAddressAllow=10.0.0.4",
        "IPAddressAllow=fd00::5",
    ]


# --- tried in network namespaces --------------------------------------------------------------------------------------

namespace = pytest.mark.skipif(
    not all(map(shutil.which, ("ip", "unshare", "nft")))
    or subprocess.run(["unshare", "-nm", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs network namespaces, and the Debian packages iproute2 and nftables",
)
#: Everything that is not loopback goes into `sink`, where what was sent is counted; names are asked there as well.
SINK = """
set -e
ip link set lo up
ip link add sink type veth peer name drain
ip link set drain up
ip addr add 192.0.2.1/24 dev sink
ip addr add fd00:2::1/64 dev sink nodad
ip link set sink up arp off
ip route add default dev sink
ip -6 route add default dev sink
nft 'add table inet seen; add counter inet seen sent; add chain inet seen out { type filter hook postrouting priority 0; }'
nft 'add rule inet seen out oifname "sink" meta l4proto { tcp, udp } counter name "sent"'
echo nameserver 192.0.2.53 > "$1/resolv.conf"
mount --bind "$1/resolv.conf" /etc/resolv.conf
shift
exec "$@"
"""


def in_sink(directory: Path, program: str, *arguments: str, **environment: str) -> str:
    (script := directory / "sink.sh").write_text(SINK)
    (file := directory / "program.py").write_text(program)
    done = subprocess.run(
        ["unshare", "-nm", "bash", str(script), str(directory), sys.executable, "-W", "ignore", str(file), *arguments],
        capture_output=True, text=True, check=False, timeout=120, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@namespace
def test_the_kernel_lets_the_node_s_user_reach_the_named_place_alone(tmp_path: Path) -> None:
    (tmp_path / "rules.nft").write_text(FORMATS["nftables"](rules("192.0.2.7", port=8443)))
    said = in_sink(tmp_path, TRY, str(tmp_path / "rules.nft"))
    assert json.loads(said) == {
        "other user, elsewhere": "no answer",
        "named place": "no answer",  # let out, and nobody is there
        "named place, another port": "refused",
        "elsewhere": "refused",
        "elsewhere, IPv6": "refused",
    }


TRY = """
import json, os, socket, subprocess, sys
def reach(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.settimeout(0.3)
        try:
            s.connect((address, port))
        except TimeoutError:
            return "no answer"
        except OSError:
            return "refused"
        return "connected"
subprocess.run(["nft", "-f", sys.argv[1]], check=True)
subprocess.run(["nft", "-f", sys.argv[1]], check=True)  # again: it replaces what was there
seen = {"other user, elsewhere": reach("192.0.2.8", 443)}
os.setuid(65534)
seen |= {"named place": reach("192.0.2.7", 8443), "named place, another port": reach("192.0.2.7", 22),
         "elsewhere": reach("192.0.2.8", 8443), "elsewhere, IPv6": reach("fd00:2::8", 8443)}
print(json.dumps(seen))
"""

#: What a decree, an environment or a credential file might name to lead us astray: none of it may cause one packet.
HOSTILE = [
    ("aws", "arn:aws:kms:us-east-1:000000000000:alias/x"),  # no endpoint of that region
    ("aws", "arn:aws-cn:kms:cn-north-1:000000000000:alias/x"),
    ("azure", "https://evil.vault.azure.net/keys/k"),
    ("azure", "https://192.0.2.66/keys/k"),
    ("azure", "https://acme.vault.azure.net@192.0.2.66/keys/k"),
    ("gcp", "projects/acme-prod/locations/us-east1/keyRings/r/cryptoKeys/k"),
    (
        "gcp",
        "projects/acme-prod/locations/europe-west3/keyRings/r/cryptoKeys/k",
    ),  # allowed; its file names evil addresses
    ("pkcs11", "pkcs11:token=t;object=o?module-path=/tmp/evil.so"),
    ("kmip", "kmip://192.0.2.66:5696/1"),
    ("kmip", "name:l1"),  # no endpoint of that credential
    ("aws", "arn:aws:kms:eu-central-1:000000000000:alias/x"),  # allowed, at loopback: nobody there
]
ASTRAY = """
import json, subprocess, sys
from pathlib import Path
import msgspec
from openkcm.execution.unseal_helper import answer
from openkcm.execution.unseal_process import Request
def sent():
    told = subprocess.run(["nft", "-j", "list", "counter", "inet", "seen", "sent"], check=True, capture_output=True).stdout
    return next(item["counter"]["packets"] for item in json.loads(told)["nftables"] if "counter" in item)
requests = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[Request])
before, seen = sent(), []
for request in requests:
    said, key = answer(request)
    seen.append([request.root.provider, said.code, sent() - before, key is None])
print(json.dumps(seen))
"""


def _requests(directory: Path, endpoints: dict[str, str]) -> Path:
    from openkcm.contract.decrees import RootReference
    from openkcm.execution.roots.base import RootSettings
    from openkcm.execution.unseal_process import Request
    from simulators.google import service_account_file

    (directory / "aws").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    account = service_account_file(directory / "sa.json", token_uri="https://192.0.2.66/token")
    policy = RootPolicy(
        providers=("aws", "azure", "gcp", "pkcs11", "kmip"), vaults={"acme.vault.azure.net": "westeurope"},
        endpoints={"aws:eu-central-1": "http://127.0.0.1:9", "gcp:europe-west3": "https://127.0.0.1:9",
                   "gcp-token": "https://127.0.0.1:9/token", "azure-login": "https://127.0.0.1:9", **endpoints},
        credentials={
            "aws": {"credentials_file": str(directory / "aws")}, "gcp": {"credentials_file": str(account)},
            "azure": {"source": "secret", "tenant_id": "t", "client_id": "c", "secret_file": str(account)},
            "kmip": {"certificate": "x", "key": "x", "ca_bundle": "x"}, "pkcs11": {"module": "/nowhere.so"},
        },
    )  # fmt: skip
    asked = [
        Request(n=n, op="wrap", root=RootReference(provider=provider, ref=ref), context={},
                settings=RootSettings(policy=policy, deadline_s=0.4))
        for n, (provider, ref) in enumerate(HOSTILE)
    ]  # fmt: skip
    (file := directory / "requests.json").write_bytes(msgspec.json.encode(asked))
    return file


@namespace
def test_whatever_a_decree_a_file_or_the_environment_names_no_packet_leaves_for_it(tmp_path: Path) -> None:
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "grpc_proxy", "AWS_ENDPOINT_URL"), "http://192.0.2.66:3128")
    kept = {name: value for name, value in proxies.items() if name in _ENVIRONMENT}
    assert kept == {}  # what `spawn` passes on
    seen = json.loads(in_sink(tmp_path, ASTRAY, str(_requests(tmp_path, {}))))
    assert [
        (code, packets, empty) for _, code, packets, empty in seen[:-1] if code not in ("Misconfigured", "Unreachable")
    ] == []
    assert {packets for _, _, packets, _ in seen} == {0}
    assert all(empty for *_, empty in seen)


@namespace
def test_the_count_of_packets_sees_an_endpoint_that_is_elsewhere(tmp_path: Path) -> None:
    """The negative control: the same requests with one endpoint beyond loopback."""
    seen = json.loads(in_sink(tmp_path, ASTRAY, str(_requests(tmp_path, {"aws:eu-central-1": "http://192.0.2.66"}))))
    assert seen[-1][2] > 0
    assert {packets for _, _, packets, _ in seen[:-1]} == {0}
