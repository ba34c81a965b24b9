"""Fixtures of all tests. Every test runs on four virtual CPU devices, with strict dtype and rank promotion.

Slow tests run with --slow or ESC_JAX_SLOW=1, or where ESC_JAX_SHARED names a folder of real clips and weights. Tests
that are marked `extended`, such as further variants of others and benchmarks, run with --slow or ESC_JAX_SLOW=1 only.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

# Most of a test's time is compilation, and most of that is LLVM optimizing code that runs once.
FLAGS = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from esc_jax.runtime import xla  # noqa: E402

xla.reserve_threads()  # as `xla.initialize` does, which tests in this process don't call
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests build the same small programs many times. What one process has compiled, the others read from here.
if "ESC_JAX_TEST_COMPILED" not in os.environ:  # the first process; pytest-xdist's workers inherit it
    os.environ["ESC_JAX_TEST_COMPILED"] = tempfile.mkdtemp(prefix="esc_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["ESC_JAX_TEST_COMPILED"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["ESC_JAX_TEST_COMPILED"])
# As the commands do, which share this folder: entries of a process without a limit cannot be evicted by one with it.
jax.config.update("jax_compilation_cache_max_size", 2 << 30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# The same examples in every run: a failure is a change in the code.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("repeatable")

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_addoption(parser) -> None:
    """--slow."""
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked as slow")


def pytest_configure(config) -> None:
    """The markers `slow` and `extended`."""
    config.addinivalue_line("markers", "slow: takes long; runs with --slow, ESC_JAX_SLOW=1 or ESC_JAX_SHARED")
    config.addinivalue_line("markers", "extended: as slow, but does not run with ESC_JAX_SHARED")


def pytest_collection_modifyitems(config, items) -> None:
    """Skips slow tests unless they were asked for, and starts with those of whole commands.

    The longest tests are among these: started last, they would run while the other worker is idle.
    """
    asked = config.getoption("--slow") or os.environ.get("ESC_JAX_SLOW")
    skipped = [] if asked else ["extended"] if os.environ.get("ESC_JAX_SHARED") else ["slow", "extended"]
    skip = pytest.mark.skip(reason="slow: run with --slow, or set ESC_JAX_SLOW=1")
    for item in items:
        if any(item.get_closest_marker(name) for name in skipped):
            item.add_marker(skip)
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


class Memory:
    """Memory of the test process: the caches of JAX keep every compiled program, gigabytes after some hundred tests."""

    growth_mib = 300  # since the last release, before another one

    def __init__(self):
        self.released_mib = 400.0  # of the imported packages

    def resident_mib(self) -> float:
        """Resident memory; 0 where the system does not tell."""
        try:
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def release(self) -> None:
        """Frees compiled programs, and returns free memory to the system."""
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # a C library other than glibc
                ctypes.CDLL(None).malloc_trim(0)
        self.released_mib = self.resident_mib()


MEMORY = Memory()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Releases memory after the last test of a module, and after tests that need much of it."""
    result = yield
    last = nextitem is None or nextitem.path != item.path
    if last or MEMORY.resident_mib() > MEMORY.released_mib + MEMORY.growth_mib:
        MEMORY.release()
    return result


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real clips and weights that ESC_JAX_SHARED names; the test is skipped without one."""
    path = os.environ.get("ESC_JAX_SHARED")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("needs real clips and weights: set ESC_JAX_SHARED to their folder")
    return pathlib.Path(path).resolve()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> pathlib.Path:
    """One cache folder for all tests of a session: data are prepared and programs compiled once."""
    path = tmp_path_factory.mktemp("cache")
    (path / "compiled").symlink_to(os.environ["ESC_JAX_TEST_COMPILED"])
    return path


@pytest.fixture(scope="session")
def environment(cache) -> dict[str, str]:
    """Environment of commands that a test starts: this session's cache, one device."""
    inherited = {name: value for name, value in os.environ.items() if name != "NPROC"}
    return inherited | {
        "ESC_JAX_CACHE": str(cache),
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=1",
    }


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Runs commands with little start-up time."""
    from tests.commands import Commands

    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def run(environment, commands):
    """Runs a command as a user does, from the root of the repository: `run("predict", "--model=…")` → CompletedProcess.

    "main" is `python -m esc_jax.main`; other names are commands of `python -m esc_jax`. Arguments: `devices`, their
    number; `check`, the expected exit status; `largest_file_kib`, a limit on the size of files.
    """

    def start(command: str, *arguments: str, devices: int = 1, check: int = 0, largest_file_kib: int | None = None):
        flags = {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}"}
        module, *line = ["esc_jax.main", *arguments] if command == "main" else ["esc_jax", command, *arguments]
        if sys.platform == "linux" and not largest_file_kib:
            done = commands.run(module, line, environment | flags)
        else:
            line = [sys.executable, "-m", module, *line]
            if largest_file_kib:
                line = ["bash", "-c", f'ulimit -f {largest_file_kib}; exec "$@"', "limited", *line]
            done = subprocess.run(line, cwd=ROOT, env=environment | flags, capture_output=True, text=True)
        assert done.returncode == check, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
        return done

    return start


@pytest.fixture
def no_xla_setup(monkeypatch):
    """Leaves XLA as it is for the other tests of this process."""
    monkeypatch.setattr(xla, "initialize", lambda *_, **__: None)


@pytest.fixture(scope="session")
def noise_clips():
    """A data set in memory: 12 clips of noise, 3 classes, 3 folds, half a second at 16 kHz."""
    from esc_jax.data.clips import Clips

    rng = np.random.default_rng(0)
    audio = (rng.standard_normal((12, 8000)) * 3000).astype(np.int16)
    return Clips(
        labels=np.arange(12, dtype=np.int32) % 3,
        folds=tuple(i // 4 + 1 for i in range(12)),
        sources=tuple(f"r{i}" for i in range(12)),
        filenames=tuple(f"{i}.wav" for i in range(12)),
        classes=("a", "b", "c"),
        sample_rate=16_000,
        samples=np.full(12, 8000),
        length=8000,
        fingerprint="noise",
        bad={},
        fetch=lambda i: audio[i],
    )


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> pathlib.Path:
    """Workdir of a run of the tiny config that was not trained: 16 kHz, three classes."""
    import optax

    from esc_jax import config as configs
    from esc_jax.models import model as models
    from esc_jax.training import checkpoint, state

    config = configs.load(ROOT / "tests/configs/tiny.py")
    config.task = "single_label"  # a run has the task of its data in the place of "auto"
    model = models.create(config, ("rain", "sea_waves", "dog"))
    folder = tmp_path_factory.mktemp("untrained")
    meta = {"config": config.to_dict(), "classes": list(model.classes), "sample_rate": model.sample_rate}
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    checkpoints.save(state.create(model.variables, optax.sgd(0.1), ema=False), meta)
    checkpoints.close()
    return folder


class Browser:
    """A headless Chromium, controlled through ChromeDriver by the W3C WebDriver protocol."""

    def __init__(self, port: int, chromium: str, profile: str):
        self.base = f"http://127.0.0.1:{port}/session"
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--window-size=1360,1000",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        options = {"binary": chromium, "args": arguments}
        session = self.call("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.base += f"/{session['sessionId']}"

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)["value"]

    def run(self, script, *arguments):
        return self.call("/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return next(iter(self.call("/element", {"using": "css selector", "value": selector}).values()))


@pytest.fixture(scope="session")
def browser():
    """A browser, for tests of pages; they are skipped without one."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("needs a browser: install chromium and chromedriver (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                if match := re.search(r"started successfully on port (\d+)", line):
                    break
            session = Browser(int(match[1]), chromium, profile)
            yield session
            with contextlib.suppress(urllib.error.URLError):
                session.call("", method="DELETE")
        finally:
            process.terminate()
            process.wait(30)
