"""The control plane: queries become jobs, jobs get plans, and everything says how it is.

    cloud     queries (:5000)      controller     scheduling     policies     advisers     records
    edge      jobs (:5001)         agent          sniffing
    service   service (:5500)      limits         resources
    others    coordinator (:5002)  coordination  collector (:9001)
    all       http, rest (other makes), wire (the plan channel), sidechannel (:5100, :5101)

`affiliation` joins a node to a cloud, its own or another; `desk` is what the query manager asks of
the controller; `cluster` is which nodes there are.
"""
