"""A local AWS for demos and tests: MiniStack's KMS, and the customer's side of it. Loopback only; no part of a node.

What is done here (make keys, move aliases, disable) is what a customer does in its own account; nodes never can.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

__all__ = ["ADMIN_KEY", "ADMIN_SECRET", "REGION", "MiniStack"]

#: Whose KMS it plays, and who the nodes are there.
ACCOUNT: Final = "000000000000"
NODE_USER: Final = "openkcm-node"
REGION: Final = "eu-central-1"
ADMIN_KEY: Final = "AKIAOPENKCMSTACKADMN"  # the account's root in a server of ours on loopback; it guards nothing
ADMIN_SECRET: Final = "local-stack-only"
START_S: Final = 60.0
STOP_S: Final = 5.0


class MiniStack:
    """One MiniStack server.

    Attributes:
        url: Endpoint for KMS, IAM and STS, `http://127.0.0.1:<port>`.
        pid: Of the server.
        trail: Its request log, in CloudTrail's form: the customer's own book.
    """

    def __init__(self, directory: Path, port: int) -> None:
        """Start the server and wait until it answers. Its state survives an orderly stop, in `directory`.

        Raises:
            RuntimeError: It did not come up; the message names its log.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "server.log"
        self.trail = (directory / "trail.ndjson").resolve()
        environment = {
            **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",  # otherwise every signature is good
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "SERVICES": "kms,iam,sts",
            "LOG_LEVEL": "WARNING",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(directory / "state"),
            "TMPDIR": str(directory),
            "MINISTACK_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ADMIN_KEY,
            "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET,
            "DOCKER_HOST": f"unix://{directory / 'none.sock'}",  # it would look for a Docker of the user's
        }
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "openkcm.cli.kms_trail", str(self.trail)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
            )
        self.pid = self._server.pid
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server in order, by force after 5 s."""
        self._server.terminate()
        try:
            self._server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def client(self, service: str, region: str = REGION) -> Any:
        """Return a boto3 client with the account's own credential: the customer's administrator."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key=ADMIN_SECRET,
        )

    def create_key(self, description: str = "L1", region: str = REGION) -> str:
        """Make a symmetric key; return its ARN."""
        return str(self.client("kms", region).create_key(Description=description)["KeyMetadata"]["Arn"])

    def create_alias(self, name: str, key_arn: str, region: str = REGION) -> str:
        """Name a key `alias/<name>`; return the alias's ARN."""
        self.client("kms", region).create_alias(AliasName=f"alias/{name}", TargetKeyId=key_arn)
        return key_arn.rpartition(":")[0] + f":alias/{name}"

    def move_alias(self, name: str, key_arn: str, region: str = REGION) -> None:
        """Point an alias at another key: how a customer rotates L1 here (there is no RotateKeyOnDemand)."""
        self.client("kms", region).update_alias(AliasName=f"alias/{name}", TargetKeyId=key_arn)

    def create_node_user(self, name: str, credentials_file: Path, profile: str = "default") -> None:
        """Make a user that may encrypt, decrypt and describe, and write its credential as a profile (file 0600)."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        self.allow(name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        text = (
            f"[{profile}]\naws_access_key_id = {key['AccessKeyId']}\naws_secret_access_key = {key['SecretAccessKey']}\n"
        )
        fd = os.open(credentials_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)

    def allow(self, name: str) -> None:
        """Give a user what a node needs of KMS, and no more."""
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"], "Resource": "*"}
            ],
        }
        self.client("iam").put_user_policy(UserName=name, PolicyName="unseal", PolicyDocument=json.dumps(policy))

    def forbid(self, name: str) -> None:
        """Take it away again."""
        self.client("iam").delete_user_policy(UserName=name, PolicyName="unseal")

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._server.poll() is not None:
                raise RuntimeError(f"ministack ended with status {self._server.returncode}: see {self.log}")
            try:
                with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=1) as answer:  # noqa: S310 -- http, loopback
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"ministack did not answer within {START_S:.0f} s: see {self.log}")
