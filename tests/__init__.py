"""The tests. With this file pytest puts the repository on the path and not `tests` itself, where
the folder `triton` would pass for the package of that name.
"""
