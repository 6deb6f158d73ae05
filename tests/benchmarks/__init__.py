"""What shimpy costs, measured: `python -m tests.benchmarks`.

Each topic is a module `bench_*.py` with one coroutine, `measure(bench)`. To add one, write such a module:

    \"\"\"How long State takes.\"\"\"

    async def measure(bench: Bench) -> None:
        async with bench.served() as (_, shim, _):
            times = [(await timed(shim.state(StateRequest())))[0] for _ in range(bench.rounds(100))]
        bench.record("State", times, "ms", target=Target("median", 5))

What shimpy is compared with, such as the bare runtime, is measured in the same loop, turn and turn about, and
given as `bare=`: on a machine that does other things too, the ratio says more than the figures.
"""
