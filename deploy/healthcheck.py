"""The container's health check: exit status 0 if /healthz at $CRYPRQ_METRICS_ADDR answers 200, else 1 with why."""

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    host, _, port = os.environ["CRYPRQ_METRICS_ADDR"].rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        host = "127.0.0.1"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}/healthz", timeout=4) as answer:
            print(answer.read().decode().strip())
            return 0
    except urllib.error.HTTPError as error:
        print(error.read().decode().strip())
    except OSError as error:
        print(error)
    return 1


sys.exit(main())
