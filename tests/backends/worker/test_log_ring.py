"""The log of a child when its file can no longer be written."""

import asyncio
import os
from pathlib import Path

import pytest

from enginebay.backends.worker.log_ring import LogRing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_costs_the_file_and_not_the_log():
    async def main() -> None:
        ring = LogRing(Path("/dev/full"))
        write_end = await ring.open_pipe()
        os.write(write_end, b"first\nsecond\n")
        os.close(write_end)
        await ring.collect()
        assert ring.tail() == ["[/dev/full ends here: No space left on device]", "first", "second"]

    asyncio.run(main())
