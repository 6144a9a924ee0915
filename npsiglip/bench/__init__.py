"""`npsiglip bench`: this implementation beside others, on the same weights and inputs, in alternation.

    cases.py     what is timed: a tower, a batch; its random inputs
    flop.py      the arithmetic of a case, from the config
    stats.py     medians, their spread, ratios
    worker.py    the other end of the pipe: one process an engine, runs what it is told
    process.py   this end
    engines/     what a worker runs: npsiglip itself, the peers, the loops that measure the machine's limit
    measure.py   who runs when; refuses to time engines whose outputs differ
    report.py    the results as a table

Two engines never share a process: two OpenMP runtimes in one steal each other's cores. A worker that is not asked
waits in a read, and uses no core.
"""
