"""Calls every tool of `forkd-mcp` as an MCP client does, and prints the results as one JSON object.

A command after the template starts another server that has these tools.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

TEMPLATE, *COMMAND = sys.argv[1:]


async def main():
    command, *args = COMMAND or [os.path.join(os.path.dirname(sys.executable), "forkd-mcp")]
    server = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        results = {"tools": sorted(tool.name for tool in (await session.list_tools()).tools)}

        async def call(tool, **arguments):
            result = await session.call_tool(tool, arguments)
            texts = [content.text for content in result.content]
            results[tool] = {"is_error": result.isError, "content": texts if result.isError else result.structuredContent}
            return results[tool]["content"]

        await call("list_snapshots")
        # This tool always asks for a memory limit, by default one that is smaller than some guests.
        await call("spawn_sandboxes", snapshot_tag=TEMPLATE, memory_limit_mib=1024)
        await call("list_sandboxes")
        running = results["list_sandboxes"]["content"]["result"]
        sandbox = (running[0] if running else {"id": "sb-none"})["id"]
        await call("get_sandbox", sandbox_id=sandbox)
        await call("ping_sandbox", sandbox_id=sandbox)
        await call("exec_command", sandbox_id=sandbox, args=["sh", "-c", "echo ready > /tmp/log"])
        await call("wait_for_text", sandbox_id=sandbox, path="/tmp/log", marker="ready")
        await call("eval_code", sandbox_id=sandbox, code="6 * 7")
        await call("branch_sandbox", sandbox_id=sandbox, tag="of-tool", diff=True)
        await call("create_snapshot", tag="made", kernel="/nowhere/vmlinux", rootfs="/nowhere/root.ext4")
        await call("kill_sandbox", sandbox_id=sandbox)
        print(json.dumps(results))


asyncio.run(main())
