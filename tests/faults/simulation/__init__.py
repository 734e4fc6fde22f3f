"""The coordinator in a world that is made of nothing but a seed.

What runs is the production code: `Coordinator` with its loop, `Source`, `Lifeline`,
`Journal`, `Books`, `Settler`, `Lanes`, `Replays`, `WorkerHandle`, and a real SQLite
file. What is made up are time, Redis (`redis_model.py`), the worker processes and the
back ends behind them.

    world.py      time, the order of events, and the coordinators as greenlets
    workers.py    worker processes and their channels
    ends.py       back ends of three kinds, and what each has seen
    instance.py   one instance: folder, state file, link, and its lives
    plan.py       what a seed makes of it: pumps, options, and which faults, when
    laws.py       what must be true at the end, and on the way
"""
