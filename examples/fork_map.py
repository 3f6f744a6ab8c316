# Scores candidates, each in a sandbox that is forked for it from the template `py`, four at a time.
import asyncio
import sys

from forkd import fork_map


async def score(sandbox, candidate):
    reply = await sandbox.eval(f"sum(n % {candidate} for n in squares)")
    return int(reply["result"])


def show(done, total):
    print(f"\r{done}/{total}", end="", file=sys.stderr)


async def main():
    best = None
    async for result in fork_map("py", score, range(1, 9), concurrency=4, on_progress=show):
        if result.error is not None:
            print(f"{result.item}: {result.error}")
        elif best is None or result.value > best.value:
            best = result
    print(f"best: {best.item} with {best.value}")


asyncio.run(main())
