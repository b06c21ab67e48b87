# /// script
# dependencies = ["nox"]
# ///
"""The project's commands. `nox -l` lists them; `nox -s reproduce` is the main job."""

import hashlib
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint"]
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
NEWEST = ("-c", "constraints.txt")
OLDEST = ("--resolution", "lowest-direct")  # uv alone can do that
PROJECT = nox.project.load_toml("pyproject.toml")
EXAMPLES = sorted((ROOT / "examples").glob("0*.py"))
MAIN_JOB = sorted((ROOT / "examples").glob("0[1-5]_*.py"))
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
# On processors without AVX-512 TensorFlow leaves oneDNN off, which halves a training step.
TRAINING = {**QUIET, "TF_ENABLE_ONEDNN_OPTS": "1"}
# A process a core: the tests' time goes into building graphs, which one core does.
PARALLEL = ("-n", "auto", "--dist", "loadfile")
UNIT_TESTS = ("-m", "not job and not slow")
SITE = {"NO_MKDOCS_2_WARNING": "1", "KERAS_BACKEND": "jax", "PYTHONUNBUFFERED": "1"}

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    raise SystemExit(
        f"kdcore needs Python 3.11, 3.12 or 3.13 (TensorFlow has no newer wheels); this is "
        f"{sys.version.split()[0]}. With uv: uvx --python 3.12 nox -s <session>"
    )


def install(
    session: nox.Session,
    *extras: str,
    groups: tuple[str, ...] = (),
    versions: tuple[str, str] = NEWEST,
) -> None:
    """Kdcore with extras and dependency groups, at the newest or the oldest versions.

    Skipped where nothing changed since the last time, so that a session runs without network.
    """
    package = f".[{','.join(extras)}]" if extras else "."
    requirements = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    arguments = (*versions, "-e", package, *requirements)
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    wanted = hashlib.sha256(repr((arguments, files)).encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        session.install(*arguments)
        stamp.write_text(wanted)


def ready_to_train(session: nox.Session, *extras: str) -> list[str]:
    """Install what trains; the arguments for it.

    `--gpu` is for nox alone: a GPU build, a look whether a device is seen, and the full tier.
    """
    arguments = [one for one in session.posargs if one != "--gpu"]
    if arguments == session.posargs:
        install(session, "tensorflow", "figures", *extras)
        return arguments
    install(session, "gpu", "figures", *extras)
    session.run("python", "docs/_tools/see_gpu.py", env=QUIET)
    return arguments if "--tier" in arguments else [*arguments, "--tier", "full"]


@nox.session
def reproduce(session: nox.Session) -> None:
    """The main job: teacher, student, baseline. `-- --data hippocampus --tier quick|full --gpu`."""
    arguments = ready_to_train(session)
    for example in MAIN_JOB:
        session.run("python", str(example), *arguments, env=TRAINING)


@nox.session
def example(session: nox.Session) -> None:
    """One example by its number: `-- 07 --tier smoke|quick|full`."""
    number, *arguments = session.posargs or [""]
    chosen = [path for path in EXAMPLES if path.name.startswith(number)]
    if len(chosen) != 1:
        session.error(f"Give one of the numbers {', '.join(p.name[:2] for p in EXAMPLES)}.")
    install(session, "tensorflow", "figures")
    session.run("python", str(chosen[0]), *arguments, env=TRAINING)


@nox.session
def tests(session: nox.Session) -> None:
    """The unit tests, on the CPU, with TensorFlow. `-- -m job` for whole examples and studies."""
    install(session, "tensorflow", "figures", "export", groups=("test",))
    session.run("pytest", *PARALLEL, *(session.posargs or UNIT_TESTS), env=QUIET)


@nox.session(name="tests-oldest", python="3.11", venv_backend="uv")
def tests_oldest(session: nox.Session) -> None:
    """All tests at the lower bounds of pyproject.toml; needs uv: `pip install 'nox[uv]'`."""
    install(session, "tensorflow", "figures", "export", groups=("test",), versions=OLDEST)
    session.run("pytest", *PARALLEL, *(session.posargs or ("-m", "not slow")), env=QUIET)


@nox.session(name="tests-jax")
def tests_jax(session: nox.Session) -> None:
    """The backend-neutral tests with JAX."""
    backend(session, "jax")


@nox.session(name="tests-torch")
def tests_torch(session: nox.Session) -> None:
    """The backend-neutral tests with PyTorch."""
    backend(session, "torch")


@nox.session(name="tests-ray")
def tests_ray(session: nox.Session) -> None:
    """The tests of Ray's workers, of killed ones and of machines that come and go."""
    install(session, "tensorflow", "ray", groups=("test",))
    one_thread = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    files = session.posargs or ("tests/test_ray.py",)
    session.run("pytest", *files, env={**QUIET, **one_thread, "OMP_NUM_THREADS": "1"})


def backend(session: nox.Session, name: str) -> None:
    install(session, "figures", groups=("test", name))
    names = (
        "losses",
        "stress",
        "determinism",
        "unet",
        "distiller",
        "hints",
        "heads",
        "regions",
        "ensemble",
        "inference",
        "metrics",
        "soft_targets",
        "training",
        "plain",
        "benchmark",
    )
    files = [f"tests/test_{part}.py" for part in names]
    env = {**QUIET, "KERAS_BACKEND": name}
    if name == "jax":  # compiling takes most of the time, and the networks are tiny
        env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    session.run("pytest", *PARALLEL, *files, *session.posargs, env=env)


@nox.session
def study(session: nox.Session) -> None:
    """Arms, seeds, numbers of labels; resumable. `-- --study evidence --data hippocampus`."""
    together = {"--workers", "--ray"} & set(session.posargs)
    arguments = ready_to_train(session, *(["ray"] if together else []))
    session.run("python", "-m", "kdcore.study", *arguments, env=TRAINING)


@nox.session
def evaluate(session: nox.Session) -> None:
    """A trained network on your folder: `-- --weights docs/weights/student.keras --data FOLDER`."""
    install(session, "tensorflow", "export")
    session.run("python", "-m", "kdcore.evaluation", *session.posargs, env=QUIET)


@nox.session
def examples(session: nox.Session) -> None:
    """Execute the examples into the site's notebooks. `-- 01 02` for some of them."""
    install(session, "tensorflow", "figures", groups=("notebooks",))
    session.run("python", "docs/_tools/make_notebooks.py", *session.posargs, env=TRAINING)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/, from committed results and executed notebooks."""
    install(session, "figures", groups=("docs",))
    session.run("mkdocs", "build", *session.posargs, env=SITE)


@nox.session
def serve(session: nox.Session) -> None:
    """The site on http://127.0.0.1:8000, built anew when a page changes."""
    install(session, "figures", groups=("docs",))
    env = {**SITE, "SITE_URL": "http://127.0.0.1:8000/"}
    session.run("mkdocs", "serve", "--watch", "kdcore", *session.posargs, env=env)


@nox.session
def publish(session: nox.Session) -> None:
    """The site as one of several versions on the branch gh-pages: `-- deploy --push dev`."""
    install(session, "figures", groups=("docs",))
    session.run("mike", *session.posargs, env=SITE)


@nox.session
def site_tests(session: nox.Session) -> None:
    """The built site in a real Chromium; needs Chromium, and Node for Lighthouse and links."""
    install(session, "figures", groups=("docs", "site"))
    session.run("pytest", *PARALLEL, "--timeout=180", "tests/site", *session.posargs, env=SITE)


@nox.session
def torture(session: nox.Session) -> None:
    """Kill, corrupt, crowd and wear out what the library does. `-- --short` for a minute of it."""
    ray = [] if "--short" in session.posargs else ["ray"]
    install(session, "tensorflow", "figures", "export", *ray, groups=("test",))
    session.run("python", "tests/torture/run.py", *session.posargs, env=QUIET)


@nox.session
def bench(session: nox.Session) -> None:
    """What distillation costs beside its alternatives. `-- --short`: ratios of steps and job."""
    install(session, "tensorflow", "export", groups=("torch", "bench"))
    session.run("python", "docs/_tools/benchmark/run.py", *session.posargs, env=TRAINING)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff and mypy."""
    install(session, groups=("lint",))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove environments and caches. Runs and results stay."""
    for name in (".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "site"):
        shutil.rmtree(ROOT / name, ignore_errors=True)


if __name__ == "__main__":
    nox.main()
