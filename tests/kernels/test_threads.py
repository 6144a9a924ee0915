"""After a fork, whatever the parent was doing: the same bits, and never a wait without end."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from npsiglip import SigLIP
from tests.helpers.golden_data import ROOT, TINY

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

SECONDS = 120  # far more than it takes

PRELUDE = """
    import hashlib, multiprocessing, os, socket, sys, threading, time, warnings
    import numpy as np
    from npsiglip import SigLIP
    warnings.simplefilter("ignore")

    def bits(model):
        images = model.encode_image(np.full((3, 3, 38, 38), 0.25, np.float32))
        texts = model.encode_text(["a", "b c", ""])
        logits = model.compare(images, texts).logits_per_image
        return hashlib.sha256(images.tobytes() + texts.tobytes() + logits.tobytes()).hexdigest()

    def child(function):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, str(function()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as file:
            print("child", file.read(), flush=True)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status

    model = SigLIP.from_pretrained(sys.argv[1], threads=int(sys.argv[2]))
"""

WAYS = {
    "os.fork": """
        bits(model)
        child(lambda: bits(model))
    """,
    "fork before the first use": """
        child(lambda: bits(model))
    """,
    "a child's child": """
        bits(model)
        def grandchild():
            child(lambda: bits(model))
            return bits(model)
        sys.stdout.flush()
        child(grandchild)
    """,
    "another thread encodes": """
        stop = False
        def encode():
            while not stop:
                bits(model)
        threads = [threading.Thread(target=encode, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        for _ in range(3):
            child(lambda: bits(model))
        stop = True
        for thread in threads:
            thread.join()
    """,
    "another thread compiles": """
        import numba
        @numba.njit
        def f(x):
            return np.sort(x)
        thread = threading.Thread(target=lambda: f(np.ones(3)))
        thread.start()
        time.sleep(0.1)
        def compile_and_encode():
            numba.njit(lambda x: x + 1)(1)
            return bits(model)
        child(compile_and_encode)
        thread.join()
    """,
    "multiprocessing": """
        bits(model)
        def work(number):
            return bits(model)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for found in pool.map(work, range(4)):
                print("child", found)
    """,
    "a preloading server": """
        bits(model)
        listening = socket.create_server(("127.0.0.1", 0))
        workers = []
        for _ in range(2):  # as gunicorn --preload does
            pid = os.fork()
            if pid == 0:
                connection, _ = listening.accept()
                connection.sendall(bits(model).encode())
                connection.close()
                os._exit(0)
            workers.append(pid)
        for _ in workers:
            with socket.create_connection(listening.getsockname()) as connection:
                print("child", connection.makefile().read())
        for pid in workers:
            assert os.waitpid(pid, 0)[1] == 0
    """,
    "the child loads another model": """
        bits(model)
        child(lambda: bits(SigLIP.from_pretrained(sys.argv[1])))
    """,
}


def run(code, *arguments, **env):
    """stdout, stderr of Python; a process that takes too long is ended with its children."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code), str(TINY), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, errors
    return output, errors


@pytest.fixture(scope="module")
def expected():
    """The bits, computed here."""
    import hashlib

    model = SigLIP.from_pretrained(TINY)
    images = model.encode_image(np.full((3, 3, 38, 38), 0.25, np.float32))
    texts = model.encode_text(["a", "b c", ""])
    logits = model.compare(images, texts).logits_per_image
    return hashlib.sha256(images.tobytes() + texts.tobytes() + logits.tobytes()).hexdigest()


@pytest.mark.parametrize(("way", "threads"), [(way, 2) for way in WAYS] + [("os.fork", 1), ("multiprocessing", 1)])
def test_same_bits_in_the_child(expected, way, threads):
    output, _ = run(WAYS[way], str(threads), NUMBA_NUM_THREADS="2")
    found = [line.split()[-1] for line in output.splitlines()]
    assert found
    assert set(found) == {expected}


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_every_thread_pool(expected, layer):
    output, _ = run(WAYS["os.fork"], "2", NUMBA_NUM_THREADS="2", NUMBA_THREADING_LAYER=layer)
    assert output == f"child {expected}\n"


def test_the_child_says_once_that_it_has_one_thread_only():
    code = """
        warnings.simplefilter("always")
        bits(model)
        child(lambda: (bits(model), bits(model))[0])
    """
    assert run(code, "2", NUMBA_NUM_THREADS="2")[1].count("this process was forked") == 1
    assert run(code, "1", NUMBA_NUM_THREADS="2")[1] == ""


def test_a_child_of_a_parent_without_pool_has_all_threads():
    code = """
        from npsiglip.kernels.jit import current
        child(lambda: current())
        bits(SigLIP.from_pretrained(sys.argv[1], threads=2))
        child(lambda: current())
    """
    assert run(code, "1", NUMBA_NUM_THREADS="2")[0] == "child 2\nchild 1\n"


def test_a_fork_in_the_middle_of_a_pass_that_does_not_end_is_one_error():
    """Instead of a wait without end: the lock of the thread that is gone is never free."""
    code = """
        from npsiglip.kernels import threads
        threads.FORK_SECONDS = 0.2
        held = threading.Event()
        def hold():
            with threads.RUN_LOCK:
                held.set()
                time.sleep(3)
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        def try_it():
            from npsiglip import InputError, sigmoid_loss
            for use in (lambda: bits(model), lambda: sigmoid_loss(np.eye(2), np.eye(2), 1.0, 0.0)):
                try:
                    use()
                except InputError as error:
                    print(error, file=sys.stderr)
        child(try_it)
        print("parent", len(bits(model)))
    """
    output, errors = run(code, "2", NUMBA_NUM_THREADS="2")
    assert output == "child None\nparent 64\n"
    assert errors.count("start processes with 'spawn' or 'forkserver'") == 2


@pytest.mark.slow
def test_a_fork_does_not_wait_for_a_thread_that_computes_all_the_time():
    """It takes the lock again at once; the fork must get its turn all the same."""
    code = """
        from npsiglip.kernels.threads import RUN_LOCK
        def compute():
            while True:
                with RUN_LOCK, RUN_LOCK:
                    end = time.monotonic() + 0.02
                    while time.monotonic() < end:
                        pass
        threading.Thread(target=compute, daemon=True).start()
        for _ in range(20):
            started = time.monotonic()
            child(lambda: bits(model))
            assert time.monotonic() - started < 20
    """
    assert len(set(run(code, "1")[0].splitlines())) == 1


def test_pictures_can_be_opened_after_a_fork():
    code = """
        from npsiglip.images import files as image_files
        held = threading.Event()
        def hold():
            with image_files._OPEN_LOCK:
                held.set()
                time.sleep(1)
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child(lambda: model.encode_image("docs/images/example.png").shape)
    """
    assert run(code, "1")[0] == "child (1, 36)\n"
