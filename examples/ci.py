"""Runs the jobs of a folder's `ci.toml` side by side, each in a container, with live logs.

`python ci.py ROOTFS [FOLDER]` copies the folder into each job's container, runs its steps until one fails,
and brings what it made back to FOLDER/artifacts. Its exit status is 1 if a job failed. A `ci.toml`:

    [jobs.test]
    steps = ["make test"]
    artifacts = ["report.txt"]
    timeout = 60

Without a folder it makes one. Prints, in any order:
    hello | $ echo hello from $JOB
    hello | hello from hello
    hello | $ echo done | tee report
    hello | done
    hello: ok
    hello: artifacts/report
    stuck | $ echo waiting; sleep 1000
    stuck | waiting
    stuck: failed: out of time
    wrong | $ cat missing
    wrong | cat: can't open 'missing': No such file or directory
    wrong: failed: exit status 1
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import anyio

import shimpy

SAMPLE = """
[jobs.hello]
steps = ["echo hello from $JOB", "echo done | tee report"]
artifacts = ["report"]
[jobs.wrong]
steps = ["cat missing", "echo never"]
[jobs.stuck]
steps = ["echo waiting; sleep 1000"]
timeout = 1
"""

# A place in memory, which the jobs of a read-only root filesystem can write to.
WORKSPACE = "/dev/shm/work"  # noqa: S108 - it is the container's own


@dataclass
class Job:
    """One job of a `ci.toml`.

    Attributes:
        name: its name.
        steps: what its shell is given, one after the other.
        artifacts: what is brought back, relative to the folder.
        timeout: seconds that each step has.
        memory: bytes that it may use.
    """

    name: str
    steps: list[str]
    artifacts: tuple[str, ...] = ()
    timeout: float = 600
    memory: int = 512 << 20

    async def run(self, rootfs: Path, folder: Path, limiter: anyio.CapacityLimiter) -> bool:
        """Runs it when its turn has come, and says how it went."""
        async with limiter:
            with tempfile.TemporaryDirectory() as bundle:
                # An init that reaps what steps leave behind.
                init = ["sh", "-c", "sleep 1000000 & wait"]
                await shimpy.write_bundle(f"{bundle}/{self.name}", init, rootfs=rootfs)
                async with (
                    shimpy.in_process() as shim,
                    shim.container(f"ci-{Path(bundle).name}", f"{bundle}/{self.name}") as container,
                ):
                    await container.update(memory=self.memory, pids=512)
                    await container.put(folder, WORKSPACE)
                    failure = await self._run_steps(container)
                    print(f"{self.name}: {'ok' if failure is None else f'failed: {failure}'}", flush=True)
                    await self._fetch_artifacts(container, folder / "artifacts")
        return failure is None

    async def _run_steps(self, container: shimpy.Container) -> str | None:
        """Runs the steps, and returns why one failed."""
        for step in self.steps:
            print(f"{self.name} | $ {step}", flush=True)
            options: shimpy.ExecOptions = {"cwd": WORKSPACE, "env": {"CI": "true", "JOB": self.name}}
            async with container.stream(["sh", "-c", step], timeout=self.timeout, **options) as command:
                async for _, line in command.lines():
                    print(f"{self.name} | {line.decode(errors='replace')}", flush=True)
                status = await command.wait()
            if command.timed_out:
                return "out of time"
            if command.oom:
                return "out of memory"
            if status != 0:
                return f"exit status {status}"
        return None

    async def _fetch_artifacts(self, container: shimpy.Container, target: Path) -> None:
        for name in self.artifacts:
            target.mkdir(exist_ok=True)
            try:
                await container.get(f"{WORKSPACE}/{name}", target / Path(name).name, limit=1 << 30)
            except shimpy.NotFoundError:
                print(f"{self.name}: no {name}", flush=True)
            else:
                print(f"{self.name}: artifacts/{Path(name).name}", flush=True)


async def run_all(rootfs: Path, folder: Path, *, at_once: int = 4) -> bool:
    """Runs the jobs of a folder and returns whether all went well."""
    jobs = tomllib.loads((folder / "ci.toml").read_text())["jobs"]
    limiter = anyio.CapacityLimiter(at_once)
    results: list[bool] = []

    async def run(job: Job) -> None:
        results.append(await job.run(rootfs, folder, limiter))

    async with anyio.create_task_group() as group:
        for name, fields in jobs.items():
            group.start_soon(run, Job(name, **fields))
    return all(results)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(0 if anyio.run(run_all, Path(sys.argv[1]), Path(sys.argv[2]).resolve()) else 1)
    with tempfile.TemporaryDirectory() as sample:
        Path(sample, "ci.toml").write_text(SAMPLE)
        anyio.run(run_all, Path(sys.argv[1]), Path(sample))
