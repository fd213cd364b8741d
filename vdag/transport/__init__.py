"""How frames get from one place to the next: inside a process, between processes, between hosts.

Pure, without sockets, clocks and threads: `codec` and `context` turn a descriptor into bytes and
back, `queues` and `flow` decide which frame goes to which worker next and which is dropped.
Nothing is imported here, so that whoever needs one module does not load the others.
"""
