"""An S3 server that tests may fill, stop and start again: moto's, in a process of its own, on a port of its own."""

import contextlib
import subprocess
import sys
import time
import urllib.request

import boto3

from support.programs import CLEAN, port_of_its_own

BUCKET = "crawls"


class ObjectStore:
    """``environ`` is what a client needs. Credentials are looked at once ``strict`` is called: from then on ``environ`` has good
    ones. What is stored is forgotten when it stops."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.environ = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-told",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.process = None

    def client(self, service="s3"):
        keys = {
            "aws_access_key_id": self.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environ["AWS_SECRET_ACCESS_KEY"],
        }
        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1", **keys)

    def start(self):
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=CLEAN, **options)
        while not self._is_up():
            assert self.process.poll() is None, "the S3 server does not start"
            time.sleep(0.05)
        self.client().create_bucket(Bucket=BUCKET)

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _is_up(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5):
            return True
        return False

    def strict(self, actions):
        """From the so many-th action on credentials must be good ones."""
        url, plain = f"{self.url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, str(actions).encode(), plain, method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    def objects(self, prefix=""):
        """{name below the crawl's folder: bytes}"""
        client, found = self.client(), {}
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
                for one in page.get("Contents", ()):
                    body = client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"]
                    with contextlib.closing(body):
                        found[one["Key"].removeprefix(prefix).lstrip("/").partition("/")[2]] = body.read()
        finally:
            client.close()
        return found


@contextlib.contextmanager
def object_store():
    store = ObjectStore(port_of_its_own())
    store.start()
    try:
        yield store
    finally:
        store.stop()
