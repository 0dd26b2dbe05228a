"""What `enginebay bench --help` and `compare --help` say before they list the flags.

Imports nothing: the list of commands reads it too. No line is longer than 78 characters, so that none is broken on a
narrow terminal.
"""

from __future__ import annotations

HELP = """\
Measure backends under identical load, and say which is better only where the measurement can tell.

To begin, without a config, against servers that run already:

  enginebay bench --url http://127.0.0.1:8000
  enginebay bench --url http://127.0.0.1:8000 --url http://127.0.0.1:8001

From a config, which also starts the engines:

  enginebay bench bench.yaml --backend vllm --backend reference --starts 3
  enginebay bench bench.yaml --rate 2 --rate 4 --rate 8
  enginebay bench bench.yaml --backend old --backend new --fail-on slower
  enginebay bench bench.yaml --backend old --backend new --resume

What the words mean:

  plan      every prompt, length and instant, fixed before anything starts;
            all backends are sent the same
  load      how hard: so many users (closed loop: each waits for its answer)
            or so many requests a second (open loop: whatever the answers)
  start     a fresh start of an engine; A B B A, so that what drifts over the
            hours falls on all alike
  run       one replay of one load on one start
  TTFT      from sending a request to its first token
  TPOT      each further token; E2E: the whole answer
  INVALID   a run that did not do what its plan says, or where this client
            was the limit; it is shown as such, and cannot win
  verdict   faster, slower, equivalent or undecided; it takes three starts of
            each backend, since single requests of one start are no proof

A folder gets result.json, plan.json, records.jsonl, timeseries.jsonl,
verdict.json, report.html and report.md. Ctrl-C and SIGTERM keep what was
measured until then and mark it partial; --resume goes on. A folder that holds
a result is refused unless --resume or --overwrite is given.
"""

COMPARE_HELP = """\
Compare two results of bench, or the backends of one with each other.

  enginebay compare out/monday
  enginebay compare out/before out/after
  enginebay compare out/before out/after --fail-on slower,invalid,outputs

Both must have replayed the same plan over the same transport: two engines,
two versions, two settings or two machines. Each figure under each load is
faster, slower, equivalent or undecided, and why, as far as the engines tell.
Three starts of each are the least; fewer are undecided. Simulated results
get no verdict.
"""
