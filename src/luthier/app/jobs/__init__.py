"""The queue of a server: jobs of all projects, each seen by its own alone.

    submit ──▶ records ◀── Reconciler (one a server, any number) ──▶ launcher ──▶ child: the kind's own work
                  ▲                                                                  │
                  ╰───────────── story, progress, steps (fenced) ◀───────────────────╯

verbs        what a caller may ask: submit, get, list, ask (run, pause, cancel), events, logs
schedules    jobs at the times of cron (cron)
reconciler   wanted and actual made the same: ends (what becomes of a job), scheduling (whose turn it is; queue_spec)
launchers    where attempts run: the port, and `local`
child        the process that runs one attempt: environment, watching, logs
attempt      what a kind is given; kinds: what jobs do (plugin table, kind `job`); foreign: recipes of others
observing    who else must know when a job runs: budgets, meters, rules
"""

from __future__ import annotations

from .verbs import Jobs

__all__ = ["Jobs"]
