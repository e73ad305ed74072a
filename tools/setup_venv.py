"""Creates .venv from constraints.txt with the Python that runs this file, or says in one line why not.

Safe to interrupt and to run again: a file in .venv, written last, says what it was made from. The file
is kept readable for old versions of Python, so that they can say that they are too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
LOG = os.path.join(ROOT, "setup.log")
NEEDED_GB = 4


def fail(problem):
    sys.exit("setup: " + problem)


def read(name):
    with open(os.path.join(ROOT, name), "rb") as file:
        return file.read()


def wanted():
    import tomllib

    project = tomllib.loads(read("pyproject.toml").decode())["project"]
    made_from = read("constraints.txt") + repr(project).encode() + sys.version.encode() + ROOT.encode()
    return hashlib.sha256(made_from).hexdigest()


def run(step, what, *command):
    """One step, its output in setup.log; the last word of pip on the screen while it goes on."""
    begin = time.time()
    sys.stdout.write("setup: [%s] %s\n" % (step, what))
    sys.stdout.flush()
    last = ""
    with open(LOG, "a") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            log.write(line)
            if line.startswith("ERROR") or "No space left" in line:
                last = line.strip()
            if sys.stdout.isatty() and line.startswith(("Collecting", "  Downloading", "Installing")):
                sys.stdout.write("\r\033[K       " + line.strip()[:70])
                sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    if process.wait() != 0:
        if "No space left" in last:
            fail("the disk is full; about %d GB are needed in %s" % (NEEDED_GB, ROOT))
        fail("%s failed: %s (the whole log is setup.log)" % (what, last or "exit code %d" % process.returncode))
    sys.stdout.write("setup:       done in %d s\n" % (time.time() - begin))


def main():
    if sys.version_info < (3, 11):
        version = ".".join(map(str, sys.version_info[:3]))
        fail(
            "Python 3.11 or newer is needed, %s is %s; name another: make PYTHON=python3.12 ..."
            % (sys.executable, version)
        )
    stamp = os.path.join(VENV, "made-from")
    if os.path.exists(stamp) and open(stamp).read() == wanted():
        return
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        fail("the disk is full; about %d GB are needed in %s, %.1f GB are free" % (NEEDED_GB, ROOT, free))
    if os.path.exists(LOG):
        os.remove(LOG)
    python = os.path.join(VENV, "bin", "python")
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt")
    run("1/4", "making .venv", sys.executable, "-m", "venv", "--clear", VENV)
    run("2/4", "installing setuptools", *(pip + ("setuptools",)))
    run("3/4", "installing torch", *(pip + ("--no-deps", "torch")))
    run("4/4", "installing the other packages", *(pip + ("--no-build-isolation", "-e", ".[book,batch,test]")))
    with open(stamp + ".partial", "w") as file:
        file.write(wanted())
    os.rename(stamp + ".partial", stamp)
    print("setup: .venv is ready")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run the same command again")
    except OSError as error:
        fail(str(error))
