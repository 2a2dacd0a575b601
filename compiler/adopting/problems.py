"""The faults that an audit may find, and what keeps it from being made."""

from __future__ import annotations

FAULTS: dict[str, str] = {
    "never-given": "a parameter that no optimizer has",
    "given-twice": "a parameter that is stepped more than once",
    "not-moved": "a parameter that a step leaves as it is",
    "group-options-lost": "options of a group that the optimizer does not have",
    "table-as-matrix": "a table whose updates are orthogonalised",
    "tied-as-matrix": "a tied table whose updates are orthogonalised",
    "vector-as-matrix": "a bias, a gain or a vector whose updates are orthogonalised",
    "taps-as-matrix": "a depthwise kernel that is orthogonalised across its channels",
    "readout-as-matrix": "a readout in a group with hidden matrices",
    "router-as-matrix": "a router in a group with hidden matrices",
    "low-rank-as-matrix": "a factor of a low-rank change whose updates are orthogonalised",
    "fused-as-one": "several matrices in one parameter that are orthogonalised as one",
    "fused-cut-wrongly": "several matrices in one parameter that are cut at other places",
    "cut-apart": "one matrix that is orthogonalised in parts",
    "experts-as-one": "experts that are orthogonalised as one matrix",
    "kernels-as-one": "kernels of several layers that are orthogonalised as one matrix",
    "kernel-sides": "a kernel that is orthogonalised, or scaled, by its sides",
    "fan-swapped": "a weight whose inputs are taken for its outputs",
    "clipped-update": "an orthogonalised update that is made smaller where gradients are larger",
    "left-elementwise": "a hidden matrix that is not orthogonalised as others of its kind are",
    "rate-of-matrices": "a table at the rate of orthogonalised matrices, where it is out of place",
    "size-with-width": "an update whose size changes with the width",
}
"""Every code with its title."""


class AuditError(Exception):
    """A model or an optimizer cannot be looked at: its text says why, and how to mend it."""
