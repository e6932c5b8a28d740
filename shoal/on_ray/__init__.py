"""Runs on a Ray cluster. The data still moves over gRPC; Ray places the processes and starts them where nodes are lost.

The driver (driver.py) asks for a manager (manager.py), a detached Ray actor on the node that has the run directory. The
manager runs the ordinary launcher, whose processes (processes.py) are supervisors (supervisor.py): Ray actors with one
`shoal` process each. `ray` is imported inside functions: nothing here needs it until a cluster is used.
"""
