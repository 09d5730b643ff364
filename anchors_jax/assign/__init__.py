"""Assigners: `assign(anchors, targets, ...) -> Assignment`, one public `assign` per file.

Files here share `primitives` and never import each other.
"""
