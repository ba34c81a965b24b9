"""Every test runs on four virtual CPU devices, with strict dtype and rank promotion."""

import atexit
import contextlib
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

# Most of a test's time is compilation, and most of that is LLVM optimising code that runs once.
FLAGS = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from esc_jax.runtime import xla

xla.reserve_threads()  # as `xla.initialize` does, which tests in this process don't call
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests build the same small programs again and again: what one process compiled, the others take from here.
if "ESC_JAX_TEST_COMPILED" not in os.environ:  # the first process; pytest-xdist's workers inherit it
    os.environ["ESC_JAX_TEST_COMPILED"] = tempfile.mkdtemp(prefix="esc_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["ESC_JAX_TEST_COMPILED"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["ESC_JAX_TEST_COMPILED"])
# As the commands do, which share this folder: what a process without a limit writes, one with a limit can't evict.
jax.config.update("jax_compilation_cache_max_size", 2 << 30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# The same examples in every run: a failure is a change in the code, and everyone sees it.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("repeatable")

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items) -> None:
    """Commands from end to end first: started last, the longest of them would run alone."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real material named by ESC_JAX_SHARED; the test is skipped where there is none."""
    path = os.environ.get("ESC_JAX_SHARED")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("real clips and weights: set ESC_JAX_SHARED to the folder that holds them")
    return pathlib.Path(path).resolve()


@pytest.fixture(scope="session")
def thorough() -> None:
    """For tests of half a minute each whose parts are tested on their own: skipped where nobody asked for them."""
    if not (os.environ.get("ESC_JAX_SHARED") or os.environ.get("ESC_JAX_THOROUGH")):
        pytest.skip("half a minute more: set ESC_JAX_THOROUGH=1 (or ESC_JAX_SHARED)")


@pytest.fixture(scope="session")
def patient() -> None:
    """For tests as long of what is tested in another way too: CI does without them."""
    if not os.environ.get("ESC_JAX_THOROUGH"):
        pytest.skip("half a minute more: set ESC_JAX_THOROUGH=1")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> pathlib.Path:
    """One cache folder for all tests of a session: data are prepared and programs compiled once."""
    path = tmp_path_factory.mktemp("cache")
    (path / "compiled").symlink_to(os.environ["ESC_JAX_TEST_COMPILED"])
    return path


@pytest.fixture(scope="session")
def environment(cache) -> dict[str, str]:
    """Environment of commands that a test starts: this session's cache, one device."""
    own = {name: value for name, value in os.environ.items() if name != "NPROC"}
    return own | {
        "ESC_JAX_CACHE": str(cache),
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count=1",
    }


@pytest.fixture(scope="session")
def run(environment):
    """Runs a command of the package as a user does: `run("main", "--config=…")` → CompletedProcess.

    One device, unless `devices` says otherwise; from the repository's root.
    """

    def start(module: str, *arguments: str, devices: int = 1, check: int = 0, largest_file_kib: int | None = None):
        flags = {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, "-m", f"esc_jax.{module}", *arguments]
        if largest_file_kib:
            command = ["bash", "-c", f'ulimit -f {largest_file_kib}; exec "$@"', "limited", *command]
        done = subprocess.run(command, cwd=ROOT, env=environment | flags, capture_output=True, text=True)
        assert done.returncode == check, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
        return done

    return start


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
    """Workdir of a run of the tiny config that has not begun to learn: 16 kHz, three classes."""
    import optax

    from esc_jax import build
    from esc_jax import config as configs
    from esc_jax.training import checkpoint, state

    config = configs.load(ROOT / "tests/configs/tiny.py")
    _, _, variables = build.build(config, 3)
    folder = tmp_path_factory.mktemp("untrained")
    meta = {"config": config.to_dict(), "classes": ["rain", "sea_waves", "dog"], "sample_rate": 16_000}
    writer = checkpoint.Checkpoints(folder / "checkpoints")
    writer.save(state.create(variables, optax.sgd(0.1), ema=False), meta)
    return folder


class Browser:
    """A headless Chromium, driven through ChromeDriver's own protocol (W3C WebDriver)."""

    def __init__(self, port: int, chromium: str, profile: str):
        self.base = f"http://127.0.0.1:{port}/session"
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--window-size=1360,1000",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        options = {"binary": chromium, "args": arguments}
        made = self.call("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.base += f"/{made['sessionId']}"

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
    """A real browser, for pages; the test is skipped where there is none."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("a real browser: install chromium and chromedriver (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            one = Browser(int(found[1]), chromium, profile)
            yield one
            with contextlib.suppress(urllib.error.URLError):
                one.call("", method="DELETE")
        finally:
            process.terminate()
            process.wait(30)
