"""`enginebay bench --self-check`: what the load test's own client reaches here, and how well it keeps time."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from enginebay.event_loop import new_event_loop
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.self_check.ceiling import ClientCeiling, ceiling_path, save_ceiling
from enginebay.loadtest.self_check.check import MAX_STREAMS, check_client

FAILED = 1


def self_check(console: Console, *, seconds: float = 3.0) -> int:
    """Measure, print and keep the figures; later runs that ask for more are invalid. Returns the exit code.

    There is one ceiling for a machine: the newest that can be trusted.
    """
    console.print("Measuring this client. Nothing else should run on the machine meanwhile.", highlight=False)
    check = check_client(
        environment=describe_environment(),
        seconds=seconds,
        on_step=lambda step: console.print(f"[dim]... {step}[/]", highlight=False),
    )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        ceiling = runner.run(check)
    console.print(ceiling_table(ceiling))
    if ceiling.is_bounded_by_server:
        console.print("The check's own server was no faster: this client's ceiling lies above these figures.")
    if ceiling.num_wrong_token_counts:
        # Nothing is kept: what was found on this machine before, if anything, still holds.
        console.print(f"[bold red]{ceiling.num_wrong_token_counts} answers were counted wrong[/]: do not trust it.")
        return FAILED
    path = ceiling_path()
    save_ceiling(ceiling, path)
    console.print(f"kept in {path}", highlight=False, soft_wrap=True)
    return 0


def ceiling_table(ceiling: ClientCeiling) -> Table:
    table = Table(title="One process of this client", title_justify="left", show_header=False, title_style="bold")
    table.add_column()
    table.add_column(justify="right")
    table.add_row(
        f"requests/s ({ceiling.num_users} users, {ceiling.num_tokens} streamed tokens each)",
        f"{ceiling.requests_per_s:,.0f}",
    )
    table.add_row("the same for a few seconds", f"{ceiling.burst_requests_per_s:,.0f}")
    table.add_row("tokens/s (long answers)", f"{ceiling.chunks_per_s:,.0f}")
    more = " or more" if ceiling.num_streams >= MAX_STREAMS else ""
    table.add_row(f"streams at {ceiling.stream_tokens_per_s:g} tokens/s each", f"{ceiling.num_streams:,}{more}")
    table.add_row(
        f"error of TTFT at {ceiling.timing_requests_per_s:g} requests/s (p50, p99)",
        f"{_ms(ceiling.ttft_error_p50_s)}, {_ms(ceiling.ttft_error_p99_s)}",
    )
    table.add_row(
        f"error of sending instants at {ceiling.offset_requests_per_s:g} requests/s (p50, p99)",
        f"{_ms(ceiling.offset_error_p50_s)}, {_ms(ceiling.offset_error_p99_s)}",
    )
    table.add_row("wrong token counts", str(ceiling.num_wrong_token_counts))
    table.add_row("the check's own server, requests/s", f"{ceiling.server_requests_per_s:,.0f}")
    return table


def _ms(duration_s: float) -> str:
    return f"{duration_s * 1000:.2f} ms"
