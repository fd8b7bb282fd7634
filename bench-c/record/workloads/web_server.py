# SPDX-License-Identifier: MIT OR Apache-2.0
"""A web server with pre-forked workers that share a listening socket, and a client in another process.

The master loads the site and forks the workers; whichever accepts a connection answers it, and is replaced after so
many. Pages come from memory (what a worker reads it also writes to: Python counts references), from files, and from a
program that the worker forks and executes. Marks, with all workers alive: `web-program` while such a program runs and
other workers serve, `web-late` when as many workers again have served.
"""

import argparse
import concurrent.futures
import http.client
import http.server
import os
import signal
import socketserver
import sys
import tempfile
import traceback

from mark import mark

WORDS = "page frame chain fork fault walk map anchor table swap cache lock reclaim thread object stack".split()
PROGRAM = """
if [ "$1" = mark ]; then
    echo web-program > "$RMAP_MARK"; read -r reply < "$RMAP_ACK"
    [ "$reply" = "ok web-program" ] || exit 1
fi
echo "$1 from $$"; ls "$2" | sort -r | head -n 3
"""


def forked(work):
    """A child that does its work and ends; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Site:
    """Articles in memory, with an index of words, and files."""

    def __init__(self, folder, articles):
        self.folder = folder
        self.articles = {}
        self.index = {}
        for number in range(articles):
            words = [WORDS[(number * k + k // 3) % len(WORDS)] for k in range(20 + number % 30)]
            self.articles[number] = " ".join(words)
            for word in words[:6]:
                self.index.setdefault(word, []).append(number)
        for number in range(4):
            with open(os.path.join(folder, "file%d" % number), "wb") as file:
                file.write(bytes([65 + number]) * (20000 << number))


class Handler(http.server.BaseHTTPRequestHandler):
    """/article/N, /search/WORD, /file/N, /program/NAME."""

    site = None

    def do_GET(self):
        """One page."""
        _, kind, name = self.path.split("/")
        body = getattr(self, kind)(name).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Worker", str(os.getpid()))
        self.end_headers()
        self.wfile.write(body)

    def article(self, name):
        """A text, with its neighbours."""
        number = int(name)
        return "\n".join(self.site.articles[n] for n in range(number, number + 20) if n in self.site.articles)

    def search(self, name):
        """Every article with a word."""
        return "\n".join("%d %s" % (number, self.site.articles[number][:60]) for number in self.site.index[name])

    def file(self, name):
        """A file's contents."""
        with open(os.path.join(self.site.folder, "file" + name), "rb") as file:
            return file.read().decode()

    def program(self, name):
        """What a program prints, forked and executed here as CGI does."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(write, 1)
            os.execv("/bin/sh", ["sh", "-c", PROGRAM, "sh", name, self.site.folder])
        os.close(write)
        with open(read, "rb") as output:
            body = output.read().decode()
        if os.waitpid(pid, 0)[1]:
            raise OSError("the program failed")
        return body

    def log_message(self, *_):
        """Nothing to the terminal."""


class Server(socketserver.TCPServer):
    """The listening socket."""

    allow_reuse_address = True
    request_queue_size = 64


class Master:
    """Forks the workers, and another for each that ends."""

    def __init__(self, server, workers, requests):
        self.server, self.requests = server, requests
        self.pids = set()
        for number in range(workers):
            # Spread: else all would end at the same moment.
            self.fork(requests + number * requests // workers)

    def fork(self, requests):
        """A worker that serves so many requests."""
        def serve():
            for _ in range(requests):
                # All workers wait here: the kernel gives the connection to one of them.
                connection, address = self.server.get_request()
                self.server.process_request(connection, address)

        self.pids.add(forked(serve))

    def run(self, client):
        """Until the client has ended; its exit status."""
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == client:
                break
            self.pids.remove(pid)
            self.fork(self.requests)
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)
        for pid in self.pids:
            os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)


def fetch(port, path):
    """A page, and the worker it came from."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200 or not body:
        raise SystemExit("%s: status %d" % (path, response.status))
    worker = int(response.getheader("X-Worker"))
    connection.close()
    return worker


class Client:
    """A mixed load from a few threads, with its marks."""

    def __init__(self, port, articles):
        self.port, self.articles = port, articles
        self.workers = set()
        self.number = 0

    def visit(self, number):
        """The number-th request of the load."""
        kind = number % 8
        if kind == 3:
            path = "/search/" + WORDS[number % len(WORDS)]
        elif kind == 5:
            path = "/file/%d" % (number // 8 % 4)
        elif number % 40 == 7:
            path = "/program/list"
        else:
            path = "/article/%d" % (number * 37 % self.articles)
        self.workers.add(fetch(self.port, path))

    def load(self, pool, requests, workers):
        """So many requests, and more until so many workers have been seen."""
        last = self.number + 4 * requests
        for first in range(self.number, last, requests):
            self.number = first + requests
            for _ in pool.map(self.visit, range(first, self.number)):
                pass
            if len(self.workers) >= workers:
                return
        raise SystemExit("only %d workers in %d requests" % (len(self.workers), last))

    def run(self, workers, requests):
        """The load."""
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            self.load(pool, workers * requests // 2, workers)
            program = pool.submit(fetch, self.port, "/program/mark")
            self.load(pool, workers * requests, 2 * workers)
            program.result()
            self.load(pool, workers * requests // 2, 2 * workers)
            mark("web-late")


def main():
    """The workload."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=40, help="that a worker serves before it is replaced")
    parser.add_argument("--articles", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Handler.site = Site(folder, options.articles)
        server = Server(("127.0.0.1", 0), Handler)

        def visit():
            server.server_close()
            Client(server.server_address[1], options.articles).run(options.workers, options.requests)

        visitor = forked(visit)
        status = Master(server, options.workers, options.requests).run(visitor)
    sys.exit(status)


if __name__ == "__main__":
    main()
