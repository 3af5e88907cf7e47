"""The message encodings: POST /kmip with TTLV, JSON and XML, against a real worker.

The OASIS runner is used as an independent reader and writer of TTLV and of the vectors' XML; JSON and the XML of what
it sends are written here, from the names in its tables. Vectors and runner lie outside the repository (`test_oasis`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import json
import re
import socket
import ssl
import xml.etree.ElementTree as ET

import pytest

from execution.custodian_double import CustodianDouble
from kmip_profiles.test_oasis import RUNNER, SETTINGS, VARIES, groups
from openkcm.contract.fleet import Limits
from openkcm.kmip import json_text, xml_text
from openkcm.kmip.ttlv import read_item, write_item

TYPES = {1: "Structure", 2: "Integer", 3: "LongInteger", 4: "BigInteger", 5: "Enumeration", 6: "Boolean",
         7: "TextString", 8: "ByteString", 9: "DateTime", 10: "Interval"}  # fmt: skip
pytestmark = [
    pytest.mark.skipif(not RUNNER.is_file(), reason="no OASIS vectors: set OPENKCM_OASIS"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # the runner leaves its tables open
]


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("oasis_replay", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def camel(name):
    """A name of the specification's tables as the encodings spell it (Additional Message Encodings, 3.1)."""
    name = re.sub(r"[()]", " ", name)
    name = re.sub(r"[^\w\s](?=[A-Za-z])", " ", name)
    name = re.sub(r"[^\w\s]", "_", name)
    return "".join(word[:1].upper() + word[1:] for word in name.split())


def spelled(runner):
    return {runner.norm(name): camel(name) for name in runner.T["tags"]}


def as_xml(node, names):
    tag, kind, value = node
    element = ET.Element(names[tag])
    if kind == 1:
        element.extend(as_xml(child, names) for child in value)
        return element
    element.set("type", TYPES[kind])
    element.set("value", text_of(kind, value))
    return element


def text_of(kind, value):
    match kind:
        case 4 | 8:
            return bytes(value).hex()
        case 5:
            return f"0x{value:08x}"
        case 6:
            return str(bool(value)).lower()
        case 9:
            return dt.datetime.fromtimestamp(value, dt.UTC).isoformat()
        case _:
            return str(value)


def as_json(node, names):
    tag, kind, value = node
    if kind == 1:
        return {"tag": names[tag], "value": [as_json(child, names) for child in value]}
    shown = {2: value, 3: value, 6: bool(value) if kind == 6 else None, 10: value}.get(kind, text_of(kind, value))
    return {"tag": names[tag], "type": TYPES[kind], "value": "0x" + shown if kind == 4 else shown}


def from_json(runner, tree, attribute=None):
    """An item of an answer, by way of the runner's own reading of XML."""
    element = ET.Element(tree["tag"])
    if tree.get("type", "Structure") == "Structure":
        for child in tree["value"]:
            element.append(from_json(runner, child))
        return element
    element.set("type", tree["type"])
    value = tree["value"]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    element.set(
        "value", text.replace("|", " ").removeprefix("0x") if tree["type"] == "BigInteger" else text.replace("|", " ")
    )
    return element


class OverHttp:
    """What the runner takes for a socket: each message goes as one POST, in the encoding given."""

    def __init__(self, runner, port, files, ca, encoding):
        self.runner, self.encoding, self.waiting = runner, encoding, b""
        self.names = spelled(runner)
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        context.load_cert_chain(*files)
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20))

    def sendall(self, message):
        node, _ = self.runner.dec(message)
        match self.encoding:
            case "text/xml":
                body = ET.tostring(as_xml(node, self.names))
            case "application/json":
                body = json.dumps(as_json(node, self.names)).encode()
            case _:
                body = message
        head = f"POST /kmip HTTP/1.1\r\nHost: x\r\nContent-Type: {self.encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        status, answer = self.response()
        assert status == 200, answer
        match self.encoding:
            case "text/xml":
                answer = self.runner.enc(self.runner.conv(ET.fromstring(answer), None))
            case "application/json":
                answer = self.runner.enc(self.runner.conv(from_json(self.runner, json.loads(answer)), None))
        self.waiting += answer

    def response(self):
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.socket.recv(65536)
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < length:
            body += self.socket.recv(65536)
        assert f"Content-Type: {self.encoding}".encode() in head
        return int(head.split()[1]), body

    def recv(self, n):
        out, self.waiting = self.waiting[:n], self.waiting[n:]
        return out

    def close(self):
        self.socket.close()


@pytest.mark.parametrize(
    ("encoding", "only"),
    [
        ("application/octet-stream", {"MSGENC-HTTPS", "SKLC", "OMOS", "TL"}),
        ("text/xml", None),
        ("application/json", None),
    ],
)
async def test_every_vector_that_passes_plain_passes_in_every_encoding(runner, tmp_path, encoding, only, monkeypatch):
    wrong, passed = [], 0
    async with CustodianDouble(tmp_path, limits=Limits(rng="ansi-x9.31")) as custodian:
        for group, files in groups().items():
            if only is not None and group not in only:
                continue
            system = group.lower().replace("_", "-")
            custodian.system("oasis", system)
            pair = custodian.enrol("oasis", system, system)
            monkeypatch.setattr(
                runner,
                "connect",
                lambda *_, pair=pair: OverHttp(runner, custodian.port, pair, custodian.pki.ca, encoding),
            )
            for path in files:
                name = path.stem.removesuffix("-14")
                result = await asyncio.to_thread(runner.run, str(path), (), False)
                passed += result["l"] == 3
                if (result["l"] == 3) == (name in VARIES or name in SETTINGS):
                    wrong.append((name, result["why"]))
    assert not wrong
    assert passed


def messages(runner):
    for files in groups().values():
        for path in files:
            for element in ET.parse(path).getroot():
                if element.tag in {"RequestMessage", "ResponseMessage"} and "$" not in ET.tostring(element).decode():
                    yield element


def test_the_vectors_own_xml_is_read_as_the_runner_reads_it(runner):
    seen = 0
    for element in messages(runner):
        raw = runner.enc(runner.conv(element, None))
        item = xml_text.read(ET.tostring(element))
        assert write_item(item) == raw
        assert xml_text.read(xml_text.write(item)) == item
        assert json_text.read(json_text.write(item)) == item
        assert read_item(raw) == item
        seen += 1
    assert seen > 20
