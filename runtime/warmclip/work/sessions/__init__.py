"""Training sessions: folders brought into collections by jobs, each with a record in Redis.

A session outlives every process that has to do with it. Its record says what it is to be; the
scheduler, a thread of every server, compares that with what the queue holds and does the next
step. Each step is one transaction, so a process may die between any two of them.
"""
