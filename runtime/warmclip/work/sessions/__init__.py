"""Training sessions: folders brought into collections by jobs, with books of their own in Redis.

A session outlives every process that has to do with it. What it is to be lies in its record; the
foreman, a thread of whoever serves sessions, compares that with what the queue holds and does the
next step. Each step is one transaction, so a process may die between any two of them.
"""
