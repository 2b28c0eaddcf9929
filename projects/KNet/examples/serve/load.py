#!/usr/bin/env python3
"""Ask a service for results from many clients at once, and tell how long they waited.

    python load.py --url http://127.0.0.1:8000 --clients 50 --seconds 20 PICTURE ...

Each client asks again when it has its answer. The standard library is all it needs.
"""

import argparse
import collections
import http.client
import threading
import time
from pathlib import Path
from typing import List, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    seconds: float


def ask(url, pictures: List[bytes], until: float, number: int, answers: List[Answer]) -> None:
    """One client."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
    headers = {"Content-Type": "application/octet-stream"}
    turn = number
    while time.perf_counter() < until:
        start = time.perf_counter()
        try:
            connection.request("POST", "/v1/segment", pictures[turn % len(pictures)], headers)
            response = connection.getresponse()
            response.read()
            status = response.status
        except OSError:
            connection.close()
            status = 0
        answers.append(Answer(status, time.perf_counter() - start))
        if status != 200:
            time.sleep(0.5)
        turn += 1


def percentile(values: List[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("pictures", nargs="+", help="files")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    pictures = [Path(path).read_bytes() for path in args.pictures]
    answers: List[Answer] = []
    start = time.perf_counter()
    clients = [
        threading.Thread(
            target=ask, args=(urlsplit(args.url), pictures, start + args.seconds, i, answers)
        )
        for i in range(args.clients)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    total = time.perf_counter() - start
    good = [answer.seconds for answer in answers if answer.status == 200]
    statuses = dict(sorted(collections.Counter(answer.status for answer in answers).items()))
    print(f"{args.clients} clients, {total:.1f} s, answers by status: {statuses}")
    if good:
        shares = {f"{share:.0%}": percentile(good, share) for share in (0.5, 0.9, 0.99)}
        line = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in shares.items())
        print(f"{len(good) / total:.1f} pictures/s; latency {line}, most {1000 * max(good):.0f} ms")


if __name__ == "__main__":
    main()
